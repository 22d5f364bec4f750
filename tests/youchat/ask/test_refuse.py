"""Whether to answer."""

from almanac.youchat.ask.quotes import choose
from almanac.youchat.ask.refuse import agreeing, decide, missing_words
from almanac.youchat.ask.relevance import read
from almanac.youchat.ask.verify import plain_idf
from almanac.youchat.documents import Hit, Passage

SAYS = "Canberra was founded in 1913 as the capital of Australia. It was chosen as a compromise between Sydney and Melbourne."


def decided(question: str, *texts: str):
    hits = [
        Hit(Passage(f"http://h{at}.example/", "Canberra", text, 0, len(text), ""), 1.0) for at, text in enumerate(texts)
    ]
    return decide(question, hits, choose(question, hits, plain_idf), plain_idf)


def test_what_is_said_is_answered_and_what_is_not_is_refused():
    asked = decided("When was Canberra founded as the capital of Australia?", SAYS)
    other = decided("Which enzyme breaks down lactose in humans?", SAYS)
    assert asked.outcome == "answer" and other.outcome == "refused" and asked.confidence > other.confidence


def test_nothing_found_is_refused():
    assert decided("When was Canberra founded?").outcome == "refused"
    assert decided("Wann wurde die Hauptstadt gegründet?", SAYS).outcome == "refused"


def test_missing_words_are_named_as_they_were_typed():
    assert missing_words("When did Zyxxic found Canberra?", [SAYS]) == ("Zyxxic",)
    assert missing_words("When was it founded?", [SAYS]) == ()


def test_hosts_that_agree_are_counted_once_each():
    hits = [
        Hit(Passage(url, "", SAYS, 0, len(SAYS), ""), 1.0)
        for url in ("http://a.example/1", "http://a.example/2", "http://b.example/")
    ]
    assert agreeing(read("Canberra capital", plain_idf), hits) == 2
