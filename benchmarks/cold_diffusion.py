"""Cold Diffusion beside plain PyTorch: the same network trained and sampled as its equations read (fp32, channels first, eager),
and blur as one convolution after another. Every pair is measured in turn in one process, so that a machine's drift meets both alike; the
figures are medians of wall time."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from almanac.cold_diffusion.degradations import Blur
from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.cold_diffusion.recipes import recipe
from almanac.cold_diffusion.train import PRESETS, restoration_loss
from almanac.runtime import console, device, results
from benchmarks.plain_unet import SequentialBlur, plain


def run(*, rounds: int = 7, threads: int = 0, write: bool = False, seed: int = 0, json: bool = False) -> None:
    """Measure Cold Diffusion beside plain PyTorch.

    Args:
        rounds: times that each pair is measured.
        threads: threads of PyTorch; 0: as many as it takes by itself.
        write: whether to write results/cold_diffusion/bench.json.
        seed: of weights and images.
        json: print one JSON object.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rows: list[dict[str, Any]] = []
    tasks = (_train, _sample, _degrade, _degrade_reflect)
    with console.progress("measuring", len(tasks), "tasks") as advance:
        for task in tasks:
            rows += task(rounds)
            advance()
    if write:
        results.write("cold_diffusion", "bench", rows, seed, threads=torch.get_num_threads())
    console.result({"rows": rows}, json)


def _train(rounds: int) -> list[dict[str, Any]]:
    """A training step of the `cpu` preset on colour images: degrade, forward, backward, optimiser."""
    preset = PRESETS["cpu"]
    degrade = recipe("blur", "emoji", preset.size)
    assert isinstance(degrade, Blur)
    images = torch.rand(preset.batch_size, 3, preset.size, preset.size) * 2 - 1
    ours = _unet(preset.dim, preset.dim_mults)
    theirs = plain(ours)
    sequential = SequentialBlur(degrade, 3)
    our_optimizer = torch.optim.AdamW(ours.parameters(), 1e-4, fused=True)
    their_optimizer = torch.optim.Adam(theirs.parameters(), 1e-4)
    loss = restoration_loss(degrade)
    generator = torch.Generator().manual_seed(0)
    severities = [torch.randint(1, degrade.steps + 1, (len(images),), generator=generator) for _ in range(rounds + 1)]

    def our_step(number: int) -> None:
        with device.autocast(torch.device("cpu")):
            value = loss(ours, images, torch.Generator().manual_seed(number))
        value.backward()
        our_optimizer.step()
        our_optimizer.zero_grad()

    def their_step(number: int) -> None:
        t = severities[number]
        F.l1_loss(theirs(sequential(images, t), t - 1), images).backward()
        their_optimizer.step()
        their_optimizer.zero_grad()

    task = f"train, batch {preset.batch_size} of {preset.size}×{preset.size}"
    return _rows(task, "images/s", len(images), rounds, our_step, their_step)


def _sample(rounds: int) -> list[dict[str, Any]]:
    """A step of sampling."""
    preset = PRESETS["cpu"]
    degrade = recipe("blur", "emoji", preset.size)
    assert isinstance(degrade, Blur)
    ours = _unet(preset.dim, preset.dim_mults).eval()
    theirs, sequential = plain(ours), SequentialBlur(degrade, 3)
    x = torch.rand(16, 3, preset.size, preset.size) * 2 - 1
    t = degrade.full(x) // 2

    @torch.inference_mode()
    def our_step(number: int) -> None:
        with device.autocast(torch.device("cpu")):
            estimate = ours(x, t - 1).float()
        _ = x - degrade(estimate, t, {}) + degrade(estimate, t - 1, {})

    @torch.inference_mode()
    def their_step(number: int) -> None:
        estimate = theirs(x, t - 1)
        _ = x - sequential(estimate, t) + sequential(estimate, t - 1)

    return _rows(
        f"sampling step, batch 16 of {preset.size}×{preset.size}", "images/s", len(x), rounds, our_step, their_step
    )


def _degrade(rounds: int) -> list[dict[str, Any]]:
    """The paper's generation blur, fully: T = 300, 27 × 27 kernels, 128 pixels."""
    return _blurs("blur T = 300, 128×128, circular (FFT)", Blur(300), rounds)


def _degrade_reflect(rounds: int) -> list[dict[str, Any]]:
    """The paper's CelebA blur: T = 200, 15 × 15 kernels, reflect padding."""
    return _blurs("blur T = 200, 128×128, reflect (DCT)", Blur(200, kernel_size=15, padding="reflect"), rounds)


def _blurs(task: str, blur: Blur, rounds: int) -> list[dict[str, Any]]:
    images, sequential = torch.rand(4, 3, 128, 128) * 2 - 1, SequentialBlur(blur, 3)
    t = blur.full(images)
    return _rows(
        task, "images/s", len(images), rounds, lambda _: blur(images, t, {}), lambda _: sequential(images, t), "fp32"
    )


def _unet(dim: int, dim_mults: tuple[int, ...]) -> Unet:
    return Unet(UnetConfig(dim, dim_mults)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _rows(
    task: str,
    unit: str,
    work: int,
    rounds: int,
    ours: Callable[[int], Any],
    theirs: Callable[[int], Any],
    precision: str | None = None,
) -> list[dict[str, Any]]:
    """Run both in turn; a row each, `ratio` being how many times faster ours is than that engine."""
    seconds: dict[str, list[float]] = {"almanac": [], "plain PyTorch": []}
    for number in range(rounds + 1):
        for engine, step in (("almanac", ours), ("plain PyTorch", theirs)):
            started = time.perf_counter()
            step(number)
            seconds[engine].append(time.perf_counter() - started)
    precision = precision or ("bf16" if device.has_fast_bfloat16(torch.device("cpu")) else "fp32")
    # The first round warms up, and is not counted.
    ratio = statistics.median(b / a for a, b in zip(seconds["almanac"][1:], seconds["plain PyTorch"][1:], strict=True))
    return [
        {
            "task": task,
            "engine": engine,
            "precision": precision if engine == "almanac" else "fp32",
            "value": round(work / statistics.median(times[1:]), 2),
            "unit": unit,
            "ratio": round(ratio, 2) if engine != "almanac" else 1.0,
        }
        for engine, times in seconds.items()
    ]
