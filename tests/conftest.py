"""What every test needs: one thread of PyTorch a process, the house's data where it is at hand, and shapes that are checked."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

import almanac.sophy.sim.ops  # before the hook: called a million times a lap, with anything that is a number

torch.set_num_threads(1)
install_import_hook("almanac", "beartype.beartype")

_DEVELOPMENT = Path(__file__).resolve().parents[2] / "shared" / "data"
if not os.environ.get("ALMANAC_DATA") and _DEVELOPMENT.is_dir():
    os.environ["ALMANAC_DATA"] = str(_DEVELOPMENT)


@pytest.fixture(scope="session")
def needs_data():
    """Skip a test whose data set is neither at $ALMANAC_DATA nor in the cache."""
    from almanac.runtime import hub

    def check(name: str) -> None:
        if not hub.has_data(name):
            pytest.skip(f"the data set '{name}' is not on this machine (ALMANAC_DATA)")

    return check


@pytest.fixture
def almanac():
    """Run a command line in a process of its own: (arguments …) → the finished process."""
    import subprocess
    import sys

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "almanac.cli", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, **options)

    return run


@pytest.fixture
def typed(capsys, monkeypatch):
    """Run a command line in this process: (arguments …) → what a process would have come to. Quicker than `almanac`."""
    import subprocess

    from almanac import cli

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        code = 0
        with monkeypatch.context() as patch:
            patch.chdir(cwd or Path.cwd())
            try:
                cli.main([*map(str, arguments)])
            except SystemExit as stop:
                code = stop.code or 0
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run
