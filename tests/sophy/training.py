"""Trainings that take seconds, for tests."""

from dataclasses import replace
from pathlib import Path

from almanac.sophy import env, rollout, scenarios
from almanac.sophy.coordinator import Sizes
from almanac.sophy.env import Rules, Sight
from almanac.sophy.model import Networks
from almanac.sophy.qr_sac import Config
from almanac.sophy.rollout import Plan
from almanac.sophy.sim import car as cars
from almanac.sophy.sim.track import Track
from almanac.sophy.train import Preset

SIGHT = Sight(points=4, lines=(1.0, -1.0), ahead=1, behind=1)
SIZES = Sizes(
    60, 32, 4_000, cars=4, decisions=20, per_insert=(1.0, 32.0), publish=20, examine=20, chunk=10, begin=200, decay=0.0, trust=0.0, laps=1
)  # fmt: skip
PRESET = Preset(SIZES, Config(0.01, 1e-3, 1e-3), SIGHT, 16, 1, quantiles=4, steps=3, rules=Rules(seconds=5.0))


def preset(**sizes) -> Preset:
    """The smallest training, with other sizes."""
    return replace(PRESET, sizes=replace(SIZES, **sizes))


def plan(track: Track, *names: str, seed: int = 0, each: int = 4) -> Plan:
    """What the parts of such a training know."""
    networks = Networks(env.observed(SIGHT), width=16, depth=1, quantiles=4)
    chosen = scenarios.chosen(names or ("time_trial",))
    return rollout.Plan(
        track, cars.load("gt3"), SIGHT, PRESET.rules, chosen, networks, PRESET.learning, 0.98, 3, each, seed
    )


def policies(out: Path) -> dict[str, bytes]:
    """The policies that a run wrote."""
    return {path.name: path.read_bytes() for path in sorted((out / "policies").glob("*.safetensors"))}
