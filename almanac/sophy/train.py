"""The recipe of Sophy: what is practised, by networks of which size, for three sizes of machine (Wurman et al. 2022, Methods and Extended
Data Table 1). Who drives, learns and measures at the same time is the `coordinator`'s."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from almanac.runtime import checkpoint, cluster, device, workers
from almanac.runtime.errors import UserError
from almanac.runtime.workers import Workers
from almanac.sophy import drive, env, scenarios
from almanac.sophy.coordinator import Coordinator, Sizes
from almanac.sophy.env import Rules, Sight, Weights
from almanac.sophy.model import Networks
from almanac.sophy.qr_sac import Config
from almanac.sophy.rollout import Plan
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    sizes: Sizes
    """Of the training."""
    learning: Config
    sight: Sight
    width: int
    """Of the networks' hidden layers."""
    depth: int
    """Hidden layers."""
    scale: float = 1.0
    """Of what critics say."""
    quantiles: int = 32
    gamma: float = 0.9896
    """Discount of a decision: 9.6 s."""
    steps: int = 7
    """n, of the returns."""
    rules: Rules = field(default_factory=lambda: Rules(seconds=60.0))
    scenarios: tuple[str, ...] = ("time_trial",)


_GENTLE = Rules(seconds=60.0, lost=1.0, weights=Weights(off_course=0.005, wall=0.02, unsporting=5.0))
"""Half of the paper's penalty for leaving the track, which ends an episode after a second besides, and twice its penalty for walls, which
are brushed where cars are slow (docs/log.md); and Sarthe's for contacts that are one's own fault."""

_CPU = Preset(
    Sizes(60_000, 256, 1_000_000),
    Config(0.05, 3e-4, 3e-4),
    Sight(points=20, lines=(1.0, -1.0), ahead=3, behind=2),
    256,
    2,
    scale=50.0,
    gamma=0.98,
    rules=_GENTLE,
    scenarios=("time_trial", "shown"),
)
"""Under an hour on two cores, for one car alone, shown how. Five seconds ahead instead of ten: in a quarter of the updates as fast."""

PRESETS = {
    "cpu": _CPU,
    # To go on from such a driver, among others.
    "races": replace(
        _CPU,
        sizes=replace(_CPU.sizes, updates=80_000),
        scenarios=(
            "time_trial=0.3", "shown_races=0.2", "1v1=0.2", "1v3=0.2", "grid=0.8", "rolling=0.2", "slipstream=0.1", "mistakes=0.2",
        ),
    ),
    "gpu": Preset(
        Sizes(
            400_000, 2_048, 4_000_000, actors=12, cars=128, per_insert=(8.0, 64.0), publish=100, examine=20_000,
            chunk=100, compiled=True,
        ),
        Config(0.05, 3e-4, 3e-4),
        Sight(),
        512,
        3,
        scale=50.0,
        gamma=0.98,
        rules=_GENTLE,
        scenarios=("time_trial", "shown"),
    ),
    # 20 consoles of 20 cars; a new policy every 6,000 updates, which are small.
    "paper": Preset(
        Sizes(
            20_000_000, 1_024, 10_000_000, actors=20, cars=20, decisions=150, per_insert=(4.0, 64.0), publish=6_000,
            examine=60_000, chunk=200, shards=2, decay=0.0, compiled=True,
        ),
        Config(),
        Sight(),
        2_048,
        4,
        rules=Rules(),
        scenarios=tuple(scenarios.KNOWN),
    ),
}  # fmt: skip


def with_overrides(preset: Preset, **given: Any) -> Preset:
    """A preset with other numbers: those of `Sizes`, `points` of its sight, or its own; None leaves what there is.

    Raises:
        UserError: a number can't be.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        least = 0 if name == "points" else 1
        if isinstance(value, int) and value < least:
            raise UserError(f"{name} is {value}", f"give a whole number from {least} on")
    sizes = {name: given.pop(name) for name in list(given) if name in {each.name for each in fields(Sizes)}}
    sight = {name: given.pop(name) for name in list(given) if name == "points"}
    return replace(preset, sizes=replace(preset.sizes, **sizes), sight=replace(preset.sight, **sight), **given)


def networks_of(preset: Preset) -> Networks:
    """The networks of a preset."""
    observed = env.observed(preset.sight)
    return Networks(observed, width=preset.width, depth=preset.depth, quantiles=preset.quantiles, scale=preset.scale)


def train(
    track: Track,
    car: CarSpec,
    out: Path,
    preset: Preset,
    *,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
    begin_with: drive.Trained | None = None,
    lockstep: bool = False,
    cluster_address: str | None = None,
) -> dict[str, Any]:
    """Train a policy and write `out/model.safetensors`: the best of those that were examined; all of them lie in `out/policies`.

    Args:
        track: where.
        car: in which car.
        out: the run's folder.
        preset: sizes.
        seed: of weights, starts and noise.
        device_name: where the learner computes.
        resume: go on with the run in `out`.
        begin_with: a policy to go on from, with new critics.
        lockstep: whether all is done in turn, in this process, the same each time.
        cluster_address: of a Ray cluster, as `cluster.workers` takes it.

    Returns:
        The facts that the weights carry.

    Raises:
        UserError: `out` holds a run and `resume` is off, or the other way round, or that run is another one.
        RunFailed: figures are not finite, or workers die again and again.
        Interrupted: SIGTERM or Ctrl-C; the run was saved first.
    """
    if not resume and (out / "last.pt").exists():
        raise UserError(f"{out} already holds a run", "go on with --resume, or choose another --out")
    if lockstep and cluster_address is not None:
        raise UserError("lock-step is one process, not a cluster", "leave one of them out")
    networks = networks_of(preset)
    weights = None
    if begin_with is not None:
        if begin_with.sight != preset.sight or begin_with.networks != networks:
            raise UserError("the policy to begin with has another sight or other sizes", "give one of the same preset")
        weights = dict(begin_with.policy.state_dict())
    plan = Plan(
        track,
        car,
        preset.sight,
        preset.rules,
        scenarios.chosen(preset.scenarios),
        networks,
        preset.learning,
        preset.gamma,
        preset.steps,
        preset.sizes.cars,
        seed,
    )
    where = str(device.resolve(device_name))
    saved = checkpoint.load_state(out / "last.pt") if resume else None
    crew: AbstractContextManager[Workers]
    if lockstep:
        crew = nullcontext(workers.InTurn())
    elif cluster_address is None:
        crew = workers.processes()
    else:
        crew = cluster.workers(cluster_address, float(preset.sizes.processors), float(where != "cpu"))
    with crew as found:
        return Coordinator(plan, preset.sizes, out, where, found, lockstep, saved, weights).run()
