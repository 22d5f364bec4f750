"""A full disk costs nobody what was saved before: the old file stays, nothing half-written stays, and the person reads two
lines. The disk is full twice: by a limit on the size of files, and as a small file system where one can be mounted."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from tests.runtime import training

STATE = {"weights": torch.arange(30_000.0), "other": [torch.ones(1000), torch.zeros(3)], "step": 5}
"""A checkpoint of 125 kB with several tensors: the zip writer fails in another way in each of its parts."""


def save_under_limits(path: Path, save: Callable[[Path], Any], limits: list[int], queue: Any) -> None:
    """Save under each limit on the size of a file; put what came of it: an error's text, or what should not be."""
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save(path)
            queue.put("saved")
        except UserError as error:
            queue.put(str(error))
        except BaseException as error:
            queue.put(repr(error))


def save_state(path: Path) -> None:
    checkpoint.save_state(path, STATE)


def save_weights(path: Path) -> None:
    checkpoint.save_weights(path, {"weights": STATE["weights"]}, {"system": "tests"})


@pytest.mark.parametrize("save", [save_state, save_weights])
def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path, save: Callable[[Path], None]):
    path = tmp_path / "last.pt"
    save(path)
    old = path.read_bytes()
    limits = [*range(0, len(old), len(old) // 40), len(old) - 1]
    context = training.forking()
    queue = context.SimpleQueue()
    process = context.Process(target=save_under_limits, args=(path, save, limits, queue))
    process.start()
    for _ in limits:
        assert queue.get().splitlines() == [
            f"could not write {path}: File too large",
            "free some space or choose another --out; what was saved before is intact",
        ]
    process.join()
    assert path.read_bytes() == old
    assert training.names(tmp_path) == ["last.pt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_leaves_the_old_file(small_disk: Path):
    path = small_disk / "last.pt"
    save_state(path)
    old = path.read_bytes()
    save_state(path)  # there is room for two
    with (small_disk / "filling").open("wb") as file:
        file.write(bytes(60_000))
    with pytest.raises(UserError, match="No space left on device"):
        save_state(path)
    assert path.read_bytes() == old
    assert training.names(small_disk) == ["filling", "last.pt"]


@pytest.mark.parametrize("room", [0, 2000, 20_000])
def test_a_run_on_a_full_disk_stops_in_two_lines_and_goes_on_when_there_is_room(small_disk: Path, room: int):
    out = small_disk / "run"
    training.run(out, steps=7, log_every=1)
    before = checkpoint.load_state(out / "last.pt")
    filling = small_disk / "filling"
    with pytest.raises(OSError, match="No space left"), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1000))
    os.truncate(filling, filling.stat().st_size - room)
    with pytest.raises(UserError, match="could not write") as caught:
        training.run(out, steps=500, log_every=1, resume=True)
    assert len(str(caught.value).splitlines()) == 2
    kept = checkpoint.load_state(out / "last.pt")
    assert kept["step"] >= before["step"]
    assert not [name for name in training.names(out) if name.startswith(".")]
    filling.unlink()
    training.run(out, steps=kept["step"] + 7, log_every=1, resume=True)
    assert len(training.losses(out)) == kept["step"] + 7
