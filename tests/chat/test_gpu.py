"""The engine on a GPU: what it computes is what the CPU computes, and the law of the engine holds there too. Without a GPU, float32 can
be tried in Triton's interpreter: TRITON_INTERPRET=1."""

import os
from collections.abc import Sequence as Row
from dataclasses import replace

import numpy as np
import pytest
import torch

from almanac.chat.engine.core import Core, Guessing
from almanac.chat.engine.cpu import CpuRunner, Precision
from almanac.chat.engine.request import Sampling
from almanac.chat.engine.rows import Batch
from almanac.chat.engine.scheduler import DEFAULT, Limits
from almanac.chat.engine.speculate import PromptLookup
from almanac.chat.model import Config
from tests.chat import made
from tests.chat.test_engine import CONFIGS, END, PROMPTS, SAMPLINGS, answered

HERE = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HERE else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(not HERE and not INTERPRETED, reason="needs a GPU")
on_gpu = pytest.mark.skipif(not HERE, reason="needs a GPU")
PRECISIONS: tuple[Precision, ...] = ("int8", "bf16", "fp32")


def core(
    config: Config,
    precision: Precision = "fp32",
    pages: int = 600,
    guessing: Guessing | None = None,
    limits: Limits = DEFAULT,
) -> Core:
    from almanac.chat.engine.gpu import GpuRunner

    runner = GpuRunner(made.network(config), precision, pages, DEVICE)
    return Core(runner, pages, frozenset({END}), config.context, limits, guessing)


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_those_of_the_cpu(name: str):
    config, prompts = CONFIGS[name], PROMPTS if HERE else PROMPTS[:3]
    sampling = replace(SAMPLINGS["greedy"], max_tokens=40 if HERE else 3)
    runner = CpuRunner(made.network(config), "fp32", 600, threads=1, most_rows=512)
    exact = answered(Core(runner, 600, frozenset({END}), config.context), prompts, sampling)
    assert answered(core(config), prompts, sampling) == exact


@on_gpu
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_less_precise_numbers_are_near_the_exact_ones(name: str, precision: Precision):
    from almanac.chat.engine.gpu import GpuRunner

    count = 200
    table = np.arange(7, dtype=np.int32)[None] + 3
    places = np.arange(count, dtype=np.int32)
    batch = Batch(places.astype(np.int64) * 7 % 400, places, np.zeros(count, np.int32), table, places)
    exact = CpuRunner(made.network(CONFIGS[name]), "fp32", 16, 1, 512).forward(batch)
    on_cpu = CpuRunner(made.network(CONFIGS[name]), precision, 16, 1, 512).forward(batch)
    on_gpu = GpuRunner(made.network(CONFIGS[name]), precision, 16, DEVICE).forward(batch).cpu()
    assert (on_gpu - exact).square().mean() < 2 * (on_cpu - exact).square().mean()


@on_gpu
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sampling", ["greedy", "nucleus"])
def test_company_changes_nothing(name: str, precision: Precision, sampling: str):
    config, how = CONFIGS[name], SAMPLINGS[sampling]
    single = core(config, precision)
    alone = [answered(single, [prompt], how)[0] for prompt in PROMPTS]
    others = [np.random.default_rng(100 + number).integers(0, 400, 60).tolist() for number in range(11)]

    def together(engine: Core) -> Row[Row[int]]:
        return answered(engine, [*PROMPTS, *others], how)[: len(PROMPTS)]

    assert together(core(config, precision)) == alone
    assert together(core(config, precision, limits=Limits(rows=64, chunk=9))) == alone
    assert together(core(config, precision, limits=Limits(rows=1024, chunk=700))) == alone
    assert together(core(config, precision, pages=40)) == alone  # preempted
    assert together(core(config, precision, guessing=Guessing(PromptLookup(), below=64))) == alone
    engine = core(config, precision)
    together(engine)
    assert together(engine) == alone  # found in the cache
    assert engine.counts.cached_tokens > 0


@on_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_long_text_is_read_in_pieces(precision: Precision):
    config = replace(CONFIGS["mistral"], context=2048, head_dim=32)
    prompts = [np.random.default_rng(number).integers(0, 400, 1500 - 300 * number).tolist() for number in range(4)]
    how = Sampling(60, temperature=0.0)
    single = core(config, precision)
    alone = [answered(single, [prompt], how)[0] for prompt in prompts]
    assert answered(core(config, precision, limits=Limits(rows=256, chunk=100)), prompts, how) == alone
