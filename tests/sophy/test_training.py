"""Trainings: in lock-step the same each time, and going on to the same; in processes, those who are killed are replaced."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from almanac.runtime import checkpoint, workers
from almanac.runtime.errors import Interrupted, UserError
from almanac.sophy import drive, env, hands, scenarios
from almanac.sophy.coordinator import Coordinator, Limiter
from almanac.sophy.rollout import Actor, Order, Published
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import step, world
from almanac.sophy.sim import track as tracks
from almanac.sophy.sim.track import Track
from almanac.sophy.train import PRESETS, train, with_overrides
from tests.sophy import made, training

CAR = cars.load("gt3")
NONE = np.zeros((0, scenarios.MISTAKE))


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Track:
    return made.oval(tmp_path_factory.mktemp("track"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(path, "sophy")[0]


def assert_same_policies(one: Path, other: Path) -> None:
    names = list(training.policies(one))
    assert names == list(training.policies(other)) and names
    for name in names:
        a, b = weights(one / "policies" / name), weights(other / "policies" / name)
        assert all(torch.equal(a[key], b[key]) for key in a), name


STEADY = with_overrides(training.preset(), scenarios=("time_trial", "mistakes", "1v1", "shown"))


@pytest.fixture(scope="module")
def whole(course: Track, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in lock-step."""
    out = tmp_path_factory.mktemp("whole")
    train(course, CAR, out, STEADY, device_name="cpu", lockstep=True)
    return out


def test_lock_step_runs_are_equal_to_the_last_bit(course: Track, whole: Path, tmp_path: Path):
    train(course, CAR, tmp_path, STEADY, device_name="cpu", lockstep=True)
    assert_same_policies(whole, tmp_path)


def test_another_seed_is_another_run(course: Track, whole: Path, tmp_path: Path):
    train(course, CAR, tmp_path, with_overrides(STEADY, updates=20), seed=1, device_name="cpu", lockstep=True)
    (first,) = training.policies(tmp_path)
    a, b = (weights(out / "policies" / first) for out in (whole, tmp_path))
    assert not any(torch.equal(a[key], b[key]) for key in a)


def test_a_lock_step_run_goes_on_to_the_same_policy(course: Track, whole: Path, tmp_path: Path):
    train(course, CAR, tmp_path, with_overrides(STEADY, updates=40), device_name="cpu", lockstep=True)
    train(course, CAR, tmp_path, STEADY, device_name="cpu", lockstep=True, resume=True)
    assert_same_policies(whole, tmp_path)


def coordinated(course: Track, out: Path, during: Callable[[Coordinator], None], **sizes: Any) -> Coordinator:
    """A run in processes, while something happens to it."""
    preset = training.preset(**{"updates": 120, "actors": 2, **sizes})
    plan = training.plan(course)
    with workers.processes() as crew:
        run = Coordinator(plan, preset.sizes, out, "cpu", crew, False, None, None)
        watching = threading.Thread(target=during, args=(run,), daemon=True)
        watching.start()
        run.run()
        watching.join(60)
    return run


def killing(name: str, after: int) -> Callable[[Coordinator], None]:
    def kill(run: Coordinator) -> None:
        while run.updates < after:
            time.sleep(0.01)
        os.kill(run.workers[name].pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]

    return kill


@pytest.mark.parametrize(
    ("name", "after", "shards"),
    [
        ("actor 1", 10, 0),
        ("learner", 50, 0),
        pytest.param("examiner", 10, 0, marks=pytest.mark.slow),
        pytest.param("shard 0", 10, 2, marks=pytest.mark.slow),
    ],
)
def test_who_is_killed_is_replaced_and_the_run_is_finished(
    course: Track, tmp_path: Path, name: str, after: int, shards: int
):
    run = coordinated(course, tmp_path, killing(name, after), shards=shards)
    assert run.deaths == 1 and run.updates == 120
    assert (tmp_path / "model.safetensors").exists()
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(lines) and lines[-1] == 120  # steps that were done again are told once
    assert checkpoint.load_state(tmp_path / "last.pt")["updates"] == 120


def test_a_learner_that_is_killed_before_anything_was_saved_begins_anew(course: Track, tmp_path: Path):
    run = coordinated(course, tmp_path, killing("learner", 1), examine=1_000)
    assert run.deaths == 1 and run.updates == 120


COMMAND = """
import sys
from pathlib import Path
from almanac.sophy.sim import car, track
from almanac.sophy.train import train
from tests.sophy import training
if __name__ == "__main__":
    preset = training.preset(updates=int(sys.argv[3]))
    train(track.find(sys.argv[1]), car.load("gt3"), Path(sys.argv[2]), preset, device_name="cpu", resume="--resume" in sys.argv)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_leaves_nobody_behind(tmp_path: Path):
    import psutil

    made.oval(tmp_path)
    (tmp_path / "run.py").write_text(COMMAND)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "oval.csv"), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = subprocess.Popen([*command, "100000"], env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "last.pt").exists():
        assert running.poll() is None
        time.sleep(0.1)
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 3
    running.send_signal(signal.SIGKILL)
    running.wait()
    _, alive = psutil.wait_procs(children, 30)
    assert not alive
    saved = checkpoint.load_state(tmp_path / "run" / "last.pt")["updates"]
    subprocess.run([*command, str(saved + 50), "--resume"], env=environment, check=True)
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["updates"] == saved + 50
    again = subprocess.run([*command, "60"], env=environment, capture_output=True, text=True)
    assert again.returncode == 1 and "already holds a run" in again.stderr


def test_who_is_asked_to_stop_saves_first(course: Track, tmp_path: Path):
    def stop(run: Coordinator) -> None:
        while run.updates < 30:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at update"):
        coordinated(course, tmp_path, stop, updates=100_000, examine=100_000)
    assert checkpoint.load_state(tmp_path / "last.pt")["updates"] >= 30


@pytest.mark.slow
def test_two_nodes_of_ray_train_together(course: Track, tmp_path: Path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=2)
        preset = training.preset(actors=2)
        facts = train(course, CAR, tmp_path, preset, device_name="cpu", cluster_address=nodes.address)
    finally:
        nodes.shutdown()
    assert checkpoint.load_state(tmp_path / "last.pt")["updates"] == 60 and facts["transitions"] > 200


def test_the_limiter_keeps_drawing_and_driving_together():
    limiter = Limiter(100, 4.0, 16.0)
    assert limiter.may_insert(0) and not limiter.may_draw()
    limiter.inserted = 100
    assert limiter.may_draw() and limiter.may_insert(0) and not limiter.may_insert(1)
    limiter.drawn = 1_601
    assert not limiter.may_draw() and limiter.may_insert(300)


# Driving.


def test_an_actor_drives_every_scenario_and_its_transitions_are_the_agents_alone(course: Track):
    plan = training.plan(course, "time_trial", "mistakes", "1v2", "grid", "slipstream")
    actor = Actor(plan, 0)
    policy = Published(5, actor.policy.state_dict())
    for name, scenario in plan.scenarios.items():
        experience = actor.drive(Order(name, 12, NONE), policy, policy)
        assert experience.version == 5 and experience.scenario == name
        assert experience.transitions == 4 * (12 - plan.steps + 1)  # of four cars, none of which ended
        assert all(each.observations.dtype == torch.float16 for each in experience.batches)
        assert actor.fields[name].races.each == scenario.cars


def test_who_is_lost_in_a_race_teaches_nothing_until_it_was_brought_back(course: Track):
    plan = training.plan(course, "grid", each=8)
    plan = replace(plan, rules=replace(plan.rules, seconds=40.0, lost=1.0))
    torch.manual_seed(0)
    actor = Actor(plan, 0)
    field, policy = actor.fields["grid"], Published(0, actor.policy.state_dict())
    made, away = 0, []
    for _ in range(300):
        made += actor.drive(Order("grid", 1, NONE), policy, None).transitions
        away.append(field.away.copy())
    been = np.array(away)
    assert field.own.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert (been[:-1] & ~been[1:]).any(0).sum() >= 4  # who came back
    assert made == (~been[:-1]).sum() + 8 - field.n_step.held.sum()


def test_what_is_shown_is_what_built_in_drivers_do(course: Track):
    plan = training.plan(course, "time_trial", "shown", each=4)
    actor = Actor(plan, 0)
    field = actor.fields["shown"]
    races = copy.deepcopy(field.races)
    steady = np.array([0, 2])  # the others have an unsteady hand
    policy = Published(0, actor.policy.state_dict())
    for _ in range(30):
        experience = actor.drive(Order("shown", 1, NONE), policy, None)
        assert field.shown is not None
        races.step(field.shown.drivers.act(races.cars, np.arange(4)))
        for row in (step.X, step.Y, step.STEER):
            np.testing.assert_allclose(races.cars.state[row, steady], field.races.cars.state[row, steady], atol=2e-3)
    (batch,) = experience.batches
    assert experience.transitions == 4 and (batch.actions.abs() <= 1).all()


def test_of_shown_races_every_car_is_learnt_from_and_earlier_policies_drive_as_they_are_asked(course: Track):
    plan = training.plan(course, "shown_races", "1v2", each=16)
    actor = Actor(plan, 0)
    policy = Published(0, actor.policy.state_dict())
    assert actor.drive(Order("shown_races", 12, NONE), policy, policy).transitions == 16 * (12 - plan.steps + 1)
    field = actor.fields["1v2"]
    assert field.others is not None and field.own.tolist() == list(range(0, 48, 3))
    before = field.races.cars.state.copy()
    still = {name: torch.zeros_like(each) for name, each in policy.weights.items()}
    actor.drive(Order("1v2", 5, NONE), policy, Published(0, still))  # whose best is to do nothing, give or take noise
    slower = field.races.cars.state[step.VX] - before[step.VX]
    built_in = np.setdiff1d(field.others.numbers, field.others.learnt)
    assert len(field.others.learnt) == 10 and slower[field.others.learnt].mean() < slower[built_in].mean()


@given(angle=st.floats(-0.45, 0.45), wish=st.floats(-1, 1), pedal=st.floats(-1, 1))
def test_hands_turn_the_wheel_as_far_as_they_can_and_what_they_did_is_known(angle: float, wish: float, pedal: float):
    them = world.cars(1, 1)
    them.state[step.STEER] = angle
    number = np.zeros(1, int)
    wished = np.array([[wish, pedal]], np.float32)
    did = hands.actions(wished, them, number, CAR)
    assert (abs(did) <= 1).all() and did[0, 1] == wished[0, 1]
    got = hands.wishes(did, them, number, CAR)[0, 0] * CAR.steering
    most = CAR.steering_rate / env.RATE
    assert got == pytest.approx(np.clip(wish * CAR.steering, angle - most, angle + most), abs=1e-4)


def test_a_car_that_is_lost_ends_its_episode_and_one_that_drives_does_not(course: Track):
    races = env.make(course, CAR, 2, rules=env.Rules(lost=0.5))
    races.reset(options={"s": 20.0, "offset": [0.0, course.left.max() + 6.0], "speed": 20.0})
    ends = np.array([races.step(np.zeros((2, 2), np.float32))[2] for _ in range(6)])
    assert ends[4, 1] and not ends[:4].any() and not ends[:, 0].any()


def test_mistakes_are_states_before_control_was_lost_and_are_begun_from(course: Track):
    plan = training.plan(course, "time_trial", "mistakes", each=48)
    actor = Actor(plan, 0)
    policy = {name: torch.zeros_like(each) for name, each in actor.policy.state_dict().items()}
    policy["head.bias"] = torch.tensor([0.0, 0.0, -20.0, -20.0])  # straight on: slow ones leave the road late
    experience = actor.drive(Order("time_trial", 50, NONE), Published(0, policy), None)
    found = experience.mistakes
    assert len(found) == experience.lost > 0
    begin = scenarios.Beginnings(plan.scenarios["mistakes"])
    begin.mistakes = found
    races = env.make(course, CAR, 8, sight=training.SIGHT, begin=begin)
    races.reset(seed=0)
    for at in range(8):
        (row,) = found[found[:, 3] == races.cars.state[step.VX, at]]
        assert races.cars.offset[at] == pytest.approx(row[1], abs=0.05)
        assert races.cars.angle[at] == pytest.approx(row[2], abs=0.02)
    assert not races.cars.off.any()  # before, not after


def test_the_agent_is_one_of_a_grid_by_chance(course: Track):
    races = env.make(course, CAR, 40 * 8, 8, begin=scenarios.Beginnings(scenarios.KNOWN["grid"]))
    races.reset(seed=0)
    ahead = (races.cars.travelled.reshape(40, 8) > races.cars.travelled[::8, None]).sum(1)
    assert set(ahead.tolist()) == set(range(8))
    assert (races.cars.state[step.VX] == 0).all()


def test_cutting_a_bend_never_pays(course: Track):
    """Off the track nothing is gained, whatever the way: what is counted is the centre line, and none of it while off."""
    for weights in (each.rules.weights for each in PRESETS.values()):
        races = env.make(course, CAR, 2, rules=env.Rules(weights=weights))
        inside = course.left.max() + 4.0
        races.reset(options={"s": 20.0, "offset": [0.0, inside], "speed": 20.0})
        gained = np.zeros(2)
        for _ in range(8):
            _, rewards, *_ = races.step(np.array([[0.1, 0.3], [0.1, 0.3]], np.float32))
            gained += rewards
        assert races.cars.off_time[1] > 0.7 and gained[1] < 0 < gained[0]


# What is written, and read.


def test_a_policy_drives_as_it_did_and_says_what_it_is_for(course: Track, tmp_path: Path):
    train(course, CAR, tmp_path, training.preset(updates=20), device_name="cpu", lockstep=True)
    trained = drive.load(str(tmp_path), CAR)
    assert trained.knows(course) and not trained.knows(tracks.find("solstice"))
    driver = drive.Sophy(trained, course, CAR)
    races = env.make(course, CAR, 3, sight=trained.sight)
    seen, _ = races.reset(seed=0)
    numbers = np.array([0, 2])
    with torch.no_grad():
        mean, _ = trained.policy(torch.from_numpy(seen[numbers]))
    expected = hands.wishes(mean.tanh().numpy(), races.cars, numbers, CAR)
    np.testing.assert_allclose(driver.act(races.cars, numbers), expected, atol=1e-6)
    one, other = (drive.laps(driver, course, CAR, 2, 2).times for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_policies_of_another_car_or_sight_are_refused(course: Track, tmp_path: Path):
    train(course, CAR, tmp_path, training.preset(updates=20), device_name="cpu", lockstep=True)
    with pytest.raises(UserError, match="drives GT3, not"):
        drive.load(str(tmp_path), cars.load("f1_2014"))
    kept, about = checkpoint.load_weights(tmp_path / "model.safetensors", "sophy")
    about["sight"]["points"] = 7
    checkpoint.save_weights(tmp_path / "other.safetensors", kept, about)
    with pytest.raises(UserError, match="its sight gives"):
        drive.load(str(tmp_path / "other.safetensors"), CAR)
    checkpoint.save_weights(tmp_path / "none.safetensors", {"a": torch.zeros(2)}, {"system": "sophy"})
    with pytest.raises(UserError, match="holds no policy"):
        drive.load(str(tmp_path / "none.safetensors"), CAR)
    with pytest.raises(UserError, match="another sight"):
        begin = drive.load(str(tmp_path), CAR)
        train(course, CAR, tmp_path / "new", PRESETS["cpu"], begin_with=begin)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"seed": 3}, "has seed 0, not 3"),
        ({"car": cars.load("f1_2014")}, "has car"),
        ({"lockstep": False}, "has lockstep"),
    ],
)
def test_a_run_is_resumed_as_it_began_or_not_at_all(course: Track, tmp_path: Path, given: dict, what: str):
    train(course, CAR, tmp_path, training.preset(updates=20), device_name="cpu", lockstep=True)
    asked = {"car": CAR, "lockstep": True, **given}
    with pytest.raises(UserError, match=what):
        train(course, out=tmp_path, preset=training.preset(), device_name="cpu", resume=True, **asked)


def test_a_policy_that_is_begun_with_waits_until_critics_know_it(course: Track, tmp_path: Path):
    sizes = training.preset(updates=20).sizes

    def pace(weights: dict[str, torch.Tensor] | None, updates: int) -> float:
        run = Coordinator(training.plan(course), sizes, tmp_path, "cpu", workers.InTurn(), True, None, weights)
        return run._pace(updates).policy

    assert (pace({}, 0), pace({}, 1), pace(None, 0)) == (0.0, 1.0, 1.0)


def test_scenarios_that_there_are_not_are_named():
    with pytest.raises(UserError, match="no scenario 'rally'"):
        scenarios.chosen(["time_trial", "rally"])
    with pytest.raises(UserError, match="share"):
        scenarios.chosen(["grid=-1"])
    assert scenarios.chosen(["grid=0.125"])["grid"].share == 0.125


def test_overrides_reach_their_place():
    found = with_overrides(PRESETS["cpu"], updates=7, points=0, steps=1, quantiles=1, scenarios=("grid",), actors=None)
    assert (found.sizes.updates, found.sight.points, found.steps, found.quantiles) == (7, 0, 1, 1)
    assert found.sizes.actors == PRESETS["cpu"].sizes.actors
    with pytest.raises(UserError, match="updates is 0"):
        with_overrides(PRESETS["cpu"], updates=0)
