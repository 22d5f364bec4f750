"""A car in balance: how its wheels slip and how it is steered so that all forces and torques are what a motion asks; how hard it can brake,
turn and accelerate at each speed while no tyre slips more than told (its g-g diagram); and a lap along a line within that."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.nn.compiled import compiled_exactly
from almanac.sophy.lap import Lap
from almanac.sophy.raceline import Limits, Line
from almanac.sophy.sim import dynamics
from almanac.sophy.sim.car import CarSpec, TyreSpec
from almanac.sophy.sim.track import Track

# What balance is sought in: angle of motion to the car (rad), steering (rad), pedal (−1 brakes, 1 accelerates), four slip ratios (parts of
# those near the peaks).
_DRIFT, _STEER, _PEDAL, _SLIP, _SOUGHT = 0, 1, 2, 3, 7
_MOST_MOVED = np.array([0.02, 0.02, 0.2, 0.1, 0.1, 0.1, 0.1])
"""In one step of the search."""
_SMALL, _TOLERANCE = 1e-5, 1e-3
"""Of a change to see what follows, and what may be left of an equation (m/s², rad/s², kN m)."""
_SPEEDS = np.array([4.0, 10, 16, 22, 30, 40, 50, 62, 75, 90, 110])
"""m/s for which a diagram is known."""
_PARTS = np.array([0.0, 0.4, 0.65, 0.82, 0.92, 0.97, 1.0])
"""Of the most that a car can turn."""
_HALVINGS = 12
_HARDEST = 60.0
"""m/s²."""
_PEDALS = 0.2
"""s around a place over which speeds are averaged."""
_BRAKES = 0.93
"""The part of what a car can brake that is asked of it: what is left corrects (measured: with all of it, cars came too fast into bends)."""


@dataclass(frozen=True)
class Motion:
    """What a car is asked to do, and on which road; each an array or a number."""

    speed: Any
    """m/s."""
    rise: Any
    """Of the speed, m/s²."""
    turn: Any
    """rad/s, of the direction of motion."""
    turning: Any = 0.0
    """Of the car's yaw, rad/s²."""
    drifting: Any = 0.0
    """Of the direction of motion to the car, rad/s: by which the car itself turns less."""
    slope: Any = 0.0
    """Of the road, rad, uphill."""
    bank: Any = 0.0
    """rad, left side higher."""
    dip: Any = 0.0
    """Change of slope, rad/m."""
    lean: Any = 0.0
    """Of the direction of motion to the road's, rad."""


def _missing(car: CarSpec, motion: Motion, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of accelerations (m/s², rad/s²) and of the wheels' torques (N m / 1,000), and the wheels' loads (N)."""
    numbers, speed, yaw_rate = car.equations(), motion.speed, motion.turn - motion.drifting
    drift, steer, pedal, *slips = found
    sine, cosine = np.sin(drift), np.cos(drift)
    vx, vy = speed * cosine, speed * sine
    angle, across = motion.lean - drift, speed * motion.turn
    down_ahead, down_left = dynamics.slope_gravity(motion.slope, motion.bank, np.sin(angle), np.cos(angle))
    ax, ay = (
        motion.rise * cosine + across * sine - down_ahead,
        across * cosine - motion.rise * sine - down_left,
    )
    weight = dynamics.weight(motion.slope, motion.bank, motion.dip, speed, yaw_rate)
    loads = dynamics.loads(numbers, speed, ax, ay, weight, 1.0, 1.0)
    steered = np.sin(steer), np.cos(steer)
    forces, along = dynamics.slipping(numbers, vx, vy, yaw_rate, *steered, tuple(slips), loads, dynamics.FULL_GRIP)
    made = dynamics.body(numbers, forces, loads, vx, vy, 1.0, dynamics.ASPHALT)
    radii = car.tyre_front.radius, car.tyre_rear.radius
    spinning = dynamics.spins(numbers, radii, vx, vy, yaw_rate, *steered, tuple(slips), loads)
    throttle, brake = np.maximum(pedal, 0), np.maximum(-pedal, 0)
    drive = car.drive()
    driven = dynamics.drive_torques(drive, throttle, spinning[2], spinning[3])
    # What brakes take of the torque, and what turns the wheels faster.
    front, rear = (
        braked * brake + inertia * motion.rise / radius
        for braked, inertia, radius in (
            (drive.brake_front, drive.inertia_front, drive.radius_front),
            (drive.brake_rear, drive.inertia_rear, drive.radius_rear),
        )
    )
    torques = (-front, -front, driven[0] - rear, driven[1] - rear)
    left = [(torque - radii[at // 2] * along[at]) / 1000 for at, torque in enumerate(torques)]
    return np.stack((made[0] - ax, made[1] - ay, made[2] - motion.turning, *left)), np.stack(loads)


def balance(
    car: CarSpec, motion: Motion, begun: Float[np.ndarray, "7 points"], steps: int = 30
) -> tuple[Float[np.ndarray, "7 points"], Float[np.ndarray, " points"], Float[np.ndarray, "4 points"]]:
    """The balance of a motion (Levenberg and Marquardt's search), or what comes nearest to one.

    Args:
        car: the car.
        motion: arrays of points.
        begun: where the search begins: drift, steering, pedal and slips.
        steps: of the search, at most.

    Returns:
        The same, what is left of the worst equation, and loads (N).
    """
    found = begun
    moves = _SMALL * np.eye(_SOUGHT, _SOUGHT + 1, 1)[..., None]  # none, then of each
    for _ in range(steps):
        left, _ = _missing(car, motion, found[:, None] + moves)
        left, moved = left[:, 0], left[:, 1:]
        if np.abs(left).max() < 0.1 * _TOLERANCE:
            break
        changes = (moved - left[:, None]).transpose(2, 0, 1) / _SMALL
        back = changes.transpose(0, 2, 1)
        move = np.linalg.solve(back @ changes + 1e-6 * np.eye(_SOUGHT), -back @ left.T[..., None])[..., 0].T
        found = found + move * np.minimum(1, (_MOST_MOVED[:, None] / np.maximum(np.abs(move), 1e-12)).min(0))
    left, loads = _missing(car, motion, found)
    return found, np.abs(left).max(0), loads


@dataclass(frozen=True)
class Diagram:
    """How hard a car can turn at each of `_SPEEDS`, and brake and accelerate meanwhile, for each of `_PARTS` of that."""

    across: Float[np.ndarray, " speeds"]
    """m/s², at most."""
    braking: Float[np.ndarray, "speeds parts"]
    """Change of speed, m/s², at least."""
    gaining: Float[np.ndarray, "speeds parts"]
    """At most."""

    def most(self, speed: Any) -> Any:
        """How hard it can turn, m/s²."""
        return np.interp(speed, _SPEEDS, self.across)

    def along(self, speed: float, across: float, forward: bool) -> float:
        """How it can change its speed while it turns, m/s²."""
        used, rows = min(across / float(self.most(speed)), 1.0), self.gaining if forward else self.braking
        return float(_along(np.stack((rows, rows)), 1.0, speed, used))


def limits(car: CarSpec, can: Diagram) -> Limits:
    """A diagram in four numbers, as the search for a line takes them."""
    known = slice(1, -2)  # at the last speeds there is no power to stay there
    speed, held = _SPEEDS[known], car.equations().drag / car.mass * _SPEEDS[known] ** 2
    moving, standing = np.polyfit(speed**2, can.across[known], 1)
    braking = can.across[known] / (-can.braking[known, 0] - held)
    gaining = (can.across[known] / (can.gaining[known, 0] + held))[:3]  # where grip says how much, not power
    return Limits(float(standing), float(moving), float(braking.mean()), float(gaining.mean()))


def slip_for(tyre: TyreSpec, grip: float) -> float:
    """How much a tyre slips that uses so much of its grip, as a part of the slip near the peak."""
    return math.tan(math.asin(min(grip, 1.0)) / tyre.shape) / tyre.equations().stretch


def diagram(car: CarSpec, grip: float) -> Diagram:
    """What a car can do on a level road while each tyre uses at most a part of its grip."""
    numbers = car.equations()
    limits = [slip_for(car.tyre_front if wheel < 2 else car.tyre_rear, grip) for wheel in range(4)]

    def can(
        speed: np.ndarray, rise: np.ndarray, across: np.ndarray, begun: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        motion = Motion(speed, rise, across / speed)
        rolling = np.zeros_like(begun)  # without slip
        rolling[_DRIFT], rolling[_STEER] = car.rear * across / speed**2, (car.front + car.rear) * across / speed**2
        found, left, loads = balance(car, motion, begun + np.arctan(rolling), 12)
        moving = speed * np.cos(found[_DRIFT]), speed * np.sin(found[_DRIFT]), motion.turn
        done = left < _TOLERANCE
        for wheel in range(4):
            front, side = wheel < 2, 1 if wheel % 2 == 0 else -1
            tyre = numbers.tyre_front if front else numbers.tyre_rear
            place = (car.front, side * car.track_front / 2) if front else (-car.rear, side * car.track_rear / 2)
            turned = (np.sin(found[_STEER]), np.cos(found[_STEER])) if front else (0.0, 1.0)
            angle = dynamics.slip_angle(*dynamics.wheel_velocity(*moving, *place, *turned))
            slip = np.hypot(found[_SLIP + wheel], angle / dynamics.peaks(tyre, loads[wheel])[3])
            done &= slip < limits[wheel]
        return done & (np.abs(found[_PEDAL]) <= 1.0), np.where(done, found - np.arctan(rolling), begun)

    def search(speed: np.ndarray, good: np.ndarray, bad: np.ndarray, made: Any) -> np.ndarray:
        begun = np.zeros((_SOUGHT, len(speed)))
        for _ in range(_HALVINGS):
            middle = 0.5 * (good + bad)
            done, begun = can(speed, *made(middle), begun)
            good, bad = np.where(done, middle, good), np.where(done, bad, middle)
        return good

    held = (numbers.drag * _SPEEDS**2) / car.mass
    coasting = -held - car.rolling * (dynamics.GRAVITY + numbers.lift / car.mass * _SPEEDS**2)
    across = search(
        _SPEEDS, np.zeros(len(_SPEEDS)), np.full(len(_SPEEDS), _HARDEST), lambda value: (coasting - 0.3, value)
    )  # brakes touched: without a pedal nothing says how the torques are

    speed, part = (each.ravel() for each in np.meshgrid(_SPEEDS, _PARTS, indexing="ij"))
    turned, begun = np.repeat(across, len(_PARTS)) * part, np.repeat(coasting, len(_PARTS))
    shape = len(_SPEEDS), len(_PARTS)
    braking, gaining = (
        search(speed, begun, np.full(len(speed), sign * _HARDEST), lambda value: (value, turned)).reshape(shape)
        for sign in (-1, 1)
    )
    return Diagram(across, _BRAKES * braking, gaining)


@dataclass(frozen=True)
class Ground:
    """A road at each point of a line, as it presses and pulls a car."""

    presses: Float[np.ndarray, " points"]
    """m/s², a car that stands."""
    presses_moving: Float[np.ndarray, " points"]
    """rad/m: for each m²/s², more in dips and banked bends, less on crests."""
    ahead: Float[np.ndarray, " points"]
    """Gravity along the line, m/s²."""
    left: Float[np.ndarray, " points"]
    """Gravity across it."""


def speeds(
    car: CarSpec,
    can: Diagram,
    curvature: Float[np.ndarray, " points"],
    gaps: Float[np.ndarray, " points"],
    ground: Ground,
    careful: Diagram | None = None,
    share: Float[np.ndarray, " points"] | None = None,
) -> Float[np.ndarray, " points"]:
    """Speeds along a closed line, m/s: at most what bends allow, then what the car can accelerate and brake to.

    Args:
        car: the car.
        can: what it can do.
        curvature: rad/m.
        gaps: from each point to the next, m.
        ground: under the line.
        careful: what it does where its driver is careful.
        share: how far from that to what it can do, 0 to 1; None: all of it.
    """
    careful = careful or can
    numbers = car.equations()
    return _speeds(
        np.stack((careful.across, can.across)),
        np.stack((careful.braking, can.braking)),
        np.stack((careful.gaining, can.gaining)),
        np.ones_like(curvature) if share is None else share,
        curvature,
        gaps,
        (ground.presses, ground.presses_moving, ground.ahead, ground.left),
        (numbers.lift / car.mass, numbers.drag / car.mass),
    )


@compiled_exactly
def _speeds(
    across: np.ndarray,
    braking: np.ndarray,
    gaining: np.ndarray,
    share: np.ndarray,
    curvature: np.ndarray,
    gaps: np.ndarray,
    ground: tuple,
    air: tuple,
) -> np.ndarray:
    presses, moving, ahead, left = ground
    count = len(curvature)
    speed = np.empty(count)
    for at in range(count):
        slow, fast = 0.0, _SPEEDS[-1]
        for _ in range(30):
            now = 0.5 * (slow + fast)
            pressed = _pressed(now, presses[at], moving[at], air[0])
            if abs(now * now * curvature[at] - left[at]) < pressed * _most(across, share[at], now):
                slow = now
            else:
                fast = now
        speed[at] = max(slow, 1.0)
    for forward in (True, False):
        last = -1
        for each in range(2 * count):  # the second time around, the first point knows of the last
            at = each % count if forward else count - 1 - each % count
            if last >= 0:
                now = speed[last]
                pressed = _pressed(now, presses[last], moving[last], air[0])
                turned = abs(now * now * curvature[last] - left[last])
                used = min(turned / max(pressed * _most(across, share[last], now), 1e-6), 1.0)
                held = air[1] * now * now
                if forward:
                    change = _along(gaining, share[last], now, used) + ahead[last]
                else:  # of what it can brake, air does its part at any load
                    change = held - pressed * (_along(braking, share[last], now, used) + held) - ahead[last]
                gap = gaps[last] if forward else gaps[at]
                speed[at] = min(speed[at], math.sqrt(max(now * now + 2 * gap * change, 1.0)))
            last = at
    return _unhurried(speed, gaps)


@compiled_exactly
def _unhurried(speed: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Speeds whose summits are rounded, because pedals take time."""
    count = len(speed)
    found = np.empty(count)
    for at in range(count):
        total, weight, reach = speed[at] ** 2, 1.0, _PEDALS * speed[at]
        for way in (1, -1):
            place, near = 0.0, at
            while True:
                place += gaps[near] if way > 0 else gaps[near - 1]
                near = (near + way) % count
                part = 1 - place / reach
                if part <= 0:
                    break
                total, weight = total + part * speed[near] ** 2, weight + part
        found[at] = min(speed[at], math.sqrt(total / weight))
    return found


@compiled_exactly
def _pressed(speed: float, presses: float, moving: float, lift: float) -> float:
    """Load, as a part of that on a level road."""
    square = speed * speed
    return max(presses + (moving + lift) * square, 0.5) / (dynamics.GRAVITY + lift * square)


@compiled_exactly
def _most(across: np.ndarray, share: float, speed: float) -> float:
    """How hard a car can turn, m/s²."""
    return np.interp(speed, _SPEEDS, across[0]) * (1 - share) + np.interp(speed, _SPEEDS, across[1]) * share


@compiled_exactly
def _along(rows: np.ndarray, share: float, speed: float, used: float) -> float:
    """How it can change its speed, m/s², while it uses a part of that."""
    at = min(max(np.searchsorted(_SPEEDS, speed) - 1, 0), len(_SPEEDS) - 2)
    part = min(max((speed - _SPEEDS[at]) / (_SPEEDS[at + 1] - _SPEEDS[at]), 0.0), 1.0)
    found = 0.0
    for which in range(2):
        first, second = np.interp(used, _PARTS, rows[which, at]), np.interp(used, _PARTS, rows[which, at + 1])
        found += (share if which else 1 - share) * (first * (1 - part) + second * part)
    return found


def lap(
    car: CarSpec,
    track: Track,
    line: Line,
    can: Diagram,
    careful: Diagram | None = None,
    share: Float[np.ndarray, " points"] | None = None,
) -> Lap:
    """A lap along a line, in balance at each point.

    Args:
        car: the car.
        track: the track.
        line: around it.
        can: what the car may do.
        careful: what it does where its driver is careful.
        share: how far from that to what it may do, at each point, 0 to 1; None: all of it.
    """
    count = len(line.offset)
    s = line.step * np.arange(count)
    gone = np.hypot(np.roll(line.x, -1) - line.x, np.roll(line.y, -1) - line.y)
    slope, bank, dip, heading = (
        np.interp(s, track.s, each, period=track.length) for each in (track.slope, track.bank, track.dip, track.heading)
    )
    way = np.arctan2(np.roll(line.y, -1) - np.roll(line.y, 1), np.roll(line.x, -1) - np.roll(line.x, 1))
    lean = (way - heading + math.pi) % (2 * math.pi) - math.pi
    pulls = dynamics.slope_gravity(slope, bank, np.sin(lean), np.cos(lean))
    moving = dip - np.sin(bank) * line.curvature
    ground = Ground(dynamics.GRAVITY * np.cos(slope) * np.cos(bank), moving, *pulls)
    speed = speeds(car, can, line.curvature, gone, ground, careful, share)
    pace = 2 * gone / (speed + np.roll(speed, -1))
    rise = (np.roll(speed, -1) ** 2 - speed**2) / (2 * gone)
    rise = 0.5 * (rise + np.roll(rise, 1))
    turn = speed * line.curvature
    turning = speed * (np.roll(turn, -1) - np.roll(turn, 1)) / (gone + np.roll(gone, 1))
    begun = np.zeros((_SOUGHT, count))
    begun[_DRIFT], begun[_STEER] = car.rear * line.curvature, (car.front + car.rear) * line.curvature
    found, _, loads = balance(
        car, Motion(speed, rise, turn, turning, slope=slope, bank=bank, dip=dip, lean=lean), begun
    )
    drift, time = found[_DRIFT], np.concatenate(([0.0], pace.cumsum()[:-1]))
    return Lap(
        float(pace.sum()),
        s,
        time,
        speed * np.cos(drift),
        speed * np.sin(drift),
        turn,
        line.offset,
        lean - drift,
        found[_STEER],
        found[_PEDAL].clip(-1, 1),
        slip=found[_SLIP:],
        load=loads / (car.mass * dynamics.GRAVITY),
    )
