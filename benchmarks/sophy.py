"""Sophy's training beside libraries that people train drivers with: sb3-contrib's TQC and RLlib's TQC, the nearest of kin to QR-SAC, on the
same environment, with networks and minibatches of the same size, on processors alone. Three figures: acting alone, learning alone, and
training as each of them does it by default. And QR-SAC beside TQC on Pendulum, where one sees whether it learns."""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import torch

from almanac.runtime import console, device, results
from almanac.sophy import env, rollout, scenarios
from almanac.sophy import train as recipe
from almanac.sophy.buffer import Buffer
from almanac.sophy.model import Networks
from almanac.sophy.n_step import NStep
from almanac.sophy.qr_sac import Batch, Config, Learner
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks

_CPU = torch.device("cpu")
_CARS = 32
"""That act at once, for who can."""
_STEPS, _EPISODES = 15_000, 20
"""Of Pendulum, and the episodes by which it is judged in the end."""
_QUANTILES = 25
"""Of TQC's critics, its default; QR-SAC has 32."""


def run(
    *,
    track: str = "Norisring",
    car: str = "gt3",
    rounds: int = 3,
    seconds: float = 20.0,
    pendulum: int = 0,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure training beside sb3-contrib and RLlib, or learning on Pendulum.

    Args:
        track: where cars drive.
        car: which car they are.
        rounds: times that each is measured, in turn.
        seconds: of each measurement, about.
        pendulum: seeds of Pendulum-v1 to learn instead, by QR-SAC and by TQC, 15,000 steps each.
        write: whether to write results/sophy/training.json, or pendulum.json.
        seed: the first one.
        json: print one JSON object.
    """
    torch.set_num_threads(1)
    device.resolve("cpu")
    rows = _pendulum(pendulum, seed) if pendulum else _throughput(track, car, rounds, seconds)
    if write:
        results.write("sophy", "pendulum" if pendulum else "training", rows, seed, threads=1)
    console.result({"rows": rows}, json)


# Throughput.

Measure = Callable[[float], tuple[float, float]]
"""Works for about so many seconds; transitions and updates a second."""


def _throughput(track: str, car: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    asked: list[tuple[str, str, Measure]] = [
        ("acting", "almanac", functools.partial(_our_acting, track, car)),
        ("acting", "sb3-contrib TQC", functools.partial(_sb3, track, car, _CARS, 0)),
        ("acting", "RLlib TQC", functools.partial(_rllib, track, car, False)),
        ("learning", "almanac", functools.partial(_our_learning, track, car)),
        ("learning", "sb3-contrib TQC", functools.partial(_sb3_learning, track, car)),
        ("training", "almanac", functools.partial(_our_training, track, car)),
        ("training", "sb3-contrib TQC", functools.partial(_sb3, track, car, 1, 1)),
        ("training", "RLlib TQC", functools.partial(_rllib, track, car, True)),
    ]
    found: list[list[tuple[float, float]]] = [[] for _ in asked]
    with console.progress("measuring", rounds * len(asked), "measurements") as advance:
        for _ in range(rounds):
            for (what, who, measure), rates in zip(asked, found, strict=True):
                rates.append(measure(seconds))
                advance(1, f"{who}, {what}: {rates[-1][0]:.0f} transitions/s, {rates[-1][1]:.1f} updates/s")
    return [
        {
            "task": what,
            "engine": who,
            "transitions_per_s": round(statistics.median(each[0] for each in rates), 1),
            "updates_per_s": round(statistics.median(each[1] for each in rates), 2),
        }
        for (what, who, _), rates in zip(asked, found, strict=True)
    ]


@functools.cache
def _plan(track: str, car: str) -> rollout.Plan:
    preset = recipe.PRESETS["cpu"]
    networks = recipe.networks_of(preset)
    return rollout.Plan(
        tracks.find(track), cars.load(car), preset.sight, preset.rules, scenarios.chosen(["time_trial"]), networks,
        preset.learning, preset.gamma, preset.steps, _CARS, 0,
    )  # fmt: skip


def _our_acting(track: str, car: str, seconds: float) -> tuple[float, float]:
    """An actor, and a shard that keeps what it drives."""
    from almanac.sophy.learner import Shard

    plan = _plan(track, car)
    actor, shard = rollout.Actor(plan, 0), Shard(plan, 100_000)
    policy = rollout.Published(0, actor.policy.state_dict())
    order = rollout.Order("time_trial", 100, np.zeros((0, scenarios.MISTAKE)))
    actor.drive(order, policy, None)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        experience = actor.drive(order, policy, None)
        shard.insert(experience)
        count += experience.transitions
    return count / (time.perf_counter() - began), 0.0


def _our_learning(track: str, car: str, seconds: float) -> tuple[float, float]:
    plan, preset = _plan(track, car), recipe.PRESETS["cpu"]
    learner = Learner(plan.networks, plan.learning, _CPU)
    buffer = Buffer({"time_trial": 1.0}, 20_000, plan.networks.observed)
    buffer.insert("time_trial", _noise(20_000, plan.networks.observed))

    def update() -> None:
        learner.update(buffer.sample(preset.sizes.batch))

    return 0.0, _rate(update, seconds)


def _rate(work: Callable[[], None], seconds: float) -> float:
    for _ in range(5):
        work()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - began)


def _noise(count: int, observed: int) -> Batch:
    return Batch(
        torch.randn(count, observed), torch.rand(count, 2) * 2 - 1, torch.randn(count), torch.full((count,), 0.87),
        torch.randn(count, observed),
    )  # fmt: skip


def _our_training(track: str, car: str, seconds: float) -> tuple[float, float]:
    """The whole, in processes, by the preset for processors: its own log says how fast it was."""
    import json

    preset = recipe.PRESETS["cpu"]
    updates = max(1_000, round(30 * seconds))  # two lines of the log: the first has the beginning in it
    sizes = replace(preset.sizes, updates=updates, examine=10 * updates)
    alone = replace(preset, sizes=sizes, scenarios=("time_trial",))
    with TemporaryDirectory() as folder:
        recipe.train(tracks.find(track), cars.load(car), Path(folder), alone, device_name="cpu")
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    settled = [each for each in lines if "updates_per_s" in each][1:]
    return tuple(statistics.median(each[name] for each in settled) for name in ("transitions_per_s", "updates_per_s"))


class _Alone(gymnasium.Env):
    """One car, as libraries take environments that are not of many."""

    def __init__(self, track: str, car: str):
        plan = _plan(track, car)
        self.cars = env.make(plan.track, plan.car, 1, sight=plan.sight, rules=plan.rules)
        self.observation_space, self.action_space = self.cars.single_observation_space, self.cars.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return self.cars.reset(seed=seed)[0][0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        seen, rewards, ended, late, info = self.cars.step(action[None])
        last = info["final_obs"][0] if "final_obs" in info else seen[0]
        return last, float(rewards[0]), bool(ended[0]), bool(late[0]), {}


def _sb3_model(track: str, car: str, count: int, updates: int) -> Any:
    """sb3-contrib's TQC on so many cars, with so many updates for each step of all."""
    from sb3_contrib import TQC
    from stable_baselines3.common.vec_env import VecEnv

    plan = _plan(track, car)

    class Cars(VecEnv):
        def __init__(self):
            self.cars = env.make(plan.track, plan.car, count, sight=plan.sight, rules=plan.rules)
            super().__init__(count, self.cars.single_observation_space, self.cars.single_action_space)

        def reset(self):
            return self.cars.reset(seed=0)[0]

        def step_async(self, actions):
            self.asked = actions

        def step_wait(self):
            seen, rewards, ended, late, info = self.cars.step(self.asked)
            told: list[dict] = [{} for _ in range(count)]
            for at in np.flatnonzero(ended | late):
                told[at] = {"terminal_observation": info["final_obs"][at], "TimeLimit.truncated": bool(late[at])}
            return seen, rewards.astype(np.float32), ended | late, told

        def close(self): ...

        def get_attr(self, attr_name, indices=None):
            return [None] * count

        def set_attr(self, attr_name, value, indices=None): ...

        def env_method(self, method_name, *method_args, indices=None, **method_kwargs): ...

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * count

    return TQC(
        "MlpPolicy", Cars(), buffer_size=100_000, batch_size=256, train_freq=1, gradient_steps=updates, learning_starts=300,
        gamma=0.98, device="cpu", seed=0,
        policy_kwargs={"net_arch": [256, 256], "n_critics": 2, "n_quantiles": _QUANTILES},
    )  # fmt: skip


def _sb3(track: str, car: str, count: int, updates: int, seconds: float) -> tuple[float, float]:
    model = _sb3_model(track, car, count, updates)
    model.learn(400)
    steps, done, began = model.num_timesteps, model._n_updates, time.perf_counter()
    while time.perf_counter() - began < seconds:
        model.learn(200 * count if updates == 0 else 100, reset_num_timesteps=False)
    spent = time.perf_counter() - began
    return (model.num_timesteps - steps) / spent, (model._n_updates - done) / spent


def _sb3_learning(track: str, car: str, seconds: float) -> tuple[float, float]:
    model = _sb3_model(track, car, 1, 1)
    model.learn(400)
    return 0.0, 20 * _rate(lambda: model.train(20, 256), seconds)


def _rllib(track: str, car: str, learns: bool, seconds: float) -> tuple[float, float]:
    import ray
    from ray.rllib.algorithms.tqc import TQCConfig
    from ray.tune.registry import register_env

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    try:
        register_env("one car", lambda _: _Alone(track, car))
        settings = TQCConfig().environment("one car")
        settings = settings.env_runners(num_env_runners=0, num_envs_per_env_runner=1 if learns else _CARS)
        settings = settings.training(
            train_batch_size_per_learner=256, n_critics=2, n_quantiles=_QUANTILES, gamma=0.98,
            num_steps_sampled_before_learning_starts=300,
        )  # fmt: skip
        algorithm = settings.debugging(log_level="ERROR").build_algo()
        if not learns:
            runner: Any = algorithm.env_runner
            runner.sample(num_timesteps=_CARS, random_actions=False)
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                count += sum(len(each) for each in runner.sample(num_timesteps=20 * _CARS, random_actions=False))
            return count / (time.perf_counter() - began), 0.0
        while _lifetime(algorithm.train())[0] < 400:
            pass
        before, began = _lifetime(algorithm.train()), time.perf_counter()
        now = before
        while time.perf_counter() - began < seconds:
            now = _lifetime(algorithm.train())
        spent = time.perf_counter() - began
        return (now[0] - before[0]) / spent, (now[1] - before[1]) / spent
    finally:
        ray.shutdown()


def _lifetime(found: dict[str, Any]) -> tuple[float, float]:
    """Transitions and updates of RLlib so far."""
    trained = found["learners"]["__all_modules__"]["num_module_steps_trained_lifetime"] if found.get("learners") else 0
    return float(found["env_runners"]["num_env_steps_sampled_lifetime"]), float(trained) / 256


# Pendulum.


def _pendulum(seeds: int, first: int) -> list[dict[str, Any]]:
    rows = []
    with console.progress("learning", 2 * seeds, "runs") as advance:
        for who, learn in (("almanac QR-SAC", _our_pendulum), ("sb3-contrib TQC", _sb3_pendulum)):
            returns = []
            for seed in range(first, first + seeds):
                returns.append(learn(seed))
                advance(1, f"{who}: {returns[-1]:.1f}")
            mean, spread = statistics.fmean(returns), statistics.stdev(returns) if len(returns) > 1 else 0.0
            rows.append(
                {"engine": who, "steps": _STEPS, "seeds": seeds, "return": round(mean, 1), "std": round(spread, 1)}
            )
    return rows


def _our_pendulum(seed: int) -> float:
    """One environment, one update a step, single-step returns, α learned, as TQC's own settings for Pendulum are."""
    task = gymnasium.make("Pendulum-v1")
    networks = Networks(observed=3, actions=1, width=256, depth=2)
    learner = Learner(networks, Config(None, 1e-3, 1e-3), _CPU, seed)
    buffer, n_step = Buffer({"all": 1.0}, _STEPS, 3, 1, _CPU, seed), NStep(1, 3, 1, 1, 0.99)
    rng = np.random.default_rng(seed)
    seen, _ = task.reset(seed=seed)
    for number in range(_STEPS):
        action = rng.uniform(-1, 1, 1).astype(np.float32) if number < 100 else _acts(learner, seen, True)
        after, reward, ended, late, _ = task.step(2 * action)
        given = (np.array([each]) for each in (float(reward), ended, late))
        for batch in n_step.add(seen[None], action[None], *given, after[None]):
            buffer.insert("all", batch)
        seen = task.reset()[0] if ended or late else after
        if number >= 100:
            learner.update(buffer.sample(256))
    return _judged(lambda each: 2 * _acts(learner, each, False))


def _acts(learner: Learner, seen: np.ndarray, noisy: bool) -> np.ndarray:
    with torch.no_grad():
        given = torch.from_numpy(seen)[None]
        noise = torch.randn(1, 1, generator=learner.generator) if noisy else torch.zeros(1, 1)
        return learner.policy.sample(given, noise)[0][0].numpy()


def _sb3_pendulum(seed: int) -> float:
    from sb3_contrib import TQC

    model = TQC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, learning_starts=100, seed=seed, device="cpu")
    model.learn(_STEPS)
    return _judged(lambda each: model.predict(each, deterministic=True)[0])


def _judged(act: Callable[[np.ndarray], np.ndarray]) -> float:
    """The mean return of episodes without noise, the same for all."""
    task, returns = gymnasium.make("Pendulum-v1"), []
    for number in range(_EPISODES):
        seen, _ = task.reset(seed=10_000 + number)
        total, over = 0.0, False
        while not over:
            seen, reward, ended, late, _ = task.step(act(seen))
            total, over = total + float(reward), ended or late
        returns.append(total)
    return statistics.fmean(returns)
