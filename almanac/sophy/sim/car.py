"""Cars as data: what is known of one, in files of ours (`cars/*.toml`), of fastest-lap (.xml) or of TUMFTM's laptime-simulation (.ini), and
the numbers that its equations take."""

import configparser
import json
import math
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from almanac.runtime.errors import UserError
from almanac.sophy.sim import dynamics

CARS = Path(__file__).parents[1] / "cars"
"""The cars that ship."""
_SLOWEST_TURN = 20.0
"""rad/s of the driven wheels below which an engine without gears gives no more torque."""

_LIGHTEST = 0.7
"""kg m² of a wheel that a file gives no inertia: lighter ones are locked before a driver of ten decisions a second can do anything."""
_EVENS = 200.0
"""1/s by which a differential evens its wheels' speeds at most: one that is tighter would swing in steps of 1/240 s, and is as good as
locked."""


@dataclass(frozen=True)
class TyreSpec:
    """A tyre, and the wheel in it."""

    load_1: float
    """Loads at which grip was measured, N."""
    load_2: float
    mu_x_1: float
    """Grip along at its peak, at the first load: force over load."""
    mu_x_2: float
    mu_y_1: float
    """Grip across."""
    mu_y_2: float
    slip_1: float
    """Slip ratio near the peak."""
    slip_2: float
    angle_1: float
    """Slip angle near the peak, rad."""
    angle_2: float
    shape: float
    """Q of Perantoni and Limebeer 2014: by how much grip falls beyond its peak."""
    radius: float
    """m."""
    inertia: float
    """Of the wheel and what turns with it, kg m²."""

    def equations(self) -> dynamics.Tyre:
        """The numbers of its equations."""
        stretch = math.pi / (2 * math.atan(self.shape))
        known = {name: getattr(self, name) for name in dynamics.Tyre._fields if name != "stretch"}
        return dynamics.Tyre(**known, stretch=stretch)


@dataclass(frozen=True)
class GearSpec:
    """An engine and its gears, which change by themselves to where its power is the most."""

    ratios: tuple[float, ...]
    """Of the engine's speed to the wheels'."""
    speeds: tuple[float, ...]
    """Four of the engine's speeds, rad/s: below the first its clutch slips, beyond the last it is held back."""
    powers: tuple[float, ...]
    """Its power at the wheels there, W, at full throttle."""

    def equations(self) -> dynamics.Gears:
        """The numbers of its equations."""
        fastest = self.speeds[-1]
        curve = np.polynomial.Polynomial.fit(np.array(self.speeds) / fastest, self.powers, 3, domain=[-1, 1]).coef
        none, once, twice, thrice = curve.tolist()
        return dynamics.Gears(self.ratios, self.speeds[0], fastest, (none, once, twice, thrice))


@dataclass(frozen=True)
class CarSpec:
    """A car."""

    name: str
    source: str
    """Where its numbers are from."""
    length: float
    """m."""
    width: float
    mass: float
    """kg, with its driver."""
    yaw_inertia: float
    """kg m²."""
    front: float
    """From the centre of gravity to the front axle, m."""
    rear: float
    """To the rear axle."""
    track_front: float
    """Between the front wheels, m."""
    track_rear: float
    height: float
    """Of the centre of gravity, m."""
    roll_front: float
    """Share of the front axle in what load moves across."""
    area: float
    """Frontal, m²."""
    drag: float
    """Coefficient of drag."""
    lift: float
    """Coefficient of downforce."""
    lift_ahead: float
    """Where air presses, m ahead of the centre of gravity."""
    power: float
    """W, at its peak."""
    brake_torque: float
    """N m, of all wheels together, at full pedal."""
    brake_front: float
    """Share of the front wheels in it."""
    differential: float
    """N m s/rad: what it takes for the driven wheels to turn at different speeds (a viscous limited slip)."""
    steering: float
    """rad, of the front wheels at most."""
    steering_rate: float
    """rad/s."""
    tyre_front: TyreSpec
    tyre_rear: TyreSpec
    air: float = 1.2
    """Density, kg/m³."""
    drag_height: float = 0.0
    """Where air holds back, m above the road."""
    rolling: float = 0.0
    """Rolling resistance, as a part of the load."""
    abs: bool = False
    """Whether brakes are held back from slipping."""
    traction: bool = False
    """Whether the throttle is."""
    gears: GearSpec | None = None
    """None: its peak's power at any speed."""

    def drive(self) -> dynamics.Drive:
        """The numbers of what turns its wheels."""
        gears = None if self.gears is None else self.gears.equations()
        return dynamics.Drive(
            power=self.power,
            slowest=_SLOWEST_TURN if gears is None else gears.slowest / max(gears.ratios),
            gears=gears,
            differential=min(self.differential, _EVENS * self.tyre_rear.inertia),
            brake_front=0.5 * self.brake_front * self.brake_torque,
            brake_rear=0.5 * (1 - self.brake_front) * self.brake_torque,
            abs=float(self.abs),
            traction=float(self.traction),
            steering_rate=self.steering_rate,
            radius_front=self.tyre_front.radius,
            radius_rear=self.tyre_rear.radius,
            inertia_front=self.tyre_front.inertia,
            inertia_rear=self.tyre_rear.inertia,
        )

    def equations(self) -> dynamics.Car:
        """The numbers of its equations."""
        pressure = 0.5 * self.air * self.area
        return dynamics.Car(
            mass=self.mass,
            yaw_inertia=self.yaw_inertia,
            front=self.front,
            rear=self.rear,
            track_front=self.track_front,
            track_rear=self.track_rear,
            height=self.height,
            roll_front=self.roll_front,
            drag=pressure * self.drag,
            lift=pressure * self.lift,
            lift_ahead=self.lift_ahead,
            drag_height=self.drag_height,
            rolling=self.rolling,
            tyre_front=self.tyre_front.equations(),
            tyre_rear=self.tyre_rear.equations(),
        )


def load(name: str) -> CarSpec:
    """A car.

    Args:
        name: of one that ships, or a file: .toml as ours, fastest-lap's .xml, or TUMFTM's laptime-simulation's .ini.

    Raises:
        UserError: there is none of that name, or its file is damaged or not whole.
    """
    path = Path(name)
    shipped = CARS / f"{name.lower().replace(' ', '_')}.toml"
    if shipped.is_file() and not path.suffix:
        path = shipped
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in CARS.glob("*.toml")))
        raise UserError(f"there is no car '{name}'", f"known: {known}; or give a .toml, .xml or .ini file")
    try:
        reader = {".xml": _from_xml, ".ini": _from_ini}.get(path.suffix.lower(), _from_toml)
        facts = reader(path)
    except (OSError, ValueError, KeyError, TypeError, configparser.Error, ElementTree.ParseError) as error:
        raise UserError(f"{path} can't be read ({error})", "give a .toml file as in almanac/sophy/cars") from None
    return _checked(facts, path)


def _checked(facts: dict[str, Any], path: Path) -> CarSpec:
    """A car of facts, refused where they can't be."""
    tyres = {}
    for axle in ("tyre_front", "tyre_rear"):
        said = facts.get(axle)
        if not isinstance(said, dict):
            raise UserError(f"{path} has no {axle}", "a car has tyre_front and tyre_rear")
        tyres[axle] = TyreSpec(**_numbers(TyreSpec, said, f"{path}, {axle}"))
    parts: dict[str, Any] = dict(tyres)
    if "gears" in facts:
        said = facts["gears"] if isinstance(facts["gears"], dict) else {}
        parts["gears"] = _checked_gears(GearSpec(**_numbers(GearSpec, said, f"{path}, gears")), path)
    car = CarSpec(**_numbers(CarSpec, {**facts, **parts}, str(path)))
    positive = (
        "length",
        "width",
        "mass",
        "yaw_inertia",
        "front",
        "rear",
        "track_front",
        "track_rear",
        "height",
        "power",
    )
    for name in (*positive, "brake_torque", "steering", "steering_rate", "air"):
        if getattr(car, name) <= 0:
            raise UserError(f"{path} has {name} {getattr(car, name)}", "give a number above 0, in SI units")
    for axle, tyre in tyres.items():
        for each in fields(TyreSpec):
            if getattr(tyre, each.name) <= 0:
                raise UserError(f"{path} has {axle}.{each.name} {getattr(tyre, each.name)}", "give a number above 0")
        if tyre.load_1 == tyre.load_2:
            raise UserError(f"{path} has {axle} with both loads {tyre.load_1}", "give two loads")
        least = min(dynamics.peaks(tyre.equations(), 2 * tyre.load_2))
        if least <= 0:
            raise UserError(
                f"{path} has {axle} with grip or slip {least:.2f} at twice load_2", "let it fall more slowly"
            )
    for name in ("roll_front", "brake_front"):
        if not 0 <= getattr(car, name) <= 1:
            raise UserError(f"{path} has {name} {getattr(car, name)}", "give a share from 0 to 1")
    return car


def _checked_gears(gears: GearSpec, path: Path) -> GearSpec:
    """Gears, refused where they can't be."""
    if not gears.ratios or min(gears.ratios) <= 0:
        raise UserError(f"{path} has gears with ratios {list(gears.ratios)}", "give at least one, all above 0")
    if len(gears.speeds) != 4 or gears.speeds[0] <= 0 or list(gears.speeds) != sorted(set(gears.speeds)):
        raise UserError(f"{path} has gears with speeds {list(gears.speeds)}", "give four, rising, in rad/s")
    if len(gears.powers) != 4 or min(gears.powers) <= 0:
        raise UserError(f"{path} has gears with powers {list(gears.powers)}", "give four, above 0, in W")
    return gears


def _numbers(kind: type[Any], said: dict[str, Any], where: str) -> dict[str, Any]:
    """Facts of a dataclass: all that it needs, nothing that it does not know, and finite numbers."""
    known = {each.name: each for each in fields(kind)}
    strange = [name for name in said if name not in known]
    if strange:
        raise UserError(f"{where} has an unknown {strange[0]}", f"known: {', '.join(known)}")
    found = {}
    for name, each in known.items():
        if name not in said:
            if each.default is each.default_factory:  # both missing
                raise UserError(f"{where} has no {name}", "see the files in almanac/sophy/cars")
            continue
        value = said[name]
        if each.type is float:
            value = _number(value, name, where)
        elif each.type is bool and not isinstance(value, bool):
            raise UserError(f"{where} has {name} {value}", "give true or false")
        elif each.type == tuple[float, ...]:
            value = tuple(_number(one, name, where) for one in (value if isinstance(value, list) else [value]))
        found[name] = value
    return found


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} has {name} {value}", "give a number")
    return float(value)


def _from_toml(path: Path) -> dict[str, Any]:
    """Our own layout."""
    return tomllib.loads(path.read_text("utf-8"))


def _from_ini(path: Path) -> dict[str, Any]:
    """The layout of TUMFTM's laptime-simulation, of cars with a combustion engine. What it does not say of a Formula 1 car stands here; an
    electric motor beside the engine always helps."""
    parser = configparser.ConfigParser()
    parser.read_string(path.read_text("utf-8"))
    said = json.loads(parser["VEH_PARS"]["veh_pars"])
    general, engine, box = said["general"], said["engine"], said["gearbox"]
    per_minute = math.pi / 30
    begin, peak, end = (engine[name] * per_minute for name in ("n_begin", "n_max", "n_end"))
    less = engine["pow_max"] - engine["pow_diff"]
    # A cubic through its power at the ends that is level at the peak.
    powers = [[at**3, at**2, at, 1] for at in (begin, peak, end)] + [[3 * peak**2, 2 * peak, 1, 0]]
    curve = np.linalg.solve(powers, [less, engine["pow_max"], less, 0])
    speeds = [0.75 * begin, begin, peak, max(end, box["n_shift"][-1] * per_minute)]
    left = box["eta_g"] / float(np.mean(box["e_i"]))  # there, what turns in the gears takes a share of the power
    given = [left * (float(np.polyval(curve, at)) + engine.get("pow_e_motor", 0)) for at in speeds]
    base, front_lift, rear_lift = general["lf"] + general["lr"], general["c_z_a_f"], general["c_z_a_r"]

    def tyre(end: str) -> dict[str, float]:
        about = said["tires"][end]
        load = about["fz_0"]
        return {
            "load_1": load,
            "load_2": 2 * load,
            "mu_x_1": about["mux"],
            "mu_x_2": about["mux"] + about["dmux_dfz"] * load,
            "mu_y_1": about["muy"],
            "mu_y_2": about["muy"] + about["dmuy_dfz"] * load,
            **{"slip_1": 0.1, "slip_2": 0.1, "angle_1": 0.14, "angle_2": 0.14, "shape": 1.8},
            "radius": about["circ_ref"] / (2 * math.pi) * 1.03,  # they grow with speed; so much at 200 km/h
            "inertia": 0.3,
        }

    return {
        "name": path.stem,
        "source": f"{path.name}, TUMFTM's laptime-simulation",
        "length": base + 1.6,
        "width": general["sf"] + 0.3,
        "mass": general["m"],
        "yaw_inertia": general["m"] * general["lf"] * general["lr"] / 2,
        "front": general["lf"],
        "rear": general["lr"],
        "track_front": general["sf"],
        "track_rear": general["sr"],
        "height": general["h_cog"],
        "roll_front": general["lr"] / base,
        "area": 1.0,
        "air": general["rho_air"],
        "drag": general["c_w_a"],
        "lift": front_lift + rear_lift,
        "lift_ahead": (front_lift * general["lf"] - rear_lift * general["lr"]) / (front_lift + rear_lift),
        "rolling": general["f_roll"],
        "power": max(given),
        "brake_torque": 20000,
        "brake_front": 0.6,
        "differential": 10,
        "steering": 0.35,
        "steering_rate": 1.0,
        "tyre_front": tyre("f"),
        "tyre_rear": tyre("r"),
        "gears": {"ratios": [1 / each for each in box["i_trans"]], "speeds": speeds, "powers": given},
    }


def _from_xml(path: Path) -> dict[str, Any]:
    """fastest-lap's layout, whose z points down; what it does not say of a Formula 1 car stands here."""
    root = ElementTree.fromstring(path.read_text("utf-8"))

    def number(place: str) -> float:
        found = root.find(place)
        if found is None or not (found.text or "").strip():
            raise UserError(f"{path} has no {place}", "give a car of fastest-lap's layout, type f1-3dof")
        value = float(str(found.text))
        return math.radians(value) if found.get("units") == "deg" else value

    def tyre(end: str) -> dict[str, float]:
        def at(name: str) -> float:
            return number(f"{end}-tire/{name}")

        angles = [at(f"lambda-max-{load}") for load in (1, 2)]
        angles = [math.radians(each) if each > 1 else each for each in angles]  # in degrees, whether it says so or not
        return {
            "load_1": at("reference-load-1"),
            "load_2": at("reference-load-2"),
            **{f"mu_{axis}_{load}": at(f"mu-{axis}-max-{load}") for axis in "xy" for load in (1, 2)},
            **{f"slip_{load}": at(f"kappa-max-{load}") for load in (1, 2)},
            "angle_1": angles[0],
            "angle_2": angles[1],
            "shape": at("Qx"),
            "radius": at("radius"),
            "inertia": number(f"{end}-axle/inertia") or _LIGHTEST,
        }

    centre = number("chassis/com/x")
    kilowatts = number("rear-axle/engine/maximum-power")
    front = number("chassis/front_axle/x") - centre
    rear = centre - number("chassis/rear_axle/x")
    bias = number("chassis/brake_bias")
    braked_front = bias * number("front-axle/brakes/max_torque")
    braked_rear = (1 - bias) * number("rear-axle/brakes/max_torque")
    return {
        "name": path.stem,
        "source": f"{path.name}, fastest-lap's layout",
        "length": front + rear + 1.6,
        "width": 2.0,
        "mass": number("chassis/mass"),
        "yaw_inertia": number("chassis/inertia/Izz"),
        "front": front,
        "rear": rear,
        "track_front": number("front-axle/track"),
        "track_rear": number("rear-axle/track"),
        "height": -number("chassis/com/z"),
        "roll_front": number("chassis/roll_balance_coefficient"),
        "area": number("chassis/aerodynamics/area"),
        "air": number("chassis/aerodynamics/rho"),
        "drag": number("chassis/aerodynamics/cd"),
        "lift": number("chassis/aerodynamics/cl"),
        "lift_ahead": number("chassis/pressure_center/x") - centre,
        "power": 1000 * kilowatts,
        "brake_torque": 2 * (braked_front + braked_rear),
        "brake_front": braked_front / (braked_front + braked_rear),
        "differential": 2 * number("rear-axle/differential_stiffness"),  # theirs is of each wheel
        "steering": 0.35,
        "steering_rate": 1.0,
        "tyre_front": tyre("front"),
        "tyre_rear": tyre("rear"),
    }
