"""What a page holds but does not show: instructions to language models hide there, and nothing of it may be indexed (specification 1.8).
Elements are judged by their attributes, their inline style and the page's own style sheets, as far as these can be judged without laying
the page out; characters by what they are. Sheets in other files are not fetched: what only they hide is not found."""

import re
from functools import lru_cache
from itertools import islice
from typing import Any

from resiliparse.parse.html import HTMLTree

_NEVER_SHOWN = (
    "script, style, template, noscript, head, iframe, object, embed, svg, math annotation, [hidden], dialog:not([open]), "
    "input, select, textarea, datalist, audio, video, canvas, map, noframes, rp, progress, meter"
)
"""Elements whose text nobody reads in the page."""

_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e01ef\ue000-\uf8ff\ud800-\udfff]"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
"""Soft hyphen, zero widths, bidirectional controls, tags, variation selectors beyond 16, private use, controls."""
_JOINERS = re.compile(
    "(?<=[\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)|[\u200c\u200d]{2,}|[\ufe00-\ufe0f]{2,}"
)
"""Joiners belong to Persian, Indic scripts and emoji; between ASCII letters they only break words up."""

_LENGTH = r"(-?[\d.]+)\s*(px|em|rem|pt|%|vw|vh|ch|in|cm)?"
_PIECE = re.compile(r"((?:[^{};\"']++|\"[^\"\n]*+\"?|'[^'\n]*+'?)*+)([{};]|\Z)")
"""Of a sheet: what is said, and the sign that ends it."""
_SHEET_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_BY_TURNS = re.compile(
    r"::|:(?:hover|focus|active|target|visited|link|any-link|checked|open|popover-open|fullscreen|modal|enabled|disabled|valid|invalid"
    r"|placeholder|autofill|before|after|first-line|first-letter|has)"
)
"""Selectors of what is shown by turns, or of parts that are no elements."""
_MOST_SELECTORS, _LONGEST_SELECTOR, _LONGEST_VALUE = 1_000, 500, 300
"""Selectors of a page that are tried, each on every element; characters of one, and of a declaration. What is more is passed over: it
would take hours."""
_FAR = 900
"""Pixels (or percent) away from the page's edge: no longer on it."""
_NEAR = 0.08
"""Two colours whose channels differ by no more than this can't be told apart in passing."""
_SMALL_PX = 3.0
"""Letters of that size are specks."""
_EVERY_SCREEN = re.compile(
    r"(?:only\s+)?(?:all|screen)?(?:\s*and\s*)?(?:\(\s*min-width\s*:\s*(?:[0-2]?\d?\d|3[01]\d|320)px\s*\))?\s*"
)
"""Conditions of `@media` that hold on any screen: no telephone's is narrower than 320 pixels."""
_WHITE = (1.0, 1.0, 1.0)

Colour = tuple[float, float, float]
"""Red, green and blue from 0 to 1."""


def remove_hidden(tree: HTMLTree) -> None:
    """Take the elements out of a page that it does not show. What was in its head is gone too: read that first."""
    rules = [each for sheet in _found(tree, "style") for each in _rules(sheet.text)]
    hiding = (selector for selector, style in rules if _hides(style))
    for selector in islice(dict.fromkeys(hiding), _MOST_SELECTORS):
        if selector not in ("html", "body", ":root"):  # a script shows the whole page
            _remove(_found(tree, selector))
    ground = _ground(tree, rules)
    if ground:
        colours = ((selector, _colour(style.get("color", ""))) for selector, style in rules if not _background(style))
        unseen = [(selector, letters) for selector, letters in colours if letters and _alike(letters, ground)]
        for selector, letters in islice(dict.fromkeys(unseen), _MOST_SELECTORS):
            behind = _Behind(ground)
            _remove([node for node in _found(tree, selector) if _alike(letters, behind.colour(node))])
    _remove(_found(tree, _NEVER_SHOWN))
    behind = _Behind(ground or _WHITE)
    _remove([node for node in _found(tree, "[style], font[color]") if _is_hidden(node, behind)])


def _ground(tree: HTMLTree, rules: list[tuple[str, dict[str, str]]]) -> Colour | None:
    """The colour behind the whole page; None where sheets colour single elements too, or are in other files, so that it can't be told
    what stands on what."""
    ground = _WHITE
    for selector, style in rules:
        if behind := _background(style):
            if selector not in ("html", "body", ":root"):
                return None
            ground = behind
    return None if _found(tree, "link[rel~=stylesheet]") else ground


def _remove(nodes: list[Any]) -> None:
    for node in reversed(nodes):  # the inner before the outer, so that none is taken out twice
        node.decompose()


def clean_characters(text: str) -> str:
    """The text without characters that are not seen; non-breaking spaces become spaces."""
    return _JOINERS.sub("", _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ")))


def _found(tree: HTMLTree, selector: str) -> list[Any]:
    """The elements of a selector; none of one that can't be read."""
    document = tree.document
    if document is None:
        return []
    try:
        # The slice: stepping through a collection searches the page again each time.
        return list(document.query_selector_all(selector)[:])
    except Exception:  # the parser raises its own and built-in errors for selectors that sites invent
        return []


@lru_cache(256)  # the pages of a site have the same sheets
def _rules(sheet: str) -> tuple[tuple[str, dict[str, str]], ...]:
    """A sheet's selectors and what they declare, of rules that hold on a screen of any size; those that select by turns are left out."""
    found: list[tuple[str, dict[str, str]]] = []
    blocks: list[tuple[str | None, list[str]]] = []  # what each open one is for, and what it declares
    for piece in _PIECE.finditer(_SHEET_COMMENT.sub("", sheet)):
        said, sign = piece[1].strip(), piece[2]
        if sign == "{":
            blocks.append((_opened(said, blocks[-1][0] if blocks else ""), []))
            continue
        if blocks:
            blocks[-1][1].append(said)
        while blocks and sign != ";":  # the end of a block, or of the sheet, which is the end of all
            selectors, declared = blocks.pop()
            style = _declarations(";".join(declared)) if selectors else {}
            found += [(each, style) for each in _singly(selectors or "") if not _BY_TURNS.search(each.lower())]
            if sign == "}":
                break
    return tuple(found)


def _opened(said: str, above: str | None) -> str | None:
    """What a block of a sheet is for, by what the block above it is for: selectors; "" where it holds rules that count on every screen;
    None where it does not matter."""
    if above is None or len(above) > _LONGEST_SELECTOR:
        return None
    if not said.startswith("@"):
        within = said.replace("&", f":is({above})") if "&" in said else f":is({above}) {said}"
        return within if above else said or None
    rule, _, condition = said[1:].lower().partition(" ")
    rule, bracket, rest = rule.partition("(")
    condition = f"{bracket}{rest} {condition}".strip()
    if rule in ("media", "container"):
        return above if any(_EVERY_SCREEN.fullmatch(each.strip()) for each in condition.split(",")) else None
    return above if rule == "layer" or (rule == "supports" and not condition.startswith("not")) else None


def _singly(selectors: str) -> list[str]:
    """The selectors of a rule, each by itself."""
    parts = [each.strip() for each in ([selectors] if "(" in selectors else selectors.split(","))]
    return [
        each.lower() if each.lower() in ("html", "body") else each
        for each in parts
        if 0 < len(each) <= _LONGEST_SELECTOR
    ]


def _is_hidden(node: Any, behind: "_Behind") -> bool:
    """Whether an element's own style hides it, or its letters have the colour behind them."""
    style = _declarations(node.getattr("style") or "")
    if _hides(style):
        return True
    colour = _colour(style.get("color") or (node.getattr("color") if node.tag == "font" else "") or "")
    return colour is not None and _alike(colour, behind.colour(node))


def _hides(style: dict[str, str]) -> bool:
    """Whether declarations take an element out of sight."""
    overflow = style.get("overflow", "") + style.get("overflow-x", "") + style.get("overflow-y", "")
    clipped = "hidden" in overflow or "clip" in overflow
    colour, behind = _colour(style.get("color", "")), _background(style)
    return (
        style.get("display") == "none"
        or style.get("visibility") in ("hidden", "collapse")
        or style.get("content-visibility") == "hidden"
        or _is_zero(style.get("opacity"), 0.05)
        or _is_zero(style.get("zoom"), 0.05)
        or re.search(r"opacity\(\s*(?:0|0?\.0\d*|[0-5]%)\s*\)", style.get("filter", "")) is not None
        or _is_zero(style.get("font-size"), _SMALL_PX)
        or any(_is_zero(each.partition("/")[0], _SMALL_PX) for each in style.get("font", "").split())
        or any(_is_clear(style.get(name, "")) for name in ("color", "-webkit-text-fill-color"))
        or (clipped and any(_is_zero(style.get(side), 1.0) for side in ("width", "height", "max-width", "max-height")))
        or _is_far(style.get("text-indent"))
        or (
            style.get("position") in ("absolute", "fixed", "relative")
            and any(map(_is_far, (*(style.get(side) for side in ("left", "top", "right", "bottom")), *style.get("inset", "").split())))
        )
        or any(_is_far(style.get(side)) for side in ("margin-left", "margin-top"))
        or re.search(r"rect\(\s*[01](px)?[\s,]+[01](px)?[\s,]+[01](px)?[\s,]+[01](px)?\s*\)", style.get("clip", "")) is not None
        or re.search(r"inset\(\s*(50|[6-9]\d|100)%|circle\(\s*0", style.get("clip-path", "")) is not None
        or re.search(r"scale[xy]?\(\s*0(\.0*)?\s*[,)]", style.get("transform", "")) is not None
        or re.search(r"translate[xy]?\([^)]*-\d{4,}px", style.get("transform", "")) is not None
        or any(_is_zero(each, 0.05) for each in style.get("scale", "").split())
        or any(map(_is_far, style.get("translate", "").split()))
        or (colour is not None and behind is not None and _alike(colour, behind))
    )  # fmt: skip


def _declarations(style: str) -> dict[str, str]:
    """Property → value in lower case, the last one wins."""
    found = {}
    for each in _SHEET_COMMENT.sub("", style).split(";"):
        name, colon, value = each.partition(":")
        if colon:
            found[name.strip().lower()] = value[:_LONGEST_VALUE].replace("!important", "").strip().lower()
    return found


def _is_zero(value: str | None, limit: float) -> bool:
    """Whether a length (or number) is no more than `limit`, e.g. `0`, `1px`, `0.01em`."""
    found = re.fullmatch(_LENGTH, value or "")
    if found is None:
        return False
    scale = {"em": 16.0, "rem": 16.0}.get(found[2] or "", 1.0)
    return 0 <= _number(found[1]) * scale <= limit


def _is_far(value: str | None) -> bool:
    """Whether a length leads off the page."""
    found = re.fullmatch(_LENGTH, value or "")
    scale = {"em": 16, "rem": 16, "vw": 9, "vh": 9, "%": 9}.get(found[2] or "", 1) if found else 0
    return found is not None and _number(found[1]) * scale <= -_FAR


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "1.2.3"
        return 1.0


class _Behind:
    """The colour behind an element, by inline styles and `bgcolor`; the page's where nothing is said. What was found of an element above is
    remembered, so that many within it are told at once."""

    def __init__(self, ground: Colour):
        self._ground = ground
        self._known: dict[Any, Colour] = {}

    def colour(self, node: Any) -> Colour:
        way, at, colour = [], node, None
        while colour is None and hasattr(at, "getattr"):  # the document, above the outermost element, has no attributes
            colour = self._known.get(at)
            if colour is None:
                way.append(at)
                colour = _background(_declarations(at.getattr("style") or "")) or _colour(at.getattr("bgcolor") or "")
                at = at.parent
        colour = colour or self._ground
        self._known |= dict.fromkeys(way, colour)
        return colour


def _background(style: dict[str, str]) -> Colour | None:
    return _colour(style.get("background-color") or style.get("background") or "")


def _colour(value: str) -> Colour | None:
    """The first colour in a value that is one and can be seen; None where there is none."""
    found = _parsed(value.strip().lower())
    return found[:3] if found and found[3] > 0 else None


def _is_clear(value: str) -> bool:
    """Whether a value is a colour that can't be seen, such as `transparent` or `rgb(0 0 0 / 0)`."""
    found = _parsed(value.strip().lower())
    return found is not None and found[3] <= 0.05


@lru_cache(1 << 12)
def _parsed(value: str) -> tuple[float, float, float, float] | None:
    """Red, green, blue and opacity of the first part of a value that is a colour (CSS Color 4)."""
    import tinycss2
    from tinycss2 import color4

    parts: list = tinycss2.parse_component_value_list(value)
    for part in parts:
        found = color4.parse_color(part)
        if found is not None and not isinstance(found, str):
            red, green, blue, opacity = (part or 0.0 for part in found.to("srgb"))  # a missing one is none of it
            return red, green, blue, opacity
    return None


def _alike(one: Colour, other: Colour) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= _NEAR
