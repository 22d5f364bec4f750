"""What a command line that was typed came to."""

from subprocess import CompletedProcess


def two_lines(done: CompletedProcess, code: int = 2) -> list[str]:
    """The two lines of a refusal: what was wrong, and what to do; there is nothing else."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert done.stdout == ""
    return lines
