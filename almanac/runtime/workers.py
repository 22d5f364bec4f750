"""Objects that work at the same time, asked from one place: each in a process of its own on this machine, or, in lock-step, in turn in
this process, which makes a run of theirs the same each time. `cluster.workers` has the same on Ray. What an object answers may be handed to
another one without being looked at on the way. Who asks decides what is done; a worker knows of no other."""

import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, runtime_checkable

from almanac.runtime.errors import UserError


class WorkerDied(Exception):
    """A worker ended before it answered."""


@runtime_checkable
class Answer(Protocol):
    """What a worker was asked for, when it is there."""

    def value(self) -> Any:
        """Wait for it.

        Raises:
            WorkerDied: the worker did.
            UserError: its object raised it; any other exception arrives as a RuntimeError with the worker's traceback.
        """
        ...


@runtime_checkable
class Worker(Protocol):
    """An object elsewhere."""

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Call a method, after those that were called before.

        Args:
            method: its name.
            arguments: of the call; an `Answer` among them arrives as its value.
        """
        ...

    def dismiss(self) -> None:
        """End it."""
        ...


@runtime_checkable
class Workers(Protocol):
    """Where objects can be put to work."""

    def hire(self, build: Callable[[], Any], threads: int = 1, gpus: float = 0.0) -> Worker:
        """Put an object to work.

        Args:
            build: makes it, there; a function that can be pickled.
            threads: that it computes with.
            gpus: that it needs.
        """
        ...

    def ready(self, answers: Sequence[Answer], seconds: float | None) -> list[Answer]:
        """Those of some answers that are there, or whose worker died, as soon as there is one, or the time is over."""
        ...


class InTurn:
    """Workers in this process: each call is done when it is asked for."""

    def hire(self, build: Callable[[], Any], threads: int = 1, gpus: float = 0.0) -> Worker:
        return _Here(build())

    def ready(self, answers: Sequence[Answer], seconds: float | None) -> list[Answer]:
        return list(answers)


class _Here:
    def __init__(self, held: Any):
        self._held = held

    def ask(self, method: str, *arguments: Any) -> Answer:
        given = [each.value() if isinstance(each, _Told) else each for each in arguments]
        return _Told(getattr(self._held, method)(*given))

    def dismiss(self) -> None:
        pass


class _Told:
    def __init__(self, what: Any):
        self._what = what

    def value(self) -> Any:
        return self._what


@contextmanager
def processes() -> "Iterator[Processes]":
    """Workers in processes of this machine, ended on leaving."""
    made = Processes()
    try:
        yield made
    finally:
        made.end()


class Processes:
    """Workers in processes of this machine."""

    def __init__(self):
        self._workers: list[_Process] = []

    def hire(self, build: Callable[[], Any], threads: int = 1, gpus: float = 0.0) -> Worker:
        worker = _Process(build, threads)
        self._workers.append(worker)
        return worker

    def ready(self, answers: Sequence[Answer], seconds: float | None) -> list[Answer]:
        waiting = {
            each.worker.pipe: each.worker for each in answers if isinstance(each, _Pending) and not each.is_there
        }
        if len({id(each) for each in answers if isinstance(each, _Pending) and each.is_there}) == 0 and waiting:
            for pipe in wait(list(waiting), seconds):
                waiting[pipe].receive()  # pyright: ignore[reportArgumentType]
        return [each for each in answers if isinstance(each, _Pending) and each.is_there]

    def end(self) -> None:
        """End them all."""
        for worker in self._workers:
            worker.dismiss()


class _Process:
    """This side of a worker process."""

    def __init__(self, build: Callable[[], Any], threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.waiting: dict[int, _Pending] = {}
        self._numbers = itertools.count()
        self._process = context.Process(target=_work, args=(theirs, threads), daemon=True)
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the process imports its libraries
        try:
            self._process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()
        self.is_alive = True
        try:  # over our pipe, not with the process's start: only here does a process that dies at once break off what it is told
            self.pipe.send_bytes(pickle.dumps(build))
        except OSError:
            self._lose()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def ask(self, method: str, *arguments: Any) -> Answer:
        answer = _Pending(self)
        forwarded = [each.packed() for each in arguments if isinstance(each, _Pending)]
        given = [_FORWARDED if isinstance(each, _Pending) else each for each in arguments]
        number = next(self._numbers)
        if not self.is_alive:
            answer.died()
            return answer
        self.waiting[number] = answer
        try:
            self.pipe.send_bytes(pickle.dumps((number, method, given)))
            for each in forwarded:
                self.pipe.send_bytes(each)
        except OSError:
            self._lose()
        return answer

    def receive(self) -> None:
        """Take the next answer from the pipe."""
        try:
            number, failure = pickle.loads(self.pipe.recv_bytes())
            packed = self.pipe.recv_bytes()
        except (EOFError, OSError):
            self._lose()
            return
        self.waiting.pop(number).tell(packed, failure)

    def dismiss(self) -> None:
        self._process.kill()
        self._process.join()
        self._lose()

    def _lose(self) -> None:
        self.is_alive = False
        self.pipe.close()
        for answer in self.waiting.values():
            answer.died()
        self.waiting.clear()


class _Pending:
    """An answer of a process; kept as it came until somebody looks."""

    def __init__(self, worker: _Process):
        self.worker, self.is_there = worker, False
        self._packed, self._failure = b"", False

    def tell(self, packed: bytes, failure: bool) -> None:
        self._packed, self._failure, self.is_there = packed, failure, True

    def died(self) -> None:
        self._packed, self.is_there = None, True

    def packed(self) -> bytes:
        while not self.is_there:
            self.worker.receive()
        if self._packed is None:
            raise WorkerDied(f"process {self.worker.pid} ended")
        if self._failure:
            error = pickle.loads(self._packed)
            raise error if isinstance(error, UserError) else RuntimeError(error)
        return self._packed

    def value(self) -> Any:
        return pickle.loads(self.packed())


_FORWARDED = "\0forwarded"
"""In the place of an argument that comes by itself, as another worker packed it."""


def _work(pipe: Connection, threads: int) -> None:
    """The other side: do what is asked for, until nobody is there to ask."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the asking process decides when to stop, which ends this one
        signal.signal(number, signal.SIG_IGN)
    with suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
    try:
        build = pipe.recv_bytes()
    except (EOFError, OSError):
        return  # the asking process ended
    asked: queue.SimpleQueue = queue.SimpleQueue()
    # A thread of its own takes what is asked for, so that the asking process never waits while this one works.
    threading.Thread(target=_listen, args=(pipe, asked), daemon=True).start()
    held, failed = None, None
    try:
        held = pickle.loads(build)()
    except Exception as error:
        failed = _packed_error(error)
    while True:
        number, method, arguments = asked.get()
        failure, packed = failed is not None, failed
        if packed is None:
            try:
                packed = pickle.dumps(getattr(held, method)(*arguments), protocol=5)
            except Exception as error:
                failure, packed = True, _packed_error(error)
        pipe.send_bytes(pickle.dumps((number, failure)))
        pipe.send_bytes(packed)


def _listen(pipe: Connection, asked: queue.SimpleQueue) -> None:
    try:
        while True:
            number, method, given = pickle.loads(pipe.recv_bytes())
            arguments = [pickle.loads(pipe.recv_bytes()) if _is_forwarded(each) else each for each in given]
            asked.put((number, method, arguments))
    except (EOFError, OSError):
        os._exit(0)  # the asking process ended


def _is_forwarded(argument: Any) -> bool:
    return isinstance(argument, str) and argument == _FORWARDED


def _packed_error(error: Exception) -> bytes:
    return pickle.dumps(error if isinstance(error, UserError) else "".join(traceback.format_exception(error)))
