"""Drivers without learning: the line of least curvature, the speeds that a part of the grip allows on it, and a controller that follows
both, with a dial of skill. They are what an agent has to beat, and whom it races against."""

import math
from dataclasses import dataclass

import casadi
import numpy as np
from jaxtyping import Float, Int

from almanac.runtime.errors import RunFailed, UserError
from almanac.sophy.sim import dynamics, road, step
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.road import Road
from almanac.sophy.sim.track import Track
from almanac.sophy.sim.world import Cars

_SPACING = 4.0
"""Between points of a line, m, about."""
_MARGIN = 0.3
"""Between a car's side and the asphalt's edge, m."""
_NEAR = 25.0
"""m along the track within which a driver makes room for a car ahead."""


@dataclass(frozen=True)
class Line:
    """A line around a track, at even steps along the track's centre line."""

    step: float
    """m along the centre line."""
    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    offset: Float[np.ndarray, " points"]
    """From the centre line to the left, m."""
    curvature: Float[np.ndarray, " points"]
    """rad/m."""
    length: float
    """Of the line itself, m."""


def least_curvature(track: Track, spec: CarSpec, spacing: float = _SPACING) -> Line:
    """The line whose squared curvature is least: nearly the fastest where tyres alone decide.

    Args:
        track: the track.
        spec: the car, which stays on the asphalt with its sides.
        spacing: between points, m, about.

    Raises:
        RunFailed: there is none.
    """
    count = round(track.length / spacing)
    s = track.length / count * np.arange(count)
    x, y, heading = road.places(track, s, np.zeros(count))
    left, right = (np.interp(s, track.s, each, period=track.length) for each in (track.left, track.right))
    half = 0.5 * spec.width + _MARGIN
    least, most = np.minimum(half - right, 0), np.maximum(left - half, 0)
    offset = casadi.SX.sym("offset", count)
    px, py = casadi.DM(x) - offset * casadi.DM(np.sin(heading)), casadi.DM(y) + offset * casadi.DM(np.cos(heading))
    after, before = [*range(1, count), 0], [count - 1, *range(count - 1)]
    come_x, come_y, go_x, go_y = px - px[before], py - py[before], px[after] - px, py[after] - py
    come, go = casadi.sqrt(come_x**2 + come_y**2), casadi.sqrt(go_x**2 + go_y**2)
    across = casadi.sqrt((come_x + go_x) ** 2 + (come_y + go_y) ** 2)
    bent = 2 * (come_x * go_y - come_y * go_x) / (come * go * across)  # of the circle through three points
    problem = {"x": offset, "f": casadi.sum1(bent**2 * (come + go))}
    quiet = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"}
    search = casadi.nlpsol("line", "ipopt", problem, quiet)
    found = np.array(search(x0=0, lbx=least, ubx=most)["x"]).ravel()
    if not search.stats()["success"]:
        raise RunFailed(f"no line around {track.name} was found", "give a smoother track")
    line = casadi.Function("line", [offset], [px, py, bent, casadi.sum1(go)])
    px, py, bent, length = (np.array(each).ravel() for each in line(found))
    return Line(track.length / count, px, py, found, bent, float(length[0]))


def speeds(
    car: CarSpec, curvature: Float[np.ndarray, " points"], step: float, grip: float = 0.85
) -> Float[np.ndarray, " points"]:
    """Speeds of a point with the car's grip, drag and power along a closed line, m/s: at most what bends allow, then what it can brake to,
    then what it can accelerate to.

    Args:
        car: the car.
        curvature: of the line at even steps, rad/m.
        step: m.
        grip: used, as a part of what the worse tyre has under the heavier load.
    """
    tyre = car.tyre_rear
    grip *= min(tyre.mu_x_1, tyre.mu_x_2, tyre.mu_y_1, tyre.mu_y_2)
    numbers = car.equations()
    down = grip * numbers.lift / car.mass
    bend = grip * dynamics.GRAVITY / np.maximum(np.abs(curvature) - down, 1e-6)
    speed = np.minimum(np.sqrt(bend), (car.power / numbers.drag) ** (1 / 3))
    for forward in (False, True):
        order = range(len(speed)) if forward else range(len(speed) - 1, -1, -1)
        for _ in range(2):  # the second time around, the first point knows of the last
            last = None
            for at in order:
                if last is not None:
                    now = speed[last]
                    held = numbers.drag * now**2 / car.mass
                    most = grip * dynamics.GRAVITY + down * now**2
                    left = math.sqrt(max(most**2 - (now**2 * curvature[last]) ** 2, 0.0))
                    gain = min(left, car.power / (car.mass * now)) - held if forward else left + held
                    speed[at] = min(speed[at], math.sqrt(max(now**2 + 2 * step * gain, 1.0)))
                last = at
    return speed


class Driver:
    """Follows a line.

    Args:
        track: the track.
        spec: the car.
        skill: the part of the grip that it uses: 0.85 is a careful driver, 0.98 a good one.

    Raises:
        UserError: the skill is not above 0 and at most 1.
    """

    def __init__(self, track: Track, spec: CarSpec, skill: float = 0.9):
        if not 0 < skill <= 1:
            raise UserError(f"skill is {skill}", "give a number above 0 and at most 1, such as 0.9")
        self.spec, self.track, self.line = spec, track, least_curvature(track, spec)
        self.speed = speeds(spec, self.line.curvature, self.line.length / len(self.line.x), skill)

    def act(
        self, cars: Cars, where: Road, numbers: Int[np.ndarray, " some"], each: int = 1
    ) -> Float[np.ndarray, "some 2"]:
        """Steering and pedal of cars, as the environment takes them: pure pursuit (Coulter 1992) of a point ahead, and a pedal that closes
        the gap to the speed that is right a moment later; around a slower car ahead, or behind it where there is no room.

        Args:
            cars: all cars.
            where: the road.
            numbers: which of them this drives.
            each: cars of a race.
        """
        state = cars.state
        x, y, yaw, vx, vy = (state[row, numbers].astype(float) for row in (step.X, step.Y, step.YAW, step.VX, step.VY))
        s = cars.index[numbers] * where.step + cars.along[numbers]
        aside, slower = self._around(cars, numbers, each)
        count, gap = len(self.line.x), self.line.step
        base = self.spec.front + self.spec.rear
        reach = np.maximum(6.0, 0.35 * vx)
        ahead = ((s + reach) / gap).astype(int) % count
        place = road.places(self.track, s + reach, self._within(self.line.offset[ahead] + aside, ahead))
        dx, dy = place[0] - x, place[1] - y
        away = np.hypot(dx, dy)
        bearing = np.arctan2(dy, dx) - yaw
        # Where it goes is what counts, not where it points.
        drift = np.arctan2(vy, np.maximum(vx, 3.0))
        steer = np.arctan(2 * base * np.sin(bearing - drift) / np.maximum(away, 1.0)) + drift * (vx > 3.0)
        soon = ((s + 0.15 * vx) / gap).astype(int) % count
        wanted = np.minimum(self.speed[soon], slower)
        missing = wanted - vx
        pedal = np.where(missing > 0, 0.5 * missing, 0.25 * missing)
        return np.stack((steer / self.spec.steering, pedal), 1).clip(-1, 1).astype(np.float32)

    def _within(self, offset: np.ndarray, at: np.ndarray) -> np.ndarray:
        """An offset that keeps the car on the asphalt."""
        half = 0.5 * self.spec.width + _MARGIN
        index = (at * self.line.step / self.track.step).astype(int) % len(self.track.x)
        return np.clip(offset, half - self.track.right[index], self.track.left[index] - half)

    def _around(self, cars: Cars, numbers: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
        """How far from its line to go for the car ahead, m, and how fast at most."""
        aside, slower = np.zeros(len(numbers)), np.full(len(numbers), np.inf)
        if each == 1:
            return aside, slower
        length, state = self.track.length, cars.state
        for at, number in enumerate(numbers.tolist()):
            first = number - number % each
            others = np.array([other for other in range(first, first + each) if other != number])
            gap = (cars.travelled[others] - cars.travelled[number] + length / 2) % length - length / 2
            near = others[(gap > 0) & (gap < _NEAR)]
            if not len(near):
                continue
            front = near[np.argmin(cars.travelled[near] % length - cars.travelled[number] % length)]
            beside = cars.offset[front] - cars.offset[number]
            index = cars.index[number]
            room = self.track.left[index] - cars.offset[front], self.track.right[index] + cars.offset[front]
            side = 1.0 if room[0] > room[1] else -1.0
            if abs(beside) < self.spec.width + 0.5:
                aside[at] = (
                    cars.offset[front]
                    + side * (self.spec.width + 1.0)
                    - self.line.offset[int(index * self.track.step / self.line.step) % len(self.line.offset)]
                )
                distance = math.hypot(
                    state[step.X, front] - state[step.X, number], state[step.Y, front] - state[step.Y, number]
                )
                if distance < self.spec.length + 4.0 and max(room) < 2 * self.spec.width:
                    slower[at] = float(state[step.VX, front]) - 1.0
        return aside, slower
