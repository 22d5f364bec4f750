"""A run that is killed at any point resumes to the same losses, the same metrics and the same weights."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from almanac.runtime import checkpoint
from tests.runtime import training


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing befell."""
    out = tmp_path_factory.mktemp("uninterrupted")
    assert training.finish(out) == 0
    return out


def assert_same_run(out: Path, uninterrupted: Path) -> None:
    """The losses of all steps, the marked best and the final average are equal to the last bit."""
    assert len(training.losses(out)) == training.CONFIG["steps"]
    assert training.losses(out) == training.losses(uninterrupted)
    assert training.lines(out) == training.lines(uninterrupted)
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (out, uninterrupted)]
    assert training.same_weights(*weights)
    ends, bests = ([checkpoint.load_state(folder / name) for folder in (out, uninterrupted)] for name in ENDS)
    assert training.same_weights(ends[0]["model"], ends[1]["model"])
    assert bests[0]["step"] == bests[1]["step"]
    assert training.same_weights(bests[0]["ema"]["weights"], bests[1]["ema"]["weights"])


ENDS = ("last.pt", "best.pt")


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([("batch", 2), ("batch", 9)], id="before-and-after-the-first-save"),
        pytest.param([("loss", 8), ("loss", 1), ("loss", 20)], id="in-a-step-and-right-after-resuming"),
        pytest.param([("validation", 2), ("validation", 2), ("validation", 2)], id="between-a-log-and-its-save"),
        pytest.param([("batch", 14), ("loss", 14), ("batch", 29)], id="at-saves-and-at-the-end"),
    ],
)
def test_a_run_killed_at_any_step_resumes_to_the_same_losses(
    tmp_path: Path, uninterrupted: Path, kills: list[tuple[str, int]]
):
    for where, at in kills:
        faults = {"where": where, "at": at, "signal": signal.SIGKILL}
        resume = (tmp_path / "last.pt").exists()
        assert training.finish(tmp_path, faults=faults, resume=resume) == -signal.SIGKILL
    assert training.finish(tmp_path, resume=(tmp_path / "last.pt").exists()) == 0
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_killed_while_it_saves_keeps_its_checkpoint_and_sweeps_up(tmp_path: Path):
    options = {"steps": 8, "save_every": 1, "width": 4000}  # a checkpoint of 2 MB: time to be killed in
    assert training.finish(tmp_path / "uninterrupted", **options) == 0
    out = tmp_path / "killed"
    caught = sum(_killed_in_a_save(out, options) for _ in range(3))
    assert caught > 0
    assert training.finish(out, **options, resume=(out / "last.pt").exists()) == 0
    assert not _temporaries(out)
    assert training.losses(out) == training.losses(tmp_path / "uninterrupted")


def _killed_in_a_save(out: Path, options: dict) -> bool:
    """Go on with a run until it writes a checkpoint, kill it there; whether a half-written file lies there now."""
    process = training.start(out, **options, resume=(out / "last.pt").exists())
    while process.is_alive():
        if any(".pt." in name for name in _temporaries(out)):
            process.kill()
            break
    process.join()
    if (out / "last.pt").exists():
        assert checkpoint.load_state(out / "last.pt")["step"] > 0
    return process.exitcode == -signal.SIGKILL and bool(_temporaries(out))


def _temporaries(out: Path) -> list[str]:
    return [name for name in training.names(out) if name.startswith(".")] if out.exists() else []


def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "weights.bin"
    checkpoint.write_atomic(path, lambda file: file.write(b"old"))
    process = _forked(_write_half_and_die, path)
    assert process == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(_temporaries(tmp_path)) == 1
    checkpoint.remove_temporaries(tmp_path)
    assert training.names(tmp_path) == ["weights.bin"]


def _forked(function, *arguments) -> int:
    process = training.forking().Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _write_half_and_die(path: Path) -> None:
    def write(file) -> None:
        file.write(b"half of what is n")
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_atomic(path, write)


def test_a_best_checkpoint_is_mended_when_the_run_was_killed_between_its_two_files(tmp_path: Path):
    out, early = tmp_path / "run", tmp_path / "early.pt"
    assert training.finish(out, faults={"where": "loss", "at": 10, "signal": signal.SIGKILL}) == -signal.SIGKILL
    shutil.copy(out / "best.pt", early)
    faults = {"where": "loss", "at": 9, "signal": signal.SIGKILL}
    assert training.finish(out, faults=faults, resume=True) == -signal.SIGKILL
    later = checkpoint.load_state(out / "last.pt")
    assert later["best_step"] == later["step"] == 14  # else this test shows nothing
    shutil.copy(early, out / "best.pt")
    faults = {"where": "batch", "at": 15, "signal": signal.SIGKILL}
    assert training.finish(out, faults=faults, resume=True) == -signal.SIGKILL
    assert checkpoint.load_state(out / "best.pt")["step"] == 14


@pytest.mark.parametrize("at", [1, 7, 10, 28])
def test_a_run_asked_to_stop_saves_exits_130_and_resumes_to_the_same_run(tmp_path: Path, uninterrupted: Path, at: int):
    assert training.finish(tmp_path, faults={"where": "loss", "at": at, "signal": signal.SIGTERM}) == 130
    assert checkpoint.load_state(tmp_path / "last.pt")["step"] == at
    assert training.finish(tmp_path, resume=True) == 0
    assert_same_run(tmp_path, uninterrupted)


def test_a_script_that_gets_a_sigterm_from_outside_says_what_it_saved_in_two_lines(tmp_path: Path):
    out = tmp_path / "run"
    options = '{"steps": 1000000, "save_every": 500000}'
    command = [sys.executable, "-m", "tests.runtime.training", str(out), "--options", options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    while not (out / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    step = checkpoint.load_state(out / "last.pt")["step"]
    assert process.returncode == 130
    assert said.splitlines()[-2:] == [f"stopped at step {step} and saved", f"go on with --resume --out {out}"]


def test_a_torn_line_of_metrics_is_done_again(tmp_path: Path, uninterrupted: Path):
    assert training.finish(tmp_path, faults={"where": "loss", "at": 18, "signal": signal.SIGKILL}) == -signal.SIGKILL
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 18, "losses": [0.5, 0.\x00\xff')
    assert training.finish(tmp_path, resume=True) == 0
    assert_same_run(tmp_path, uninterrupted)
