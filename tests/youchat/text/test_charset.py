"""Characters out of bytes whose label may be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almanac.youchat.text.charset import decode

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 4


@pytest.mark.parametrize("encoding", ["koi8-r", "windows-1251", "utf-8", "iso-8859-5"])
def test_a_right_label_is_believed(encoding: str):
    assert decode(RUSSIAN.encode(encoding), f'text/html; charset="{encoding}"') == RUSSIAN


def test_utf8_is_recognised_under_any_label():
    for label in (
        "text/html; charset=iso-8859-1",
        "text/html",
        "text/html; charset=no-such",
        "text/html; charset=utf-16",
    ):
        assert decode("naïve café – 東京".encode(), label) == "naïve café – 東京"


def test_a_byte_order_mark_decides():
    assert decode(b"\xff\xfe" + "Grüße".encode("utf-16-le"), "text/html; charset=latin-1") == "Grüße"
    assert decode(b"\xef\xbb\xbfabc", "text/html") == "abc"


def test_a_page_names_its_own_charset_where_the_server_does_not():
    page = f'<meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>{RUSSIAN}'
    assert RUSSIAN in decode(page.encode("windows-1251"), "text/html")


def test_latin_1_is_read_as_browsers_read_it():
    assert decode(b"\x93quoted\x94 \xe9", "text/html; charset=ISO-8859-1") == "“quoted” é"


def test_a_charset_that_nobody_names_is_guessed():
    assert decode(RUSSIAN.encode("windows-1251"), "text/html") == RUSSIAN


@given(st.binary(max_size=300), st.text(max_size=40))
def test_no_bytes_and_no_label_raise(body: bytes, label: str):
    assert isinstance(decode(body, f"text/html; charset={label}"), str)


def test_iso_2022_jp_is_read_by_its_label_only():
    text = "<p>\u65e5\u672c\u8a9e\u306e\u6587\u7ae0</p>"
    body = text.encode("iso2022_jp")
    assert decode(body, "text/html; charset=iso-2022-jp") == text
    assert decode(b"<meta charset=iso-2022-jp>" + body, "text/html").endswith(text)
    assert decode(body, "text/html") == body.decode("ascii")
