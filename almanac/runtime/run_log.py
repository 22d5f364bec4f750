"""What a training run leaves behind while it goes on, line by line: for the process that steps, `fit` or the loop of a system that learns
by acting."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from almanac.runtime import checkpoint

_METRICS = "metrics.jsonl"


def steps_done(out: Path) -> int:
    """How far the run in a folder is, by its metrics: what another process that trains there has written."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        return int(json.loads((out / _METRICS).read_text().rstrip("\n").rpartition("\n")[2])["step"])
    return 0


class RunLog:
    """`metrics.jsonl` and TensorBoard's events of a run, from `step` on. Entering removes what a killed process left after its last
    checkpoint: temporaries, and lines of steps that will be done again.

    Args:
        out: the run's folder.
        step: of its last checkpoint.

    Raises:
        UserError: from each method, when the folder can't be written.
    """

    def __init__(self, out: Path, step: int):
        self.path, self.step = out / _METRICS, step

    def __enter__(self) -> "RunLog":
        with self._writing():
            checkpoint.remove_temporaries(self.path.parent)
        self._open()
        return self

    def rewind(self, step: int) -> None:
        """Go back to an earlier step: the steps after it will be done again."""
        with self._writing():
            self.board.close()
        self.step = step
        self._open()

    def _open(self) -> None:
        with self._writing():
            if self.path.exists():
                lines = "".join(line + "\n" for line in self._lines_to_keep())
                checkpoint.write_atomic(self.path, lambda file: file.write(lines.encode()))
            self.board = SummaryWriter(self.path.parent, purge_step=self.step + 1)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with self._writing() if kind is None else suppress(OSError):
            self.board.close()

    def add(
        self, step: int, figures: Mapping[str, Any], seconds: float, scalars: Mapping[str, float], durable: bool = False
    ) -> None:
        """A line.

        Args:
            step: the last step that it tells of.
            figures: what is written.
            seconds: since the start.
            scalars: what TensorBoard draws.
            durable: whether the line is on the disk, with all before it, when this returns: a checkpoint of that step may follow.
        """
        line = {"step": step, **figures, "seconds": round(seconds, 3)}
        with self._writing():
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            for name, value in scalars.items():
                self.board.add_scalar(name, value, step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise checkpoint.cannot_write(self.path, error) from None

    def _lines_to_keep(self) -> Iterator[str]:
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] > self.step:
                    return
            except (ValueError, KeyError, TypeError):  # the process was killed while it wrote this line
                return
            yield line
