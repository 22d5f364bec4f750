"""A tiny training run for the tests of `fit`: dropout, a loss that draws, batches that are a function of their number.
As a module it is called in a process forked by `start`; as a script it is what torchrun and a person's shell run."""

import argparse
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, Fitted, fit

CONFIG = {"steps": 30, "warmup_steps": 5, "learning_rate": 1e-2, "precision": "fp32", "save_every": 7, "log_every": 3}
"""The run that tests kill: saved at 7, 14, 21, 28 and 30, logged at every third step and at each save."""


def model(width: int = 4, batch_norm: bool = True) -> nn.Module:
    """A convolution, dropout and a way back, the same weights every time. The statistics of `batch_norm` are state that
    is not a parameter; each of several processes has its own, as BatchNorm does."""
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width) if batch_norm else nn.Identity(),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.Conv2d(width, 1, 3, padding=1),
        )


def loss(network: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
    """Denoising: what it draws, it draws from the generator."""
    noise = torch.randn(batch.shape, generator=generator)
    return F.mse_loss(network(batch + noise).float(), batch)


def batches(number: int) -> Tensor:
    """Batch `number`: four images of 8 × 8."""
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1000 + number))


def validate(network: nn.Module) -> float:
    """The loss of a batch that is not trained on. It draws from torch's own generator, as a careless one would."""
    torch.rand(3)
    return loss(network, batches(-1), torch.Generator().manual_seed(0)).item()


def run(
    out: Path,
    faults: Mapping[str, Any] | None = None,
    width: int = 4,
    batch_norm: bool = True,
    resume: bool = False,
    **changes: Any,
) -> Fitted:
    """The run, with changes to its config.

    Args:
        out: its folder.
        faults: what befalls it: `signal` comes when batch, or loss, or validation number `at` is asked for, as `where` says;
            with `rank`, in that process only.
        width: channels.
        batch_norm: whether the model has any.
        resume: whether to go on from a checkpoint.
    """
    asked = {"batch": 0, "loss": 0, "validation": 0}
    faults = faults or {}

    def strike(where: str, number: int | None = None) -> None:
        asked[where] += 1
        mine = "rank" not in faults or int(os.environ["RANK"]) == faults["rank"]
        if faults.get("where") == where and faults["at"] == (asked[where] if number is None else number) and mine:
            os.kill(os.getpid(), faults["signal"])

    def struck_batches(number: int) -> Tensor:
        strike("batch", number)
        return batches(number)

    def struck_loss(network: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        strike("loss")
        return loss(network, batch, generator)

    def struck_validate(network: nn.Module) -> float:
        strike("validation")
        return validate(network)

    config = FitConfig(**{**CONFIG, **changes})
    return fit(
        model(width, batch_norm), struck_loss, struck_batches, config, out,
        device_name="cpu", resume=resume, validate=struck_validate,
    )  # fmt: skip


def start(out: Path, **options: Any) -> BaseProcess:
    """`command` in a process of its own, forked from one that has imported everything; start it with `run`'s options."""
    process = forking().Process(target=command, args=(out, options))
    process.start()
    return process


def forking() -> ForkServerContext:
    """Where processes come from: one server, started once, that has imported what takes long."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["almanac.runtime.fit", "torch._dynamo"])
    return context


def finish(out: Path, **options: Any) -> int:
    """`start`, and the exit code (negative: the signal that killed it)."""
    process = start(out, **options)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def command(out: Path, options: Mapping[str, Any]) -> None:
    """The run as a command: leaves the averaged weights in `weights.pt`, exits as the CLI would."""
    torch.set_num_threads(1)
    try:
        fitted = run(out, **options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    torch.save(fitted.weights, out / "weights.pt")


def losses(out: Path) -> list[float]:
    """The loss of every step in `metrics.jsonl`; its lines must follow each other."""
    found: list[float] = []
    for line in (out / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found += entry["losses"]
        assert entry["step"] == len(found)
    return found


def lines(out: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` but for the time they took."""
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in read]


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_several_processes(out: Path) -> None:
    """What the test of torchrun looks at: two runs one after the other, one of them stopped in its second process only,
    resumed, and one that was not stopped."""
    options = {"steps": 12, "batch_norm": False}
    for accumulate in (1, 2):
        folder = out / f"accumulate-{accumulate}"
        fitted = run(folder, accumulate=accumulate, **options)
        if int(os.environ["RANK"]) == 1:  # the second process: it must have the first one's weights
            torch.save(fitted.weights, folder / "weights.pt")
    faults = {"where": "loss", "at": 5, "signal": signal.SIGTERM, "rank": 1}
    try:
        run(out / "stopped", faults, **options)
    except UserError as error:
        (out / f"error-{os.environ['RANK']}.txt").write_text(f"{error.exit_code} {error}")
    run(out / "stopped", resume=True, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--several", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.several:
        in_several_processes(arguments.out)
    else:
        command(arguments.out, arguments.options)
