"""What a page holds but does not show: instructions to language models hide there, and nothing of it may be indexed (specification 1.8).
Elements are judged by their attributes, their inline style and the page's own style sheets, as far as these can be judged without laying
the page out; characters by what they are. Sheets in other files are not fetched: what only they hide is not found."""

import re
from functools import lru_cache
from typing import Any

from resiliparse.parse.html import HTMLTree

_NEVER_SHOWN = (
    "script, style, template, noscript, head, iframe, object, embed, svg, math annotation, [hidden], dialog:not([open]), "
    "input, select, textarea, datalist, audio, video, canvas, map"
)
"""Elements whose text nobody reads in the page."""

_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e01ef\ue000-\uf8ff]"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
"""Soft hyphen, zero widths, bidirectional controls, tags, variation selectors beyond 16, private use, controls."""
_JOINERS = re.compile(
    "(?<=[\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)|[\u200c\u200d]{2,}|[\ufe00-\ufe0f]{2,}"
)
"""Joiners belong to Persian, Indic scripts and emoji; between ASCII letters they only break words up."""

_LENGTH = r"(-?[\d.]+)\s*(px|em|rem|pt|%|vw|vh|ch|in|cm)?"
_MEDIA = re.compile(r"@(?:media|supports|layer|container)([^{]*)\{((?:[^{}]|\{[^{}]*\})*)\}", re.IGNORECASE)
_RULE = re.compile(r"([^{}@;]+)\{([^{}]*)\}")
_SHEET_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_FAR = 900
"""Pixels (or percent) away from the page's edge: no longer on it."""
_NEAR = 20
"""Two colours whose channels differ by no more than this can't be told apart in passing."""
_NAMES = {"white": (255, 255, 255), "snow": (255, 250, 250), "ivory": (255, 255, 240), "black": (0, 0, 0)} | {
    "whitesmoke": (245, 245, 245), "ghostwhite": (248, 248, 255), "floralwhite": (255, 250, 240), "red": (255, 0, 0),
    "blue": (0, 0, 255), "green": (0, 128, 0), "yellow": (255, 255, 0), "gray": (128, 128, 128), "grey": (128, 128, 128),
    "navy": (0, 0, 128), "darkblue": (0, 0, 139), "silver": (192, 192, 192), "maroon": (128, 0, 0), "purple": (128, 0, 128),
}  # fmt: skip
_WHITE = (255, 255, 255)

Colour = tuple[int, int, int]


def remove_hidden(tree: HTMLTree) -> None:
    """Take the elements out of a page that it does not show. What was in its head is gone too: read that first."""
    for sheet in _found(tree, "style"):
        for selector in _hiding_selectors(sheet.text):
            _remove(_found(tree, selector))
    _remove(_found(tree, _NEVER_SHOWN))
    _remove([node for node in _found(tree, "[style], font[color]") if _is_hidden(node)])


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
def _hiding_selectors(sheet: str) -> tuple[str, ...]:
    """Selectors of a sheet whose rules hide what they select, on a screen of any size."""
    text = _MEDIA.sub(
        lambda found: found[2] if found[1].strip().lower() in ("", "all", "screen") else "",
        _SHEET_COMMENT.sub("", sheet),
    )
    found = []
    for rule in _RULE.finditer(text):
        selector = rule[1].strip()
        by_turns = ":" in selector or selector.lower() in ("html", "body")  # :hover; a script shows the whole page
        if not by_turns and _hides(_declarations(rule[2])):
            found.append(selector)
    return tuple(found)


def _is_hidden(node: Any) -> bool:
    """Whether an element's own style hides it, or its letters have the colour behind them."""
    style = _declarations(node.getattr("style") or "")
    if _hides(style):
        return True
    colour = _colour(style.get("color") or (node.getattr("color") if node.tag == "font" else "") or "")
    return colour is not None and _alike(colour, _behind(node))


def _hides(style: dict[str, str]) -> bool:
    """Whether declarations take an element out of sight."""
    overflow = style.get("overflow", "") + style.get("overflow-x", "") + style.get("overflow-y", "")
    clipped = "hidden" in overflow or "clip" in overflow
    colour, behind = (
        _colour(style.get("color", "")),
        _colour(style.get("background-color", style.get("background", ""))),
    )
    return (
        style.get("display") == "none"
        or style.get("visibility") in ("hidden", "collapse")
        or style.get("content-visibility") == "hidden"
        or _is_zero(style.get("opacity"), 0.05)
        or _is_zero(style.get("font-size"), 1.0)
        or style.get("color", "").replace(" ", "") in ("transparent", "rgba(0,0,0,0)")
        or (clipped and any(_is_zero(style.get(side), 1.0) for side in ("width", "height", "max-width", "max-height")))
        or _is_far(style.get("text-indent"))
        or (
            style.get("position") in ("absolute", "fixed", "relative")
            and any(_is_far(style.get(side)) for side in ("left", "top", "right", "bottom"))
        )
        or any(_is_far(style.get(side)) for side in ("margin-left", "margin-top"))
        or re.search(r"rect\(\s*[01](px)?[\s,]+[01](px)?[\s,]+[01](px)?[\s,]+[01](px)?\s*\)", style.get("clip", "")) is not None
        or re.search(r"inset\(\s*(50|[6-9]\d|100)%|circle\(\s*0", style.get("clip-path", "")) is not None
        or re.search(r"scale[xy]?\(\s*0(\.0*)?\s*[,)]", style.get("transform", "")) is not None
        or re.search(r"translate[xy]?\([^)]*-\d{4,}px", style.get("transform", "")) is not None
        or (colour is not None and behind is not None and _alike(colour, behind))
    )  # fmt: skip


def _declarations(style: str) -> dict[str, str]:
    """Property → value in lower case, the last one wins."""
    found = {}
    for each in _SHEET_COMMENT.sub("", style).split(";"):
        name, colon, value = each.partition(":")
        if colon:
            found[name.strip().lower()] = value.replace("!important", "").strip().lower()
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
    return found is not None and _number(found[1]) * {"em": 16, "rem": 16}.get(found[2] or "", 1) <= -_FAR


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "1.2.3"
        return 1.0


def _behind(node: Any) -> Colour:
    """The colour behind an element, by inline styles and `bgcolor`; white where nothing is said."""
    at = node
    while hasattr(at, "getattr"):  # the document, above the outermost element, has no attributes
        style = _declarations(at.getattr("style") or "")
        said = style.get("background-color") or style.get("background") or at.getattr("bgcolor") or ""
        colour = _colour(said)
        if colour is not None:
            return colour
        at = at.parent
    return _WHITE


def _colour(value: str) -> Colour | None:
    """`#fff`, `#ffffff`, `rgb(…)` or a name, of the first word that is one; None where there is none."""
    value = value.strip().lower()
    found = re.search(r"#([0-9a-f]{3,8})\b", value)
    if found:
        digits = found[1]
        if len(digits) in (3, 4):
            return tuple(int(each * 2, 16) for each in digits[:3])  # type: ignore[return-value]
        if len(digits) in (6, 8):
            return tuple(int(digits[at : at + 2], 16) for at in (0, 2, 4))  # type: ignore[return-value]
        return None
    found = re.search(r"rgba?\(\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)", value)
    if found:
        return int(found[1]), int(found[2]), int(found[3])
    return next((_NAMES[word] for word in re.findall(r"[a-z]+", value) if word in _NAMES), None)


def _alike(one: Colour, other: Colour) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= _NEAR
