"""The limit: the fastest lap that a car's equations allow, as optimal control in space (Perantoni and Limebeer 2014, §3): at each point of
a track, where the car is across it, how it moves, and what its driver does, so that all follow from each other and time is least. CasADi
makes the derivatives, IPOPT searches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import casadi
import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

from almanac.runtime import hub
from almanac.runtime.errors import RunFailed
from almanac.sophy import lap as laps
from almanac.sophy import steady
from almanac.sophy.lap import Lap
from almanac.sophy.race import digest
from almanac.sophy.sim import dynamics
from almanac.sophy.sim import road as roads
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

SPACING = 6.0
"""Between points of a lap, m, about."""
_SOFT = 1e-5
"""Width over which one pedal takes over from the other."""
_CALM_STEERING, _CALM_PEDAL = 5.0, 1e-2
"""s that a change of steering by one rad within a metre costs, squared, per metre; and of the pedal from one end to the other."""
_FROM_WALLS = 0.1
"""m between a wall and a car's corner."""
_ROUND = 1e-3
"""How round is what clips, squared."""
_EDGE = 0.1
"""m over which a kerb's grip takes over from the asphalt's."""
_EVEN = 20.0
"""m over which the density of points is smoothed."""
_POWERS = 9
"""Degree of what stands for a gearbox."""
_BEGUN = 0.7
"""The part of the grip with which the search begins."""

# Rows of what is known of a point.
_N, _ANGLE, _VX, _VY, _TURN, _STEER, _PEDAL, _SLIP, _AX, _AY, _ROWS = 0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13
_SCALE = np.array([5.0, 0.2, 50.0, 2.0, 0.5, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 20.0, 20.0])
"""By which each is measured in the search."""


@dataclass(frozen=True)
class Found:
    """An optimal lap, and what it took."""

    lap: Lap
    iterations: int


def remembered(car: CarSpec, track: Track, tell: Callable[[float], None] = lambda seconds: None) -> Lap:
    """`optimal_lap` by the simulator's rules, which allow kerbs, searched once for each car and track on this machine: it is kept in the
    cache.

    Raises:
        RunFailed: the search ended without a lap.
    """
    path = hub.cache() / "sophy" / f"{digest(track)[:16]}-{digest(car)[:16]}-kerbs.csv"
    if not path.exists():
        laps.write(optimal_lap(car, track, kerbs=True, tell=tell).lap, path)
    return laps.read(path)


def optimal_lap(
    car: CarSpec,
    track: Track,
    spacing: float = SPACING,
    kerbs: bool = False,
    verbose: bool = False,
    tell: Callable[[float], None] = lambda seconds: None,
) -> Found:
    """The fastest flying lap of a car on a track.

    Args:
        car: the car; its wheels stay on the asphalt and what else they may use, and its corners before the walls.
        track: the track.
        spacing: between points of the lap, m, on average: they are nearer to each other where it is slow.
        kerbs: whether wheels may roll on painted lines and kerbs, too, as they are in the simulator.
        verbose: whether IPOPT tells what it does.
        tell: is told at each iteration what the search is at, s.

    Raises:
        RunFailed: the search ended without a lap.
    """
    speed = steady.speeds(car, track.curvature, track.s[1] - track.s[0], _BEGUN)
    s, step = _mesh(track, speed, spacing)
    points = len(s)
    road = _road(track, s, kerbs)
    numbers = car.equations()
    x = casadi.SX.sym("x", _ROWS, points)
    known = x * casadi.DM(np.repeat(_SCALE[:, None], points, 1))
    rows = [known[row, :] for row in range(_ROWS)]
    rates, pace, wheels, held = _point(numbers, car, rows, road)
    after = [*range(1, points), 0]

    def step_on(value: Any) -> Any:
        return value[after] - value

    half, turned = casadi.DM(0.5 * step[None]), {_ANGLE: casadi.DM(road.turned[None])}
    pieces = []
    for row, rate in zip((_N, _ANGLE, _VX, _VY, _TURN), rates, strict=True):
        change = step_on(rows[row]) + turned.get(row, 0)
        pieces.append((change - half * (rate + rate[after])) / _SCALE[row])
    time = half * (pace + pace[after])
    for torque, spin, inertia in wheels:
        turning = inertia * step_on(spin) / time if inertia else 0.0
        pieces.append((torque[after] - turning if inertia else torque) / 1000.0)
    pieces += [(found - rows[row]) / _SCALE[row] for row, found in zip((_AX, _AY), held, strict=True)]
    calm = _CALM_STEERING * casadi.sum2(step_on(rows[_STEER]) ** 2 / (2 * half))
    calm += _CALM_PEDAL * casadi.sum2(step_on(rows[_PEDAL]) ** 2 / (2 * half))
    room = _room(car, track, s, rows)
    lowest = np.concatenate((np.zeros(points * len(pieces)), np.full(room.numel(), -np.inf)))
    constraints = casadi.vertcat(*(casadi.vec(piece) for piece in pieces), room)
    problem = {"x": casadi.vec(x), "f": casadi.sum2(time) + calm, "g": constraints}
    told = _Told(x.numel(), constraints.numel(), tell)
    how = {
        "print_time": verbose,
        "ipopt.print_level": 5 if verbose else 0,
        "ipopt.sb": "yes",
        "iteration_callback": told,
    }
    how |= {"ipopt.max_iter": 1000, "ipopt.tol": 1e-6, "ipopt.mu_strategy": "adaptive"}
    search = casadi.nlpsol("lap", "ipopt", problem, how)
    least, most = _bounds(car, road)
    begun = np.clip(_begin(car, track, s, speed), least + 1e-6, most - 1e-6)

    def flat(values: np.ndarray) -> np.ndarray:
        return (values / _SCALE[:, None]).T.ravel()

    found = search(x0=flat(begun), lbx=flat(least), ubx=flat(most), lbg=lowest, ubg=0)
    about = search.stats()
    if not about["success"]:
        raise RunFailed(
            f"the search for a lap of {track.name} ended with {about['return_status']}", "try another --spacing"
        )
    values = np.array(found["x"]).reshape(points, _ROWS).T * _SCALE[:, None]
    evaluate = casadi.Function("lap", [x], [time, casadi.vertcat(*_loads(numbers, rows, road))])
    spent, load = (np.array(each) for each in evaluate(values / _SCALE[:, None]))
    lap = Lap(
        float(spent.sum()),
        s,
        np.concatenate(([0.0], spent.ravel().cumsum()[:-1])),
        *values[[_VX, _VY, _TURN, _N, _ANGLE, _STEER, _PEDAL]],
        slip=values[_SLIP : _SLIP + 4],
        load=load / (car.mass * dynamics.GRAVITY),
    )
    return Found(lap, about["iter_count"])


class _Told(casadi.Callback):
    """What is called at each iteration of a search."""

    def __init__(self, unknowns: int, constraints: int, tell: Callable[[float], None]):
        super().__init__()
        self.sizes = {"f": 1, "x": unknowns, "lam_x": unknowns, "g": constraints, "lam_g": constraints}
        self.tell = tell
        self.construct("told", {})

    def get_n_in(self) -> int:
        return casadi.nlpsol_n_out()

    def get_n_out(self) -> int:
        return 1

    def get_sparsity_in(self, i: int) -> Any:
        return casadi.Sparsity.dense(self.sizes.get(casadi.nlpsol_out(i), 0), 1)

    def eval(self, arg: Any) -> list[int]:
        self.tell(float(arg[casadi.nlpsol_out().index("f")]))
        return [0]


def _mesh(track: Track, speed: Float[np.ndarray, " all"], spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Places along a track, m, at nearly even times, so that bends have more of them, and the steps from each to the next."""
    dense = gaussian_filter1d(1 / speed, _EVEN / (track.s[1] - track.s[0]), mode="wrap")
    done = np.append(0.0, dense.cumsum())
    count = round(track.length / spacing)
    s = np.interp(done[-1] / count * np.arange(count), done, np.append(track.s, track.length))
    return s, np.diff(np.append(s, track.length))


@dataclass(frozen=True)
class _Road:
    """A track at the points of a lap, as rows that CasADi takes."""

    curvature: Any
    slope: Any
    bank: Any
    dip: Any
    """Change of slope, rad/m."""
    turned: np.ndarray
    """By how much the road turns to the next point, rad."""
    left: np.ndarray
    right: np.ndarray
    left_kerb: np.ndarray
    """m beyond the left edge that wheels may use."""
    right_kerb: np.ndarray


def _road(track: Track, s: Float[np.ndarray, " points"], kerbs: bool) -> _Road:
    def at(values: np.ndarray) -> np.ndarray:
        return np.interp(s, track.s, values, period=track.length)

    curvature, slope, bank, dip = (
        casadi.DM(at(each)[None]) for each in (track.curvature, track.slope, track.bank, track.dip)
    )
    heading = np.append(track.heading, np.unwrap(track.heading[[-1, 0]])[1])
    turned = np.diff(np.interp(np.append(s, track.length), np.append(track.s, track.length), heading))
    sides, beside = (roads.KERB_LEFT, roads.KERB_RIGHT), roads.road(track).points
    allowed = [at(np.maximum(beside[:, side], roads.LINE)) if kerbs else 0 * s for side in sides]
    return _Road(curvature, slope, bank, dip, turned, at(track.left), at(track.right), *allowed)


def _room(car: CarSpec, track: Track, s: Float[np.ndarray, " points"], rows: list[Any]) -> Any:
    """By how much a car's corners are too near to walls, m, where walls are near enough to be met from the asphalt."""
    walls, offset, angle = roads.road(track).points, rows[_N], rows[_ANGLE]
    reach, found = 0.5 * np.hypot(car.length, car.width), [casadi.SX(0, 1)]
    for side, edge, wall in ((1, track.left, roads.WALL_LEFT), (-1, track.right, roads.WALL_RIGHT)):
        away = np.interp(s, track.s, walls[:, wall], period=track.length)
        near = [int(at) for at in np.flatnonzero(away - np.interp(s, track.s, edge, period=track.length) < reach)]
        for end in (1, -1) if near else ():
            across = 0.5 * (end * car.length * casadi.sin(angle[near]) + car.width * casadi.cos(angle[near]))
            found.append((side * offset[near] + across).T - (away[near] - _FROM_WALLS))
    return casadi.vertcat(*found)


def _loads(numbers: dynamics.Car, rows: list[Any], road: _Road) -> tuple:
    weight = dynamics.weight(road.slope, road.bank, road.dip, rows[_VX], rows[_TURN])
    return dynamics.loads(numbers, rows[_VX], rows[_AX], rows[_AY], weight, 1.0, 1.0)


def _point(
    numbers: dynamics.Car, car: CarSpec, rows: list[Any], road: _Road
) -> tuple[list[Any], Any, list[tuple[Any, Any, float]], tuple[Any, Any]]:
    """At each point: how the first five rows change along the track (the angle: to the plane), seconds a metre, of each wheel the torque
    that is left to turn it faster, how fast it turns and its inertia, and what tyres, rolling and air accelerate the car by."""
    offset, angle, vx, vy, turn, steer, pedal = rows[: _PEDAL + 1]
    slips, loads = tuple(rows[_SLIP : _SLIP + 4]), _loads(numbers, rows, road)
    sine, cosine = casadi.sin(steer), casadi.cos(steer)
    forces, along = dynamics.slipping(numbers, vx, vy, turn, sine, cosine, slips, loads, _grips(car, rows, road))
    ax, ay, turning = dynamics.body(numbers, forces, loads, vx, vy, 1.0, dynamics.ASPHALT)
    angle_sine, angle_cosine = casadi.sin(angle), casadi.cos(angle)
    down_ahead, down_left = dynamics.slope_gravity(road.slope, road.bank, angle_sine, angle_cosine)
    pace = (1 - offset * road.curvature) / (vx * angle_cosine - vy * angle_sine)
    rates = [
        pace * (vx * angle_sine + vy * angle_cosine),
        pace * turn,
        pace * (ax + down_ahead + turn * vy),
        pace * (ay + down_left - turn * vx),
        pace * turning,
    ]
    radii = car.tyre_front.radius, car.tyre_rear.radius
    spins = dynamics.spins(numbers, radii, vx, vy, turn, sine, cosine, slips, loads)
    pressed = casadi.sqrt(pedal**2 + _SOFT)
    throttle, brake = 0.5 * (pedal + pressed), 0.5 * (pressed - pedal)
    drive = _without_gears(car.drive(), 0.5 * (spins[2] + spins[3]))
    left, right = dynamics.drive_torques(drive, throttle, spins[2], spins[3])
    front, rear = brake * drive.brake_front, brake * drive.brake_rear
    braking = [
        pressed * (_spared(slip) if car.abs else 1.0)
        for pressed, slip in zip((front, front, rear, rear), slips, strict=True)
    ]
    torques = (-braking[0], -braking[1], left - braking[2], right - braking[3])
    wheels = []
    for number, torque in enumerate(torques):
        tyre = car.tyre_front if number < 2 else car.tyre_rear
        wheels.append((torque - tyre.radius * along[number], spins[number], tyre.inertia))
    return rates, pace, wheels, (ax, ay)


def _spared(slip: Any) -> Any:
    """What anti-lock brakes leave of a pedal, as in `step`, where corners are round here."""
    x = (-slip - 0.9) * 2.5
    return 1 - 0.5 * (1 + casadi.sqrt(x**2 + _ROUND) - casadi.sqrt((x - 1) ** 2 + _ROUND))


def _grips(car: CarSpec, rows: list[Any], road: _Road) -> tuple:
    """Of the ground at each wheel: of asphalt, and beyond the painted line, of kerbs."""
    if not road.left_kerb.any():
        return dynamics.FULL_GRIP
    ahead, aside = casadi.sin(rows[_ANGLE]), casadi.cos(rows[_ANGLE])
    found = []
    for far, track in ((car.front, car.track_front), (-car.rear, car.track_rear)):
        for half in (0.5 * track, -0.5 * track):
            across = rows[_N] + far * ahead + half * aside
            edges = (across - road.left[None], -across - road.right[None])
            beyond = casadi.fmax(*edges) - roads.LINE
            found.append(1 - (1 - roads.KERB_GRIP) * 0.5 * (1 + casadi.tanh(beyond / _EDGE)))
    return tuple(found)


def _without_gears(drive: dynamics.Drive, spin: Any) -> dynamics.Drive:
    """A drive whose power is a smooth function of how fast the wheels turn, rad/s: at a change of gear the search would stay."""
    if drive.gears is None:
        return drive
    fastest = drive.gears.fastest / min(drive.gears.ratios)
    known = np.linspace(drive.slowest, fastest, 2000)
    powers = np.array([float(dynamics.full_power(drive.power, drive.gears, each)) for each in known])
    within = powers > 0.5 * powers.max()  # beyond: at walking pace, and where the last gear ends
    low, high = known[within][0], known[within][-1]
    series = np.polynomial.Polynomial.fit(known[within], powers[within], _POWERS)
    place = casadi.fmin(casadi.fmax(2 * (spin - low) / (high - low) - 1, -1), 1)
    power = casadi.SX(0)
    for factor in reversed(series.coef):
        power = power * place + float(factor)
    return drive._replace(gears=None, power=power)


def _bounds(car: CarSpec, road: _Road) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of each row at each point."""
    half = 0.5 * max(car.track_front, car.track_rear)
    most = np.repeat(
        np.array([[0.0, 0.8, 130.0, 15.0, 3.0, car.steering, 1.0, 1, 1, 1, 1, 80.0, 80.0]]).T, len(road.left), 1
    )
    least = -most
    most[_N], least[_N], least[_VX] = road.left + road.left_kerb - half, half - road.right - road.right_kerb, 2.0
    return least, most


def _begin(car: CarSpec, track: Track, s: Float[np.ndarray, " points"], speed: Float[np.ndarray, " all"]) -> np.ndarray:
    """Where the search begins: on the centre line, at speeds that tyres and engine allow, more or less."""
    curvature, speed = (np.interp(s, track.s, each, period=track.length) for each in (track.curvature, 0.9 * speed))
    begun = np.zeros((_ROWS, len(s)))
    begun[_VX], begun[_TURN] = speed, speed * curvature
    begun[_STEER] = curvature * (car.front + car.rear)
    begun[_AY] = speed**2 * curvature
    begun[_AX] = speed * np.gradient(speed, s)
    return begun
