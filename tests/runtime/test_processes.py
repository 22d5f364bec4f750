"""Several processes, started by the real torchrun over gloo, train the model that one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from almanac.runtime import checkpoint
from tests.runtime import training


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of `training.in_several_processes` with two of them."""
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.runtime.training", str(out), "--several"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=environment, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_the_model_of_one_that_accumulates_twice_as_much(
    two_processes: Path, tmp_path: Path, accumulate: int
):
    folder = two_processes / f"accumulate-{accumulate}"
    alone = training.run(tmp_path, steps=12, accumulate=2 * accumulate, batch_norm=False)
    assert training.losses(folder) == pytest.approx(training.losses(tmp_path), abs=1e-5)
    weights_of_the_second = torch.load(folder / "weights.pt", weights_only=True)
    torch.testing.assert_close(weights_of_the_second, alone.weights, rtol=0, atol=1e-5)
    assert training.same_weights(checkpoint.load_state(folder / "last.pt")["ema"]["weights"], weights_of_the_second)


def test_a_stop_of_one_process_stops_all_and_they_resume_to_the_same_run(two_processes: Path):
    said = [(two_processes / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("130 stopped at step 6 and saved")  # asked in step 5; they confer when they log
    assert training.lines(two_processes / "stopped") == training.lines(two_processes / "accumulate-1")
    ends = [checkpoint.load_state(two_processes / name / "last.pt") for name in ("stopped", "accumulate-1")]
    assert training.same_weights(ends[0]["ema"]["weights"], ends[1]["ema"]["weights"])
