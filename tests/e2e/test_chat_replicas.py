"""Several replicas of a model on Ray: one that is killed under load loses no whole answer, and the others go on."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.chat import made
from tests.e2e.test_chat_api import HELLO, Server

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[Server]:
    folder = made.folder(tmp_path_factory.mktemp("model") / "tiny")
    server = Server(
        folder, tmp_path_factory.mktemp("log") / "log", "--cluster", "local", "--replicas", "2", "--device", "cpu"
    )
    yield server
    server.stop()


def ask(address: str, number: int, **more) -> httpx.Response:
    body = {
        "messages": [*HELLO, {"role": "user", "content": f"user {number} " * 3}],
        "max_tokens": 40,
        "temperature": 0,
        **more,
    }
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120)


def pids(address: str) -> set[int]:
    """The processes that answer."""
    return {
        httpx.get(f"{address}/health?{number}", headers={"authorization": str(number)}).json()["pid"]
        for number in range(12)
    }


def test_they_answer_as_one_does(fleet):
    said = [ask(fleet.address, number) for number in range(8)]
    assert all(each.status_code == 200 and each.json()["choices"][0]["message"]["content"] for each in said)
    again = [ask(fleet.address, number) for number in range(8)]
    assert [each.json()["choices"] for each in again] == [each.json()["choices"] for each in said]
    assert all(each.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for each in again)  # by the same replica
    assert ask(fleet.address, 0, temperature=-1).status_code == 400
    streamed = list(fleet.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5, stream=True))
    assert streamed[-1].choices[0].finish_reason
    assert len(pids(fleet.address)) == 2


def test_one_that_is_killed_under_load_loses_no_answer(fleet):
    expected = [ask(fleet.address, number, max_tokens=300, ignore_eos=True).json()["choices"] for number in range(16)]
    victim = pids(fleet.address).pop()
    answers: dict[int, httpx.Response] = {}

    def work(number: int) -> None:
        answers[number] = ask(fleet.address, number, max_tokens=300, ignore_eos=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert [answers[number].status_code for number in range(16)] == [200] * 16
    assert [answers[number].json()["choices"] for number in range(16)] == expected
    deadline = time.monotonic() + 90
    while len(alive := pids(fleet.address)) < 2 or victim in alive:  # Ray starts another
        assert time.monotonic() < deadline
        time.sleep(1)
