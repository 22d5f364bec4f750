"""Checkpoints come back as they were, run no code, and whatever is wrong with a file is a UserError of two lines."""

import json
import os
import pickle
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from tests.runtime import training

STATE = {"step": 3, "best": float("inf"), "name": "run", "losses": [0.5, 0.25], "model": {"w": torch.arange(6.0)}}
TENSORS = {
    "w": torch.linspace(0, 1, 12).view(3, 4),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "none": torch.empty(0),
}
ABOUT = {"system": "tests", "network": {"dim": 4}, "name": "ünïcode"}

in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
"""Examples may share the test's folder: each writes the file anew."""


def read_state(path: Path) -> dict[str, Any]:
    return checkpoint.load_state(path)


def read_weights(path: Path) -> Any:
    return checkpoint.load_weights(path, "tests")


def good_state(path: Path) -> bytes:
    checkpoint.save_state(path, STATE)
    return path.read_bytes()


def good_weights(path: Path) -> bytes:
    checkpoint.save_weights(path, TENSORS, ABOUT)
    return path.read_bytes()


KINDS = [pytest.param(good_state, read_state, id="state"), pytest.param(good_weights, read_weights, id="weights")]
Good = Callable[[Path], bytes]
Read = Callable[[Path], Any]


def refusal(read: Read, path: Path) -> str:
    """The two lines that reading it gives."""
    with pytest.raises(UserError) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


def test_a_state_comes_back_as_it_was(tmp_path: Path):
    checkpoint.save_state(tmp_path / "new" / "last.pt", STATE)
    found = checkpoint.load_state(tmp_path / "new" / "last.pt")
    assert torch.equal(found["model"]["w"], STATE["model"]["w"])
    assert {**found, "model": None} == {**STATE, "model": None}


def test_weights_come_back_as_they_were(tmp_path: Path):
    tensors = {**TENSORS, "view": torch.arange(12.0).view(3, 4).t(), "grad": torch.ones(2, requires_grad=True)}
    checkpoint.save_weights(tmp_path / "model.safetensors", tensors, ABOUT)
    found, about = checkpoint.load_weights(tmp_path / "model.safetensors", "tests")
    assert about == ABOUT
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_eight_bits_are_half_the_bytes_and_almost_the_same_numbers(tmp_path: Path):
    torch.manual_seed(0)
    kernel = torch.randn(64, 32, 3, 3).bfloat16()
    kernel[5] = 0
    tensors = {"kernel": kernel, "norm.scale": torch.ones(4), "bias": torch.randn(64).bfloat16(), "prior": torch.eye(9)}
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    checkpoint.save_weights(whole, tensors, ABOUT)
    checkpoint.save_weights(small, checkpoint.in_eight_bits(tensors), ABOUT)
    assert small.stat().st_size < 0.55 * whole.stat().st_size
    found, _ = checkpoint.load_weights(small, "tests")
    assert found.keys() == tensors.keys()
    largest = kernel.float().abs().amax((1, 2, 3), keepdim=True)
    assert ((found["kernel"] - kernel.float()).abs() <= largest / 253).all()
    assert all(torch.equal(found[name], tensors[name]) for name in ("norm.scale", "bias", "prior"))


def test_what_is_narrower_than_its_scales_stays_as_it_is():
    table = torch.randn(100, 2).bfloat16()
    assert checkpoint.in_eight_bits({"table": table}).keys() == {"table"}
    assert checkpoint.in_eight_bits({"table": table})["table"] is table


def test_rows_that_are_alike_are_kept_once(tmp_path: Path):
    torch.manual_seed(0)
    table = torch.randn(500, 64).bfloat16()
    table[torch.arange(0, 500, 2)] = table[3].clone()
    checkpoint.save_weights(tmp_path / "a.safetensors", checkpoint.in_eight_bits({"table": table}), ABOUT)
    assert (tmp_path / "a.safetensors").stat().st_size < 0.65 * 500 * 64
    found, _ = checkpoint.load_weights(tmp_path / "a.safetensors", "tests")
    assert found.keys() == {"table"} and found["table"].shape == table.shape
    assert ((found["table"] - table.float()).abs() <= table.float().abs().amax(1, keepdim=True) / 253).all()
    assert torch.equal(found["table"][4], found["table"][3])


@pytest.mark.parametrize(
    "places", [torch.tensor([0, 9], dtype=torch.int32), torch.tensor([-1, 0]), torch.zeros(2, 2, dtype=torch.int32)]
)
def test_rows_at_places_that_there_are_not_are_a_user_error(tmp_path: Path, places: torch.Tensor):
    hostile = {"w": torch.zeros(3, 4, dtype=torch.int8), "w.scale": torch.ones(3, 1), "w.places": places}
    checkpoint.save_weights(tmp_path / "hostile.safetensors", hostile, ABOUT)
    with pytest.raises(UserError, match="w has rows at places"):
        checkpoint.load_weights(tmp_path / "hostile.safetensors", "tests")


def test_a_scale_of_another_shape_is_a_user_error(tmp_path: Path):
    path = tmp_path / "hostile.safetensors"
    vast = {"w": torch.zeros(1_000_000, 1, dtype=torch.int8), "w.scale": torch.ones(1, 1_000_000)}
    checkpoint.save_weights(path, vast, ABOUT)
    with pytest.raises(UserError, match="w has scales of shape"):
        checkpoint.load_weights(path, "tests")


def test_a_written_file_may_be_read_by_others_and_is_alone(tmp_path: Path):
    good_weights(tmp_path / "model.safetensors")
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    assert training.names(tmp_path) == ["model.safetensors"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file) -> None:
        file.write(b"new")
        raise RuntimeError("not of the disk")

    with pytest.raises(RuntimeError, match="not of the disk"):
        checkpoint.write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert training.names(tmp_path) == ["file"]


@pytest.mark.parametrize("place", ["taken/file", "taken", "/proc/nobody/may"])
def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path: Path, place: str):
    (tmp_path / "taken").mkdir() if place == "taken" else (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="could not write") as caught:
        checkpoint.save_state(tmp_path / place, STATE)
    assert len(str(caught.value).splitlines()) == 2


class Hostile:
    """What runs a command when it is unpickled."""

    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.touched}",)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (torch.save, "could run code"),
        (lambda what, path: path.write_bytes(pickle.dumps(what, 2)), "could run code"),
        (lambda what, path: path.write_bytes(pickle.dumps(what)), "is not a readable checkpoint"),
    ],
)
def test_a_checkpoint_that_carries_code_is_refused_without_running_it(tmp_path: Path, write: Callable, said: str):
    path, touched = tmp_path / "last.pt", tmp_path / "touched"
    write({"model": Hostile(touched)}, path)
    assert said in refusal(read_state, path)
    assert not touched.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert touched.exists()  # it would have


@pytest.mark.parametrize(("good", "read"), KINDS)
def test_a_missing_file_is_a_user_error(tmp_path: Path, good: Good, read: Read):
    assert str(tmp_path / "missing.pt") in refusal(read, tmp_path / "missing.pt")


@pytest.mark.parametrize(("good", "read"), KINDS)
@pytest.mark.parametrize("content", [b"", b"step,loss\n1,0.5\n", b"\x80\x02", b"PK\x03\x04" + bytes(60), bytes(1000)])
def test_a_file_of_another_kind_is_a_user_error(tmp_path: Path, content: bytes, good: Good, read: Read):
    path = tmp_path / "file"
    path.write_bytes(content)
    said = refusal(read, path)
    assert "is not a readable" in said
    assert "could run code" not in said


@pytest.mark.parametrize(("good", "read"), KINDS)
def test_a_folder_is_a_user_error(tmp_path: Path, good: Good, read: Read):
    refusal(read, tmp_path)


def test_a_state_that_is_not_a_mapping_is_a_user_error(tmp_path: Path):
    torch.save(torch.ones(3), tmp_path / "last.pt")
    assert "it holds a Tensor" in refusal(read_state, tmp_path / "last.pt")


def test_one_kind_is_not_taken_for_the_other(tmp_path: Path):
    good_state(tmp_path / "state")
    good_weights(tmp_path / "weights")
    refusal(read_state, tmp_path / "weights")
    refusal(read_weights, tmp_path / "state")


@pytest.mark.parametrize(("good", "read"), KINDS)
@in_a_folder
@given(data=st.data())
def test_a_file_truncated_at_any_byte_is_a_user_error(tmp_path: Path, good: Good, read: Read, data: st.DataObject):
    whole = good(tmp_path / "file")
    (tmp_path / "file").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refusal(read, tmp_path / "file")


@pytest.mark.parametrize(("good", "read"), KINDS)
@in_a_folder
@given(data=st.data())
def test_a_file_with_changed_bytes_loads_or_is_a_user_error(
    tmp_path: Path, good: Good, read: Read, data: st.DataObject
):
    damaged = bytearray(good(tmp_path / "file"))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "file").write_bytes(damaged)
    try:
        read(tmp_path / "file")
    except UserError as error:
        assert len(str(error).splitlines()) == 2


def safetensors_file(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    """A safetensors file of any header, which says that it is of any length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def header_of(about: str) -> bytes:
    return json.dumps({"__metadata__": {"almanac": about}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(safetensors_file(b"{}", 2**63), id="longer-than-any-file"),
        pytest.param(safetensors_file(b"{}", 200_000_000, bytes(10)), id="longer-than-this-file"),
        pytest.param(safetensors_file(b"[" * 100_000), id="deeper-than-any-parser"),
        pytest.param(safetensors_file(b'{"a": 1}'), id="not-a-tensor"),
        pytest.param(
            safetensors_file(
                b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}', body=bytes(4)
            ),
            id="a-shape-of-exabytes",
        ),
        pytest.param(
            safetensors_file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}', body=bytes(4)), id="outside"
        ),
        pytest.param(
            safetensors_file(b'{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}', body=bytes(4)), id="unknown-type"
        ),
        pytest.param(safetensors_file(header_of("{")), id="facts-that-are-not-json"),
        pytest.param(safetensors_file(header_of("[" * 100_000)), id="facts-deeper-than-any-parser"),
        pytest.param(safetensors_file(header_of("[1]")), id="facts-that-are-a-list"),
        pytest.param(safetensors_file(header_of("null")), id="facts-that-are-null"),
        pytest.param(safetensors_file(b"{}"), id="no-facts"),
    ],
)
def test_a_hostile_header_is_a_user_error(tmp_path: Path, content: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refusal(read_weights, path)


def test_weights_of_another_system_are_refused_by_name(tmp_path: Path):
    good_weights(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="holds weights of tests, not of cold_diffusion") as caught:
        checkpoint.load_weights(tmp_path / "model.safetensors", "cold_diffusion")
    assert "almanac cold-diffusion train" in caught.value.hint
