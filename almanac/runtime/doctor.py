"""What this machine has, for `almanac doctor`: the first thing to look at when something is slow or missing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from typing import Any

import torch

from almanac.runtime import device, hub

_OPTIONAL = {"studio": "gradio", "cluster": "ray", "bench": "diffusers"}


def report() -> dict[str, Any]:
    """Facts about the machine, by name."""
    where = device.resolve()
    usage = shutil.disk_usage(hub.PROJECT)
    return {
        "machine": device.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(where),
        "precision": "bf16" if device.has_fast_bfloat16(where) else "fp32",
        "threads": torch.get_num_threads(),
        "disk_free_gb": round(usage.free / 1e9, 1),
        "cache": str(hub.cache()),
        "ALMANAC_DATA": os.environ.get("ALMANAC_DATA", "not set"),
        "data": {name: "here" if hub.has_data(name) else "not here" for name in hub.DATA},
        "optional": {extra: _version(module) for extra, module in _OPTIONAL.items()},
    }


def _version(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        return "not installed"
    return importlib.metadata.version(module)
