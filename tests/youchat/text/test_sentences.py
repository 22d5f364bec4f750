"""Sentences, against what a reader would say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.youchat.text.sentences import split


def told(text: str) -> list[str]:
    return [each.of(text) for each in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It came in version 3.11. The next was 3.12.", ["It came in version 3.11.", "The next was 3.12."]),
        ("Python 3.11. adds this.", ["Python 3.11. adds this."]),
        ("Mr. Smith met Dr. J. R. Jones, e.g. in Rome.", ["Mr. Smith met Dr. J. R. Jones, e.g. in Rome."]),
        ("He joined the U.S. Army. It was 5 p.m. The end.", ["He joined the U.S. Army.", "It was 5 p.m.", "The end."]),
        ("See Fig. 3 and No. 5. No. Yes.", ["See Fig. 3 and No. 5.", "No.", "Yes."]),
        ('"Yes!" she said. (He agreed.) Good.', ['"Yes!" she said.', "(He agreed.)", "Good."]),
        ("Known since 1950.[1] Used often [2]. Really?", ["Known since 1950.[1]", "Used often [2].", "Really?"]),
        ("1. Install it.\n2. Run it. Then stop.\n- last", ["Install it.", "Run it.", "Then stop.", "last"]),
        ("# A heading\nThe text begins.", ["A heading", "The text begins."]),
        ("Wait... Then it went on.", ["Wait...", "Then it went on."]),
        ("First paragraph without a stop\n\nSecond one", ["First paragraph without a stop", "Second one"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]):
    assert told(text) == expected


def test_a_wrapped_line_goes_on_and_a_heading_does_not():
    text = "A short heading\nThis is a paragraph that was wrapped by its editor at some\nSeventy columns and goes on. Then it ends."
    assert told(text)[0] == "A short heading" and len(split(text)) == 3


def test_code_is_kept_whole():
    text = "Do this:\n```python\nx = 1. \nprint('A. B.')\n```\nThen that.\n\n    indented. Code\n    more\n\n>>> 1 + 1\n2\n"
    code = [each.of(text) for each in split(text) if each.code]
    assert code == ["```python\nx = 1. \nprint('A. B.')\n```", "indented. Code\n    more", ">>> 1 + 1\n2"]


@settings(deadline=None)
@given(st.text(alphabet="aB1 .!?\n\t-\"'([])`#>é。", max_size=120))
def test_sentences_are_in_order_and_leave_out_only_blanks_and_marks_of_lists(text: str):
    found, at = split(text), 0
    for each in found:
        assert at <= each.start < each.end <= len(text)
        assert each.of(text) == each.of(text).strip()
        assert not any(letter.isalpha() and letter not in "aB" for letter in text[at : each.start])
        at = each.end
    if "aaa" in text:
        assert any("aaa" in each.of(text) for each in found)
