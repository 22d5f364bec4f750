"""The errors that a person meets: two lines, what was wrong and what to do. The CLI prints them and exits with
`exit_code`; an API answers with its own standard's error body. Any other exception is a defect of ours."""


class UserError(Exception):
    """Wrong use or wrong input.

    Args:
        what: what was wrong, with the value.
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str):
        super().__init__(what, hint)  # both, so that the error can be pickled by a worker
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"


class RunFailed(UserError):
    """The use was right, but the run could not be finished (a loss that is not finite, a worker that died)."""

    exit_code = 1


class Interrupted(UserError):
    """The run was asked to stop (Ctrl-C, SIGTERM) and saved what it had."""

    exit_code = 130
