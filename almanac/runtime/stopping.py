"""How a run learns that it shall stop, so that it can save first: a training, a crawl."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[list[float]]:
    """A list that is filled when the process is asked to stop. Who asks again after two seconds stops it at once; sooner
    it is the same request, which a launcher passes on that the terminal has sent already."""
    stopped: list[float] = []

    def ask(number: int, frame: Any) -> None:
        stopped.append(time.monotonic())
        if stopped[-1] - stopped[0] > 2:
            raise KeyboardInterrupt

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever runs it there handles signals
        old = {}
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler or signal.SIG_DFL)
