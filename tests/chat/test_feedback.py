"""Conversations keep their branches, votes their tokens."""

import json
import multiprocessing
from pathlib import Path

import pytest

from almanac.chat import conversation as talk
from almanac.chat.feedback import FeedbackStore, Vote, split_of
from almanac.runtime.errors import UserError


def test_what_is_edited_or_answered_anew_stays_beside_what_took_its_place():
    empty = talk.new("Be brief.")
    asked = talk.say(empty, "user", "How are you?\nWell?")
    question = asked["leaf"]
    first = talk.say(asked, "assistant", "Fine.", question)
    second = talk.say(first, "assistant", "Great!", question)
    follow = talk.say(second, "user", "And now?", second["leaf"])
    edited = talk.say(follow, "user", "Who are you?", None)
    assert [node["content"] for node in talk.path(follow)] == ["How are you?\nWell?", "Great!", "And now?"]
    assert talk.versions(edited, question) == [question, edited["leaf"]]
    assert talk.versions(follow, first["leaf"]) == [first["leaf"], second["leaf"]]
    back = talk.turn_to(edited, question)
    assert back["leaf"] == follow["leaf"]  # with what was said last after it
    other = talk.turn_to(back, first["leaf"])
    assert [node["content"] for node in talk.path(other)] == ["How are you?\nWell?", "Fine."]
    assert talk.messages(back)[0] == {"role": "system", "content": "Be brief."}
    assert [message["content"] for message in talk.messages(back, question)][1:] == ["How are you?\nWell?"]
    assert back["title"] == "How are you? Well?" and empty["nodes"] == {}
    assert json.loads(json.dumps(edited)) == edited
    assert "**You**\n\nAnd now?" in talk.markdown(follow) and "Fine." not in talk.markdown(follow)


def vote(number: int, thumb: int, user: str = "ann", prompt: tuple[int, ...] = (1, 2), **more) -> Vote:
    said = [{"role": "user", "content": "hi"}]
    given = {"consent": True, "time": float(number), **more}
    return Vote(
        "c",
        f"m{number}",
        user,
        thumb,
        "tiny 0123",
        {"temperature": 0.7},
        prompt,
        (number, 9),
        said,
        f"text {number}",
        **given,
    )


def test_votes_come_back_with_their_tokens(tmp_path):
    store = FeedbackStore(tmp_path / "deep" / "votes.sqlite")
    store.record(vote(1, 1, tags=("Clear",), comment="Ünïcode 👍"))
    store.record(vote(2, -1, consent=False))
    store.record(vote(1, -1, comment="changed my mind"))
    (kept,) = FeedbackStore(tmp_path / "deep" / "votes.sqlite").votes()
    assert (kept.thumb, kept.comment, list(kept.answer), kept.sampling) == (
        -1,
        "changed my mind",
        [1, 9],
        {"temperature": 0.7},
    )
    assert kept.user.startswith("user:") and "ann" not in kept.user
    assert b"ann" not in (tmp_path / "deep" / "votes.sqlite").read_bytes()
    assert len(list(store.votes(consented=False))) == 2


def test_pairs_are_of_the_same_prompt_and_in_order_of_liking(tmp_path):
    store = FeedbackStore(tmp_path / "votes.sqlite")
    for each in (
        vote(1, 1),
        vote(2, -1),
        vote(3, -1, prompt=(5,)),
        vote(4, 0),
        vote(5, 1, rival="m4"),
        vote(6, -1, consent=False),
    ):
        store.record(each)
    pairs = [(pair["chosen"]["text"], pair["rejected"]["text"]) for pair in store.pairs()]
    assert sorted(pairs) == [("text 1", "text 2"), ("text 5", "text 2"), ("text 5", "text 4")]
    assert [row["label"] for row in store.unpaired()] == [True, False, False, True]


def test_a_users_votes_are_all_in_one_part():
    parts = [split_of(f"user {number}") for number in range(2000)]
    assert 150 < parts.count("test") < 250 and 150 < parts.count("valid") < 250
    assert split_of("user 5") == parts[5]


def _record(path: Path, start: int) -> None:
    store = FeedbackStore(path)
    for number in range(50):
        store.record(vote(start + number, 1))


def test_several_processes_may_vote_at_once(tmp_path):
    FeedbackStore(tmp_path / "votes.sqlite")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record, args=(tmp_path / "votes.sqlite", 100 * number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(FeedbackStore(tmp_path / "votes.sqlite").votes())) == 150


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "x").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="can't keep feedback"):
        FeedbackStore(tmp_path / "x")
    with pytest.raises(UserError, match="can't keep feedback"):
        FeedbackStore(tmp_path / "x" / "y")
