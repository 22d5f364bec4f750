"""Functions that a model may call: how the three common kinds of models write a call, read while it is being written, and grammars that
force one. Which kind a model is of, its chat template says."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from almanac.chat.structure import COMPACT, Forms, TokenGrammar, exact
from almanac.chat.tokenizer import Vocabulary
from almanac.runtime.errors import UserError


@dataclass(frozen=True)
class Style:
    """How a kind of model writes calls."""

    begin: str
    """Before a call; empty: the answer begins with it."""
    end: str
    """After it."""
    arguments: str
    """What it calls the arguments."""
    listed: bool = False
    """Whether calls are a JSON list after one `begin`."""


HERMES = Style("<tool_call>", "</tool_call>", "arguments")
"""Qwen2.5, Qwen3, SmolLM2, Hermes."""
MISTRAL = Style("[TOOL_CALLS]", "", "arguments", listed=True)
LLAMA = Style("", "", "parameters")
"""Llama 3."""


_LONGEST_HEAD = 256
"""Characters within which a call names its function."""


@dataclass(frozen=True)
class Call:
    """News of a call."""

    number: int
    """Which of the answer's calls."""
    name: str = ""
    """With the first news of it."""
    arguments: str = ""
    """More of their JSON."""


def style_of(template: str) -> Style:
    """A model's, by its chat template."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<|python_tag|>" in template or ("ipython" in template and "parameters" in template):
        return LLAMA
    return HERMES


class CallReader:
    """Finds calls in an answer that comes piece by piece.

    Args:
        style: how the model writes them.
        names: functions that there are; what looks like a call of another one stays text.
    """

    def __init__(self, style: Style, names: Sequence[str]):
        self._style = style
        known = "|".join(map(re.escape, names))
        self._head = re.compile(rf'\s*\{{\s*"name"\s*:\s*"(?P<name>{known})"\s*,\s*"{style.arguments}"\s*:\s*')
        self._held = ""
        self._calls = 0
        self._after_call = False
        self._value = _Value()
        self._state = self._in_text if style.begin else self._before_call

    def add(self, piece: str) -> Iterator[str | Call]:
        """More of the answer: text of it, and news of calls."""
        self._held += piece
        yield from self._read(last=False)

    def finish(self) -> Iterator[str | Call]:
        """No more comes: what was held back."""
        yield from self._read(last=True)

    def _read(self, last: bool) -> Iterator[str | Call]:
        while self._held:
            held, state = self._held, self._state
            yield from self._state(last)
            if (held, state) == (self._held, self._state):  # it must see more
                return

    def _in_text(self, last: bool) -> Iterator[str | Call]:
        """Words, up to where a call begins."""
        if self._after_call:
            self._held = self._held.lstrip()
        begin = self._style.begin
        place = self._held.find(begin) if begin else -1
        end = place if place >= 0 else len(self._held) - (0 if last else _overlap(self._held, begin))
        text, self._held = self._held[:end], self._held[end:]
        if text:
            self._after_call = False
            yield text
        if place >= 0:
            self._held, self._state = self._held[len(begin) :], self._before_call

    def _before_call(self, last: bool) -> Iterator[str | Call]:
        """Where a call begins, or what only looked like it."""
        listed = re.match(r"\s*\[", self._held) if self._style.listed else None
        rest = self._held[listed.end() if listed else 0 :]
        found = self._head.match(rest)
        if found:
            self._held, self._state, self._value = rest[found.end() :], self._in_value, _Value()
            self._calls += 1
            yield Call(self._calls - 1, name=found["name"])
        elif last or len(rest) > _LONGEST_HEAD or rest.lstrip()[:1] not in ("", "{"):
            self._state = self._in_text
            if self._style.begin:
                self._after_call = False
                yield self._style.begin

    def _in_value(self, last: bool) -> Iterator[str | Call]:
        """A call's arguments."""
        self._held = self._held if self._value.begun else self._held.lstrip()
        taken = self._value.take(self._held)
        arguments, self._held = self._held[:taken], self._held[taken:]
        if self._value.whole:
            self._state = self._behind_value
        if arguments:
            yield Call(self._calls - 1, arguments=arguments)

    def _behind_value(self, last: bool) -> Iterator[str | Call]:
        """The brace that closes a call."""
        self._held = self._held.lstrip()
        if self._held:
            self._held, self._state = self._held.removeprefix("}"), self._behind_call
        yield from ()

    def _behind_call(self, last: bool) -> Iterator[str | Call]:
        """What closes a call, or leads to the next one."""
        self._held = self._held.lstrip()
        end = "]" if self._style.listed else self._style.end
        if self._style.listed and self._held.startswith(","):
            self._held, self._state = self._held[1:], self._before_call
        elif last or not end.startswith(self._held) or self._held == end:
            self._held, self._state, self._after_call = self._held.removeprefix(end), self._in_text, True
        yield from ()


class _Value:
    """A JSON value in the reading: where it ends."""

    def __init__(self) -> None:
        self._depth, self._in_string, self._escaped = 0, False, False
        self.begun = self.whole = False

    def take(self, text: str) -> int:
        """How many of the text's characters belong to it."""
        for place, letter in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._in_string = False
            elif letter == '"':
                self._in_string = self.begun = True
            elif letter in "{[":
                self._depth, self.begun = self._depth + 1, True
            elif letter in "}]":
                self._depth -= 1
            if self.begun and not self._in_string and self._depth <= 0:
                self.whole = True
                return place + 1
        return len(text)


def forced(
    forms: Forms, vocabulary: Vocabulary, style: Style, tools: Sequence[Mapping[str, Any]], several: bool
) -> TokenGrammar:
    """A grammar of nothing but calls.

    Args:
        forms: makes grammars.
        vocabulary: of the model.
        style: how it writes calls.
        tools: those that it may call, as in OpenAI's API.
        several: whether more than one may be made.

    Raises:
        UserError: their parameters are no schemas.
    """
    rules, names = [], []
    for number, tool in enumerate(tools):
        function = tool["function"]
        schema = function.get("parameters") or {"type": "object"}
        call = {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, style.arguments: schema},
            "required": ["name", style.arguments],
            "additionalProperties": False,
            "x-guidance": COMPACT,
        }
        names.append(f"call_{number}")
        rules.append(f"call_{number}: %json {json.dumps(exact(call))}")
    call = "(" + " | ".join(names) + ")"
    begin, end = (_literal(marker, vocabulary) for marker in (style.begin, style.end))
    if style.listed:
        more = f' (", " {call})*' if several else ""
        start = f'{begin} "[" {call}{more} "]"'
    elif style.begin:
        once = f'{begin} "\\n" {call} "\\n" {end}'
        start = f'{once} ("\\n" {once})*' if several else once
    else:
        start = call
    return forms.grammar("\n".join([f"start: {start}", *rules]))


def checked(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of functions.

    Raises:
        UserError: one is not of OpenAI's form, or two have one name.
    """
    names = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,64}", name):
            raise UserError(
                f"{json.dumps(tool)[:80]} is not a tool",
                'give {"type": "function", "function": {"name": …, "parameters": …}}',
            )
        names.append(name)
    if len(set(names)) < len(names):
        raise UserError(f"two tools have one name: {', '.join(names)}", "name them differently")
    return names


def _literal(marker: str, vocabulary: Vocabulary) -> str:
    if marker in vocabulary.specials:
        return f"<[{vocabulary.specials[marker]}]>"
    return json.dumps(marker) if marker else ""


def _overlap(text: str, marker: str) -> int:
    return next((size for size in range(min(len(marker) - 1, len(text)), 0, -1) if text.endswith(marker[:size])), 0)
