"""Passages are exact stretches, of about 150 words."""

from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.youchat.documents import Heading, Page
from almanac.youchat.text.passages import LONGEST, SHORTEST, WORDS, split

SENTENCE = "Otters hold hands while they sleep on the water. "


def page_of(parts: list[tuple[int, str, str]]) -> Page:
    """Headings (level, words) and what stands below them."""
    text, headings = "", []
    for level, heading, body in parts:
        if level:
            headings.append(Heading(level, heading, len(text), f"a{len(headings)}"))
            text += heading + "\n\n"
        text += body + "\n\n"
    return Page("http://h/p", "T", text.rstrip(), tuple(headings))


PARTS = st.lists(
    st.tuples(
        st.integers(0, 4), st.sampled_from(["One", "Two words", "Three more words"]),
        st.lists(st.integers(0, 90), max_size=4).map(lambda counts: "\n\n".join(SENTENCE * count for count in counts)),
    ),
    max_size=6,
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(PARTS)
def test_passages_are_exact_and_hold_every_word_once(parts: list[tuple[int, str, str]]):
    page = page_of(parts)
    made = split(page)
    assert all(page.text[each.start : each.end] == each.text == each.text.strip() != "" for each in made)
    assert [each.start for each in made] == sorted(each.start for each in made)
    assert " ".join(each.text for each in made).split() == page.text.split()


@settings(deadline=None, max_examples=80)
@given(PARTS)
def test_no_passage_is_much_longer_than_it_should_be(parts: list[tuple[int, str, str]]):
    assert all(len(each.text.split()) <= LONGEST + WORDS // 2 for each in split(page_of(parts)))


def test_a_long_section_is_cut_evenly_on_paragraphs():
    page = page_of([(1, "Otters", "\n\n".join([SENTENCE * 5] * 20))])
    made = split(page)
    assert len(made) in (6, 7) and all(90 <= len(each.text.split()) <= 190 for each in made)
    assert all(each.text.endswith("water.") for each in made)


def test_a_long_paragraph_is_cut_on_sentences_and_words_without_end_are_cut_too():
    assert all(each.text.endswith(".") for each in split(page_of([(0, "", SENTENCE * 100)])))
    assert max(len(each.text) for each in split(page_of([(0, "", "x" * 100_000)]))) <= 10 * LONGEST
    assert max(len(each.text) for each in split(page_of([(0, "", "水" * 20_000)]))) <= 10 * LONGEST


def test_cuts_fall_on_headings_and_each_passage_knows_those_above_it():
    body = SENTENCE * 10
    made = split(page_of([(1, "Otters", body), (2, "Food", body), (3, "Fish", body), (2, "Sleep", body)]))
    told = [(each.headings, each.anchor) for each in made]
    assert told == [
        (("Otters",), "a0"),
        (("Otters", "Food"), "a1"),
        (("Otters", "Food", "Fish"), "a2"),
        (("Otters", "Sleep"), "a3"),
    ]


def test_a_heading_without_much_below_it_is_joined_to_what_follows():
    made = split(
        page_of([(1, "Otters", ""), (2, "Food", SENTENCE * 10), (2, "Sleep", "They do."), (2, "Play", SENTENCE * 10)])
    )
    assert [each.text.split("\n")[0] for each in made] == ["Otters", "Sleep"]
    assert all(len(each.text.split()) >= SHORTEST for each in made)
