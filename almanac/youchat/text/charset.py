"""Bytes to characters when the label may be wrong. A byte-order mark decides; then what is valid UTF-8 is UTF-8, whatever it is labelled
(but for ISO-2022-JP, which is written in ASCII's bytes); then the label of the server and of the page's own head, if the bytes can be read
by it; then uchardet's guess. Names are mapped as browsers map them (WHATWG Encoding: ISO-8859-1 is Windows-1252)."""

import codecs
import re
from collections.abc import Iterator

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_IN_HEADER = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]+)", re.IGNORECASE)
_IN_HEAD = re.compile(r"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:+-]+)", re.IGNORECASE | re.ASCII)
_HEAD = 4096
"""Bytes in which the page's own label is looked for; browsers look in 1,024, but long comments come before it."""
_FEW = 0.001
"""Of the characters may be wrong: a page with one broken byte is still of its charset."""


def decode(body: bytes, content_type: str) -> str:
    """The characters of a text document; never raises, what can't be read becomes U+FFFD.

    Args:
        body: as it came.
        content_type: as the server said it, e.g. `text/html; charset=koi8-r`.
    """
    for mark, name in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, errors="replace")
    labels = list(_labels(body, content_type))
    shifting = "iso2022_jp" in labels and b"\x1b" in body  # its bytes are ASCII, and so UTF-8 too
    try:
        if not shifting:
            return body.decode("utf-8")
    except UnicodeDecodeError:
        pass
    for encoding in labels:
        text = _read(body, encoding)
        if text is not None and text.count("\ufffd") <= _FEW * len(text):
            return text
    return bytes_to_str(body, detect_encoding(body) or "utf-8", errors="replace")


def _labels(body: bytes, content_type: str) -> Iterator[str]:
    """The encodings that the server and the page's head name, as far as browsers know them."""
    head = body[:_HEAD].decode("latin-1")
    for label in (_IN_HEADER.search(content_type), _IN_HEAD.search(head)):
        encoding = map_encoding_to_html5(label[1], fallback_utf8=False) if label else None
        if encoding:
            yield encoding


def _read(body: bytes, encoding: str) -> str | None:
    """By an encoding that Python knows."""
    try:
        return body.decode(encoding, errors="replace")
    except (LookupError, UnicodeError):
        return None
