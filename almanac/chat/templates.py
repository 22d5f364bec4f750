"""Chat templates: the Jinja text with which a model's folder says how messages become one text. It comes from whoever made the model,
and is rendered where it can reach nothing but what it is given. Special tokens that people type in their messages stay text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from almanac.chat.tokenizer import Vocabulary
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import read_json

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What is used where a model has none."""
_PRIVATE = range(0xF0000, 0xFFFFE)
"""Characters that mean nothing: while a template is rendered they stand for special tokens that somebody typed."""

Message = Mapping[str, Any]
"""role and content, as in OpenAI's API."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template."""

    source: str
    """In Jinja."""
    vocabulary: Vocabulary

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Mapping] | None = None, answer: bool = True, **more: Any
    ) -> list[int]:
        """The tokens of a conversation.

        Args:
            messages: what was said.
            tools: functions that may be called, as in OpenAI's API.
            answer: whether an answer's beginning follows.
            more: what else the template may look at.

        Raises:
            UserError: the template refuses the messages, or fails.
        """
        typed = json.dumps([messages, tools, more], ensure_ascii=False, default=str)
        free = (chr(code) for code in _PRIVATE if chr(code) not in typed)
        shields = {
            text: letter for text, letter in zip(self.vocabulary.specials, free, strict=False) if _holds(typed, text)
        }
        shielded = _replaced((messages, tools, more), shields)
        rendered = self.render(shielded[0], shielded[1], answer, **shielded[2])
        if not shields:
            return self.vocabulary.encode_meant(rendered)
        meant, tokens, start = {letter: text for text, letter in shields.items()}, [], 0
        for place, letter in enumerate(rendered):
            if letter in meant:
                tokens += self.vocabulary.encode_meant(rendered[start:place])
                tokens += self.vocabulary.encode(meant[letter], begin=False)
                start = place + 1
        return tokens + self.vocabulary.encode_meant(rendered[start:])

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping] | None, answer: bool, **more: Any) -> str:
        """The text of a conversation; arguments as in `encode`."""
        try:
            return self._compiled.render(
                messages=messages,
                tools=tools,
                add_generation_prompt=answer,
                bos_token=self.vocabulary.begin,
                eos_token=self.vocabulary.end,
                **more,
            )
        except jinja2.sandbox.SecurityError as error:
            raise UserError(
                f"the model's chat template is not allowed what it tries ({error})", "use another model"
            ) from None
        except Exception as error:  # a template can raise whatever it likes
            raise UserError(f"the chat template can't render these messages: {error}", "see the model's card") from None

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _as_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise UserError(f"the model's chat template is not Jinja ({error})", "use another model") from None


def load(folder: Path, vocabulary: Vocabulary) -> ChatTemplate:
    """The template of a model's folder: chat_template.jinja, or in tokenizer_config.json; else ChatML.

    Raises:
        UserError: a file is damaged.
    """
    if (folder / "chat_template.jinja").is_file():
        return ChatTemplate((folder / "chat_template.jinja").read_text("utf-8"), vocabulary)
    path = folder / "tokenizer_config.json"
    given = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(given, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in given}
        given = named.get("default") or next(iter(named.values()), None)
    return ChatTemplate(given or CHATML, vocabulary)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks what an assistant says, for training; here it is only rendered."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def parse(self, parser: Any) -> Any:
        """Its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _holds(typed: str, text: str) -> bool:
    return text in typed or json.dumps(text, ensure_ascii=False)[1:-1] in typed


def _replaced(value: Any, shields: Mapping[str, str]) -> Any:
    """A value with its strings' special tokens replaced."""
    match value:
        case str():
            for text, letter in shields.items():
                value = value.replace(text, letter)
            return value
        case Mapping():
            return {_replaced(key, shields): _replaced(item, shields) for key, item in value.items()}
        case list() | tuple():
            return [_replaced(item, shields) for item in value]
    return value
