"""The law of the engine: what a text becomes does not depend on who else is served, nor on how its tokens come into steps. And that no
page is lost."""

from collections.abc import Sequence as Row
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from almanac.chat.engine.core import Core, Guessing
from almanac.chat.engine.cpu import CpuRunner, Precision
from almanac.chat.engine.draft import DraftModel
from almanac.chat.engine.request import Sampling, Sequence
from almanac.chat.engine.scheduler import DEFAULT, Limits
from almanac.chat.engine.speculate import PromptLookup
from almanac.chat.model import Config
from tests.chat import made

CONFIGS = {
    "llama": replace(made.SMALL, qkv_bias=False, tied=False),
    "qwen3": replace(made.SMALL, head_dim=20, qk_norm=True),
    "mistral": replace(made.SMALL, windows=(0, 40)),
    "gpt2": replace(
        made.SMALL, norm="layer", rope=None, gated=False, kv_heads=4, qkv_bias=True, out_bias=True, mlp_bias=True
    ),
    "odd": Config(400, 50, 2, 6, 2, 10, 70, 1024),
}
PRECISIONS: tuple[Precision, ...] = ("int8", "bf16", "fp32")
SAMPLINGS = {
    "greedy": Sampling(40, temperature=0.0),
    "seeded": Sampling(40, temperature=0.8, seed=7),
    "nucleus": Sampling(40, temperature=1.1, top_p=0.9, top_k=50, seed=7),
    "penalised": Sampling(40, temperature=0.0, frequency_penalty=0.4, presence_penalty=0.2, repetition_penalty=1.1),
}
END = 5
PROMPTS = [
    np.random.default_rng(number).integers(0, 400, 3 + 17 * number % 150).tolist() * (1 + number % 2)
    for number in range(20)
]


def core(
    config: Config = made.SMALL,
    precision: Precision = "int8",
    pages: int = 600,
    guessing: Guessing | None = None,
    limits: Limits = DEFAULT,
) -> Core:
    runner = CpuRunner(made.network(config), precision, pages, threads=1, most_rows=limits.rows)
    return Core(runner, pages, frozenset({END}), config.context, limits, guessing)


def answered(engine: Core, prompts: Row[Row[int]], sampling: Sampling) -> list[list[int]]:
    """What each prompt became; afterwards all pages are free."""
    texts = [Sequence(list(prompt), sampling) for prompt in prompts]
    for text in texts:
        engine.add(text)
    assert all(drawn.reason in (None, "stop", "length") for drawn in engine.run())
    assert engine.pool.free == engine.pool.pages and engine.idle
    return [list(text.drawn) for text in texts]


@pytest.fixture(scope="module", params=CONFIGS)
def config(request) -> Config:
    return CONFIGS[request.param]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_the_networks(config, precision):
    """Whole, in parts among others, and token by token they are bit for bit the same; in float32 they are the network's."""
    network = made.network(config)
    text = Sequence(PROMPTS[7][:90], Sampling(1, temperature=0.0, prompt_logprobs=True, logprobs=0))
    expected = network(torch.tensor([text.tokens])).log_softmax(-1)[0]
    found = []
    for limits in (Limits(), Limits(rows=24, chunk=5), Limits(rows=16, chunk=1)):
        engine = core(config, precision, limits=limits)
        again, other = Sequence(list(text.tokens), text.sampling), Sequence(PROMPTS[2], SAMPLINGS["greedy"])
        engine.add(other)
        engine.add(again)
        list(engine.run())
        found.append([each.logprob for each in again.prompt_logprobs])
    assert found[0] == found[1] == found[2]
    exact = [expected[place, token].item() for place, token in enumerate(text.tokens[1:])]
    tolerance = {"fp32": 1e-4, "bf16": 0.3, "int8": 1.0}[precision]
    assert np.abs(np.array(found[0]) - exact).max() < tolerance


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_company_does_not_change_an_answer(precision, sampling):
    alone = [answered(core(precision=precision), [prompt], SAMPLINGS[sampling])[0] for prompt in PROMPTS]
    assert len({tuple(each) for each in alone}) > 15
    assert answered(core(precision=precision), PROMPTS + PROMPTS[:12], SAMPLINGS[sampling]) == alone + alone[:12]
    chunked = core(precision=precision, limits=Limits(rows=48, chunk=7, running=9))
    assert answered(chunked, PROMPTS, SAMPLINGS[sampling]) == alone
    cached = core(precision=precision)
    for _ in range(2):
        assert answered(cached, PROMPTS, SAMPLINGS[sampling]) == alone
    assert cached.counts.cached_tokens > 500
    scarce = core(precision=precision, pages=14)
    assert answered(scarce, PROMPTS, SAMPLINGS[sampling]) == alone
    assert scarce.scheduler.preemptions > 0
    guessing = core(precision=precision, guessing=Guessing(PromptLookup(longest=2, shortest=1), below=100))
    assert answered(guessing, PROMPTS, SAMPLINGS[sampling]) == alone
    assert guessing.counts.guessed > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_who_is_let_in_between_a_steps_layers_changes_no_answer(precision):
    sampling = SAMPLINGS["seeded"]
    alone = [answered(core(precision=precision), [prompt], sampling)[0] for prompt in PROMPTS]
    engine = core(precision=precision, limits=Limits(stretch=1000.0))  # which lets everybody in, whatever it takes
    engine.warm_up()
    texts = [
        Sequence(list(prompt), sampling, "a" if number < 8 else str(number)) for number, prompt in enumerate(PROMPTS)
    ]
    newcomers, between = texts[8:], []

    def meanwhile() -> None:
        if newcomers:
            engine.add(newcomers.pop(0))
        between.extend(engine.interject())

    for text in texts[:8]:
        engine.add(text)
    while not engine.idle or newcomers:
        engine.runner.ring()
        engine.step(meanwhile)
    assert [list(text.drawn) for text in texts] == alone
    assert between
    assert engine.pool.free == engine.pool.pages


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_draft_model_does_not_change_an_answer(sampling):
    """One that is the model itself is always right; another one is not."""
    sampling = replace(SAMPLINGS[sampling], ignore_end=True)
    alone = answered(core(), PROMPTS, sampling)
    for seed, right in ((0, 0.99), (1, 0.0)):
        runner = CpuRunner(made.network(seed=seed), "int8", 200, threads=1, most_rows=64)
        drafting = DraftModel(runner, 200, 64, made.SMALL.context)
        engine = core(guessing=Guessing(drafting, most=5, below=100))
        assert answered(engine, PROMPTS, sampling) == alone
        assert engine.counts.guessed > 300
        if not sampling.frequency_penalty:
            assert engine.counts.right >= right * engine.counts.guessed
        assert drafting._pool.free == 200


def test_answers_to_one_prompt_are_those_of_their_seeds():
    seeds = [7, 8, 9, 10]
    alone = [answered(core(), [PROMPTS[3]], Sampling(40, seed=seed))[0] for seed in seeds]
    for others in ([], PROMPTS[4:]):
        engine = core()
        first, *siblings = [Sequence(list(PROMPTS[3]), Sampling(40, seed=seed)) for seed in seeds]
        first.siblings = siblings
        for prompt in others:
            engine.add(Sequence(list(prompt), SAMPLINGS["greedy"]))
        engine.add(first)
        list(engine.run())
        assert [list(text.drawn) for text in (first, *siblings)] == alone
        assert engine.pool.free == engine.pool.pages
        assert engine.counts.prompt_tokens == sum(map(len, others)) + len(PROMPTS[3])


@pytest.mark.parametrize("guess", [False, True])
def test_tokens_are_drawn_as_likely_as_they_are(guess):
    """Chi-square of 20,000 first tokens; and of second ones after the likeliest first, of which the likeliest is guessed."""
    prompt, network = PROMPTS[1], made.network()
    likely = (network(torch.tensor([prompt]))[0, -1].double() / 1.3).softmax(-1)
    first = int(likely.argmax())
    if guess:
        likely = (network(torch.tensor([[*prompt, first]]))[0, -1].double() / 1.3).softmax(-1)
    guessing = Guessing(_Constant(int(likely.argmax())), below=10**6) if guess else None
    engine, texts = core(precision="fp32", pages=1200, guessing=guessing), []
    for start in range(0, 20_000, 1000):
        leader, *siblings = [
            Sequence(prompt, Sampling(3 if guess else 1, temperature=1.3, seed=seed))
            for seed in range(start, start + 1000)
        ]
        leader.siblings = siblings
        engine.add(leader)
        texts += [leader, *siblings]
        list(engine.run())
    drawn = [text.drawn[0] for text in texts]
    if guess:
        drawn = [text.drawn[1] for text in texts if text.drawn[0] == first and len(text.drawn) > 1]
        assert 50 < engine.counts.right < engine.counts.guessed / 2
    expected = likely.numpy() * len(drawn)
    often = expected >= 5
    counts = np.bincount(drawn, minlength=len(likely))
    observed = [*counts[often], counts[~often].sum()]
    assert stats.chisquare(observed, [*expected[often], expected[~often].sum()]).pvalue > 1e-3


class _Constant:
    """Guesses one token after whatever."""

    def __init__(self, token: int):
        self.token = token

    def guess(self, sequences: Row[Sequence], most: int) -> list[list[int]]:
        return [[self.token] for _ in sequences]

    def forget(self, sequence: Sequence) -> None:
        pass


def test_a_cancelled_text_gives_its_pages_back_at_once():
    engine = core()
    texts = [Sequence(list(prompt), SAMPLINGS["greedy"]) for prompt in PROMPTS[:6]]
    texts[0].siblings = [Sequence(list(PROMPTS[0]), SAMPLINGS["seeded"])]
    for text in texts:
        engine.add(text)
    engine.cancel(texts[0])  # before it began: its sibling takes its place
    engine.step()
    engine.step()
    before = engine.pool.free
    held = len(texts[3].pages)
    engine.cancel(texts[3])
    assert engine.pool.free == before + held and held > 0
    done = {drawn.sequence: drawn.reason for drawn in engine.run()}
    assert engine.pool.free == engine.pool.pages
    assert texts[3].reason == "cancelled" and texts[3] not in done
    assert all(text.reason in ("stop", "length") for text in [*texts[1:3], *texts[4:], *texts[0].siblings])


def test_a_late_text_is_given_up():
    engine = core()
    text = Sequence(list(PROMPTS[0]), Sampling(10_000, temperature=0.0, ignore_end=True), deadline=0.0)
    engine.add(text)
    assert [drawn.reason for drawn in engine.run()] == ["deadline"]


def test_a_text_ends_where_it_must():
    engine = core()
    (free,) = answered(engine, [PROMPTS[4]], Sampling(30, temperature=0.0, ignore_end=True))
    assert len(free) == 30
    ended = Sequence(
        list(PROMPTS[4]), Sampling(30, temperature=0.0, ignore_end=True), ends_it=lambda token: token == free[9]
    )
    engine.add(ended)
    list(engine.run())
    assert list(ended.drawn) == free[: free.index(free[9]) + 1] and ended.reason == "stop"
    engine.ends = frozenset({free[0]})
    assert answered(engine, [PROMPTS[4]], Sampling(30, temperature=0.0)) == [free[:1]]
    (later,) = answered(engine, [PROMPTS[4]], Sampling(30, temperature=0.0, min_tokens=5))
    assert len(later) >= 5 and free[0] not in later[:5]
    full = replace(made.SMALL, context=64)
    (short,) = answered(core(full), [PROMPTS[4][:50]], Sampling(100, temperature=0.0, ignore_end=True))
    assert len(short) == 14
