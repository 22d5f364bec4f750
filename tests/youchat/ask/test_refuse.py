"""Whether to answer."""

from almanac.youchat.ask.quotes import choose
from almanac.youchat.ask.refuse import agreeing, decide, missing_words
from almanac.youchat.ask.relevance import read
from almanac.youchat.ask.verify import plain_idf
from almanac.youchat.ask.weights_file import Logistic
from almanac.youchat.documents import Hit, Passage

SAYS = "Canberra was founded in 1913 as the capital of Australia. It was chosen as a compromise between Sydney and Melbourne."


def decided(question: str, *texts: str, headings: tuple[str, ...] = ()):
    hits = [
        Hit(Passage(f"http://h{at}.example/", "Canberra", text, 0, len(text), "", headings), 1.0)
        for at, text in enumerate(texts)
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


def test_what_stands_under_the_question_itself_answers_it():
    text = "It may be thought of if all who live there agree. Nobody has asked them yet."
    asked = "Is it reasonable to move the capital elsewhere?"
    assert decided(asked, text, headings=(asked,)).outcome == "answer"
    assert decided(asked, text).outcome == "refused"


def test_a_question_that_says_nothing_is_refused():
    assert decided("the of and to", "The end of the road and the way to it. To be of the and to.").outcome == "refused"


def test_a_passage_that_lacks_most_of_the_question_is_believed_less():
    weights = Logistic(3.0, {}, {"refuse_below": 0.5, "answer_from": 0.6})
    text = "To specify the use of a secure protocol, pass in a tuple for the secure argument."
    hits = [Hit(Passage("http://h.example/", "Handlers", text, 0, len(text), ""), 1.0)]
    asked = "Why is the pickle module not secure?"
    quotes = choose(asked, hits, plain_idf)
    assert decide(asked, hits, quotes, plain_idf, weights).confidence < 0.8
    assert decide(asked, hits, quotes, plain_idf, weights, typed="Why secure?").confidence > 0.9


def test_a_passage_that_can_not_be_quoted_is_no_answer():
    rows = "Block-NeRF\tphotos of a neighbourhood in, a city out\tto come"
    other = "The optional block and timeout arguments are ignored."
    hits = [
        Hit(Passage(f"http://h{at}.example/", "", text, 0, len(text), ""), 1.0) for at, text in enumerate((rows, other))
    ]
    asked = "What is Block-NeRF of a neighbourhood?"
    assert decide(asked, hits, choose(asked, hits, plain_idf), plain_idf).outcome == "refused"
