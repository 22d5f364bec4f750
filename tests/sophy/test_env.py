"""The environment: Gymnasium's vector API, observations that are scaled and mirror each other, and rewards that are the sum of their
terms."""

import math

import gymnasium
import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import env
from almanac.sophy.sim import road, step
from tests.sophy import made

FEW = env.Sight(points=10, ahead=2, behind=1)


@pytest.fixture(scope="module")
def oval(tmp_path_factory):
    return made.oval(tmp_path_factory.mktemp("oval"))


def test_it_is_an_environment_of_gymnasium(oval):
    made_env = env.make(oval, cars=6, each=3, sight=FEW)
    assert isinstance(made_env, gymnasium.vector.VectorEnv) and made_env.num_envs == 6
    seen, info = made_env.reset(seed=3)
    assert made_env.observation_space.contains(seen) and info == {}
    for _ in range(30):
        seen, reward, ended, late, info = made_env.step(made_env.action_space.sample())
        assert made_env.observation_space.contains(seen) and seen.dtype == np.float32
        assert reward.shape == ended.shape == late.shape == (6,) and np.abs(seen).max() < 50
        assert np.allclose(sum(info["terms"].values()), reward)


def test_the_same_seed_is_the_same_drive(oval):
    drives = []
    for _ in range(2):
        made_env = env.make(oval, cars=4, each=2, sight=FEW)
        rng, seen = np.random.default_rng(0), [made_env.reset(seed=5)[0]]
        seen += [made_env.step(rng.uniform(-1, 1, (4, 2)))[0] for _ in range(50)]
        drives.append(np.stack(seen))
    assert np.array_equal(*drives)
    assert not np.array_equal(drives[0][0], env.make(oval, cars=4, each=2, sight=FEW).reset(seed=6)[0])


def test_cars_of_other_races_do_not_matter(oval):
    many, one = env.make(oval, cars=40, sight=FEW), env.make(oval, cars=1, sight=FEW)
    s = np.linspace(0, 800, 40)
    many.reset(options={"s": s, "offset": 0.0, "speed": 30.0})
    one.reset(options={"s": s[7], "offset": 0.0, "speed": 30.0})
    actions = np.random.default_rng(1).uniform(-0.3, 0.6, (30, 40, 2))
    for each in actions:
        together, alone = many.step(each), one.step(each[7:8])
        assert np.array_equal(together[0][7], alone[0][0]) and together[1][7] == alone[1][0]


def test_a_mirrored_track_looks_mirrored(tmp_path):
    sight = env.Sight(points=12, ahead=0, behind=0)
    first, second = (env.make(shape(tmp_path), sight=sight) for shape in (made.oval, made.mirrored))
    for each, sign in ((first, 1), (second, -1)):
        each.reset(options={"s": 40.0, "offset": 1.5 * sign, "speed": 35.0})
    one, other = first.step(np.array([[0.1, 0.5]]))[0][0], second.step(np.array([[-0.1, 0.5]]))[0][0]
    assert np.allclose(one[[0, 5, 7, 28]], other[[0, 5, 7, 28]], atol=1e-3)
    odd = [1, 3, 6, 24, 27]
    assert np.allclose(one[odd], -other[odd], atol=2e-3)
    course = one[30:].reshape(12, 3, 3), other[30:].reshape(12, 3, 3)
    assert np.allclose(course[0][..., 0], course[1][:, ::-1, 0], atol=2e-2)
    assert np.allclose(course[0][..., 1], -course[1][:, ::-1, 1], atol=2e-2)


def test_the_course_is_where_it_will_be_driven(oval):
    sight = env.Sight(points=6, lines=(0.0,), seconds=3.0, ahead=0, behind=0)
    made_env = env.make(oval, sight=sight)
    seen, _ = made_env.reset(options={"s": 100.0, "offset": 0.0, "speed": 20.0})
    ahead = 100.0 + 10.0 * np.arange(1, 7)
    places = road.places(oval, ahead, np.zeros(6))
    x, y, yaw = (float(made_env.cars.state[row, 0]) for row in (step.X, step.Y, step.YAW))
    dx, dy = places[0] - x, places[1] - y
    known = np.stack((dx * math.cos(yaw) + dy * math.sin(yaw), dy * math.cos(yaw) - dx * math.sin(yaw)), 1)
    later = 0.5 * np.arange(1, 7)[:, None]
    found = seen[0, 30:].reshape(6, 3)[:, :2] * ((10, 4) + later * (45, 12))
    assert np.allclose(found, known, atol=0.05)


def test_rewards_are_what_the_paper_says(oval):
    plain = env.Rules(weights=env.Weights(progress=1.0, off_course=1.0, wall=1.0, tyre_slip=1.0))
    made_env = env.make(oval, sight=FEW, rules=plain)
    made_env.reset(options={"s": 0.0, "offset": 0.0, "speed": 30.0})
    before = made_env.cars.travelled[0]
    info = made_env.step(np.zeros((1, 2)))[4]
    terms = {name: float(value[0]) for name, value in info["terms"].items()}
    assert abs(terms["progress"] - (made_env.cars.travelled[0] - before)) < 1e-9 and 2.8 < terms["progress"] < 3.2
    assert terms["off_course"] == terms["wall"] == terms["passing"] == 0
    made_env.reset(options={"s": 0.0, "offset": -12.0, "speed": 55.56})  # beyond the asphalt, at 200 km/h
    terms = made_env.step(np.zeros((1, 2)))[4]["terms"]
    assert terms["progress"][0] == 0 and abs(terms["off_course"][0] + 0.1 * 200**2) < 250


def test_passing_counts_what_is_gained_on_cars_nearby(oval):
    rules = env.Rules(weights=env.Weights(progress=0.0, tyre_slip=0.0, passing=1.0))
    made_env = env.make(oval, cars=3, each=3, sight=FEW, rules=rules)
    made_env.reset(options={"s": [100.0, 115.0, 300.0], "offset": [2.5, -2.5, 0.0], "speed": [40.0, 30.0, 30.0]})
    before = made_env.cars.travelled.copy()
    reward = made_env.step(np.zeros((3, 2)))[1]
    moved = made_env.cars.travelled - before
    assert reward[0] > 0.5 and abs(reward[0] - (moved[0] - moved[1])) < 1e-9
    assert reward[1] == -reward[0] and reward[2] == 0


def test_episodes_end_and_begin_anew(oval):
    made_env = env.make(oval, cars=2, sight=FEW, rules=env.Rules(seconds=1.0))
    made_env.reset(seed=0)
    for number in range(10):
        seen, _, ended, late, info = made_env.step(np.full((2, 2), 0.3))
        assert late.all() == (number == 9) and not ended.any()
    assert info["_final_obs"].all() and not np.array_equal(info["final_obs"], seen)
    stuck = env.make(oval, cars=2, sight=FEW, rules=env.Rules(stuck=1.0))
    stuck.reset(options={"s": 0.0, "offset": 0.0, "speed": [0.0, 30.0]})
    for _ in range(12):
        ended = stuck.step(np.zeros((2, 2)))[2]
        if ended.any():
            break
    assert ended.tolist() == [True, False]


def test_what_can_not_be_is_refused(oval, tmp_path):
    made_env = env.make(oval, cars=2, sight=FEW)
    made_env.reset(seed=0)
    with pytest.raises(UserError, match="action of car 1 is"):
        made_env.step(np.array([[0.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(UserError, match="shape"):
        made_env.step(np.zeros((1, 2)))
    with pytest.raises(UserError, match="races of"):
        env.make(oval, cars=5, each=2)
    with pytest.raises(UserError, match="m wide somewhere"):
        env.make(made.oval(tmp_path, width=2.2))
    with pytest.raises(UserError, match="no track"):
        env.make("Nowhere")
