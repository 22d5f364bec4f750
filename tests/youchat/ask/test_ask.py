"""From a question to an answer, over a small index and a language model on loopback."""

import re

import pytest

from almanac.runtime.errors import UserError
from almanac.youchat.ask.ask import Done, Found, Said, Settings, Withdrawn, ask, ask_stream
from almanac.youchat.ask.language_model import CANNOT, Endpoint
from almanac.youchat.ask.rewrite import Turn
from almanac.youchat.documents import Page
from almanac.youchat.evaluate.measure_answers import SmallIndex
from almanac.youchat.evaluate.stub_model import Manner, serving

PAGES = [
    Page("http://a.example/canberra", "Canberra", "Canberra was founded in 1913 as the capital of Australia. It was chosen as a compromise "
         "between Sydney and Melbourne. The city was designed by Walter Burley Griffin."),
    Page("http://b.example/sydney", "Sydney", "Sydney is the largest city of Australia. It has about 5.3 million inhabitants."),
    Page("http://c.example/capitals", "Capitals", "The capital of Australia is Canberra. The capital of France is Paris."),
    *(Page(f"http://d.example/{at}", f"Thing {at}", f"Thing {at} is made of wood and paint. It costs {at} coins.") for at in range(20)),
]  # fmt: skip
INDEX = SmallIndex(PAGES)
QUESTION = "When was Canberra founded as the capital of Australia?"
TRUE = "Canberra was founded in 1913 as the capital of Australia [1]."
QUICK = {"first_seconds": 0.6, "stall_seconds": 0.3, "total_seconds": 3.0}


@pytest.mark.parametrize("mode", ["extractive", "semi"])
def test_an_answer_rests_on_exact_stretches_of_the_pages_it_cites(mode):
    answer = ask(QUESTION, INDEX, (), Settings(mode))
    assert answer.outcome == "answer" and any("1913" in sentence.text for sentence in answer.sentences)
    assert [reference.n for reference in answer.references] == list(range(1, len(answer.references) + 1))
    for sentence in answer.sentences:
        assert sentence.citations and {span.source for span in sentence.spans} == set(sentence.citations)
        first = sentence.spans[0]
        stretch = INDEX.pages[answer.references[first.source - 1].url].text[first.start : first.end]
        assert stretch == sentence.text if mode == "extractive" else f"“{stretch}”" in sentence.text


def test_what_is_not_there_is_refused_with_what_comes_nearest():
    answer = ask("Which enzyme breaks down lactose in Australia?", INDEX)
    assert answer.outcome == "refused" and not answer.sentences and answer.closest and "enzyme" in answer.missing
    assert ask("Qwzx vbnm?", INDEX).outcome == "refused" and ask("???", INDEX).outcome == "refused"
    assert ask("anything", SmallIndex([])).closest == ()


def test_a_page_that_changed_or_went_since_is_not_quoted():
    class Changed(SmallIndex):
        def page(self, url: str) -> Page | None:
            page = super().page(url)
            return None if "capitals" in url else Page(url, "x", "Rewritten.") if page and "canberra" in url else page

    answer = ask(QUESTION, Changed(PAGES))
    assert not {"http://a.example/canberra", "http://c.example/capitals"} & {one.url for one in answer.references}


def test_a_follow_up_is_searched_with_what_it_leaves_out():
    answer = ask("Who designed it?", INDEX, [Turn(QUESTION, "In 1913.", ("Canberra",))])
    assert "Canberra" in answer.searched and any("Griffin" in sentence.text for sentence in answer.sentences)


def test_a_stream_says_what_its_end_says():
    first, *said, last = ask_stream(QUESTION, INDEX)
    assert isinstance(first, Found) and isinstance(last, Done)
    assert tuple(each.sentence for each in said if isinstance(each, Said)) == last.answer.sentences


def test_a_model_keeps_what_is_true_and_loses_what_is_not():
    reply = f"{TRUE} It was designed by Walter Burley Griffin [7]. It was founded in 1950 [1]. Bananas are rich in potassium [2]. " \
            "It was chosen as a compromise between Sydney and Melbourne ![x](http://evil.com/p.png)."  # fmt: skip
    with serving(lambda _: reply) as url:
        answer = ask(QUESTION, INDEX, (), Settings("abstractive", endpoint=Endpoint(url)))
    said = " ".join(sentence.text for sentence in answer.sentences)
    assert (
        answer.removed == 2 and "1950" not in said and "Bananas" not in said and "evil" not in said and "![" not in said
    )
    assert "Griffin" in said and "compromise" in said and not re.search(r"\[\d", said) and not answer.note
    assert all(0 < n <= len(answer.references) for sentence in answer.sentences for n in sentence.citations)


@pytest.mark.parametrize("manner", ["garbage", "stall", "refuse", "nothing"])
def test_a_model_that_fails_is_replaced_by_quotes_with_a_word(manner: Manner):
    with serving(lambda _: "Bananas are rich in potassium and in fibre. " * 5, manner) as url:
        *_, event, last = ask_stream(QUESTION, INDEX, (), Settings("abstractive", endpoint=Endpoint(url, "m", **QUICK)))
    assert isinstance(last, Done) and isinstance(event, Said) and "Quotes stand instead" in last.answer.note
    assert any("1913" in sentence.text for sentence in last.answer.sentences)


@pytest.mark.parametrize(
    "reply",
    [
        CANNOT,
        "I cannot answer. [1]",
        "The passages do not contain the answer.",
        "Canberra [1].",
        "Bananas are rich in potassium [1]. Paris has 9 million kings [2].",
        "Ignore that.",
    ],
)
def test_a_model_that_says_too_little_that_is_true_is_replaced_by_quotes(reply: str):
    with serving(lambda _: reply) as url:
        events = list(ask_stream(QUESTION, INDEX, (), Settings("abstractive", endpoint=Endpoint(url))))
    assert sum(isinstance(event, Withdrawn) for event in events) == 1
    last = events[-1]
    assert isinstance(last, Done) and last.answer.note and any("1913" in each.text for each in last.answer.sentences)


def test_what_a_model_said_before_it_broke_off_stays_if_it_is_true():
    with serving(lambda _: f"{TRUE} " + "It was designed by Walter Burley Griffin [1]. " * 9, "stall") as url:
        answer = ask(QUESTION, INDEX, (), Settings("abstractive", endpoint=Endpoint(url, "m", **QUICK)))
    assert answer.sentences[0].text == TRUE.replace(" [1]", "") and "failed" in answer.note


def test_a_model_is_not_asked_where_nothing_is_found():
    answer = ask("Qwzx vbnm?", INDEX, (), Settings("abstractive", endpoint=Endpoint("http://127.0.0.1:9/v1")))
    assert answer.outcome == "refused" and not answer.note


@pytest.mark.parametrize(("question", "settings"), [("  ", Settings()), ("Why?", Settings("abstractive"))])
def test_wrong_use_is_said(question: str, settings: Settings):
    with pytest.raises(UserError):
        ask(question, INDEX, (), settings)


def test_an_endless_question_is_told_to_be_shorter():
    with pytest.raises(UserError, match="20,000 characters"):
        ask("x" * 20_000, INDEX)


def test_a_model_that_finds_no_answer_makes_it_a_part_in_whatever_words_it_says_so():
    with serving(lambda _: "I'm sorry, but the sources do not mention it [1].") as url:
        answer = ask(QUESTION, INDEX, (), Settings("abstractive", endpoint=Endpoint(url)))
    assert answer.outcome == "partial" and "found no answer" in answer.note and not answer.removed
