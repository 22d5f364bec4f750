"""Which sentences may stand beside a source."""

import random

import pytest

from almanac.youchat.ask.verify import Source, support
from almanac.youchat.data.corrupt import KINDS, corrupt
from almanac.youchat.text.sentences import split

BAND = Source(
    "Zappa was born in Baltimore in 1940. In late 1969, he broke up the band. It had 12 members and did not tour Europe. "
    "He often cited the financial strain as the main reason. Sales increased by 20 per cent after the tour of Japan.",
    "Frank Zappa",
)
DISK = Source(
    "The disk holds 281 terabytes. The maximum size is 281 terabytes. The minimum size is one page. It is safe to use from several threads."
)


@pytest.mark.parametrize(
    "claim",
    [
        "Zappa was born in Baltimore in 1940.",
        "Frank Zappa broke up the band in late 1969.",
        "The band had twelve members.",
        "He often cited financial strain as the main reason.",
        "Sales increased by 20 % after the tour of Japan.",
        "No more than 12 members did not tour Europe.",
        "Sales increased by more than 19 per cent after the tour of Japan.",
    ],
)
def test_what_a_source_says_holds(claim: str):
    assert support(claim, [BAND]).holds


@pytest.mark.parametrize(
    ("claim", "veto"),
    [
        ("Zappa broke up the band in 1971.", "date 1971"),
        ("Zappa broke up the band in 1940.", "date of something else"),
        ("The band had 13 members.", "number 13"),
        ("The band had 20 members.", "number of something else"),
        ("Zappa was born in London in 1940.", "name london"),
        ("Zappa was not born in Baltimore.", "negation"),
        ("It had 12 members and did tour Europe.", "negation"),
        ("Sales decreased by 20 per cent after the tour of Japan.", "direction of amount"),
        ("Sales increased by 20 per cent before the tour of Japan.", "direction of time"),
        ("It had fewer than 12 members and did not tour Europe.", "number 12"),
        ("The disk holds 281 gigabytes.", "number 281"),
        ("The minimum size is 281 terabytes.", "direction of extreme"),
        ("It is unsafe to use from several threads.", "opposite of safe"),
    ],
)
def test_what_contradicts_a_source_is_vetoed(claim: str, veto: str):
    found = support(claim, [BAND, DISK])
    assert veto in found.vetoes and found.probability == 0.0 and not found.holds


def test_what_no_source_speaks_of_does_not_hold():
    assert not support("Bananas are yellow and grow in bunches.", [BAND]).holds
    assert not support("Zappa was born in Baltimore.", []).holds


def test_spans_are_stretches_of_their_sources_and_at_most_three():
    sources = [Source("Nothing is here."), BAND]
    found = support(
        "Zappa, born in 1940, broke up the band, which had 12 members, over financial strain in 1969.", sources
    )
    assert 1 <= len(found.spans) <= 3 and {span.source for span in found.spans} == {1}
    whole = {(each.start, each.end) for each in split(BAND.text)}
    assert {(span.start, span.end) for span in found.spans} <= whole


def test_a_sentence_word_for_word_always_holds():
    for each in split(BAND.text):
        assert support(each.of(BAND.text), [BAND]).holds


def test_planted_falsehoods_are_made_of_each_kind_and_do_not_hold():
    chance, others = random.Random(0), ["Helsinki replaced the old harbour with a railway."]
    caught = made = 0
    for kind in KINDS:
        for each in split(BAND.text):
            false = corrupt(each.of(BAND.text), others, chance, [kind])
            if false:
                assert false.kind == kind and false.text != each.of(BAND.text)
                made += 1
                caught += not support(false.text, [BAND]).holds
    assert made >= 10 and caught >= 0.9 * made
