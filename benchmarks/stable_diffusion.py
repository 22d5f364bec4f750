"""Stable Diffusion beside diffusers: the full-size networks with the same random weights on this machine's CPU, a U-Net call and a decoding
at 512×512. All engines are measured in turn in one process, so that a machine's drift meets them alike; figures are medians of wall
time. Where a processor has no instructions for bfloat16, float32 alone is measured: the other would take PyTorch minutes. How much
memory a whole picture takes is measured in processes of their own, from the loading of a checkpoint on."""

import copy
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from almanac.runtime import console, device, results
from almanac.stable_diffusion import models, published
from almanac.stable_diffusion.generate import Settings
from almanac.stable_diffusion.model import LatentDiffusion

_WORDS = 77
SIZE = 512


def run(
    *,
    rounds: int = 5,
    size: int = SIZE,
    threads: int = 0,
    memory: bool = True,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure Stable Diffusion's networks beside diffusers', in float32 and bfloat16, and a whole picture's memory.

    Args:
        rounds: times that each engine is measured; one more warms up.
        size: pixels of a side.
        threads: threads of PyTorch; 0: as many as it takes by itself.
        memory: whether whole pictures are painted, in two steps, for their memory and to compare them: some ten minutes more.
        write: whether to write results/stable_diffusion/bench.json.
        seed: of weights and latents.
        json: print one JSON object.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with torch.device("meta"):
            made = LatentDiffusion()
        model = _drawn(made.to_empty(device="cpu"))
        published.save_folder(model, Path(folder), torch.float32)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        halves = device.has_fast_bfloat16(torch.device("cpu"))
        total = (rounds + 1) * (8 if halves else 4) + (2 if memory else 0)
        with console.progress("measuring", total, "runs") as advance, torch.inference_mode():
            rows += _unet(model, Path(folder), size, halves, rounds, advance)
            rows += _decoder(model, Path(folder), size, halves, rounds, advance)
            del model, made
            if memory:
                rows += _pictures(Path(folder), size, seed, advance)
    if write:
        results.write("stable_diffusion", "bench", rows, seed, threads=torch.get_num_threads())
    console.result({"rows": rows}, json)


def _unet(
    model: LatentDiffusion, folder: Path, size: int, halves: bool, rounds: int, advance: Callable[..., None]
) -> list[dict]:
    """A call of the U-Net on one picture's latents."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    latents, words = torch.randn(1, 4, size // 8, size // 8), torch.randn(1, _WORDS, 768)
    when = torch.tensor([500.0])

    def ours(network: nn.Module) -> Callable[[], Tensor]:
        kind = next(network.parameters()).dtype
        return lambda: network(latents, when, words.to(kind))

    def theirs(network: Any) -> Callable[[], Tensor]:
        return lambda: network(latents.to(network.dtype), when, words.to(network.dtype)).sample

    peer = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    engines = {("diffusers", "fp32"): theirs(peer), ("almanac", "fp32"): ours(model.unet)}
    if halves:
        engines |= {("diffusers", "bf16"): theirs(_copied(peer)), ("almanac", "bf16"): ours(_copied(model.unet))}
    return _rows(f"U-Net call, {size}×{size}", engines, rounds, advance)


def _decoder(
    model: LatentDiffusion, folder: Path, size: int, halves: bool, rounds: int, advance: Callable[..., None]
) -> list[dict]:
    """A picture of latents."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    latents = torch.randn(1, 4, size // 8, size // 8)
    peer: Any = AutoencoderKL.from_pretrained(folder / "vae").eval()
    engines: dict[tuple[str, str], Callable[[], Tensor]] = {
        ("diffusers", "fp32"): lambda: peer.decode(latents).sample,
        ("almanac", "fp32"): lambda: model.autoencoder.decode(latents),
    }
    if halves:
        half, theirs_half = _copied(model.autoencoder), _copied(peer)
        engines |= {
            ("diffusers", "bf16"): lambda: theirs_half.decode(latents.bfloat16()).sample,
            ("almanac", "bf16"): lambda: half.decode(latents),
        }
    return _rows(f"decoding, {size}×{size}", engines, rounds, advance)


def _copied(network: Any) -> Any:
    """In bfloat16, beside the original."""
    return copy.deepcopy(network).bfloat16()


def _rows(
    task: str, engines: dict[tuple[str, str], Callable[[], Tensor]], rounds: int, advance: Callable[..., None]
) -> list[dict[str, Any]]:
    """Run all in turn; a row each: seconds, as a part of diffusers' in the same precision and in float32, and the largest difference from
    diffusers in float32, as a part of its largest number."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in engines}
    made: dict[tuple[str, str], Tensor] = {}
    for _ in range(rounds + 1):
        for name, call in engines.items():
            began = time.perf_counter()
            made[name] = call().float()
            seconds[name].append(time.perf_counter() - began)
            advance()
    exact = made["diffusers", "fp32"]

    def part(name: tuple[str, str], other: tuple[str, str]) -> float:
        pairs = zip(seconds[name][1:], seconds[other][1:], strict=True)
        return round(statistics.median(mine / its for mine, its in pairs), 3)

    return [
        {
            "task": task,
            "engine": name[0],
            "precision": name[1],
            "seconds": round(statistics.median(times[1:]), 3),
            "of_diffusers": part(name, ("diffusers", name[1])),
            "of_diffusers_fp32": part(name, ("diffusers", "fp32")),
            "difference": float(f"{((made[name] - exact).abs().max() / exact.abs().max()).item():.2e}"),
        }
        for name, times in seconds.items()
    ]


def _pictures(folder: Path, size: int, seed: int, advance: Callable[..., None]) -> list[dict[str, Any]]:
    """A picture in two steps by each engine in a process of its own: most memory, and how far the pictures differ."""
    rows, made = [], []
    noise = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    for engine, paint in (("almanac", _paint), ("diffusers", _paint_by_diffusers)):
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            picture, peak, seconds = pool.apply(paint, (str(folder), size, noise.numpy()))
        made.append(torch.from_numpy(picture))
        rows.append(
            {
                "task": f"a picture in 2 steps, {size}×{size}",
                "engine": engine,
                "precision": "fp32",
                "seconds": round(seconds, 1),
                "memory_gib": round(peak, 2),
            }
        )
        advance()
    rows[0]["difference"] = float(f"{(made[0] - made[1]).abs().max().item():.2e}")
    return rows


def _paint(folder: str, size: int, noise: Any) -> tuple[Any, float, float]:
    loaded = models.load(folder, "fp32", "cpu")
    began = time.perf_counter()
    painter = models.painter(loaded)
    settings = Settings("a photo of a cat", width=size, height=size, steps=2, sampler="ddim")
    job = painter.job(replace(settings, scale=7.5), [0], noise=torch.from_numpy(noise))
    while not job.done:
        job.advance()
    return job.pictures().numpy(), _peak(), time.perf_counter() - began


def _paint_by_diffusers(folder: str, size: int, noise: Any) -> tuple[Any, float, float]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextModel, CLIPTokenizer

    from almanac.stable_diffusion import tokenizer

    words = tokenizer.published()
    merges: Any = words.merges
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(Path(folder) / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(Path(folder) / "text_encoder"),
        tokenizer=CLIPTokenizer(vocab=words.tokenizer.get_vocab(), merges=merges, model_max_length=_WORDS),
        unet=UNet2DConditionModel.from_pretrained(Path(folder) / "unet"),
        scheduler=scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    began = time.perf_counter()
    found: Any = pipeline(
        "a photo of a cat",
        height=size,
        width=size,
        num_inference_steps=2,
        guidance_scale=7.5,
        latents=torch.from_numpy(noise),
        output_type="pt",
    )
    return (found.images * 2 - 1).numpy(), _peak(), time.perf_counter() - began


def _peak() -> float:
    """GiB that this process had at most; what `getrusage` says counts its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def _drawn(model: LatentDiffusion) -> LatentDiffusion:
    """Random weights of a size that lets numbers through."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                inputs = parameter[0].numel()
                parameter.normal_(0, inputs**-0.5)
    return model.eval().requires_grad_(False)
