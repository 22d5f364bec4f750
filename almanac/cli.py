"""`almanac SYSTEM VERB` and the commands of the whole house. It parses, calls, and turns errors into two lines and an exit code; a
system's own verbs are in its `cli.py`. Nothing here imports torch: `almanac --help` answers at once."""

import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from almanac import __version__, systems
from almanac.runtime.errors import UserError


def doctor(*, json: bool = False) -> None:
    """Report what this machine has: devices, precision, caches, data, optional parts.

    Args:
        json: print one JSON object.
    """
    from almanac.runtime import console
    from almanac.runtime.doctor import report

    found = report()
    console.result(found, json, "\n".join(_facts(found)))


def tour(*, out: Path = Path("out/tour"), only: tuple[str, ...] = (), json: bool = False) -> None:
    """Run every system once on shipped weights and real input, and write OUT/index.html with what came of it.

    Exit code 1 if a system failed; the others still run.

    Args:
        out: folder for the report.
        only: only these systems.
        json: print one JSON object.
    """
    from almanac import tour as rooms
    from almanac.runtime import console

    stops = rooms.run(out, only)
    found = {
        "systems": [{"name": s.name, "ok": s.error is None, "seconds": s.seconds, "error": s.error} for s in stops]
    }
    console.result(found, json, rooms.summary(stops, out))
    if any(stop.error for stop in stops):
        raise SystemExit(1)


def studio(
    *,
    host: str = os.environ.get("ALMANAC_HOST", "127.0.0.1"),
    port: int = int(os.environ.get("ALMANAC_PORT", "7860")),
    device: str = os.environ.get("ALMANAC_DEVICE", "auto"),
) -> None:
    """Serve all systems' pages in the browser.

    Args:
        host: address to listen on ($ALMANAC_HOST).
        port: port to listen on ($ALMANAC_PORT).
        device: where pages compute: auto, cpu or cuda ($ALMANAC_DEVICE).
    """
    try:
        from almanac.studio.app import serve
    except ModuleNotFoundError as error:
        raise UserError(f"Studio needs {error.name}, which is not installed", "pip install 'almanac[studio]'") from None
    from almanac.runtime.services import Services

    serve(host, port, Services(device))


HOUSE: dict[str, tuple[Callable[..., None], str]] = {
    "tour": (tour, "run every system once, as one HTML report"),
    "studio": (studio, "serve every system's page in the browser"),
    "doctor": (doctor, "report devices, precision, caches, optional parts"),
}


def _facts(found: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_facts(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:<{16 - len(indent)}}{value}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.path.insert(0, "")  # module:Class of the user's own is looked for in the current folder
        _dispatch(arguments)
    except UserError as error:
        sys.stderr.write(f"{error.what}\n{error.hint}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return
    first, rest = arguments[0], arguments[1:]
    if first in ("-V", "--version"):
        sys.stdout.write(f"almanac {__version__}\n")
    elif first in HOUSE:
        _call(HOUSE[first][0], f"almanac {first}", rest)
    elif first == "bench":
        _bench(rest)
    else:
        _system(first, rest)


def _system(name: str, rest: list[str]) -> None:
    system = systems.find(name)
    if system is None:
        known = [*(system.command for system in systems.SYSTEMS), *HOUSE, "bench"]
        raise UserError(f"unknown command '{name}'", f"known: {', '.join(known)}; see `almanac --help`")
    if not rest or rest[0] in ("-h", "--help"):
        sys.stdout.write(_system_help(system))
        return
    commands = importlib.import_module(f"almanac.{system.name}.cli").COMMANDS
    if rest[0] not in commands:
        raise UserError(f"{system.command} has no verb '{rest[0]}'", f"its verbs: {', '.join(commands)}")
    _call(commands[rest[0]], f"almanac {system.command} {rest[0]}", rest[1:])


_PARTS = ("sophy_sim", "sophy_drivers")
"""Benchmarks of parts of systems."""


def _bench(rest: list[str]) -> None:
    if not rest or rest[0] in ("-h", "--help"):
        sys.stdout.write("almanac bench SYSTEM [--help]: run SYSTEM beside its best peer on the same work\n")
        return
    name = rest[0].replace("-", "_")
    if systems.find(rest[0]) is None and name not in _PARTS:
        known = ", ".join(
            [*(system.command for system in systems.SYSTEMS), *(part.replace("_", "-") for part in _PARTS)]
        )
        raise UserError(f"unknown system '{rest[0]}'", f"known: {known}")
    folder = Path(__file__).parents[1] / "benchmarks"
    if not (folder / f"{name}.py").is_file():
        raise UserError(f"there is no benchmark at {folder}/{name}.py", "run it from a checkout of the project")
    sys.path.insert(0, str(folder.parent))
    _call(importlib.import_module(f"benchmarks.{name}").run, f"almanac bench {rest[0]}", rest[1:])


def _call(function: Callable[..., Any], program: str, arguments: list[str]) -> None:
    """Parse the arguments of a command by its signature, and call it. A wrong flag is two lines, like every other error."""
    import tyro

    said, complained = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(complained):
            chosen = tyro.cli(_deferred(function), prog=program, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.write(said.getvalue())
            return
        raise UserError(_complaint(complained.getvalue() + said.getvalue()), f"see `{program} --help`") from None
    chosen()


def _deferred(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of the same signature that returns the call instead of making it, so that what the
    call prints is not captured with what the parser prints."""
    import functools
    import inspect

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    bound.__annotations__ = {**inspect.get_annotations(function), "return": Any}
    return bound


def _complaint(text: str) -> str:
    """What the parser says, as one line without its box."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [re.sub(r"[│╭╮╰╯─━┃]|-{3,}", "", line).strip() for line in plain.splitlines()]
    lines = [line for line in lines if line and "--help" not in line]
    return ": ".join(line.rstrip(".:") for line in lines[:3]) or "the arguments could not be read"


def _help() -> str:
    lines = [
        "almanac: the deep learning of 2022, runnable",
        "",
        "  almanac SYSTEM VERB [--help]   use a system",
        "  almanac SYSTEM --help          what a system does",
        "",
        "Systems:",
        *(f"  {system.command:<18} {system.line}" for system in systems.SYSTEMS),
        "",
        "The house:",
        *(f"  {name:<18} {line}" for name, (_, line) in HOUSE.items()),
        f"  {'bench SYSTEM':<18} run a system beside its best peer on the same work",
        "",
        "Try: almanac tour",
    ]
    return "\n".join(lines) + "\n"


def _system_help(system: systems.System) -> str:
    verbs = "\n".join(f"  almanac {system.command} {verb} --help" for verb in system.verbs)
    return f"{system.title} ({system.paper})\n{system.line}\n\n{verbs}\n"


if __name__ == "__main__":
    main()
