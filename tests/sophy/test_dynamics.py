"""A car's equations: those of the published optimal laps, the same left and right, and the same for whatever numbers they are given."""

import math

import casadi
import numpy as np
import pytest
import torch
from numba import njit

from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.sophy import lap
from almanac.sophy.sim import car, dynamics, ops

F1 = car.load("f1_2014")
NUMBERS = F1.equations()
LAPS = ("f1_optimal_laptime_catalunya_adapted.xml", "f1_optimal_laptime_catalunya_3d.xml")


@pytest.mark.parametrize("name", LAPS)
def test_the_published_optimal_laps_obey_the_equations(name, needs_data):
    needs_data("racing")
    path = hub.data("racing") / "fastest_lap" / "reference_laps" / name
    driven = lap.read(path)
    found = lap.residuals(F1, driven, lap.track_of(driven, path))
    assert found["dvx"] < 0.1 and found["dvy"] < 0.3 and found["dr"] < 0.05
    assert found["dvx_signal"] > 10 and found["dvy_signal"] > 3 and found["dr_signal"] > 0.5


def test_loads_are_those_of_the_published_lap(needs_data):
    needs_data("racing")
    driven = lap.read(hub.data("racing") / "fastest_lap" / "reference_laps" / LAPS[0])
    weight = NUMBERS.mass * dynamics.GRAVITY
    change = [np.gradient(each, driven.time) for each in (driven.vx, driven.vy)]
    ax, ay = change[0] - driven.vy * driven.yaw_rate, change[1] + driven.vx * driven.yaw_rate
    found = np.stack(dynamics.loads(NUMBERS, driven.vx, ax, ay, dynamics.GRAVITY, 1.0, 1.0)) / weight
    assert np.sqrt(np.mean((found - driven.load) ** 2)) < 0.02  # of the car's weight


def test_engine_differential_and_brakes_are_those_of_the_published_lap(needs_data):
    needs_data("racing")
    driven = lap.read(hub.data("racing") / "fastest_lap" / "reference_laps" / LAPS[0])
    loads, moving = tuple(driven.load * NUMBERS.mass * dynamics.GRAVITY), (driven.vx, driven.vy, driven.yaw_rate)
    steered = np.sin(driven.steering), np.cos(driven.steering)
    _, along = dynamics.slipping(NUMBERS, *moving, *steered, tuple(driven.slip), loads, dynamics.FULL_GRIP)
    radii = F1.tyre_front.radius, F1.tyre_rear.radius
    spins = dynamics.spins(NUMBERS, radii, *moving, *steered, tuple(driven.slip), loads)
    held = [force * tyre.radius for force, tyre in zip(along, [F1.tyre_front] * 2 + [F1.tyre_rear] * 2, strict=True)]
    drive = F1.drive()
    left, right = dynamics.drive_torques(drive, driven.pedal, spins[2], spins[3])
    accelerates, brakes = driven.pedal > 0.05, driven.pedal < -0.05
    for torque, asked in ((held[2], left), (held[3], right)):
        assert np.abs(torque - asked)[accelerates].max() < 0.01 * np.abs(asked).max()
    for torque, most in ((held[0], drive.brake_front), (held[1], drive.brake_front)):
        assert np.abs(torque - driven.pedal * most)[brakes].max() < 0.01 * most
    assert np.abs(held[2] + held[3] - 2 * driven.pedal * drive.brake_rear)[brakes].max() < 0.01 * drive.brake_rear


def moved(vx, vy, yaw_rate, steering, slips):
    """What becomes of a car in a state: loads, and accelerations."""
    press = dynamics.loads(
        NUMBERS, vx, ops.real(-3.0), ops.real(0.4) * yaw_rate * vx, ops.real(9.81), ops.real(1.0), ops.real(1.0)
    )
    sine, cosine = ops.sin(steering), ops.cos(steering)
    forces = (
        wheel(vx, vy, yaw_rate, NUMBERS.front, 0.73, sine, cosine, press[0], slips[0]),
        wheel(vx, vy, yaw_rate, NUMBERS.front, -0.73, sine, cosine, press[1], slips[1]),
        wheel(vx, vy, yaw_rate, -NUMBERS.rear, 0.73, ops.real(0.0), ops.real(1.0), press[2], slips[2]),
        wheel(vx, vy, yaw_rate, -NUMBERS.rear, -0.73, ops.real(0.0), ops.real(1.0), press[3], slips[3]),
    )
    ground = ops.real(0.0), ops.real(0.0), ops.real(0.0), ops.real(0.0)
    return press, dynamics.body(NUMBERS, forces, press, vx, vy, ops.real(1.0), ground)


def wheel(vx, vy, yaw_rate, ahead, left, sine, cosine, load, slip):
    along, across = dynamics.wheel_velocity(vx, vy, yaw_rate, ops.real(ahead), ops.real(left), sine, cosine)
    angle = dynamics.slip_angle(along, across) / dynamics.peaks(NUMBERS.tyre_front, load)[3]
    return dynamics.turned(*dynamics.tyre_force(NUMBERS.tyre_front, load, slip, angle, ops.real(1.0)), sine, cosine)


def test_left_is_right_in_a_mirror():
    rng = np.random.default_rng(0)
    vx, vy, yaw, steer = rng.uniform(10, 90, 50), *(rng.uniform(-0.3, 0.3, (3, 50)))
    slips = rng.uniform(-1, 1, (4, 50))
    press, (ax, ay, turning) = moved(vx, vy, yaw, steer, slips)
    mirrored, (bx, by, turned) = moved(vx, -vy, -yaw, -steer, slips[[1, 0, 3, 2]])
    for one, other in zip(
        (*press, ax, ay, turning), (mirrored[1], mirrored[0], mirrored[3], mirrored[2], bx, -by, -turned), strict=True
    ):
        assert np.allclose(one, other, rtol=1e-12, atol=1e-9)


def test_all_numbers_give_the_same():
    state = (61.0, -0.4, 0.3, 0.05)
    slips = (-0.2, -0.1, 0.3, 0.25)
    press, moving = moved(*state, slips)
    exact = np.array([*press, *moving])
    arrays = moved(*(np.full(3, each) for each in state), [np.full(3, each) for each in slips])
    assert all(np.allclose(found, value) for found, value in zip((*arrays[0], *arrays[1]), exact, strict=True))

    tensors = [torch.tensor([each], dtype=torch.float64, requires_grad=True) for each in state]
    found = moved(*tensors, [torch.tensor([each], dtype=torch.float64) for each in slips])
    assert np.allclose([each.item() for each in (*found[0], *found[1])], exact)
    found[1][2].sum().backward()
    step = 1e-5
    steered = [moved(*state[:3], state[3] + sign * step, slips)[1][2] for sign in (1, -1)]
    assert math.isclose(tensors[3].grad.item(), (steered[0] - steered[1]) / (2 * step), rel_tol=1e-5)

    symbols = casadi.SX.sym("state", 8)
    made = moved(*casadi.vertsplit(symbols[:4]), casadi.vertsplit(symbols[4:]))
    function = casadi.Function("moved", [symbols], [casadi.vertcat(*made[0], *made[1])])
    assert np.allclose(np.array(function([*state, *slips])).ravel(), exact)


def test_compiled_loops_compute_the_same():
    tyre = NUMBERS.tyre_front

    @njit(fastmath=True, error_model="numpy")
    def compiled(tyre, x, y):
        for i in range(len(x)):
            along, across = dynamics.tyre_force(tyre, np.float32(4000), x[i], y[i], np.float32(1))
            x[i], y[i] = along, across

    slips, angles = np.random.default_rng(1).uniform(-3, 3, (2, 500)).astype(np.float32)
    exact = dynamics.tyre_force(tyre, 4000.0, slips.astype(float), angles.astype(float), 1.0)
    compiled(dynamics.Tyre(*map(np.float32, tyre)), slips, angles)
    assert np.abs(slips - exact[0]).max() < 0.05 and np.abs(angles - exact[1]).max() < 0.05  # N, of 7,000

    @njit(fastmath=True)
    def waves(x, out):
        for i in range(len(x)):
            out[0, i], out[1, i], out[2, i] = ops.sin(x[i]), ops.cos(x[i]), ops.atan(x[i])

    x = np.linspace(-20, 20, 4001).astype(np.float32)
    out = np.empty((3, len(x)), np.float32)
    waves(x, out)
    assert np.abs(out - np.stack((np.sin(x), np.cos(x), np.arctan(x)))).max() < 3e-6


def test_cars_of_both_layouts_are_the_same_and_damaged_ones_are_refused(tmp_path, needs_data):
    text = (car.CARS / "f1_2014.toml").read_text()
    for change, said in (
        (("mass = 660", "mass = -1"), "mass -1"),
        (("mass = 660", "mass = nan"), "mass nan"),
        (("mass = 660", 'mass = "660"'), "mass 660"),
        (("mass = 660", ""), "no mass"),
        (("mass = 660", "mass = 660\nweight = 3"), "unknown weight"),
        (("roll_front = 0.5", "roll_front = 1.5"), "roll_front 1.5"),
        (("[tyre_rear]", "[tyre_middle]"), "unknown tyre_middle|no tyre_rear"),
        (("load_2 = 6000", "load_2 = 2000"), "both loads"),
        (("mass = 660", "mass = "), "can't be read"),
    ):
        (tmp_path / "car.toml").write_text(text.replace(*change))
        with pytest.raises(UserError, match=said):
            car.load(str(tmp_path / "car.toml"))
    text = (car.CARS / "gt3.toml").read_text()
    for change, said in (
        (("abs = true", "abs = 1"), "abs 1"),
        (("[11.3, ", "[-11.3, "), "ratios"),
        (("[314, 576", "[576, 314"), "speeds"),
        (("[122000, ", "["), "powers"),
        (("[122000, ", "[nan, "), "powers nan"),
        (("[gears]", "[gears]\nclutch = 1"), "unknown clutch"),
        (("mu_x_2 = 1.50", "mu_x_2 = 0.80"), "at twice load_2"),
    ):
        (tmp_path / "car.toml").write_text(text.replace(*change))
        with pytest.raises(UserError, match=said):
            car.load(str(tmp_path / "car.toml"))
    with pytest.raises(UserError, match="no car 'f1_2015'"):
        car.load("f1_2015")
    needs_data("racing")
    vehicles = hub.data("racing") / "fastest_lap" / "vehicles"
    other = car.load(str(vehicles / "limebeer-2014-f1.xml")).equations()
    for mine, its in zip(NUMBERS, other, strict=True):
        assert np.allclose(mine, its, rtol=1e-6)
    assert {car.load(str(each)).mass for each in vehicles.glob("*.xml")} == {660, 746, 795}
