"""Multi-game decision transformers at work. Acting: a model's decision by the cached prefix beside two whole passes, as other code makes
it, at the 200-million shape; and environment steps a second of an agent that plays several games at once, emulators included, in each
precision. Training: windows a second beside a plain loop (`multigame_dt_training`). Engines take turns in one process, and what counts is
CPU time, so that neither a machine's drift nor its other work favours one; steps by the clock are told too."""

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from almanac.multigame_dt.acting import PAPER, Agent
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import named
from almanac.multigame_dt.model import SIZES, DecisionTransformer, Prefix
from almanac.nn.int8 import has_integer_products
from almanac.runtime import console, device, results
from benchmarks.multigame_dt_training import training

GAMES = ("Assault", "Breakout", "Freeway", "Qbert")
"""That agents play: their emulators are neither the slowest nor the quickest."""
Part = Literal["prefix", "acting", "training"]


def run(
    *,
    parts: tuple[Part, ...] = ("prefix", "acting", "training"),
    prefix_size: str = "200m",
    size: str = "10m",
    lanes: int = 16,
    seconds: float = 10.0,
    threads: int = 2,
    trained_size: str = "1.5m",
    batch: int = 64,
    rounds: int = 5,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure how fast a transformer acts and learns.

    Args:
        parts: `prefix`: a decision by the cached prefix beside two whole passes, one thread; `acting`: playing; `training`: learning
            beside a plain loop, one thread.
        prefix_size: of the model of the first.
        size: of the model of the second.
        lanes: games that are played at once, shared among four.
        seconds: of each measurement of the second, about.
        threads: that the second may use.
        trained_size: of the model of the third.
        batch: windows of a step of the third.
        rounds: times that each is measured, in turn.
        write: whether to write results/multigame_dt/prefix.json, acting.json and training.json.
        seed: of weights and draws.
        json: print one JSON object.
    """
    device.resolve("cpu")
    measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "prefix": lambda: [row for games in (1, 4) for row in _prefix(prefix_size, games, rounds, seed)],
        "acting": lambda: _acting(size, lanes, seconds, threads, rounds, seed),
        "training": lambda: training(trained_size, batch, rounds, seed),
    }
    found = {part: measures[part]() for part in parts}
    for part, rows in found.items():
        if write:
            results.write("multigame_dt", part, rows, seed, threads=threads if part == "acting" else 1)
    console.result(found, json)


class TwoPasses(nn.Module):
    """A model that decides as other code does: the whole window through the whole network for the return, and again for the action.

    Args:
        model: whose network to use.
    """

    def __init__(self, model: DecisionTransformer):
        super().__init__()
        self.model, self.dimensions = model, model.dimensions

    def prefix(self, first: Tensor) -> Prefix:
        """A whole pass; what comes after the first frame changes nothing of its return."""
        frames = first[:, None].expand(-1, 4, -1, -1)
        none = torch.zeros(len(first), 4, dtype=torch.long)
        returns = self.model(frames, none, none, none).returns
        return Prefix(None if returns is None else returns[:, 0], [(first, first)])

    def rest(self, prefix: Prefix, frames: Tensor, returns: Tensor | None, actions: Tensor, rewards: Tensor) -> Tensor:
        """Another."""
        padded = [nn.functional.pad(each, (0, 1)) for each in (actions, rewards)]
        shown = torch.zeros_like(padded[0]) if returns is None else nn.functional.pad(returns[:, None], (0, 3))
        window = torch.cat((prefix.read[0][0][:, None], frames), 1)
        return self.model(window, shown, *padded).actions[:, -1]


def _prefix(size: str, games: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """One decision after the other, of some games at once, in float32, by one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = DecisionTransformer(SIZES[size]).eval()
    frames = torch.randint(0, 256, (games, 4, 84, 84), dtype=torch.uint8)
    context = torch.randint(0, 18, (games, 3)), torch.randint(0, 4, (games, 3))
    later = frames[:, 1:], torch.full((games,), 60), *context
    engines = {"two whole passes": TwoPasses(model), "cached prefix": model}

    def decide(engine: Any) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            prefix = engine.prefix(frames[:, 0])
            return prefix.returns, engine.rest(prefix, *later)

    whole, cached = (torch.cat(decide(engine), 1) for engine in engines.values())
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    with console.progress(f"deciding in {games} games", rounds, "rounds") as advance:
        for _ in range(rounds):
            for name, engine in engines.items():
                began = time.process_time()
                decide(engine)
                seconds[name].append(time.process_time() - began)
            advance(1, ", ".join(f"{name} {each[-1]:.3f} s" for name, each in seconds.items()))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return [
        {
            "size": size,
            "games_at_once": games,
            "engine": name,
            "cpu_s": round(each, 4),
            "times": round(medians["two whole passes"] / each, 2),
            "largest_difference": float((cached - whole).abs().max()) if name == "cached prefix" else 0.0,
        }
        for name, each in medians.items()
    ]


def _acting(size: str, lanes: int, seconds: float, threads: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Games that go on from round to round, each engine's its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = DecisionTransformer(SIZES[size])
    ours: list[tuple[str, Any, str]] = [("cached prefix", model, "fp32"), ("cached prefix", model, "bf16")]
    ours += [("cached prefix", model, "int8")] if has_integer_products() else []
    engines = [("two whole passes", TwoPasses(model), "fp32"), *ours]
    playing = [Playing(Agent(each, lanes, PAPER, "cpu", precision, seed)) for _, each, precision in engines]
    measured: list[list[tuple[float, float]]] = [[] for _ in engines]
    with console.progress("playing", rounds * len(engines), "measurements") as advance:
        for each in playing:
            each.go_on(0.0)  # compiles
        for _ in range(rounds):
            for (name, _, precision), each, rates in zip(engines, playing, measured, strict=True):
                rates.append(each.go_on(seconds))
                advance(1, f"{name}, {precision}: {rates[-1][0]:.1f} steps/s, {rates[-1][1]:.1f} a CPU second")
    return [
        {
            "size": size,
            "engine": name,
            "precision": precision,
            "games_at_once": lanes,
            "steps_per_s": round(statistics.median(each[0] for each in rates), 1),
            "steps_per_cpu_s": round(statistics.median(each[1] for each in rates), 1),
        }
        for (name, _, precision), rates in zip(engines, measured, strict=True)
    ]


class Playing:
    """Games in progress.

    Args:
        agent: who plays them.
    """

    def __init__(self, agent: Agent):
        self.agent = agent
        self.consoles = [Emulator(named(GAMES[at % len(GAMES)])) for at in range(agent.count)]
        for each in self.consoles:
            each.start()

    def go_on(self, seconds: float) -> tuple[float, float]:
        """Play for so long, and at least a step; steps of all games a second, and a second of the processor's."""
        began, busy, steps = time.perf_counter(), time.process_time(), 0
        while steps == 0 or time.perf_counter() - began < seconds:
            decision = self.agent.act(np.stack([each.frame() for each in self.consoles]))
            points = [each.step(int(action)) for each, action in zip(self.consoles, decision.actions, strict=True)]
            self.agent.observe(np.array(points))
            for at, each in enumerate(self.consoles):
                if each.over:
                    each.start()
                    self.agent.reset(at)
            steps += len(self.consoles)
        return steps / (time.perf_counter() - began), steps / (time.process_time() - busy)
