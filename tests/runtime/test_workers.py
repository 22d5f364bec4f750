"""Workers: the same answers in turn, in processes and on Ray; what happens to those who die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest

from almanac.runtime import cluster, workers
from almanac.runtime.errors import UserError
from almanac.runtime.workers import InTurn, WorkerDied


class Counter:
    """Something that remembers."""

    def __init__(self, start: int):
        self.value = start

    def add(self, more: Any) -> int:
        self.value += int(np.sum(more))
        return self.value

    def array(self, size: int) -> np.ndarray:
        return np.full(size, self.value)

    def pid(self) -> int:
        return os.getpid()

    def threads(self) -> tuple[str, int]:
        import torch

        return os.environ.get("OMP_NUM_THREADS", ""), torch.get_num_threads()

    def fail(self, how: str) -> None:
        if how == "user":
            raise UserError("it was wrong", "do otherwise")
        raise KeyError("somewhere inside")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def never(start: int) -> Counter:
    raise UserError("it can't be built", "build another")


@contextmanager
def on_ray() -> Iterator[Any]:
    pytest.importorskip("ray")
    with cluster.workers("local", 2.0) as crew:
        yield crew


KINDS = {"in turn": lambda: nullcontext(InTurn()), "processes": workers.processes, "ray": on_ray}


@pytest.mark.parametrize("kind", list(KINDS))
def test_calls_are_done_in_order_and_answers_are_handed_on(kind: str):
    with KINDS[kind]() as crew:
        one, other = crew.hire(partial(Counter, 1)), crew.hire(partial(Counter, 100))
        first, second = one.ask("add", 2), one.ask("add", 3)
        assert (first.value(), second.value()) == (3, 6)
        large = one.ask("array", 300_000)  # more than a pipe holds
        while large not in crew.ready([large], 10.0):
            pass
        assert other.ask("add", large).value() == 100 + 6 * 300_000
        waiting = [one.ask("add", 1), other.ask("add", 1)]
        seen = set()
        while len(seen) < 2:
            seen |= {id(each) for each in crew.ready([each for each in waiting if id(each) not in seen], 10.0)}
        with pytest.raises(UserError, match="it was wrong"):
            one.ask("fail", "user").value()
        with pytest.raises((RuntimeError, KeyError), match="somewhere inside"):
            one.ask("fail", "other").value()
        assert one.ask("add", 0).value() == 7  # it goes on


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_who_is_killed_is_told_and_can_be_replaced(kind: str):
    with KINDS[kind]() as crew:
        worker = crew.hire(partial(Counter, 1))
        os.kill(worker.ask("pid").value(), signal.SIGKILL)
        lost = [worker.ask("add", 1)]
        deadline = time.monotonic() + 60
        while not crew.ready(lost, 1.0) and time.monotonic() < deadline:
            pass
        with pytest.raises(WorkerDied):
            lost[0].value()
        assert crew.hire(partial(Counter, 5)).ask("add", 1).value() == 6


def test_one_that_is_killed_at_work_is_told():
    with workers.processes() as crew:
        worker = crew.hire(partial(Counter, 1))
        pid = worker.ask("pid").value()
        sleeping = worker.ask("sleep", 60.0)
        assert crew.ready([sleeping], 0.1) == []
        os.kill(pid, signal.SIGKILL)
        assert crew.ready([sleeping], 30.0) == [sleeping]
        with pytest.raises(WorkerDied):
            sleeping.value()


def test_an_object_that_can_not_be_built_says_why_at_each_call():
    with workers.processes() as crew:
        worker = crew.hire(partial(never, 1))
        for _ in range(2):
            with pytest.raises(UserError, match="can't be built"):
                worker.ask("add", 1).value()


def test_a_worker_computes_with_the_threads_it_was_given():
    with workers.processes() as crew:
        assert crew.hire(partial(Counter, 1), threads=1).ask("threads").value() == ("1", 1)


def test_a_script_that_starts_itself_again_is_told_that_its_worker_died(tmp_path):
    script = tmp_path / "unguarded.py"  # without the guard of `__main__`, each worker would begin by hiring workers
    script.write_text(
        "from functools import partial\n"
        "import numpy as np\n"
        "from almanac.runtime.workers import Processes, WorkerDied\n"
        "worker = Processes().hire(partial(np.sum, np.ones(1_000_000)))\n"  # more than a pipe holds
        "try:\n"
        "    worker.ask('item').value()\n"
        "except WorkerDied:\n"
        "    print('told')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "told\n", done.stderr


def test_workers_end_with_who_asks_them():
    code = (
        "import sys, time; sys.path.insert(0, 'tests/runtime')\n"
        "from functools import partial\n"
        "from test_workers import Counter\n"
        "from almanac.runtime.workers import Processes\n"
        "worker = Processes().hire(partial(Counter, 1))\n"
        "print(worker.ask('pid').value(), flush=True)\n"
        "worker.ask('sleep', 600.0)\n"
        "time.sleep(600)\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    pid = int(asking.stdout.readline())
    asking.kill()
    asking.wait()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived who asked it"
        time.sleep(0.1)
