"""Devices and precisions are named by a few words, and any other word is a UserError."""

import pickle
import subprocess
import sys

import pytest
import torch

from almanac.runtime import device
from almanac.runtime.errors import Interrupted, RunFailed, UserError


def test_auto_is_the_gpu_where_there_is_one():
    assert device.resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device.resolve() == device.resolve("auto")


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cpu:3"])
def test_all_processors_are_one_device(name: str):
    assert device.resolve(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:x", "cuda:-1", "cuda:0:1", "tpu", "mps", "meta", "cpu "])
def test_an_unknown_device_is_a_user_error_that_names_the_known(name: str):
    with pytest.raises(UserError, match="device") as caught:
        device.resolve(name)
    assert "auto, cpu, cuda or cuda:N" in caught.value.hint


def test_a_gpu_that_is_not_here_is_a_user_error():
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"is not on this machine \\({count} GPUs found\\)"):
        device.resolve(f"cuda:{count}")


@pytest.mark.parametrize("precision", ["bf16", "fp32", "auto"])
def test_autocast_computes_in_the_precision_asked_for(precision: str):
    here = torch.device("cpu")
    with device.autocast(here, precision):
        found = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert found == (torch.bfloat16 if device.uses_bfloat16(here, precision) else torch.float32)
    assert device.uses_bfloat16(here, "bf16")
    assert not device.uses_bfloat16(here, "fp32")
    assert device.uses_bfloat16(here, "auto") == device.has_fast_bfloat16(here)


@pytest.mark.parametrize("precision", ["fp16", "", "BF16", "float32"])
def test_an_unknown_precision_is_a_user_error(precision: str):
    with pytest.raises(UserError, match="unknown precision"):
        device.autocast(torch.device("cpu"), precision)


def test_the_machine_is_named_in_one_line():
    assert "cores" in device.machine()
    assert len(device.machine().splitlines()) == 1


@pytest.mark.parametrize(("kind", "exit_code"), [(UserError, 2), (RunFailed, 1), (Interrupted, 130)])
def test_an_error_is_two_lines_has_an_exit_code_and_travels_between_processes(kind: type[UserError], exit_code: int):
    error = kind("what was wrong", "what to do")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is kind
        assert (one.what, one.hint, one.exit_code) == ("what was wrong", "what to do", exit_code)
        assert str(one) == "what was wrong\nwhat to do"


def test_large_tensors_come_to_reuse_the_memory_of_earlier_ones():
    """A process of its own, because malloc's options last. 100 MiB are 25,600 pages; without reuse they fault each time."""
    script = """
import resource, torch
from almanac.runtime import device

device.resolve("cpu")
torch.set_num_threads(1)
faults = []
for _ in range(30):
    torch.ones(25 << 20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-11])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 25_600
