"""A conversation in the terminal."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from almanac.runtime import console
from almanac.runtime.errors import UserError

Messages = list[dict[str, str]]

_HELP = "/new begins anew, /retry answers again, /undo takes the last question back, /system TEXT, /save FILE, /quit"


def talk(answer: Callable[[Messages], Iterator[str]], system: str = "") -> None:
    """Read questions from stdin and write answers to stdout, until there are no more.

    Args:
        answer: the pieces of an answer to a conversation.
        system: what the model is told first.
    """
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives input() a history)

        console.log(_HELP)
    said: Messages = []
    while True:
        try:
            line = input("› " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            console.log("")
            continue
        if line in ("/quit", "/exit"):
            return
        try:
            said, system, asks = (
                _obey(line, said, system) if line.startswith("/") else (_asked(said, line), system, bool(line))
            )
            if asks:
                said.append({"role": "assistant", "content": _spoken(answer(_told(system) + said))})
        except UserError as error:
            console.log(f"{error.what}\n{error.hint}")


def _obey(line: str, said: Messages, system: str) -> tuple[Messages, str, bool]:
    """What becomes of the conversation, and whether an answer is wanted."""
    command, _, rest = line.partition(" ")
    last = max((place for place, message in enumerate(said) if message["role"] == "user"), default=0)
    match command:
        case "/new":
            return [], system, False
        case "/undo":
            return said[:last], system, False
        case "/retry":
            return said[: last + 1], system, bool(said)
        case "/system":
            return said, rest, False
        case "/save" if rest:
            try:
                Path(rest).write_text(json.dumps(_told(system) + said, ensure_ascii=False, indent=1) + "\n", "utf-8")
            except OSError as error:
                raise UserError(f"can't write {rest}: {error.strerror}", "choose another file") from None
            return said, system, False
    console.log(_HELP)
    return said, system, False


def _asked(said: Messages, line: str) -> Messages:
    return [*said, {"role": "user", "content": line}] if line else said


def _told(system: str) -> Messages:
    return [{"role": "system", "content": system}] if system else []


def _spoken(pieces: Iterator[str]) -> str:
    """An answer, written as it comes; Ctrl-C ends it."""
    whole = ""
    try:
        for piece in pieces:
            whole += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        close = getattr(pieces, "close", None)
        if close:
            close()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return whole
