"""Cars on a road, frame by frame, 60 a second: what is under each wheel, air that a car ahead has stirred, four steps of the equations,
then walls and other cars. Everything is a function of its state and the drivers' wishes, so that a race is replayed to the last bit."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import float32

from almanac.nn.compiled import compiled_exactly
from almanac.sophy.sim import dynamics, road, step
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.road import Road

FRAMES = 60
"""A second."""
_STEPS = step.RATE // FRAMES
GATES = 12
"""Lines across a track that are passed in order, or a lap does not count; every fourth ends a sector."""

# What pairs of cars remember of a decision: bits of `hits`.
TOUCHED, FROM_BEHIND = 1, 2
"""They touched; this one drove into the other's rear."""

_SHELTER, _SHELTER_LENGTH, _SHELTER_WIDTH = 0.35, 30.0, 1.2
"""Share of drag that a car just ahead takes away, and how fast that ends behind and beside it, m."""
_DIRTY = 0.5
"""Loss of downforce there, as a part of the loss of drag."""
_PUSHED = 0.05
"""Share of drag that a car close behind takes from the one ahead."""
_BOUNCE_WALL, _RUB_WALL = 0.2, 0.4
"""Restitution and friction of walls."""
_MARSHALS, _MARSHALS_WALK, _MARSHALS_REACH, MARSHALS_TURN = 6.0, 2.0, 11.0, 0.4
"""m/s² by which marshals push back a car that stands with its nose to a wall, m/s up to which they do, m before it, and the sine of its
angle to the road from which its nose is there: no car has a reverse gear here."""
_BOUNCE_CAR, _RUB_CAR = 0.1, 0.4
"""Of cars."""


class Size(NamedTuple):
    """What is touched of a car."""

    length: float
    """m."""
    width: float
    mass: float
    yaw_inertia: float


class Cars(NamedTuple):
    """All cars of all races, one after the other: those of a race stand together."""

    state: np.ndarray
    """float32, `step.STATES` × cars."""
    given: np.ndarray
    seen: np.ndarray
    nearest: np.ndarray
    """Of the road's nearest point."""
    along: np.ndarray
    """Beyond it, m."""
    offset: np.ndarray
    """To the left of the centre line, m."""
    angle: np.ndarray
    """To the road, rad."""
    travelled: np.ndarray
    """m along the centre line, since the line where laps begin."""
    gates: np.ndarray
    """Passed in order, laps of `GATES` together; the first begins the first lap."""
    clock: np.ndarray
    """s that the car has driven."""
    passed: np.ndarray
    """When it passed its last gate of each number, s."""
    lap_time: np.ndarray
    """Of the last whole lap, s; 0: none yet."""
    off: np.ndarray
    """Whether three wheels or more are beyond the track."""
    off_time: np.ndarray
    """s that it was, all together."""
    wall: np.ndarray
    """Whether it touches a wall."""
    wall_time: np.ndarray
    """s that it did."""
    shelter: np.ndarray
    """Share of drag that a car ahead takes away."""
    hits: np.ndarray
    """cars × cars of a race: bits, since they were last cleared."""
    hit_speed: np.ndarray
    """m/s, the largest difference of velocities with which they touched."""


def cars(races: int, each: int) -> Cars:
    """Cars that stand nowhere yet: `place` them.

    Args:
        races: worlds of their own.
        each: cars of a race.
    """
    count = races * each

    given = np.zeros((step.GIVEN, count), np.float32)
    given[[step.PRESSED, step.HELD, step.ENGAGED]] = 1
    given[step.WEIGHT] = dynamics.GRAVITY
    given[step.GRIP : step.GRIP + 4] = 1
    return Cars(
        np.zeros((step.STATES, count), np.float32),
        given,
        np.zeros((step.SEEN, count), np.float32),
        nearest=np.zeros(count, np.int64),
        along=np.zeros(count),
        offset=np.zeros(count),
        angle=np.zeros(count),
        travelled=np.zeros(count),
        gates=np.zeros(count, np.int64),
        clock=np.zeros(count),
        passed=np.full((count, GATES), -1.0),
        lap_time=np.zeros(count),
        off=np.zeros(count, np.bool_),
        off_time=np.zeros(count),
        wall=np.zeros(count, np.bool_),
        wall_time=np.zeros(count),
        shelter=np.zeros(count),
        hits=np.zeros((count, each), np.uint8),
        hit_speed=np.zeros((count, each)),
    )


def place(
    them: Cars,
    spec: CarSpec,
    where: Road,
    numbers: Int[np.ndarray, " some"],
    spots: Float[np.ndarray, "3 some"],
    s: Float[np.ndarray, " some"],
    speed: Float[np.ndarray, " some"],
) -> None:
    """Put cars on a road, rolling.

    Args:
        them: all cars.
        spec: which car they are.
        where: the road.
        numbers: which of them.
        spots: east, north (m) and heading (rad).
        s: about where that is along the road, m; below 0: before the line where laps begin.
        speed: m/s.
    """
    state = them.state
    state[:, numbers] = 0
    state[step.X, numbers], state[step.Y, numbers] = spots[0], spots[1]
    state[step.YAW, numbers] = (spots[2] + math.pi) % (2 * math.pi) - math.pi
    state[step.VX, numbers] = speed
    radii = (spec.tyre_front.radius, spec.tyre_front.radius, spec.tyre_rear.radius, spec.tyre_rear.radius)
    for wheel, radius in enumerate(radii):
        state[step.SPIN + wheel, numbers] = speed / radius
    them.nearest[numbers] = np.round(np.mod(s, where.length) / where.step).astype(np.int64) % len(where.points)
    for each in (them.clock, them.lap_time, them.off_time, them.wall_time, them.shelter, them.hits, them.hit_speed):
        each[numbers] = 0
    for each in (them.off, them.wall):
        each[numbers] = False
    them.passed[numbers] = -1
    them.along[numbers], them.travelled[numbers] = 0, them.nearest[numbers] * where.step
    for number, near in zip(numbers.tolist(), np.asarray(s, float).tolist(), strict=True):
        follow(where.points, where.step, where.length, them, number)
        # Where it is along the road is known but for whole laps, which `s` says.
        them.travelled[number] += where.length * round((near - them.travelled[number]) / where.length)
        them.gates[number] = math.floor(them.travelled[number] / where.length * GATES) + 1


def size(spec: CarSpec) -> Size:
    """What is touched of a car."""
    return Size(spec.length, spec.width, spec.mass, spec.yaw_inertia)


@compiled_exactly
def follow(points: Any, gap: float, length: float, them: Cars, number: int) -> None:
    """Find where a car is on the road now."""
    state = them.state
    index, along, offset = road.locate(points, gap, them.nearest[number], state[step.X, number], state[step.Y, number])
    before = them.nearest[number] * gap + them.along[number]
    now = index * gap + along
    moved = now - before
    if moved > 0.5 * length:
        moved -= length
    elif moved < -0.5 * length:
        moved += length
    angle = state[step.YAW, number] - points[index, road.HEADING] - along * points[index, road.CURVATURE]
    them.nearest[number], them.along[number], them.offset[number] = index, along, offset
    them.angle[number] = angle - 2 * math.pi * np.floor(angle / (2 * math.pi) + 0.5)
    them.travelled[number] += moved


@compiled_exactly
def frame(where: Road, car: Any, drive: Any, body: Size, them: Cars, each: int) -> None:
    """A sixtieth of a second.

    Args:
        where: the road.
        car: numbers of `step.numbers`.
        drive: likewise.
        body: what is touched of a car.
        them: all cars; wishes are in `given`.
        each: cars of a race.
    """
    count = them.nearest.shape[0]
    for number in range(count):
        under(where.points, where.step, car, them, number)
    if each > 1:
        for first in range(0, count, each):
            _stir(body, them, first, each)
    step.advance(car, drive, them.state, them.given, them.seen, _STEPS)
    if each > 1:
        for first in range(0, count, each):
            for _ in range(3):
                if not touch(body, them, first, each):
                    break
    for number in range(count):
        before = them.travelled[number]
        follow(where.points, where.step, where.length, them, number)
        _bounce(where.points, body, them, number)
        them.clock[number] += 1 / FRAMES
        if them.off[number]:
            them.off_time[number] += 1 / FRAMES
        if them.wall[number]:
            them.wall_time[number] += 1 / FRAMES
        pass_gates(where.length, them, number, before)


@compiled_exactly
def under(points: Any, gap: float, car: Any, them: Cars, number: int) -> None:
    """What a road is under a car's wheels, and how it slopes."""
    given, index, along, angle = them.given, them.nearest[number], them.along[number], them.angle[number]
    sine, cosine = math.sin(angle), math.cos(angle)
    beyond = 0
    for wheel in range(4):
        ahead = car.front if wheel < 2 else -car.rear
        half = 0.5 * (car.track_front if wheel < 2 else car.track_rear)
        left = half if wheel % 2 == 0 else -half
        grip, hold, out = road.ground(points, index, them.offset[number] + ahead * sine + left * cosine)
        given[step.GRIP + wheel, number], given[step.HOLD + wheel, number] = grip, hold
        beyond += out
    them.off[number] = beyond >= 3
    slope = float32(road.between(points, gap, index, along, road.SLOPE))
    bank = float32(road.between(points, gap, index, along, road.BANK))
    dip = float32(road.between(points, gap, index, along, road.DIP))
    row = points[index]
    weight = dynamics.weight(slope, bank, dip, them.state[step.VX, number], them.state[step.TURN, number])
    east, north = dynamics.slope_gravity(slope, bank, -row[road.SINE], row[road.COSINE])
    given[step.WEIGHT, number] = max(weight, float32(0.5))
    given[step.PULL_X, number], given[step.PULL_Y, number] = east, north
    # Who stands with the nose to a wall and touches no pedal waits for the marshals.
    waits = given[step.THROTTLE_TO, number] == 0 and given[step.BRAKE_TO, number] == 0
    if waits and abs(them.state[step.VX, number]) < _MARSHALS_WALK and abs(sine) > MARSHALS_TURN:
        offset, yaw = them.offset[number], them.state[step.YAW, number]
        gap = row[road.WALL_LEFT] - offset if sine > 0 else row[road.WALL_RIGHT] + offset
        if gap < _MARSHALS_REACH:
            given[step.PULL_X, number] -= float32(_MARSHALS * math.cos(yaw))
            given[step.PULL_Y, number] -= float32(_MARSHALS * math.sin(yaw))


@compiled_exactly
def _stir(body: Size, them: Cars, first: int, each: int) -> None:
    """Air that a race's cars have stirred: shelter behind each, and a small push by who is close behind."""
    state, given = them.state, them.given
    for number in range(first, first + each):
        cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
        shelter, pushed = 0.0, 0.0
        for other in range(first, first + each):
            if other == number or state[step.VX, other] < 5 or state[step.VX, number] < 5:
                continue
            dx, dy = state[step.X, other] - state[step.X, number], state[step.Y, other] - state[step.Y, number]
            ahead, left = dx * cosine + dy * sine, dy * cosine - dx * sine
            facing = math.cos(state[step.YAW, other] - state[step.YAW, number])
            if facing < 0.5 or abs(ahead) > 5 * _SHELTER_LENGTH:
                continue
            near = math.exp(-((left / _SHELTER_WIDTH) ** 2)) * facing
            room = max(abs(ahead) - body.length, 0.0)
            if ahead > 0:
                shelter = max(shelter, _SHELTER * math.exp(-room / _SHELTER_LENGTH) * near)
            else:
                pushed = max(pushed, _PUSHED * math.exp(-room / 2.0) * near)
        them.shelter[number] = shelter
        given[step.HELD, number] = (1 - shelter) * (1 - pushed)
        given[step.PRESSED, number] = 1 - _DIRTY * shelter


@compiled_exactly
def pass_gates(length: float, them: Cars, number: int, before: float) -> None:
    """Note gates that a car passed in the last frame, in order."""
    between = length / GATES
    line = them.gates[number] * between
    now = them.travelled[number]
    if before < line <= now:
        when = them.clock[number] - (now - line) / max(now - before, 1e-9) / FRAMES
        gate = them.gates[number] % GATES
        if gate == 0 and them.passed[number, 0] > -1:
            them.lap_time[number] = when - them.passed[number, 0]
        them.passed[number, gate] = when
        them.gates[number] += 1


@compiled_exactly
def _push(state: Any, number: int, body: Size, x: float, y: float, push_x: float, push_y: float) -> None:
    """An impulse on a car, N s east and north, at a place from its centre, m."""
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    state[step.VX, number] += (push_x * cosine + push_y * sine) / body.mass
    state[step.VY, number] += (push_y * cosine - push_x * sine) / body.mass
    state[step.TURN, number] += (x * push_y - y * push_x) / body.yaw_inertia


@compiled_exactly
def _velocity(state: Any, number: int, x: float, y: float) -> tuple[float, float]:
    """East and north, m/s, of a place on a car that is so far from its centre."""
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    vx, vy, turn = state[step.VX, number], state[step.VY, number], state[step.TURN, number]
    return vx * cosine - vy * sine - turn * y, vx * sine + vy * cosine + turn * x


@compiled_exactly
def _corner(state: Any, number: int, body: Size, corner: int) -> tuple[float, float]:
    """A corner from a car's centre, m east and north: front left, rear left, rear right, front right."""
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    ahead = 0.5 * body.length if corner == 0 or corner == 3 else -0.5 * body.length
    left = 0.5 * body.width if corner < 2 else -0.5 * body.width
    return ahead * cosine - left * sine, ahead * sine + left * cosine


@compiled_exactly
def _bounce(points: Any, body: Size, them: Cars, number: int) -> None:
    """Keep a car's corners before the walls."""
    state, row = them.state, points[them.nearest[number]]
    them.wall[number] = False
    reach = 0.5 * math.sqrt(body.length**2 + body.width**2)
    if -row[road.WALL_RIGHT] + reach < them.offset[number] < row[road.WALL_LEFT] - reach:
        return
    for corner in range(4):
        x, y = _corner(state, number, body, corner)
        dx, dy = state[step.X, number] + x - row[road.X], state[step.Y, number] + y - row[road.Y]
        along = dx * row[road.COSINE] + dy * row[road.SINE]
        across = dy * row[road.COSINE] - dx * row[road.SINE] - 0.5 * row[road.CURVATURE] * along * along
        deep, side = across - row[road.WALL_LEFT], -1.0
        if deep < 0:
            deep, side = -row[road.WALL_RIGHT] - across, 1.0
        if deep <= 0:
            continue
        them.wall[number] = True
        normal_x, normal_y = -side * row[road.SINE], side * row[road.COSINE]  # away from the wall
        state[step.X, number] += deep * normal_x
        state[step.Y, number] += deep * normal_y
        them.offset[number] += side * deep
        velocity_x, velocity_y = _velocity(state, number, x, y)
        closing = velocity_x * normal_x + velocity_y * normal_y
        if closing >= 0:
            continue
        lever, rub = x * normal_y - y * normal_x, x * normal_x + y * normal_y
        push = -(1 + _BOUNCE_WALL) * closing / (1 / body.mass + lever * lever / body.yaw_inertia)
        _push(state, number, body, x, y, push * normal_x, push * normal_y)
        velocity_x, velocity_y = _velocity(state, number, x, y)  # friction takes what the push has left
        sliding = -velocity_x * normal_y + velocity_y * normal_x
        most = abs(sliding) / (1 / body.mass + rub * rub / body.yaw_inertia)
        held = -math.copysign(min(_RUB_WALL * push, most), sliding)
        _push(state, number, body, x, y, -held * normal_y, held * normal_x)


@compiled_exactly
def touch(body: Size, them: Cars, first: int, each: int) -> bool:
    """Part cars of a race that overlap; whether any did."""
    state, any_touched = them.state, False
    reach = math.sqrt(body.length**2 + body.width**2)
    for one in range(first, first + each - 1):
        for other in range(one + 1, first + each):
            dx, dy = state[step.X, other] - state[step.X, one], state[step.Y, other] - state[step.Y, one]
            if dx * dx + dy * dy < reach * reach:
                deep, normal_x, normal_y = _overlap(state, body, one, other, dx, dy)
                if deep > 0:
                    any_touched = True
                    _part(body, them, first, one, other, deep, normal_x, normal_y)
    return any_touched


@compiled_exactly
def _overlap(state: Any, body: Size, one: int, other: int, dx: float, dy: float) -> tuple[float, float, float]:
    """How deep two cars' boxes overlap, m, at most 0 if they do not, and the direction from one to the other in which it is least (the
    separating axis theorem)."""
    least, normal_x, normal_y = 1e9, 1.0, 0.0
    long, wide = 0.5 * body.length, 0.5 * body.width
    apart = state[step.YAW, other] - state[step.YAW, one]
    cosine, sine = abs(math.cos(apart)), abs(math.sin(apart))
    for axis in range(4):
        owner = one if axis < 2 else other
        yaw = state[step.YAW, owner] + (0.5 * math.pi if axis % 2 else 0.0)
        x, y = math.cos(yaw), math.sin(yaw)
        own = long if axis % 2 == 0 else wide
        reach = own + (long * cosine + wide * sine if axis % 2 == 0 else long * sine + wide * cosine)
        between = dx * x + dy * y
        deep = reach - abs(between)
        if deep < least:
            least = deep
            sign = 1.0 if between > 0 or (between == 0 and one < other) else -1.0
            normal_x, normal_y = sign * x, sign * y
    return least, normal_x, normal_y


@compiled_exactly
def _part(
    body: Size, them: Cars, first: int, one: int, other: int, deep: float, normal_x: float, normal_y: float
) -> None:
    """Push two overlapping cars apart, each by half, and let them bounce and rub where they touch; note who drove into whom."""
    state = them.state
    share = 0.5 * min(deep, 0.5)  # those spawned inside each other part over some frames
    state[step.X, one] -= share * normal_x
    state[step.Y, one] -= share * normal_y
    state[step.X, other] += share * normal_x
    state[step.Y, other] += share * normal_y
    # Where they touch: the mean of the corners of each that are deepest in the other.
    x, y, corners = 0.0, 0.0, 0
    for number, sign in ((one, 1.0), (other, -1.0)):
        furthest = -1e9
        for corner in range(4):
            corner_x, corner_y = _corner(state, number, body, corner)
            furthest = max(furthest, sign * (corner_x * normal_x + corner_y * normal_y))
        for corner in range(4):
            corner_x, corner_y = _corner(state, number, body, corner)
            at_x, at_y = state[step.X, number] + corner_x, state[step.Y, number] + corner_y
            if sign * (corner_x * normal_x + corner_y * normal_y) > furthest - 0.02 and _inside(
                state, body, other if number == one else one, at_x, at_y, deep + 0.05
            ):
                x, y, corners = x + at_x, y + at_y, corners + 1
    if corners:
        x, y = x / corners, y / corners
    else:
        x, y = 0.5 * (state[step.X, one] + state[step.X, other]), 0.5 * (state[step.Y, one] + state[step.Y, other])
    one_x, one_y = x - state[step.X, one], y - state[step.Y, one]
    other_x, other_y = x - state[step.X, other], y - state[step.Y, other]
    one_vx, one_vy = _velocity(state, one, one_x, one_y)
    other_vx, other_vy = _velocity(state, other, other_x, other_y)
    speed_x, speed_y = other_vx - one_vx, other_vy - one_vy
    _blame(them, first, one, other, math.sqrt(speed_x * speed_x + speed_y * speed_y))
    closing = speed_x * normal_x + speed_y * normal_y
    if closing >= 0:
        return
    lever_one, lever_other = one_x * normal_y - one_y * normal_x, other_x * normal_y - other_y * normal_x
    rub_one, rub_other = one_x * normal_x + one_y * normal_y, other_x * normal_x + other_y * normal_y
    ease = 2 / body.mass + (lever_one * lever_one + lever_other * lever_other) / body.yaw_inertia
    push = -(1 + _BOUNCE_CAR) * closing / ease
    _push(state, one, body, one_x, one_y, -push * normal_x, -push * normal_y)
    _push(state, other, body, other_x, other_y, push * normal_x, push * normal_y)
    one_vx, one_vy = _velocity(state, one, one_x, one_y)  # friction takes what the push has left
    other_vx, other_vy = _velocity(state, other, other_x, other_y)
    sliding = -(other_vx - one_vx) * normal_y + (other_vy - one_vy) * normal_x
    most = abs(sliding) / (2 / body.mass + (rub_one * rub_one + rub_other * rub_other) / body.yaw_inertia)
    held = -math.copysign(min(_RUB_CAR * push, most), sliding)
    _push(state, one, body, one_x, one_y, held * normal_y, -held * normal_x)
    _push(state, other, body, other_x, other_y, -held * normal_y, held * normal_x)


@compiled_exactly
def _inside(state: Any, body: Size, number: int, x: float, y: float, margin: float) -> bool:
    """Whether a place is in a car, or nearly."""
    dx, dy = x - state[step.X, number], y - state[step.Y, number]
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    ahead, left = dx * cosine + dy * sine, dy * cosine - dx * sine
    return abs(ahead) < 0.5 * body.length + margin and abs(left) < 0.5 * body.width + margin


@compiled_exactly
def _blame(them: Cars, first: int, one: int, other: int, speed: float) -> None:
    """Note a contact: for both, and whose front met whose rear."""
    state = them.state
    for mine, theirs in ((one, other), (other, one)):
        cosine, sine = math.cos(state[step.YAW, mine]), math.sin(state[step.YAW, mine])
        dx, dy = state[step.X, theirs] - state[step.X, mine], state[step.Y, theirs] - state[step.Y, mine]
        ahead, left = dx * cosine + dy * sine, dy * cosine - dx * sine
        behind = (
            FROM_BEHIND if ahead > abs(left) and math.cos(state[step.YAW, theirs] - state[step.YAW, mine]) > 0.5 else 0
        )
        them.hits[mine, theirs - first] |= TOUCHED | behind
        them.hit_speed[mine, theirs - first] = max(them.hit_speed[mine, theirs - first], speed)
