"""How a car moves: four tyres whose grip is shared between along and across, load that moves between them, air, and a rigid body on three
degrees of freedom (Perantoni and Limebeer 2014, §2). Written once in `ops`, so that the compiled simulator, the optimal lap and anyone
who wants gradients compute the same.

x is ahead, y to the left, angles turn left; wheels are front left, front right, rear left, rear right."""

from typing import Any, NamedTuple

from almanac.sophy.sim.ops import absolute, atan, cos, maximum, real, shared, sin, sqrt

GRAVITY = 9.81
"""m/s²."""


class Tyre(NamedTuple):
    """A tyre (paper, appendix). What depends on load has two values, at `load_1` and `load_2`, and is linear between and
    beyond, up to twice `load_2`."""

    load_1: Any
    """N."""
    load_2: Any
    mu_x_1: Any
    """Grip along, at its peak: force over load."""
    mu_x_2: Any
    mu_y_1: Any
    """Grip across."""
    mu_y_2: Any
    slip_1: Any
    """Slip ratio near which grip along peaks."""
    slip_2: Any
    angle_1: Any
    """Slip angle near which grip across peaks, rad."""
    angle_2: Any
    shape: Any
    """Q: by how much grip falls beyond its peak."""
    stretch: Any
    """S = π / (2 atan Q)."""


@shared
def peaks(tyre: Tyre, load: Any) -> tuple[Any, Any, Any, Any]:
    """Grip along and across at its peak, and slip ratio and slip angle near it, under a load in N."""
    pressed = -maximum(-load, real(-2.0) * tyre.load_2)  # beyond, the line would end below zero
    part = (pressed - tyre.load_1) / (tyre.load_2 - tyre.load_1)
    return (
        tyre.mu_x_1 + part * (tyre.mu_x_2 - tyre.mu_x_1),
        tyre.mu_y_1 + part * (tyre.mu_y_2 - tyre.mu_y_1),
        tyre.slip_1 + part * (tyre.slip_2 - tyre.slip_1),
        tyre.angle_1 + part * (tyre.angle_2 - tyre.angle_1),
    )


@shared
def tyre_force(tyre: Tyre, load: Any, slip: Any, angle: Any, grip: Any) -> tuple[Any, Any]:
    """Force of the road on a tyre, N: along and across.

    Args:
        tyre: the tyre.
        load: N.
        slip: slip ratio as a part of that near the peak.
        angle: slip angle as a part of that near the peak; positive: pushed to the left.
        grip: of the ground, as a part of asphalt's.
    """
    mu_x, mu_y, _, _ = peaks(tyre, load)
    size = sqrt(slip * slip + angle * angle + real(1e-9))
    part = grip * load * sin(tyre.shape * atan(tyre.stretch * size)) / size
    return mu_x * part * slip, mu_y * part * angle


class Car(NamedTuple):
    """A car's numbers. Lengths are measured from its centre of gravity."""

    mass: Any
    """kg, with its driver."""
    yaw_inertia: Any
    """kg m²."""
    front: Any
    """To the front axle, m."""
    rear: Any
    """To the rear axle."""
    track_front: Any
    """Between the front wheels, m."""
    track_rear: Any
    height: Any
    """Of the centre of gravity above the road, m."""
    roll_front: Any
    """Share of the front axle in what load moves across."""
    drag: Any
    """½ ρ c_d A: N for (m/s)²."""
    lift: Any
    """½ ρ c_l A, pressing down."""
    lift_ahead: Any
    """Where air presses: m ahead of the centre of gravity."""
    drag_height: Any
    """Where it holds back: m above the road."""
    rolling: Any
    """Rolling resistance, as a part of the load."""
    tyre_front: Tyre
    tyre_rear: Tyre


class Gears(NamedTuple):
    """An engine that drives through gears, of which that with the most power is always in."""

    ratios: tuple[Any, ...]
    """Of the engine's speed to the wheels'."""
    slowest: Any
    """Of the engine, rad/s; its clutch slips below."""
    fastest: Any
    """rad/s from which it is held back; it gives nothing 2 % beyond."""
    curve: tuple[Any, Any, Any, Any]
    """Power at the wheels, W: factors of its speed's powers, as a part of the fastest, from none to the third."""


class Drive(NamedTuple):
    """What turns the wheels."""

    power: Any
    """W, at its peak."""
    slowest: Any
    """rad/s of the driven wheels, below which torque rises no more."""
    gears: Gears | None
    """None: the peak's power at any speed, as if gears had no steps."""
    differential: Any
    """N m s/rad."""
    brake_front: Any
    """N m, of a front wheel at full pedal."""
    brake_rear: Any
    abs: Any
    """Whether it has it, 0 or 1: brakes are held back from slipping."""
    traction: Any
    """Likewise for the throttle."""
    steering_rate: Any
    """rad/s."""
    radius_front: Any
    """m."""
    radius_rear: Any
    inertia_front: Any
    """kg m²."""
    inertia_rear: Any


@shared
def full_power(power: Any, gears: Gears | None, spin: Any) -> Any:
    """Power at full throttle, W.

    Args:
        power: at its peak.
        gears: of `Drive`.
        spin: of the driven wheels, rad/s.
    """
    if gears is None:
        return power
    found = real(0.0) * spin
    none, once, twice, thrice = gears.curve
    for ratio in gears.ratios:
        speed = maximum(ratio * spin, gears.slowest) / gears.fastest
        held = maximum(real(1.0) - maximum(speed - real(1.0), 0.0) * real(50.0), 0.0)
        found = maximum(held * (none + speed * (once + speed * (twice + speed * thrice))), found)
    return found


@shared
def drive_torques(drive: Drive, throttle: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """What engine and differential turn the driven wheels by, N m: of the left and of the right.

    Args:
        drive: the car's.
        throttle: 0 to 1.
        left: how fast it turns, rad/s.
        right: likewise.
    """
    spin = maximum(real(0.5) * (left + right), drive.slowest)
    driven = real(0.5) * throttle * full_power(drive.power, drive.gears, spin) / spin
    apart = real(0.5) * drive.differential * (left - right)
    return driven - apart, driven + apart


@shared
def loads(car: Car, speed: Any, ax: Any, ay: Any, weight: Any, pressed: Any, held: Any) -> tuple[Any, Any, Any, Any]:
    """Loads of the four wheels, N, none below zero.

    Args:
        car: the car.
        speed: m/s, through the air.
        ax: what tyres and air accelerate it by, ahead, m/s².
        ay: to the left.
        weight: what presses it onto the road, m/s²: gravity, and more in a dip.
        pressed: downforce, as a part of that in still air.
        held: drag, likewise.
    """
    base = car.front + car.rear
    square = speed * speed
    down = pressed * car.lift * square
    back = (car.mass * ax * car.height + held * car.drag * square * car.drag_height) / base
    front = (car.mass * weight * car.rear + down * (car.rear + car.lift_ahead)) / base - back
    rear = car.mass * weight + down - front
    across = car.mass * ay * car.height
    front_across = car.roll_front * across / car.track_front
    rear_across = (real(1.0) - car.roll_front) * across / car.track_rear
    return (
        maximum(real(0.5) * front - front_across, 0.0),
        maximum(real(0.5) * front + front_across, 0.0),
        maximum(real(0.5) * rear - rear_across, 0.0),
        maximum(real(0.5) * rear + rear_across, 0.0),
    )


@shared
def wheel_velocity(vx: Any, vy: Any, yaw_rate: Any, ahead: Any, left: Any, sine: Any, cosine: Any) -> tuple[Any, Any]:
    """Velocity of a wheel's contact, m/s, along the wheel and across to its left.

    Args:
        vx: of the car, ahead, m/s.
        vy: to the left.
        yaw_rate: rad/s.
        ahead: where the wheel is, m ahead of the centre of gravity.
        left: to its left.
        sine: of the wheel's steering angle.
        cosine: of it.
    """
    x, y = vx - yaw_rate * left, vy + yaw_rate * ahead
    return x * cosine + y * sine, y * cosine - x * sine


@shared
def slip_angle(along: Any, across: Any) -> Any:
    """Of a wheel that moves so, rad; positive: the road pushes it to the left."""
    return -atan(across / along)


@shared
def turned(along: Any, across: Any, sine: Any, cosine: Any) -> tuple[Any, Any]:
    """A wheel's forces, ahead and to the left of the car."""
    return along * cosine - across * sine, along * sine + across * cosine


@shared
def slipping(
    car: Car, vx: Any, vy: Any, yaw_rate: Any, sine: Any, cosine: Any, slips: tuple, loads: tuple, grips: tuple
) -> tuple[tuple, tuple]:
    """Forces of the road on wheels whose slip ratios are known, N: of each ahead and to the left of the car, and along each wheel.

    Args:
        car: the car.
        vx: ahead, m/s.
        vy: to the left.
        yaw_rate: rad/s.
        sine: of the steering angle.
        cosine: of it.
        slips: slip ratios, as parts of those near the peaks.
        loads: N.
        grips: of the ground at each wheel, as parts of asphalt's, as in `FULL_GRIP`.
    """
    left, right = real(0.5) * car.track_front, real(0.5) * car.track_rear
    fl, fl_along = _slipping(
        car.tyre_front, vx, vy, yaw_rate, car.front, left, sine, cosine, slips[0], loads[0], grips[0]
    )
    fr, fr_along = _slipping(
        car.tyre_front, vx, vy, yaw_rate, car.front, -left, sine, cosine, slips[1], loads[1], grips[1]
    )
    rl, rl_along = _slipping(car.tyre_rear, vx, vy, yaw_rate, -car.rear, right, 0.0, 1.0, slips[2], loads[2], grips[2])
    rr, rr_along = _slipping(car.tyre_rear, vx, vy, yaw_rate, -car.rear, -right, 0.0, 1.0, slips[3], loads[3], grips[3])
    return (fl, fr, rl, rr), (fl_along, fr_along, rl_along, rr_along)


@shared
def _slipping(tyre, vx, vy, yaw_rate, ahead, left, sine, cosine, slip, load, grip):
    along, across = wheel_velocity(vx, vy, yaw_rate, ahead, left, sine, cosine)
    angle = slip_angle(along, across) / peaks(tyre, load)[3]
    force, side = tyre_force(tyre, load, slip, angle, grip)
    return turned(force, side, sine, cosine), force


def spins(
    car: Car, radii: tuple, vx: Any, vy: Any, yaw_rate: Any, sine: Any, cosine: Any, slips: tuple, loads: tuple
) -> list[Any]:
    """How fast wheels turn whose slip ratios are known, rad/s.

    Args:
        car: the car.
        radii: of the front wheels and of the rear ones, m.
        vx: ahead, m/s.
        vy: to the left.
        yaw_rate: rad/s.
        sine: of the steering angle.
        cosine: of it.
        slips: slip ratios, as parts of those near the peaks.
        loads: N.
    """
    left, right = 0.5 * car.track_front, 0.5 * car.track_rear
    places = (car.front, left), (car.front, -left), (-car.rear, right), (-car.rear, -right)
    found = []
    for wheel, (place, slip, load) in enumerate(zip(places, slips, loads, strict=True)):
        tyre, radius, turned = (
            (car.tyre_front, radii[0], (sine, cosine)) if wheel < 2 else (car.tyre_rear, radii[1], (0.0, 1.0))
        )
        along, _ = wheel_velocity(vx, vy, yaw_rate, *place, *turned)
        found.append(along * (1 + slip * peaks(tyre, load)[2]) / radius)
    return found


FULL_GRIP = (1.0, 1.0, 1.0, 1.0)
"""Of asphalt, at each wheel."""
ASPHALT = (0.0, 0.0, 0.0, 0.0)
"""What it holds back at each wheel, as a part of its load, beside the car's own rolling resistance: nothing."""


@shared
def body(car: Car, forces: tuple, loads: tuple, vx: Any, vy: Any, held: Any, ground: tuple) -> tuple[Any, Any, Any]:
    """What tyres, rolling and air do to a car: acceleration ahead and to the left, m/s², and of its yaw, rad/s².

    Args:
        car: the car.
        forces: of each wheel, ahead and to the left of the car, N.
        loads: N.
        vx: ahead, m/s, also through the air.
        vy: to the left.
        held: drag, as a part of that in still air.
        ground: what it holds back at each wheel, as in `ASPHALT`.
    """
    (fl_x, fl_y), (fr_x, fr_y), (rl_x, rl_y), (rr_x, rr_y) = forces
    (fl_held, fr_held, rl_held, rr_held), (fl, fr, rl, rr) = ground, loads
    drag = held * car.drag * vx * absolute(vx)
    rolling = car.rolling * ((fl + fr) + (rl + rr)) + ((fl_held * fl + fr_held * fr) + (rl_held * rl + rr_held * rr))
    slowed = rolling / (car.mass * maximum(sqrt(vx * vx + vy * vy), 1.0))
    turning = (
        car.front * (fl_y + fr_y)
        - car.rear * (rl_y + rr_y)
        + real(0.5) * (car.track_front * (fr_x - fl_x) + car.track_rear * (rr_x - rl_x))
    )
    return (
        ((fl_x + fr_x) + (rl_x + rr_x) - drag) / car.mass - slowed * vx,
        ((fl_y + fr_y) + (rl_y + rr_y)) / car.mass - slowed * vy,
        turning / car.yaw_inertia,
    )


@shared
def weight(slope: Any, bank: Any, dip: Any, vx: Any, yaw_rate: Any) -> Any:
    """What presses a car onto a road, m/s²: gravity, more in a dip and in a banked bend, less on a crest.

    Args:
        slope: of the road in its own direction, rad, uphill.
        bank: rad, left side higher.
        dip: change of slope, rad/m.
        vx: of the car, m/s.
        yaw_rate: of the car, rad/s.
    """
    return real(GRAVITY) * cos(slope) * cos(bank) + dip * vx * vx - sin(bank) * yaw_rate * vx


@shared
def slope_gravity(slope: Any, bank: Any, sine: Any, cosine: Any) -> tuple[Any, Any]:
    """What a road's slope does to a car, m/s², ahead of it and to its left.

    Args:
        slope: of the road in its own direction, rad, uphill.
        bank: rad, left side higher.
        sine: of the car's angle to the road.
        cosine: of it.
    """
    along, across = -real(GRAVITY) * sin(slope), -real(GRAVITY) * cos(slope) * sin(bank)
    return along * cosine + across * sine, across * cosine - along * sine
