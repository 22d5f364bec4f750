"""Follow-ups with what they leave out."""

import pytest

from almanac.youchat.ask.rewrite import Turn, rewrite, stands_alone
from almanac.youchat.text.terms import content_stems

HISTORY = [
    Turn("Who led the Mothers of Invention?", "Frank Zappa led the band from 1964.", ("The Mothers of Invention",)),
    Turn("When did they disband?", "In late 1969, Zappa broke up the band.", ("The Mothers of Invention",)),
]


@pytest.mark.parametrize(
    "question", ["Why did they break up?", "And in 1970?", "What about Europe?", "Why?", "Who replaced him?"]
)
def test_a_question_that_leaves_something_out_gets_the_topic(question: str):
    assert not stands_alone(question)
    found = rewrite(question, HISTORY)
    assert found.raw == question and found.expanded.startswith(question)
    assert {"mother", "invent", "zappa"} <= set(content_stems(found.expanded))
    assert {"mother", "invent"} <= set(content_stems(found.meant)) and len(found.searches) == 2


def test_a_question_that_stands_alone_is_left_alone():
    question = "How do floating point numbers lose precision in Python?"
    assert stands_alone(question) and rewrite(question, HISTORY).searches == (question,)


def test_without_a_conversation_nothing_is_added():
    assert rewrite("Why did they break up?", []).searches == ("Why did they break up?",)


def test_an_expansion_is_bounded_and_says_nothing_twice():
    long = [Turn(f"What of Topic{at} and Name{at}?", "Words " * 50 + f"City{at}.", (f"Page {at}",)) for at in range(20)]
    expanded = rewrite("Why is it?", long).expanded
    added = expanded.removeprefix("Why is it?").split()
    assert len(added) <= 24 and len(set(map(str.lower, added))) == len(added)
