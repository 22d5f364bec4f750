"""Who does what in a training: actors drive, a learner updates, an examiner measures, all at the same time, and the coordinator asks them.
It decides which scenario is driven next, when a new policy goes out, and that neither side runs away from the other (Wurman et al. 2022,
Methods); it replaces who dies, and writes down how the run goes. It neither drives nor learns itself."""

import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from almanac.runtime import checkpoint, console, device
from almanac.runtime.errors import Interrupted, RunFailed, UserError
from almanac.runtime.run_log import RunLog
from almanac.runtime.stopping import stop_signals
from almanac.runtime.workers import Answer, Worker, WorkerDied, Workers
from almanac.sophy import drive, env
from almanac.sophy.learner import Learnt, Shard, Trainee
from almanac.sophy.qr_sac import Pace
from almanac.sophy.rollout import Actor, Experience, Order, Plan, Published, Weights
from almanac.sophy.scenarios import MISTAKE

_AHEAD = 2
"""Chunks of updates that are under way where shards send the transitions, so that these travel meanwhile; elsewhere it is one."""
_DEATHS = 20
"""Workers that are replaced before a run is given up."""
_MISTAKES = 2_000
"""States from which control was lost that are remembered."""
_CLEAN = 0.95
"""Part of the laps that must be clean before a policy is chosen for its pace."""
_EARLIER = 8
"""Policies by which opponents drive, of the last examinations."""
_TOLD = 500
"""Updates between two lines of the log."""
_TRUSTED = 0.4
"""Part of all updates after which nothing that is shown is followed any more."""
_WAITED = 0.05
"""Part of all updates in which a policy that is begun with stays as it is: new critics would spoil it before they know it."""
_SLOWEST = 0.05
"""Part of the learning rates that is left in the end."""


@dataclass(frozen=True)
class Sizes:
    """Of a training."""

    updates: int
    """Of all networks."""
    batch: int
    """Transitions of each."""
    capacity: int
    """Transitions of the replay buffer."""
    actors: int = 1
    cars: int = 64
    """That learn at the same time, of each actor and scenario."""
    decisions: int = 20
    """Of all these cars, that an actor drives before it asks for a new policy: with old ones, mistakes are corrected late, and small
    networks that learn fast become reckless (docs/log.md)."""
    per_insert: tuple[float, float] = (4.0, 16.0)
    """How often a transition is drawn on average: at least, before more are driven, and at most, before the learner waits."""
    publish: int = 20
    """Updates between two policies for the actors."""
    examine: int = 5_000
    """Updates between two examinations, after which the run is saved, too."""
    chunk: int = 20
    """Updates that the learner is asked for at once."""
    laps: int = 20
    """Of an examination."""
    begin: int = 20_000
    """Transitions before the first update."""
    decay: float = 0.5
    """Part of the updates, at the end, in which learning rates fall towards a twentieth; the paper has none."""
    threads: int = 1
    """Of the learner."""
    trust: float = 0.4
    """How much what is shown is followed at first, beside all that actions are worth."""
    shards: int = 0
    """Processes that hold the replay buffer; 0: the learner does."""
    compiled: bool = False
    """Whether the learner compiles its losses."""

    @property
    def processors(self) -> int:
        """That it asks for; the examiner shares one with the actors."""
        return self.threads + self.actors + self.shards


class Limiter:
    """Keeps drawing and driving together.

    Args:
        begin: transitions before anything is drawn.
        least: times that a transition is drawn on average, before more are driven.
        most: times, before more must be driven.
    """

    def __init__(self, begin: int, least: float, most: float):
        self.begin, self.least, self.most = begin, least, most
        self.inserted, self.drawn = 0, 0

    def may_insert(self, asked: int) -> bool:
        """Whether more is to be driven, while so much is being driven."""
        return self.inserted + asked <= self.begin + self.drawn / self.least

    def may_draw(self) -> bool:
        """Whether there is enough to be drawn from."""
        return self.inserted >= self.begin and self.drawn <= self.most * self.inserted


class Examiner:
    """Measures policies.

    Args:
        plan: of the training.
        laps: to be driven, by half as many cars.
    """

    def __init__(self, plan: Plan, laps: int):
        self.plan, self.laps = plan, laps

    def examine(self, policy: Published) -> dict[str, Any]:
        """Laps of a policy: `updates`, and what `Laps.facts` says."""
        trained = drive.Trained.of(policy.weights, self.plan.networks, self.plan.sight, {})
        driver = drive.Sophy(trained, self.plan.track, self.plan.car)
        driven = drive.laps(driver, self.plan.track, self.plan.car, self.laps, (self.laps + 1) // 2)
        return {"updates": policy.version, **driven.facts()}


class Coordinator:
    """A run.

    Args:
        plan: what all of its parts know.
        sizes: of the training.
        out: its folder.
        where: the learner's device.
        crew: who provides workers.
        lockstep: whether all is done in turn; then a state holds everything, so that the same steps follow it.
        saved: the state to go on from.
        weights: of the policy to begin with.
    """

    def __init__(
        self,
        plan: Plan,
        sizes: Sizes,
        out: Path,
        where: str,
        crew: Workers,
        lockstep: bool,
        saved: dict[str, Any] | None,
        weights: Weights | None,
    ):
        self.plan, self.sizes, self.out, self.where, self.crew = plan, sizes, out, where, crew
        self.lockstep, self.saved, self.weights = lockstep, saved, weights
        self.limiter = Limiter(sizes.begin, *sizes.per_insert)
        self.pending: dict[Answer, tuple[str, Callable[[Answer], None]]] = {}
        self.workers: dict[str, Worker] = {}
        self.resting = [f"actor {number}" for number in range(sizes.actors)]
        self.learning: dict[Answer, int] = {}
        """Updates that the learner was asked for, or a shard for their transitions."""
        self.asked_transitions = self.deaths = 0
        self.policy: Answer | None = None
        self.earlier: deque[Any] = deque(maxlen=_EARLIER)
        self.filled: set[str] = set()
        """Whose part of the replay buffer holds something."""
        self.is_saving = False
        self.window = _Window()
        # What a state holds of it.
        self.begun_with = weights is not None
        self.updates = self.transitions = self.published = self.examined = self.saved_at = 0
        self.driven = dict.fromkeys(plan.scenarios, 0.0)
        self.mistakes = np.zeros((0, MISTAKE))
        self.best: dict[str, Any] | None = None
        self.seconds = 0.0
        self.rng = random.Random(plan.seed)
        if saved is not None:
            self._restore(saved)

    def run(self) -> dict[str, Any]:
        """All updates that are left; the facts of the best policy.

        Raises:
            Interrupted: SIGTERM or Ctrl-C; the run was saved first.
            RunFailed: workers die again and again, or the learner's figures are not finite.
            UserError: the folder can't be written.
        """
        with ExitStack() as stack:
            stopped = stack.enter_context(stop_signals())
            self.log = stack.enter_context(RunLog(self.out, self.updates))
            self.advance = stack.enter_context(
                console.progress("training", self.sizes.updates, "updates", self.updates)
            )
            self.started = time.monotonic() - self.seconds
            for name in ["learner", "examiner", *self.resting, *(f"shard {n}" for n in range(self.sizes.shards))]:
                self._hire(name)
            self._publish(examine=False)
            if self.lockstep:  # who drives next has it
                self._take(None)
            while self.updates < self.sizes.updates and not stopped:
                self._save_if_due()
                self._ask_actors()
                self._ask_learner()
                self._take(1.0)
            self._end(bool(stopped))
        if stopped:
            raise Interrupted(f"stopped at update {self.updates} and saved", f"go on with --resume --out {self.out}")
        return self._facts()

    # Asking.

    def _hire(self, name: str) -> None:
        """Put a worker at a post."""
        plan, sizes = self.plan, self.sizes
        kind, _, number = name.partition(" ")
        if kind == "learner":
            own = 0 if sizes.shards else sizes.capacity
            build = partial(Trainee, plan, sizes.batch, own, self.where, sizes.compiled)
            self.workers[name] = self.crew.hire(build, sizes.threads, float(self.where != "cpu"))
            if self.saved is not None:
                self._ask(name, "load", self.saved["trainee"], then=_look)
            elif self.weights is not None:
                self._ask(name, "begin_with", self.weights, then=_look)
        elif kind == "shard":
            capacity = sizes.capacity // sizes.shards
            self.workers[name] = self.crew.hire(partial(Shard, plan, capacity, "cpu", int(number) + 1))
        elif kind == "actor":
            self.workers[name] = self.crew.hire(partial(Actor, plan, int(number)))
            if self.lockstep and self.saved is not None:
                self._ask(name, "load", self.saved["actors"][name], then=_look)
        else:
            self.workers[name] = self.crew.hire(partial(Examiner, plan, sizes.laps))

    def _ask(self, name: str, method: str, *arguments: Any, then: Callable[[Answer], None]) -> Answer:
        """Call a worker's method; `then` takes the answer when it is there."""
        answer = self.workers[name].ask(method, *arguments)
        self.pending[answer] = name, then
        return answer

    def _ask_actors(self) -> None:
        """Send out who rests, as long as it may."""
        while self.resting and self.policy is not None and self.limiter.may_insert(self.asked_transitions):
            name = self.resting.pop(0)
            scenario = min(self.driven, key=lambda each: self.driven[each] / self.plan.scenarios[each].share)
            transitions = self.sizes.decisions * self.plan.cars
            self.driven[scenario] += transitions / env.RATE
            self.asked_transitions += transitions
            earlier = self.rng.choice(self.earlier) if self.earlier else None
            order = Order(scenario, self.sizes.decisions, self.mistakes)
            then = partial(self._insert, name, transitions)
            self._ask(name, "drive", order, self.policy, earlier, then=then)

    def _ask_learner(self) -> None:
        """Give the learner work, as long as it may."""
        ahead = _AHEAD if self.sizes.shards and not self.lockstep else 1
        while len(self.learning) < ahead and self.filled and self.limiter.may_draw():
            asked = self.updates + sum(self.learning.values())
            updates = min(self.sizes.chunk, self.sizes.updates - asked)
            if updates <= 0:
                break
            self.limiter.drawn += updates * self.sizes.batch
            how = updates, self._pace(asked)
            if self.sizes.shards:
                shard = self.rng.choice(sorted(self.filled))
                answer = self._ask(shard, "sample", updates, self.sizes.batch, then=partial(self._drawn, how))
            else:
                answer = self._ask("learner", "learn", *how, then=self._learnt)
            self.learning[answer] = updates

    def _drawn(self, how: tuple[int, Pace], drawn: Answer) -> None:
        """What a shard drew goes to the learner."""
        self.learning[self._ask("learner", "learn", *how, drawn, then=self._learnt)] = how[0]

    def _pace(self, updates: int) -> Pace:
        """How fast to learn after so many updates."""
        sizes = self.sizes
        rate = max(_SLOWEST, min(1.0, (sizes.updates - updates) / max(sizes.decay * sizes.updates, 1)))
        waits = self.begun_with and updates < _WAITED * sizes.updates
        trust = sizes.trust * max(0.0, 1 - updates / max(_TRUSTED * sizes.updates, 1))
        return Pace(rate, 0.0 if waits else rate, trust)

    def _publish(self, examine: bool) -> None:
        """Have the learner hand out its policy."""
        self.published = self.updates
        self._ask("learner", "policy", then=partial(self._published, examine))

    def _save_if_due(self) -> None:
        if self.updates - self.saved_at >= self.sizes.examine and not self.is_saving:
            self._ask_state()
            if self.lockstep:  # nothing else is under way
                self._take(None)

    def _ask_state(self) -> None:
        self.is_saving = True
        self.saved_at = self.updates
        self._ask("learner", "state", self.lockstep, then=self._save)

    # Answers.

    def _take(self, seconds: float | None) -> None:
        """Take the answers that are there."""
        for answer in self.crew.ready(list(self.pending), seconds):
            if answer not in self.pending:
                continue  # of a worker that another answer said to be dead
            name, then = self.pending.pop(answer)
            self.learning.pop(answer, None)
            try:
                then(answer)
            except WorkerDied:
                self._replace(name)

    def _replace(self, name: str) -> None:
        """Put a new worker in the place of one that died."""
        self.deaths += 1
        if self.deaths > _DEATHS:
            raise RunFailed(f"{_DEATHS + 1} workers died, the last was {name}", "they may need more memory: use fewer")
        console.log(f"{name} died; a new one takes its place")
        lost = [answer for answer, (whose, _) in self.pending.items() if whose == name]
        for answer in lost:
            del self.pending[answer]
            self.learning.pop(answer, None)
        if name.startswith("actor"):
            self.asked_transitions -= self.sizes.decisions * self.plan.cars
            self.resting.append(name)
        self.filled.discard(name)
        if name == "learner":
            self._go_back()
        self._hire(name)
        if name == "learner":
            self._publish(examine=False)

    def _go_back(self) -> None:
        """To what was saved: a new learner knows no more."""
        path = self.out / "last.pt"
        self.saved = checkpoint.load_state(path) if path.exists() else None
        before, self.is_saving = self.updates, False
        self.updates = self.saved["updates"] if self.saved else 0
        self.published = self.examined = self.saved_at = self.updates
        self.log.rewind(self.updates)
        self.advance(self.updates - before)
        if not self.sizes.shards:
            self.limiter = Limiter(self.sizes.begin, *self.sizes.per_insert)

    def _insert(self, name: str, transitions: int, answer: Answer) -> None:
        """What an actor drove."""
        experience: Experience = answer.value()
        self.resting.append(name)
        self.asked_transitions -= transitions
        count = experience.transitions
        self.transitions += count
        self.window.transitions += count
        self.limiter.inserted += count
        if not self.plan.scenarios[experience.scenario].shown:
            self.window.drove(experience, self.updates)
            self.mistakes = np.concatenate((self.mistakes, experience.mistakes))[-_MISTAKES:]
        where = f"shard {self.transitions % self.sizes.shards}" if self.sizes.shards else "learner"
        self._ask(where, "insert", answer, then=partial(self._inserted, where))

    def _inserted(self, where: str, answer: Answer) -> None:
        answer.value()
        self.filled.add(where)

    def _learnt(self, answer: Answer) -> None:
        learnt: Learnt = answer.value()
        self.advance(learnt.updates - self.updates)
        self.updates = learnt.updates
        self.seconds = time.monotonic() - self.started
        self.window.learnt(learnt)
        examine = self.updates - self.examined >= self.sizes.examine or self.updates >= self.sizes.updates
        if examine:
            self.examined = self.updates
        if examine or self.updates - self.published >= self.sizes.publish:
            self._publish(examine)
        if self.window.updates >= _TOLD or self.updates >= self.sizes.updates:
            self._write(self.window.figures())
            self.window = _Window()

    def _published(self, examine: bool, answer: Answer) -> None:
        answer.value()  # a learner that died published none
        self.policy = answer
        if examine:
            self.earlier.append(answer)
            self._ask("examiner", "examine", answer, then=partial(self._examined, answer))

    def _examined(self, policy: Answer, answer: Answer) -> None:
        found, weights = answer.value(), policy.value().weights
        paths = [self.out / "policies" / f"{found['updates']:09d}.safetensors"]
        if self.best is None or _merit(found) > _merit(self.best):
            self.best = found
            paths.append(self.out / "model.safetensors")
        for path in paths:
            drive.write(path, weights, self.plan.networks, self.plan.sight, self._about(found))
        self._write({"examined": found})
        mean = "no clean lap" if found["mean_s"] is None else f"lap {found['mean_s']:.2f} s"
        self.advance(0, note=f"{mean}, {found['clean_laps']} of {found['laps']} clean")

    # Writing.

    def _write(self, figures: dict[str, Any]) -> None:
        plain = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        self.log.add(self.updates, figures, self.seconds, plain)

    def _save(self, answer: Answer) -> None:
        state = self._state(answer.value())
        checkpoint.save_state(self.out / "last.pt", state)
        self.is_saving = False

    def _state(self, trainee: dict[str, Any]) -> dict[str, Any]:
        updates = trainee["learner"]["updates"]
        kept = {name: getattr(self, name) for name in _KEPT}
        state = {**kept, "updates": updates, "mistakes": torch.from_numpy(self.mistakes.copy()), "trainee": trainee}
        state |= {"earlier": [tuple(_policy_of(each)) for each in self.earlier], "rng": self.rng.getstate()}
        state |= {"seed": self.plan.seed, **drive.facts_of(self.plan.track, self.plan.car), "lockstep": self.lockstep}
        if self.lockstep:
            actors = {
                name: each.ask("state").value() for name, each in self.workers.items() if name.startswith("actor")
            }
            state |= {"actors": actors, "inserted": self.limiter.inserted, "drawn": self.limiter.drawn}
            state["filled"] = sorted(self.filled)
        return state

    def _restore(self, saved: dict[str, Any]) -> None:
        mine = {"seed": self.plan.seed, **drive.facts_of(self.plan.track, self.plan.car), "lockstep": self.lockstep}
        for name, value in mine.items():
            if saved.get(name) != value and not name.endswith("digest"):
                raise UserError(
                    f"the run in {self.out} has {name} {saved.get(name)}, not {value}", "resume as it began"
                )
            if saved.get(name) != value:
                raise UserError(
                    f"the {name.partition('_')[0]} of the run in {self.out} was another", "resume as it began"
                )
        for name in _KEPT:
            setattr(self, name, saved[name])
        self.updates = saved["updates"]
        self.driven = {name: float(saved["driven"].get(name, 0.0)) for name in self.plan.scenarios}
        self.mistakes = saved["mistakes"].numpy()
        self.earlier.extend(Published(*each) for each in saved["earlier"])
        self.rng.setstate(saved["rng"])
        if self.lockstep:
            self.limiter.inserted, self.limiter.drawn = saved["inserted"], saved["drawn"]
            self.filled = set(saved["filled"])

    def _end(self, is_stopped: bool) -> None:
        """Wait for what is under way with the learner and the examiner, and save."""
        if not is_stopped:
            self._examine_last()
        self._ask_state()
        while any(name in ("learner", "examiner") for name, _ in self.pending.values()):
            self._take(1.0)

    def _examine_last(self) -> None:
        if self.examined != self.updates:
            self.examined = self.updates
            self._publish(examine=True)
        while any(name in ("learner", "examiner") for name, _ in self.pending.values()):
            self._take(1.0)

    def _about(self, found: dict[str, Any]) -> dict[str, Any]:
        return {
            **drive.facts_of(self.plan.track, self.plan.car), "seed": self.plan.seed, "machine": device.machine(),
            "seconds": round(self.seconds), "transitions": self.transitions, "steps": found.get("updates", 0), **found,
            "practised": list(self.plan.scenarios),
        }  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        return self._about(self.best or {})


_KEPT = ("begun_with", "transitions", "published", "examined", "saved_at", "driven", "best", "seconds")


class _Window:
    """What was seen since the last line of the log."""

    def __init__(self):
        self.learner: list[Learnt] = []
        self.experience: list[tuple[dict[str, float], float, int]] = []
        self.lags: list[int] = []
        self.transitions, self.began = 0, time.monotonic()

    @property
    def updates(self) -> int:
        return self.learner[-1].updates - self.first if self.learner else 0

    def learnt(self, learnt: Learnt) -> None:
        if not self.learner:
            self.first = learnt.updates - 1
        self.learner.append(learnt)

    def drove(self, experience: Experience, updates: int) -> None:
        self.lags.append(updates - max(experience.version, 0))
        self.experience.append((experience.terms, experience.seconds, experience.lost))

    def figures(self) -> dict[str, Any]:
        """Means of what the learner said, terms of the reward, how old policies were, and how busy the learner was."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        names = self.learner[0].figures
        found: dict[str, Any] = {
            name: round(sum(each.figures[name] for each in self.learner) / len(self.learner), 4) for name in names
        }
        busy, idle = (sum(getattr(each, name) for each in self.learner) for name in ("busy", "idle"))
        found |= {"idle": round(idle / max(busy + idle, 1e-9), 4), "updates_per_s": round(self.updates / seconds, 2)}
        found |= {"transitions_per_s": round(self.transitions / seconds, 1)}
        if self.experience:
            driven = sum(seconds for _, seconds, _ in self.experience)
            terms = {name: np.mean([each[name] for each, _, _ in self.experience]) for name in env.TERMS}
            found |= {f"reward_{name}": round(float(value), 4) for name, value in terms.items() if value}
            found |= {"lost_per_minute": round(60 * sum(lost for _, _, lost in self.experience) / driven, 3)}
            found |= {"lag": [int(each) for each in np.quantile(self.lags, (0, 0.25, 0.5, 0.75, 1))]}
        return found


def _merit(found: dict[str, Any]) -> tuple[float, float]:
    """By which examinations are ordered: enough clean laps first, then pace."""
    if found["clean_laps"] >= _CLEAN * found["laps"]:
        return float(found["laps"]), -found["mean_s"]
    return float(found["clean_laps"]), -(found["mean_s"] or 0.0)


def _policy_of(held: Any) -> Published:
    """The policy that an answer holds, or that was read."""
    return held if isinstance(held, Published) else held.value()


def _look(answer: Answer) -> None:
    """Nothing but whether it went well is of interest."""
    answer.value()
