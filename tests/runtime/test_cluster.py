"""`map` and `train` do here, and on a real Ray of this machine, what their functions do."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from almanac.runtime import cluster
from almanac.runtime.errors import RunFailed, UserError
from tests.runtime import training, work


def test_without_an_address_the_items_are_done_here_one_by_one_and_ray_is_not_imported(tmp_path: Path):
    script = (
        "import sys\n"
        "from almanac.runtime import cluster\n"
        "done = []\n"
        "results = cluster.map(lambda item: done.append(item) or item * 2, iter([1, 2, 3]), address=None)\n"
        "assert (next(results), done) == (2, [1])\n"
        "assert (list(results), done) == ([4, 6], [1, 2, 3])\n"
        "assert cluster.train(lambda: 'trained', address=None, workers=4) == 'trained'\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'ray']\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_without_an_address_an_error_arrives_as_it_is():
    with pytest.raises(UserError, match="three is not taken"):
        list(cluster.map(work.refuse_three, range(5), address=None))
    with pytest.raises(ZeroDivisionError):
        list(cluster.map(work.divide, [0], address=None))


def test_an_address_without_a_ray_is_a_user_error_of_two_lines_at_once():
    script = (
        "from almanac.runtime import cluster\n"
        "from almanac.runtime.errors import UserError\n"
        "for address in ('127.0.0.1:1', 'ray://127.0.0.1:1', 'nonsense'):\n"
        "    for ask in (lambda: list(cluster.map(abs, [1], address=address)),\n"
        "                lambda: cluster.train(list, address=address, workers=2)):\n"
        "        try:\n"
        "            ask()\n"
        "        except UserError as error:\n"
        "            assert len(str(error).splitlines()) == 2\n"
        "            print(error.what.split(': ')[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    addresses = ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense")
    assert done.stdout.splitlines() == [f"there is no Ray at '{one}'" for one in addresses for _ in range(2)], (
        done.stderr
    )


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    """A Ray of this machine, as `map` starts it: it lasts as long as the items, and what is asked for meanwhile uses it."""
    import ray

    outer = cluster.map(work.square, range(40), address="local")
    assert [next(outer) for _ in range(3)] == [0, 1, 4]
    yield "local"
    assert list(outer) == [number * number for number in range(3, 40)]
    assert not ray.is_initialized()


@pytest.mark.slow
def test_items_done_by_workers_come_in_their_order_and_print_nothing(here: str, capfd: pytest.CaptureFixture[str]):
    assert list(cluster.map(work.slow_if_even, range(6), address=here)) == list(range(6))
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_an_error_for_the_person_comes_back_from_a_worker_as_itself(here: str):
    results = cluster.map(work.refuse_three, range(5), address=here)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError) as caught:
        next(results)
    assert type(caught.value) is UserError
    assert (caught.value.what, caught.value.hint) == ("three is not taken", "give another number")


@pytest.mark.slow
def test_a_defect_comes_back_from_a_worker_with_its_type(here: str):
    with pytest.raises(ZeroDivisionError):
        list(cluster.map(work.divide, [1, 0], address=here))


@pytest.mark.slow
def test_an_item_whose_worker_dies_is_tried_again(here: str, tmp_path: Path):
    assert list(cluster.map(work.die_once, [tmp_path / "mark"], address=here)) == ["lived"]


@pytest.mark.slow
def test_an_item_whose_worker_dies_each_time_fails_the_run(here: str, tmp_path: Path):
    with pytest.raises(RunFailed, match="item 0 died 3 times"):
        list(cluster.map(work.die, [tmp_path / "tries"], address=here))
    assert (tmp_path / "tries").read_text() == "xxx"


@pytest.mark.slow
def test_workers_train_the_model_of_one_process_that_accumulates_twice_as_much(here: str, tmp_path: Path):
    facts = cluster.train(work.Training(tmp_path / "two"), address=here, workers=2)
    alone = training.run(tmp_path / "one", steps=12, accumulate=2, batch_norm=False)
    assert facts == {"loss": pytest.approx(alone.loss, abs=1e-5), "rank": 0}
    assert training.losses(tmp_path / "two") == pytest.approx(training.losses(tmp_path / "one"), abs=1e-5)
    of_the_second = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    torch.testing.assert_close(of_the_second, alone.weights, rtol=0, atol=1e-5)


def test_what_a_failed_training_means_is_the_error_of_its_worker():
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError

    told, defect = UserError("no data", "give some"), ZeroDivisionError()
    died = ActorDiedError()
    for failures, kind in (
        ([died, told], UserError),
        ([died, defect], WorkerGroupError),
        ([died], RunFailed),
        ([], RunFailed),
    ):
        assert type(cluster._cause(WorkerGroupError("failed", dict(enumerate(failures))))) is kind


def test_more_than_this_machine_has_is_a_user_error():
    cluster._check_room({"CPU": 2.0}, 2.0, 0.0)
    with pytest.raises(UserError, match="3 processors are asked for, and this machine has 2"):
        cluster._check_room({"CPU": 2.0}, 3.0, 0.0)
    with pytest.raises(UserError, match="1 GPUs are asked for, and this machine has 0"):
        cluster._check_room({"CPU": 2.0}, 1.0, 1.0)
