"""The queue in front of a model is fair, and who leaves it is gone."""

import asyncio
import threading
import time

import pytest

from almanac.runtime import serving
from almanac.runtime.errors import UserError
from almanac.runtime.serving import Gone, Job, Refused, Turns


def test_jobs_take_turns_in_the_order_of_asking_and_never_at_once():
    turns, done, busy = Turns(8), [], threading.Semaphore(1)

    def work(job: Job, name: str) -> str:
        with job:
            for _ in range(3):
                assert busy.acquire(blocking=False), "two at once"
                done.append(name)
                while name == "a" and len(done) == 1 and len(turns._waiting) < 2:
                    time.sleep(0.01)  # until the others wait
                busy.release()
                job.give_way()
        return name

    async def ask() -> list[str]:
        return await asyncio.gather(*(turns.run(lambda job, name=name: work(job, name)) for name in "abc"))

    assert asyncio.run(ask()) == ["a", "b", "c"]
    assert sorted(done[1:3]) == ["b", "c"], "who waits comes before who had a turn"
    assert done == done[:3] * 3
    assert turns.jobs == 0


def test_a_job_that_is_left_ends_at_its_next_turn():
    turns, ended = Turns(2), threading.Event()

    def work(job: Job) -> None:
        try:
            with job:
                while True:
                    job.give_way()
                    time.sleep(0.001)
        except Gone:
            ended.set()
            raise

    async def leave() -> None:
        running = asyncio.create_task(turns.run(work))
        await asyncio.sleep(0.05)
        assert turns.jobs == 1
        running.cancel()
        while turns.jobs:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave(), 10))
    assert ended.is_set()


def test_what_a_job_tells_arrives_in_order_and_then_its_error():
    def work(job: Job, tell) -> None:
        for number in range(100):
            tell(number)
        raise UserError("it broke", "mend it")

    async def hear() -> list[int]:
        told = []
        with pytest.raises(UserError, match="it broke"):
            async for number in Turns().follow(work):
                told.append(number)
        return told

    assert asyncio.run(hear()) == list(range(100))


def test_more_jobs_than_there_is_room_for_are_refused():
    async def ask() -> None:
        turns = Turns(1)
        first = asyncio.create_task(turns.run(lambda job: time.sleep(0.2)))
        await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="busy with 1 requests") as error:
            await turns.run(lambda job: None)
        assert error.value.status == 429
        await first
        await turns.run(lambda job: None)

    asyncio.run(ask())


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (
            Refused("no model", "take one", 404, "model", "model_not_found"),
            "invalid_request_error",
            "no model; take one",
        ),
        (UserError("no sound", "send some"), "invalid_request_error", "no sound; send some"),
        (Refused("busy", "wait", 429), "rate_limit_error", "busy; wait"),
        (KeyError("secret"), "server_error", "something went wrong here; it is our defect"),
    ],
)
def test_an_error_has_the_form_of_openais(error, kind, message):
    body = serving.error_body(error)["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert (body["type"], body["message"]) == (kind, message)


def test_a_taken_port_is_said():
    with serving.listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="in use"):
        serving.listen("127.0.0.1", taken.getsockname()[1])
