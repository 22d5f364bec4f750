"""An optimal lap, driven in the simulator. The search for that lap knows no pedals that take time, no load that comes late and no frames;
this one does: from a slow lap that is surely driven, it comes nearer to the optimum lap by lap, by the simulator's own steps made linear
along the last one (iterative linear-quadratic regulation, Li and Todorov 2004; Tassa, Erez and Todorov 2012). What it ends with are wishes,
sixty a second, and they are driven like anybody's."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from almanac.nn.compiled import compiled_exactly
from almanac.runtime.errors import RunFailed, UserError
from almanac.sophy import balance, raceline, tracking
from almanac.sophy.lap import Lap
from almanac.sophy.sim import dynamics, road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track
from almanac.sophy.tracking import ANGLE, STATES, VX, WISHES, N

_RUN_UP, _RUN_OUT = 150.0, 150.0
"""m before and after the lap that are driven too: it begins flying, and its end is no place to brake late."""
_GRIPS = (0.75, 0.7, 0.8, 0.65, 0.55)
"""The part of its grip that the first lap uses; another, where that can't be driven, or leads nowhere near."""
_NEAR = 1.005
"""Times the optimum, what is near."""
_LONGEST = 2.0
"""Times the optimum after which a lap is given up."""

_COST = np.array([1 / 0.15, 1 / 0.05, 1 / 0.3, 1.0, 1 / 0.2, *4 * [0.1], *5 * [0.0]]) ** 2
"""Of a miss, per frame."""
_EFFORT = np.array([1 / 0.01, 1 / 0.02]) ** 2
"""Of a change of wishes. Pedals are dear: who steers with them locks the inner wheel."""

_SPACING = 5.0
"""m between places for which it is known how boldly to go on."""
_STRIDE, _STRIDES = 0.08, 0.15
"""The part of the way to the optimum by which a lap comes nearer, in the beginning and at most."""
_BOLD = 1.3
"""By which it grows where all went well."""
_NEAR_ENOUGH = 0.9
"""The part of the way after which laps come nearer place by place, and are tried from beside their line."""
_FURTHER = 0.1
"""The part of the way by which the next aim is further than a lap."""
_STRAYS = np.array([0.5, 0.1, 1.5])
"""m, rad and m/s by which a lap may miss its aim."""
_BESIDE, _RETURNS = 0.04, 0.15
"""m beside its line from which a lap must come back to it, and that it may be away meanwhile."""
_TRIES, LAPS, _MOST = 12, 60, 120
"""Tries for each lap, laps from one beginning, and laps, at most."""
_FAILURES = 3
"""Laps one after the other that were not found, each sought more timidly, before the search ends."""
_SETTLED = 0.003, 4
"""s that so many laps gain together, when nothing more is to be expected."""


@dataclass(frozen=True)
class Driven:
    """A lap that was driven in the simulator."""

    lap: Lap
    """A point a frame, from line to line."""
    off_frames: int
    """Of them, those with three wheels or more beyond the track."""
    laps: int
    """That were driven before."""


class _Run(NamedTuple):
    """A drive, a row a frame."""

    s: np.ndarray
    """m beyond the line."""
    states: np.ndarray
    """As in `tracking`."""
    wishes: np.ndarray
    """That could be followed within the frame."""
    seen: np.ndarray
    """As in `step`."""
    off: np.ndarray


_Course = Callable[[np.ndarray], np.ndarray]
"""States (rows) at places along the track, m."""


def replay(lap: Lap, track: Track, car: CarSpec, tell: Callable[[float], None] = lambda seconds: None) -> Driven:
    """Drive a lap.

    Args:
        lap: a flying one, all around the track.
        track: its track.
        car: its car.
        tell: is told the time of each lap that is driven, s.

    Raises:
        UserError: the lap is of another track.
        RunFailed: not even a slow lap is driven.
    """
    gap = lap.s[1] - lap.s[0]
    if abs(lap.s[0]) > gap or abs(lap.s[-1] + gap - track.length) > 2 * gap:
        raise UserError(f"the lap is {lap.s[-1] + gap:.0f} m long, {track.name} {track.length:.0f} m", "give its track")
    return _Search(lap, track, car, tell).found()


class _Search:
    """From a slow lap to the optimum."""

    def __init__(self, lap: Lap, track: Track, car: CarSpec, tell: Callable[[float], None]):
        self.track, self.car, self.tell, self.length = track, car, tell, track.length
        self.road, self.numbers, self.body = road.road(track), step.numbers(car), world.size(car)
        self.frames = round((_LONGEST * lap.lap_time) * world.FRAMES)
        self.grid = np.arange(-_RUN_UP - _SPACING, self.length + _RUN_OUT + 2 * _SPACING, _SPACING)
        self.least, self.optimum = lap.lap_time, self._around(lap)
        self.laps = self.most = 0

    def found(self) -> Driven:
        """The best of what several beginnings lead to, until that is near."""
        runs, lost = [], 0.0
        for grip in _GRIPS:
            self.most = min(self.laps + LAPS, _MOST)
            first = self._begin(grip)
            if isinstance(first, float):
                lost = max(lost, first)
                continue
            self.first, self.slow = first, _course(first)
            runs.append(self._refine(self._nearer()))
            if self._rank(runs[-1]) < (0, _NEAR * self.least) or self.laps >= _MOST:
                break
        if not runs:
            raise RunFailed(
                f"not even a slow lap of {self.track.name} could be driven: the car came {lost:.0f} m far",
                "check its car and track: `almanac sophy track` and `almanac sophy race` show them",
            )
        best = min(runs, key=self._rank)
        return Driven(self._lap(best), self._rank(best)[0], self.laps)

    def _refine(self, run: _Run) -> _Run:
        """Place by place nearer, until nothing more is gained: the best lap on the track."""
        best = run
        boldness, done, times, failed = np.full(len(self.grid), 0.5), self._done(run), [], 0
        while self.laps < self.most and (
            len(times) <= _SETTLED[1] or times[-1 - _SETTLED[1]] - times[-1] > _SETTLED[0]
        ):
            after = self._refined(run, done, boldness)
            if after is None:
                failed += 1
                if failed > _FAILURES:
                    break
                boldness *= 0.3
                continue
            run, done, failed = after, self._done(after), 0
            best = min(best, run, key=self._rank)
            self._note(run)
            times.append(self._time(run))
        return best

    def _nearer(self) -> _Run:
        """Lap by lap a part of the way nearer, as long as that goes well."""
        run, share, stride = self.first, np.zeros(len(self.grid)), np.full(len(self.grid), _STRIDE)
        while self.laps < self.most and share.mean() < _NEAR_ENOUGH:
            held = np.ones(len(self.grid))
            for tried in range(_TRIES):
                wanted = np.minimum(share + gaussian_filter1d(stride * held, 8), 1)
                after, bad = self._towards(run, self._between(wanted))
                if after is not None:
                    run, share = after, wanted
                    stride[held == 1] = np.minimum(stride[held == 1] * _BOLD, _STRIDES)
                    self._note(run)
                    break
                stride[bad] *= 0.6
                held[bad] *= 0.5 if tried == 0 else 0.0
            else:
                break
        return run

    def _towards(self, run: _Run, aim: _Course) -> tuple[_Run | None, np.ndarray]:
        """Two laps that come nearer to an aim, or where that failed."""
        for _ in range(2):
            gains, push = self._regulator(run, aim)
            after = self._drive(aim, run, push, gains)
            if isinstance(after, float):
                return None, self._before(after, 250.0)
            run = after
        missed = np.abs(run.states.T - aim(run.s))[[N, ANGLE, VX]]
        places = run.s[(missed > _STRAYS[:, None]).any(0)]
        if len(places):
            return None, np.any([self._before(place, 200.0) for place in places[::5]], 0)
        return run, np.zeros(0, bool)

    def _refined(self, run: _Run, done: np.ndarray, boldness: np.ndarray) -> _Run | None:
        """A lap that is nearer, and comes back to its line from beside it; None: there was none. Where it fails, boldness is taken back."""
        aim = self._between(np.minimum(done + _FURTHER, 1))
        gains, push = self._regulator(run, aim)
        missed = self._missed(run, aim)
        for tried in range(_TRIES):
            spread = np.minimum(gaussian_filter1d(boldness, 6), 2 * boldness)
            after = self._drive(_course(run), run, push * np.interp(run.s, self.grid, spread)[:, None], gains)
            if isinstance(after, float):
                boldness[self._before(after, 200.0 * (1 + tried // 3))] *= 0.4
                continue
            now = self._missed(after, aim)
            worse = [place for place, more in zip(self.grid, now > 1.1 * missed + 4, strict=True) if more]
            if now.sum() > missed.sum() and tried < _TRIES - 4:
                for place in worse:
                    boldness[self._before(place, 150.0, 50.0)] *= 0.7
                continue
            away = self._leaves(after, aim)
            if away is not None:
                boldness[self._before(away, 150.0 * (1 + tried // 3))] *= 0.4
                continue
            for place in worse:
                boldness[self._before(place, 100.0, 50.0)] *= 0.8
            np.clip(1.25 * boldness, 1e-3, 1, out=boldness)
            return after
        return None

    def _leaves(self, run: _Run, aim: _Course) -> float | None:
        """Where a car that begins beside a lap's line leaves it, m; None: it comes back."""
        gains, _ = self._regulator(run, aim)
        own = _course(run)
        beside = np.zeros((STATES, 1))
        for beside[N] in (-_BESIDE, _BESIDE):
            after = self._drive(lambda s: own(s) + beside, run, np.zeros_like(run.wishes), gains)
            if isinstance(after, float):
                return after
            away = after.s[(np.abs(after.states[:, N] - own(after.s)[N]) > _RETURNS) & (after.s > 0)]
            if len(away):
                return float(away[0])
        return None

    def _begin(self, grip: float) -> Any:
        """A slow lap on the line of least curvature, or where the car was lost (m)."""
        line = raceline.least_curvature(self.track, self.car)
        lap = balance.lap(self.car, self.track, line, balance.diagram(self.car, grip))
        way = tracking.guide(self.track, self.car, lap, 1)
        places = np.arange(math.floor(self.grid[0] / way.step), math.ceil(self.grid[-1] / way.step) + 1)
        rows = way.rows[places % len(way.rows)]
        states, wishes, gains = np.split(rows, (STATES, STATES + WISHES), 1)
        known = _Run(places * way.step, states, wishes, np.zeros((len(rows), step.SEEN)), np.zeros(len(rows), bool))
        run = self._drive(self._around(lap), known, 0 * wishes, gains.reshape(-1, WISHES, STATES), careful=True)
        if not isinstance(run, float):
            self._note(run)
        return run

    def _regulator(self, run: _Run, aim: _Course) -> tuple[np.ndarray, np.ndarray]:
        """Gains that hold a lap, and changes of its wishes that bring it to an aim."""
        change, pushed, _ = tracking.linear(self.track, self.car, run.states.T, run.wishes.T, run.s, 1)
        missed = run.states - aim(run.s).T
        missed[:, ANGLE] = (missed[:, ANGLE] + math.pi) % (2 * math.pi) - math.pi
        return _regulate(np.ascontiguousarray(change), np.ascontiguousarray(pushed), missed, _COST, _EFFORT)

    def _drive(self, begin: _Course, along: _Run, push: np.ndarray, gains: np.ndarray, careful: bool = False) -> Any:
        """Drive by a lap's wishes and gains: the drive, or where the car was lost (m)."""
        them, one, s = world.cars(1, 1), np.array([0]), np.array([-_RUN_UP])
        state = begin(s)[:, 0]
        place = road.places(self.track, s, state[N : N + 1])
        place[2] += state[ANGLE]
        world.place(them, self.car, self.road, one, place, s % self.length, state[VX : VX + 1])
        them.state[step.VX :, 0], them.travelled[0] = state[VX:], -_RUN_UP
        notes = (np.empty(self.frames), np.empty((self.frames, STATES)), np.empty((self.frames, WISHES)))
        notes = (*notes, np.empty((self.frames, step.SEEN)), np.zeros(self.frames, bool))
        count = _roll(
            self.road,
            *self.numbers,
            self.body,
            them,
            along.s,
            along.states,
            along.wishes + push,
            np.ascontiguousarray(gains),
            self.length + _RUN_OUT,
            self.car.steering,
            careful,
            *notes,
        )
        return _Run(*(each[:count] for each in notes)) if count > 0 else float(them.travelled[0])

    def _between(self, share: np.ndarray) -> _Course:
        """A course that is a part of the way from the slow lap to the optimum, at each place."""

        def states(s: np.ndarray) -> np.ndarray:
            slow = self.slow(s)
            return slow + np.interp(s, self.grid, share) * (self.optimum(s) - slow)

        return states

    def _around(self, lap: Lap) -> _Course:
        states, _, s = tracking.timed(self.track, self.car, lap)
        return lambda at: np.stack([np.interp(at, s, each, period=self.length) for each in states])

    def _done(self, run: _Run) -> np.ndarray:
        """The part of the way to the optimum's speed that a lap has come, at each place."""
        fast, slow = self.optimum(run.s)[VX], self.slow(run.s)[VX]
        left = np.abs(run.states[:, VX] - fast) / np.maximum(np.abs(slow - fast), 2.0)
        return np.maximum(gaussian_filter1d(np.interp(self.grid, run.s, 1 - left.clip(0, 1)), 8) - 0.05, 0)

    def _missed(self, run: _Run, aim: _Course) -> np.ndarray:
        """What a lap's misses cost, near each place of the grid."""
        cost = ((run.states - aim(run.s).T) ** 2 * _COST).sum(1)
        places = ((run.s - self.grid[0]) / _SPACING).astype(int)
        return gaussian_filter1d(np.bincount(places, cost, len(self.grid))[: len(self.grid)], 2)

    def _before(self, place: float, behind: float, ahead: float = 30.0) -> np.ndarray:
        return (self.grid > place - behind) & (self.grid < place + ahead)

    def _within(self, run: _Run, values: np.ndarray) -> np.ndarray:
        return values[(run.s >= 0) & (run.s < self.length)]

    def _time(self, run: _Run) -> float:
        start, end = np.interp((0.0, self.length), run.s, np.arange(len(run.s)))
        return float(end - start) / world.FRAMES

    def _rank(self, run: _Run) -> tuple[int, float]:
        """Frames off the track, and seconds: the less the better."""
        return int(self._within(run, run.off).sum()), self._time(run)

    def _note(self, run: _Run) -> None:
        self.laps += 1
        self.tell(self._time(run))

    def _lap(self, run: _Run) -> Lap:
        """What was driven from line to line."""
        start = np.interp(0.0, run.s, np.arange(len(run.s)))
        s, states, seen, frames = (
            self._within(run, each) for each in (run.s, run.states, run.seen, np.arange(len(run.s)))
        )
        equations, load = self.car.equations(), seen[:, step.LOAD : step.LOAD + 4].T
        tyres = 2 * [equations.tyre_front] + 2 * [equations.tyre_rear]
        peaks = np.stack([dynamics.peaks(tyre, each)[2] for tyre, each in zip(tyres, load, strict=True)])
        steering, throttle, brake = states[:, VX + 7 : VX + 10].T
        return Lap(
            self._time(run),
            s,
            (frames - start) / world.FRAMES,
            states[:, VX],
            states[:, VX + 1],
            states[:, VX + 2],
            states[:, N],
            states[:, ANGLE],
            steering,
            throttle - brake,
            slip=seen[:, step.SLIP : step.SLIP + 4].T / peaks,
            load=load / (self.car.mass * dynamics.GRAVITY),
        )


def _course(run: _Run) -> _Course:
    return lambda s: np.stack([np.interp(s, run.s, each) for each in run.states.T])


_MOST_ASTRAY, _SLOWEST = 1.2, 3.0
"""rad from the road's direction and m/s at which a car is lost."""


@compiled_exactly
def _roll(
    where: Any,
    car: Any,
    drive: Any,
    body: Any,
    them: Any,
    s: np.ndarray,
    states: np.ndarray,
    wishes: np.ndarray,
    gains: np.ndarray,
    end: float,
    most: float,
    careful: bool,
    out_s: np.ndarray,
    out_states: np.ndarray,
    out_wishes: np.ndarray,
    out_seen: np.ndarray,
    out_off: np.ndarray,
) -> int:
    """Drive to the end by what is known at places: the number of frames, or 0 if the car is lost."""
    at, wish = 0, np.zeros(WISHES)
    turns, moves = drive.steering_rate / world.FRAMES, step.PEDALS / world.FRAMES
    for frame in range(out_s.shape[0]):
        here, now = them.travelled[0], out_states[frame]
        out_s[frame], now[N], now[ANGLE] = here, them.offset[0], them.angle[0]
        for row in range(VX, STATES):
            now[row] = them.state[row - VX + step.VX, 0]
        for row in range(step.SEEN):
            out_seen[frame, row] = them.seen[row, 0]
        if here >= end:
            return frame
        if abs(now[ANGLE]) > _MOST_ASTRAY or now[VX] < _SLOWEST:
            return 0
        while at + 2 < s.shape[0] and s[at + 1] <= here:
            at += 1
        part = min(max((here - s[at]) / (s[at + 1] - s[at]), 0.0), 1.0)
        for row in range(WISHES):
            wish[row] = wishes[at, row] * (1 - part) + wishes[at + 1, row] * part
        for row in range(STATES):
            miss = now[row] - (states[at, row] * (1 - part) + states[at + 1, row] * part)
            if row == ANGLE:
                miss -= 2 * math.pi * math.floor(miss / (2 * math.pi) + 0.5)
            for which in range(WISHES):
                wish[which] -= (gains[at, which, row] * (1 - part) + gains[at + 1, which, row] * part) * miss
        if careful:
            throttle, brake = tracking.pedals(car, drive, them, 0, 1 / world.FRAMES)
            wish[1] = min(max(wish[1], -brake), throttle)
        # No more than is followed within the frame: beyond, a change of wishes would change nothing.
        steering, pressed, braked = now[VX + 7], now[VX + 8], now[VX + 9]
        steer = min(max(wish[0], steering - turns, -most), steering + turns, most)
        if wish[1] >= 0:
            pedal = min(max(wish[1], pressed - moves), pressed + moves, 1.0)
        else:
            pedal = -min(max(-wish[1], braked - moves), braked + moves, 1.0)
        out_wishes[frame, 0], out_wishes[frame, 1] = steer, pedal
        them.given[step.STEER_TO, 0] = steer
        them.given[step.THROTTLE_TO, 0], them.given[step.BRAKE_TO, 0] = max(pedal, 0.0), max(-pedal, 0.0)
        world.frame(where, car, drive, body, them, 1)
        out_off[frame] = them.off[0]
    return 0


@compiled_exactly
def _regulate(
    change: np.ndarray, pushed: np.ndarray, missed: np.ndarray, cost: np.ndarray, effort: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gains and changes of wishes, from the last frame to the first (Riccati's recursion): what costs least of all misses to come."""
    count = change.shape[0]
    gains, push = np.zeros((count, WISHES, STATES)), np.zeros((count, WISHES))
    quadratic, slope = np.diag(cost), cost * missed[count - 1]
    for frame in range(count - 2, -1, -1):
        a, b = change[frame], pushed[frame]
        back = b.T @ quadratic
        weight = back @ b + np.diag(effort)
        gain = np.linalg.solve(weight, back @ a)
        shift = -np.linalg.solve(weight, b.T @ slope)
        closed = a - b @ gain
        slope = cost * missed[frame] + closed.T @ (slope + quadratic @ (b @ shift)) - gain.T @ (effort * shift)
        after = np.diag(cost) + closed.T @ quadratic @ closed + gain.T @ (np.diag(effort) @ gain)
        quadratic = 0.5 * (after + after.T)
        gains[frame], push[frame] = gain, shift
    return gains, push
