"""What the tests of `cluster` have done by workers: functions of a module, as systems have them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from almanac.runtime.errors import UserError
from tests.runtime import training


def square(number: int) -> int:
    return number * number


def slow_if_even(number: int) -> int:
    """Odd items overtake even ones. It prints where only results belong."""
    print(f"item {number}", flush=True)
    time.sleep(0.2 if number % 2 == 0 else 0)
    return number


def refuse_three(number: int) -> int:
    if number == 3:
        raise UserError("three is not taken", "give another number")
    return number


def divide(number: int) -> float:
    return 1 / number


def die_once(mark: Path) -> str:
    """Its process is killed the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


def die(tries: Path) -> None:
    """Its process is killed each time, which is noted."""
    with tries.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


class Training:
    """A run of tests/runtime/training.py, as a function to be pickled. The second process keeps its weights."""

    def __init__(self, out: Path, fault: str = ""):
        self.out, self.fault = out, fault

    def __call__(self) -> dict[str, Any]:
        torch.set_num_threads(1)
        second = int(os.environ.get("RANK", "0")) == 1
        if second and self.fault == "error":
            raise UserError("the second process has no data", "give it some")
        if second and self.fault == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        fitted = training.run(self.out, steps=12, batch_norm=False)
        if second:
            torch.save(fitted.weights, self.out / "weights.pt")
        return {"loss": fitted.loss, "rank": int(os.environ.get("RANK", "0"))}
