"""Links to a stretch of a page, against a matcher that does what WICG's text fragments say a browser does."""

import random
import re
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.youchat.ask.fragments import encoded, link
from almanac.youchat.text.sentences import split


def browser_finds(url: str, text: str) -> tuple[int, int] | None:
    """Where a browser lands: the first stretch that the directive matches, as offsets into the text."""
    directive = url.split(":~:text=")[1]
    assert "&" not in directive and " " not in directive
    parts = directive.split(",")
    prefix = unquote(parts.pop(0)[:-1]) if parts[0].endswith("-") else ""
    suffix = unquote(parts.pop()[1:]) if parts[-1].startswith("-") else ""
    assert 1 <= len(parts) <= 2 and not suffix
    flexible = [r"\s+".join(map(re.escape, unquote(part).split())) for part in parts]
    before = r"(?<!\w)" + r"\s+".join(map(re.escape, prefix.split())) + r"\s*" if prefix else ""
    pattern = before + r"((?<!\w)" + r"(?!\w).*?(?<!\w)".join(flexible) + r"(?!\w))"
    found = re.search(pattern, text, re.IGNORECASE | re.DOTALL)
    return found.span(1) if found else None


def lands(text: str, start: int, end: int) -> bool:
    found = browser_finds(link("http://a.example/p", text, start, end), text)
    return found is not None and start <= found[0] <= start + 3 and end - 3 <= found[1] <= end


def test_every_sentence_of_a_page_is_found():
    chance = random.Random(0)
    vocabulary = ["the", "cat", "sat", "on", "a", "mat", "well-known", "Rust", "100%", "q&a", "it", "is", "café"]
    for _ in range(30):
        text = " ".join(
            " ".join(chance.choice(vocabulary) for _ in range(chance.randint(3, 25))).capitalize() + f" {at}."
            for at in range(12)
        )
        for each in split(text):
            assert lands(text, each.start, each.end), each.of(text)


def test_a_repeated_sentence_is_told_by_what_stands_before_it():
    text = "One thing. It is not set. Another thing. It is not set. End."
    second = text.rindex("It is")
    assert lands(text, second, second + len("It is not set."))
    assert ".-," in link("http://a.example/", text, second, second + len("It is not set."))


def test_the_marks_of_a_directive_are_encoded():
    assert encoded("well-known, R&D 50%") == "well%2Dknown%2C%20R%26D%2050%25"


def test_the_fragment_of_a_page_stays():
    assert link("http://a.example/p#top", "Some words here.", 0, 16).startswith("http://a.example/p#top:~:text=")
    assert link("http://a.example/p", "… !", 0, 3) == "http://a.example/p"


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(["alpha", "beta-x", "Gamma,", "δ", "5%", "&", "\n\n", "end."]), min_size=3, max_size=40)
)
def test_a_link_is_never_more_than_ascii_without_blanks(parts: list[str]):
    text = " ".join(parts)
    made = link("http://a.example/p", text, 0, len(text))
    assert made.isascii() and not re.search(r"\s", made)
