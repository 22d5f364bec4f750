"""The simulator beside what can be known without it: top speed, braking and a skid pad by algebra, a drive at the limit by finer steps in
doubles, and the same drive in a mirror."""

from dataclasses import replace

import casadi
import numpy as np
import pytest
from scipy.optimize import brentq

from almanac.sophy.sim import car, dynamics, step

SPECS = [car.load(path.stem) for path in sorted(car.CARS.glob("*.toml"))]
FINE = 2000
"""Steps a second of the Runge-Kutta method."""
LIMITS = {  # what is asked at which second: steering (rad), throttle, brake
    "f1_2014": (80.0, [(0, 0, 0, 0), (0.2, 0, 0, 0.8), (1, 0, 0, 0.5), (1.6, 0, 0, 0.28), (2.2, 0.06, 0, 0.1),
                       (2.6, 0.065, 0.05, 0), (5, 0.065, 0.1, 0), (7, 0.05, 0.2, 0), (8, 0.03, 0.4, 0), (10, 0.01, 0.9, 0)]),
    "gt3": (60.0, [(0, 0, 0, 0), (0.2, 0, 0, 0.4), (1, 0, 0, 0.35), (1.6, 0, 0, 0.3), (2.2, 0.04, 0, 0.05),
                   (2.6, 0.065, 0.05, 0), (5, 0.075, 0.15, 0), (7, 0.06, 0.3, 0), (8, 0.04, 0.6, 0), (10, 0.01, 1, 0)]),
}  # fmt: skip


class Cars:
    """Cars of one kind on a level road, rolling at these speeds, m/s."""

    def __init__(self, spec: car.CarSpec, speeds):
        speeds = np.asarray(speeds, np.float32)
        self.numbers = step.numbers(spec)
        self.state = np.zeros((step.STATES, len(speeds)), np.float32)
        self.given = np.zeros((step.GIVEN, len(speeds)), np.float32)
        self.seen = np.zeros((step.SEEN, len(speeds)), np.float32)
        self.state[step.VX] = speeds
        self.state[step.SPIN : step.SPIN + 2] = speeds / spec.tyre_front.radius
        self.state[step.SPIN + 2 : step.SPIN + 4] = speeds / spec.tyre_rear.radius
        self.given[step.GRIP : step.GRIP + 4] = 1
        self.given[step.WEIGHT] = dynamics.GRAVITY
        self.given[[step.PRESSED, step.HELD, step.ENGAGED]] = 1

    def drive(self, steps: int = 1, **asked) -> "Cars":
        for name, value in asked.items():
            self.given[getattr(step, name)] = value
        step.advance(*self.numbers, self.state, self.given, self.seen, steps)
        return self


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_top_speed_is_where_all_power_goes_into_air_and_rolling(spec):
    numbers, drive = spec.equations(), spec.drive()
    cars = Cars(spec, [60.0]).drive(200 * step.RATE, THROTTLE_TO=1.0)
    spin = float(cars.state[step.SPIN + 2, 0])
    power = float(dynamics.full_power(drive.power, drive.gears, spin))
    resting, rising = spec.rolling * spec.mass * dynamics.GRAVITY, numbers.drag + spec.rolling * numbers.lift
    rim = spin * spec.tyre_rear.radius  # the driven tyres turn faster than the road
    known = brentq(lambda speed: power - (rising * speed**2 + resting) * rim, 10, 200)
    assert abs(cars.state[step.VX, 0] / known - 1) < 0.001
    assert 1 < rim / cars.state[step.VX, 0] < 1.03


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("speed", [35.0, 60.0])
def test_a_car_brakes_as_hard_as_four_tyres_at_their_peaks_hold_it(spec, speed):
    numbers = spec.equations()

    def peaks(ax: float, at: float) -> tuple[float, float]:
        """Most that the front and the rear axle hold, N."""
        front, _, rear, _ = dynamics.loads(numbers, at, ax, 0.0, dynamics.GRAVITY, 1.0, 1.0)
        tyres = (numbers.tyre_front, front), (numbers.tyre_rear, rear)
        return tuple(2 * dynamics.peaks(tyre, load)[0] * load for tyre, load in tyres)

    def hardest(at: float) -> float:
        held = (numbers.drag + spec.rolling * numbers.lift) * at**2 / numbers.mass + spec.rolling * dynamics.GRAVITY
        return brentq(lambda ax: sum(peaks(ax, at)) / numbers.mass + held + ax, -100, 0)

    speeds = np.linspace(0.5, 1, 50) * speed
    limits = np.array([-hardest(float(each)) for each in speeds])
    wheels = [
        axle * tyre.radius - 2 * tyre.inertia * hardest(speed) / tyre.radius  # the road, and their own turning
        for axle, tyre in zip(peaks(hardest(speed), speed), (spec.tyre_front, spec.tyre_rear), strict=True)
    ]
    most = 0.0
    for share in wheels[0] / sum(wheels) + np.linspace(-0.03, 0.03, 5):
        cars = Cars(
            replace(spec, abs=False, brake_torque=1.2 * sum(wheels), brake_front=float(share)), np.full(40, speed)
        )
        for _ in range(round(0.4 * step.RATE)):
            before = cars.state[step.VX].copy()
            cars.drive(1, BRAKE_TO=np.linspace(0.7, 0.9, 40))
            lost = (before - cars.state[step.VX]) * step.RATE
            most = max(most, float(np.max(lost / np.interp(before, speeds, limits))))
    assert abs(most - 1) < 0.01


@pytest.mark.parametrize("name", LIMITS)
def test_on_a_skid_pad_the_front_tyres_hold_what_they_can(name):
    """Of cars whose front tyres give way first, on a circle that tightens slowly at a speed that is held."""
    spec = replace(car.load(name), roll_front=0.8, differential=1e-3)
    numbers, speed, most = spec.equations(), 30.0, 0.0
    cars = Cars(spec, [speed])
    for frame in range(20 * 60):
        cars.drive(4, STEER_TO=0.2 * frame / 1200, THROTTLE_TO=np.clip(speed - cars.state[step.VX], 0, 0.5))
        vx, vy, turn = (float(cars.state[row, 0]) for row in (step.VX, step.VY, step.TURN))
        most = max(most, vx * turn / _held_by_front(numbers, float(np.hypot(vx, vy)), float(cars.state[step.STEER, 0])))
    assert abs(most - 1) < 0.01


def _held_by_front(numbers: dynamics.Car, speed: float, steering: float) -> float:
    """Acceleration across, m/s², at which the front tyres' peaks just balance their part of the car's weight, about the rear axle."""

    def left(ay: float) -> float:
        loads = dynamics.loads(numbers, speed, 0.0, ay, dynamics.GRAVITY, 1.0, 1.0)[:2]
        inner, outer = (dynamics.peaks(numbers.tyre_front, load)[1] * load for load in loads)
        lever = np.cos(steering) * (numbers.front + numbers.rear) * (inner + outer)
        back = np.sin(steering) * 0.5 * numbers.track_front * (outer - inner)  # steered wheels also pull backwards
        return float(lever - back - numbers.mass * ay * numbers.rear)

    return brentq(left, 0, 80)


@pytest.mark.parametrize("name", LIMITS)
def test_a_drive_at_the_limit_is_that_of_finer_steps(name):
    spec = car.load(name)
    speed, asked = LIMITS[name]
    times, *wishes = np.array(asked, float).T

    def at(seconds):
        return np.stack([np.interp(seconds, times, wish) for wish in wishes])

    start = np.zeros(12)
    start[3], start[6:8], start[8:10] = speed, speed / spec.tyre_front.radius, speed / spec.tyre_rear.radius
    fine = np.arange(10 * FINE) / FINE
    known = np.array(_finely(spec).mapaccum(10 * FINE)(start, at(fine), at(fine + 0.5 / FINE), at(fine + 1 / FINE)))
    ends = (np.arange(10 * step.RATE) + 1) / step.RATE
    known = np.stack([np.interp(ends, fine + 1 / FINE, row) for row in known])
    cars, found = Cars(spec, [speed]), []
    for steering, throttle, brake in at(ends).T:
        cars.drive(1, STEER_TO=steering, THROTTLE_TO=throttle, BRAKE_TO=brake)
        found.append(cars.state[:, 0].copy())
    found = np.stack(found, 1)
    assert known[11].max() > 15 and known[10].min() < -10  # m/s² across and ahead
    assert np.hypot(*(found[:2] - known[:2])).max() < 0.3
    assert np.hypot(*(found[[step.VX, step.VY]] - known[3:5])).max() < 0.2


def _finely(spec: car.CarSpec) -> casadi.Function:
    """A step of Runge and Kutta of the fourth order, in doubles: of place, heading, speeds, turning, four wheels and smoothed
    accelerations, with what is asked at its beginning, middle and end."""
    numbers, drive = spec.equations(), spec.drive()
    state, asked = casadi.SX.sym("state", 12), casadi.SX.sym("asked", 3)
    _, _, yaw, vx, vy, turn, *spins, ax, ay = casadi.vertsplit(state)
    steering, throttle, brake = casadi.vertsplit(asked)
    sine, cosine = casadi.sin(steering), casadi.cos(steering)
    loads = dynamics.loads(numbers, vx, ax, ay, dynamics.GRAVITY, 1.0, 1.0)
    radii = 2 * (drive.radius_front,) + 2 * (drive.radius_rear,)
    slips = []
    for at, (spin, load, radius) in enumerate(zip(spins, loads, radii, strict=True)):
        front, left = at < 2, 0.5 if at % 2 == 0 else -0.5
        place = (numbers.front, left * numbers.track_front) if front else (-numbers.rear, left * numbers.track_rear)
        along, _ = dynamics.wheel_velocity(vx, vy, turn, *place, *((sine, cosine) if front else (0.0, 1.0)))
        tyre = numbers.tyre_front if front else numbers.tyre_rear
        slips.append((spin * radius - along) / along / dynamics.peaks(tyre, load)[2])
    forces, along = dynamics.slipping(numbers, vx, vy, turn, sine, cosine, tuple(slips), loads, dynamics.FULL_GRIP)
    gain, side, turning = dynamics.body(numbers, forces, loads, vx, vy, 1.0, dynamics.ASPHALT)
    front, rear = brake * drive.brake_front, brake * drive.brake_rear
    left, right = dynamics.drive_torques(drive, throttle, spins[2], spins[3])
    torques = (-front, -front, left - rear, right - rear)
    inertias = 2 * (drive.inertia_front,) + 2 * (drive.inertia_rear,)
    rates = casadi.vertcat(
        vx * casadi.cos(yaw) - vy * casadi.sin(yaw),
        vx * casadi.sin(yaw) + vy * casadi.cos(yaw),
        turn,
        gain + turn * vy,
        side - turn * vx,
        turning,
        *(
            (each - radius * force) / own
            for each, radius, force, own in zip(torques, radii, along, inertias, strict=True)
        ),
        (gain - ax) / 0.05,
        (side - ay) / 0.05,
    )
    rate = casadi.Function("rate", [state, asked], [rates])
    begin, middle, end = (casadi.SX.sym(name, 3) for name in ("begin", "middle", "end"))
    first = rate(state, begin)
    second = rate(state + 0.5 / FINE * first, middle)
    third = rate(state + 0.5 / FINE * second, middle)
    fourth = rate(state + 1 / FINE * third, end)
    after = state + (first + 2 * second + 2 * third + fourth) / (6 * FINE)
    return casadi.Function("step", [state, begin, middle, end], [after])


@pytest.mark.parametrize("name", LIMITS)
def test_left_is_right_in_a_mirror(name):
    speed, asked = LIMITS[name]
    times, *wishes = np.array(asked, float).T
    cars, most = Cars(car.load(name), [speed, speed]), 0.0
    odd = [step.Y, step.YAW, step.VY, step.TURN, step.STEER, step.AY]
    even = [step.X, step.VX, step.AX, step.THROTTLE]
    for frame in range(600):
        steering, throttle, brake = (np.interp(frame / 60, times, wish) for wish in wishes)
        cars.drive(4, STEER_TO=(steering, -steering), THROTTLE_TO=throttle, BRAKE_TO=brake)
        most = max(most, abs(cars.state[step.AY, 0]))
        assert np.allclose(cars.state[odd, 0], -cars.state[odd, 1], rtol=1e-5, atol=1e-5)
        assert np.allclose(cars.state[even, 0], cars.state[even, 1], rtol=1e-5, atol=1e-5)
        spins = cars.state[step.SPIN : step.SPIN + 4]
        assert np.allclose(spins[:, 0], spins[[1, 0, 3, 2], 1], rtol=1e-5, atol=1e-5 * spins.max())
    assert most > 15  # m/s²: at the limit of grip


def test_the_gear_with_the_most_power_is_in():
    spec = car.load("gt3")
    gears, drive = spec.gears, spec.drive()
    spins = np.linspace(drive.slowest, gears.speeds[-1] / min(gears.ratios), 400)
    found = dynamics.full_power(drive.power, drive.gears, spins)
    assert found.max() < 1.005 * spec.power and found[100:].min() > 0.9 * spec.power
    for speed, power in zip(gears.speeds, gears.powers, strict=True):
        for ratio in gears.ratios:
            assert dynamics.full_power(drive.power, drive.gears, speed / ratio) > power - 1
    first, last = max(gears.ratios), min(gears.ratios)
    assert abs(sum(dynamics.drive_torques(drive, 1.0, 0.0, 0.0)) - first * gears.powers[0] / gears.speeds[0]) < 1e-6
    assert dynamics.full_power(drive.power, drive.gears, 1.03 * gears.speeds[-1] / last) == 0


def test_a_car_with_aids_brakes_and_pulls_away_better_than_one_without():
    aided = car.load("gt3")
    plain = replace(aided, abs=False, traction=False)
    stopping, going = [], []
    for spec in (aided, plain):
        cars = Cars(spec, [60.0]).drive(2 * step.RATE, BRAKE_TO=1.0)
        stopping.append(float(cars.state[step.VX, 0]))
        locked = abs(cars.state[step.SPIN : step.SPIN + 4, 0]).min() < 1
        assert locked == (spec is plain)
        going.append(float(Cars(spec, [3.0]).drive(2 * step.RATE, THROTTLE_TO=1.0).state[step.VX, 0]))
    assert stopping[0] < stopping[1] - 2 and going[0] > going[1] + 1


@pytest.mark.parametrize("differential", [20.0, 2000.0])
def test_a_differential_evens_its_wheels_and_swings_at_no_tightness(differential):
    cars = Cars(replace(car.load("f1_2014"), differential=differential), [50.0])
    cars.state[step.SPIN + 2] += 5.0
    cars.given[step.GRIP : step.GRIP + 4] = 0.0  # nothing else evens them
    apart = [5.0]
    for _ in range(120):
        cars.drive()
        apart.append(float(cars.state[step.SPIN + 2, 0] - cars.state[step.SPIN + 3, 0]))
    assert np.all(np.diff(apart) <= 1e-4) and min(apart) > -0.01 and abs(apart[-1]) < 0.05
