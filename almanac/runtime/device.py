"""Where a run computes and in which precision. Everything that asks "is there a GPU?" or "is bfloat16 worth it here?"
asks this module, so that the answer is the same in training, serving and `almanac doctor`."""

import ctypes
import os
import platform
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor

from almanac.runtime.errors import UserError

PRECISIONS = ("auto", "bf16", "fp32")
"""The words for a precision; auto: bfloat16 where it is faster."""


def resolve(name: str = "auto") -> torch.device:
    """The device to run on.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: the device is unknown, or not on this machine.
    """
    _keep_freed_memory()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}'", "use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{name}' is not supported", "use auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")  # cpu:3 is the same processor
    if (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}' is not on this machine ({torch.cuda.device_count()} GPUs found)",
            "use --device cpu, or check the driver with `almanac doctor`",
        )
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster there (a CPU with AVX-512 BF16 or AMX, a GPU from Ampere on)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    flags = _cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


@cache
def multiplies_tiles() -> bool:
    """Whether the CPU multiplies tiles of bfloat16 (AMX)."""
    return "amx_bf16" in _cpu_flags()


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """A context in which products run in bfloat16 where that is faster.

    Args:
        device: where the products run.
        precision: `auto`, `bf16` or `fp32`.

    Raises:
        UserError: the precision is another word.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, precision))


def uses_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether `precision` (`auto`, `bf16` or `fp32`) means bfloat16 on `device`.

    Raises:
        UserError: the precision is another word.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'", f"use {', '.join(PRECISIONS)}")
    return precision == "bf16" or (precision == "auto" and has_fast_bfloat16(device))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy there of what the CPU has just made, without waiting for what a GPU still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def machine() -> str:
    """One line that names the machine a result was measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{_cpu_name()}, {cores} cores"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {cpu}"
    return cpu


@cache
def _keep_freed_memory() -> None:
    """Have glibc keep up to 1 GiB of freed memory for the next tensor. By default each large one is handed back to the kernel, whose
    pages must be mapped and zeroed anew: a third of the time of sampling on a CPU (docs/log.md)."""
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    with suppress(OSError, AttributeError):  # another C library
        for option in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(option, 1 << 30)


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
    except OSError:
        return ""
