"""Links that lead to the quoted sentence: text fragments by WICG's scroll-to-text rules (`#:~:text=[prefix-,]start[,end][,-suffix]`). A
browser goes to the first match in the page, on word borders and without regard to case, so a link says as much as makes ours the first."""

import re
from urllib.parse import quote

_WHOLE = 12
"""Words up to which a stretch is written out; longer ones are given by how they begin and end."""
_EDGE = 4
"""Words of a beginning or an end."""
_TRIMMED = re.compile(r"^\W+|\W+$")
_OPENING = re.compile(r"^\W+(?=\w)")


def link(url: str, text: str, start: int, end: int) -> str:
    """The address of a stretch of a page.

    Args:
        url: of the page; its own fragment stays in front.
        text: of the page.
        start: the stretch's first character in it.
        end: one past its last.

    Returns:
        `url` alone where the stretch has no words.
    """
    directive = _directive(text, start, end)
    if not directive:
        return url
    return f"{url}{'' if '#' in url else '#'}:~:text={directive}"


def encoded(words: str) -> str:
    """Words as they stand in a directive: all but letters, digits, `_`, `.` and `~` percent-encoded, its own `-`, `,` and `&` too."""
    return quote(words, safe="").replace("-", "%2D")


def _directive(text: str, start: int, end: int) -> str:
    start += len(re.match(r"\W*", text[start:end])[0])  # type: ignore[index]
    words = text[start:end].split()
    if not any(_TRIMMED.sub("", word) for word in words):
        return ""
    flat = _flat(text)
    before = text[:start]
    at = len(_flat(before)) + (1 if before[-1:].isspace() and before.strip() else 0)
    until = at + len(_flat(text[start:end]))
    if len(words) <= _WHOLE:
        said = _trimmed(words)
        here = flat.find(_flat(said), at)
        return _prefixed(flat, encoded(said), _flat(said), here, before)
    for edge in range(_EDGE, len(words) // 2 + 1):
        first, last = _trimmed(words[:edge]), _trimmed(words[-edge:])
        here = flat.find(_flat(first), at)
        closing = _found(flat, _flat(last), here + len(_flat(first)))
        if first and last and closing >= 0 and until - 3 <= closing + len(_flat(last)) <= until:
            alone = _found(flat, _flat(first), 0) == here
            if alone or edge + 1 > len(words) // 2 or edge >= 2 * _EDGE:
                return _prefixed(flat, f"{encoded(first)},{encoded(last)}", _flat(first), here, before)
    said = _trimmed(words)
    return _prefixed(flat, encoded(said), _flat(said), flat.find(_flat(said), at), before)


def _prefixed(flat: str, directive: str, first: str, here: int, before: str) -> str:
    """A directive with as many of the words before it as make its match the first one."""
    if _found(flat, first, 0) == here:
        return directive
    words = before.split()
    for count in range(1, min(len(words), 30) + 1):
        prefix = _OPENING.sub(
            "", " ".join(words[-count:])
        )  # a browser skips white space after a prefix, and nothing else
        if not prefix:
            continue
        if _first_after(flat, _flat(prefix), first) == here:
            return f"{encoded(prefix)}-,{directive}"
    return directive  # the same words stand there before, with the same words before them


def _first_after(flat: str, prefix: str, first: str) -> int:
    """Where a browser that looks for `prefix` and then, after white space, for `first` finds the latter."""
    at = _found(flat, prefix, 0)
    while at >= 0:
        after = at + len(prefix) + flat.startswith(" ", at + len(prefix))
        if flat.startswith(first, after):
            return after
        at = _found(flat, prefix, at + 1)
    return -1


def _found(flat: str, words: str, since: int) -> int:
    """The first match on word borders, −1 where there is none."""
    at = flat.find(words, since)
    while at >= 0:
        end = at + len(words)
        if not (at and flat[at - 1].isalnum() and flat[at].isalnum()) and not (
            end < len(flat) and flat[end].isalnum() and flat[end - 1].isalnum()
        ):
            return at
        at = flat.find(words, at + 1)
    return -1


def _trimmed(words: list[str]) -> str:
    """Words without the marks at their ends."""
    return _TRIMMED.sub("", " ".join(words))


def _flat(text: str) -> str:
    """A text as a browser compares it: one blank for any white space, no capitals."""
    return " ".join(text.split()).lower()
