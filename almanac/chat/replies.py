"""Answers in the form of OpenAI's API, whole and in pieces."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from almanac.chat.engine.engine import Ask, Part, Ticket
from almanac.chat.engine.request import Reason, Sampling, TokenLogprob
from almanac.chat.tokenizer import Vocabulary
from almanac.chat.tools import Call, CallReader, Style

Json = dict[str, Any]


@runtime_checkable
class Reply(Protocol):
    """An answer to a request."""

    def first(self) -> Iterator[Json]:
        """Events before the first piece."""
        ...

    def pieces(self, prompt: int, part: Part, ticket: Ticket) -> Iterator[Json]:
        """Events of a piece."""
        ...

    def last(self, tickets: Sequence[Ticket]) -> Iterator[Json]:
        """Events after the last piece."""
        ...

    def take(self, prompt: int, part: Part) -> None:
        """Keep a piece for `whole`."""
        ...

    def whole(self, tickets: Sequence[Ticket]) -> Json:
        """The whole body."""
        ...


@dataclass
class _Made:
    """One answer so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: Reason | None = None

    def take(self, part: Part) -> None:
        """A further piece."""
        self.text += part.text
        self.tokens += part.tokens
        self.logprobs += part.logprobs
        self.reason = part.reason


class _Reply:
    """What both kinds have in common.

    Args:
        model: its name.
        vocabulary: of its tokens.
        asks: what is answered.
        wants_usage: whether a stream ends with what it took.
    """

    kind = ""

    def __init__(self, model: str, vocabulary: Vocabulary, asks: Sequence[Ask], wants_usage: bool):
        self._model, self._vocabulary, self._asks, self._wants_usage = model, vocabulary, asks, wants_usage
        self._id = f"{'chatcmpl' if self.kind.startswith('chat') else 'cmpl'}-{uuid.uuid4().hex[:24]}"
        self._created = int(time.time())
        self._made = [[_Made() for _ in range(ask.answers)] for ask in asks]

    def take(self, prompt: int, part: Part) -> None:
        """Keep a piece."""
        self._made[prompt][part.answer].take(part)

    def last(self, tickets: Sequence[Ticket]) -> Iterator[Json]:
        """What the stream took, where that was asked for."""
        if self._wants_usage:
            yield {**self._head(streamed=True), "choices": [], "usage": self._usage(tickets)}

    def _head(self, streamed: bool) -> Json:
        kind = self.kind + (".chunk" if streamed and self.kind.startswith("chat") else "")
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self, tickets: Sequence[Ticket]) -> Json:
        asked = sum(len(ask.prompt) for ask in self._asks)
        drawn = sum(len(made.tokens) for each in self._made for made in each)
        details = {"cached_tokens": sum(ticket.cached for ticket in tickets)}
        return {
            "prompt_tokens": asked,
            "completion_tokens": drawn,
            "total_tokens": asked + drawn,
            "prompt_tokens_details": details,
        }

    def _token(self, token: int) -> tuple[str, list[int]]:
        """A token's text and bytes."""
        spelt = self._vocabulary.bytes[token] if token < len(self._vocabulary.bytes) else b""
        try:
            return spelt.decode(), list(spelt)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt), list(spelt)


class ChatReply(_Reply):
    """An answer of `/v1/chat/completions`.

    Args:
        model: its name.
        vocabulary: of its tokens.
        asks: what is answered, one.
        wants_usage: whether a stream ends with what it took.
        style: how the model writes calls; None: it has no tools.
        names: of the tools.
    """

    kind = "chat.completion"

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        asks: Sequence[Ask],
        wants_usage: bool,
        style: Style | None,
        names: Sequence[str],
    ):
        super().__init__(model, vocabulary, asks, wants_usage)
        self._messages = [_Message(style, names) for _ in range(asks[0].answers)]

    def first(self) -> Iterator[Json]:
        """Who speaks."""
        for answer in range(self._asks[0].answers):
            yield self._piece(answer, {"role": "assistant", "content": ""})

    def pieces(self, prompt: int, part: Part, ticket: Ticket) -> Iterator[Json]:
        """What is new."""
        self.take(prompt, part)
        message = self._messages[part.answer]
        deltas = list(message.news(part))
        logprobs = self._logprobs(part.logprobs) if part.logprobs else None
        for delta in deltas or ([{"content": ""}] if logprobs else []):
            yield self._piece(part.answer, delta, logprobs)
            logprobs = None
        if part.reason:
            yield self._piece(part.answer, {}, reason=message.reason(part.reason))

    def whole(self, tickets: Sequence[Ticket]) -> Json:
        """All of it."""
        choices = []
        for index, (message, made) in enumerate(zip(self._messages, self._made[0], strict=True)):
            list(message.news(Part(index, made.text, (), (), made.reason)))
            choice: Json = {"index": index, "message": message.whole(), "finish_reason": message.reason(made.reason)}
            choice["logprobs"] = self._logprobs(made.logprobs) if made.logprobs else None
            choices.append(choice)
        return {**self._head(streamed=False), "choices": choices, "usage": self._usage(tickets)}

    def _piece(self, answer: int, delta: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
        choice = {"index": answer, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head(streamed=True), "choices": [choice], **({"usage": None} if self._wants_usage else {})}

    def _logprobs(self, given: Sequence[TokenLogprob]) -> Json:
        def entry(token: int, value: float) -> Json:
            text, spelt = self._token(token)
            return {"token": text, "logprob": value, "bytes": spelt}

        content = [
            {**entry(each.token, each.logprob), "top_logprobs": [entry(*pair) for pair in each.top]} for each in given
        ]
        return {"content": content, "refusal": None}


class _Message:
    """What an assistant says, its calls apart from its words.

    Args:
        style: how the model writes calls; None: it has no tools.
        names: of the tools.
    """

    def __init__(self, style: Style | None, names: Sequence[str]):
        self._reader = CallReader(style, names) if style else None
        self._text, self._calls = "", list[Json]()

    def news(self, part: Part) -> Iterator[Json]:
        """Deltas of a piece."""
        if self._reader is None:
            found: list[str | Call] = [part.text] if part.text else []
        else:
            found = [*self._reader.add(part.text), *(self._reader.finish() if part.reason else ())]
        for each in found:
            if isinstance(each, str):
                self._text += each
                yield {"content": each}
            else:
                yield {"tool_calls": [self._call(each)]}

    def reason(self, reason: Reason | None) -> str | None:
        """Why it ended, in OpenAI's words."""
        return "tool_calls" if self._calls and reason == "stop" else reason

    def whole(self) -> Json:
        """All of it."""
        calls = [{key: value for key, value in call.items() if key != "index"} for call in self._calls]
        content = self._text if self._text.strip() or not calls else None
        return {"role": "assistant", "content": content, "refusal": None, **({"tool_calls": calls} if calls else {})}

    def _call(self, news: Call) -> Json:
        if news.name:
            function = {"name": news.name, "arguments": ""}
            call = {
                "index": news.number,
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": function,
            }
            self._calls.append(call)
            return {**call, "function": dict(function)}
        self._calls[news.number]["function"]["arguments"] += news.arguments
        return {"index": news.number, "function": {"arguments": news.arguments}}


class CompletionReply(_Reply):
    """An answer of `/v1/completions`.

    Args:
        model: its name.
        vocabulary: of its tokens.
        asks: what is answered.
        wants_usage: whether a stream ends with what it took.
        echo: whether prompts are repeated.
        prompt_only: whether nothing but the prompt is wanted.
    """

    kind = "text_completion"

    def __init__(
        self, model: str, vocabulary: Vocabulary, asks: Sequence[Ask], wants_usage: bool, echo: bool, prompt_only: bool
    ):
        super().__init__(model, vocabulary, asks, wants_usage)
        self._echo, self._prompt_only = echo, prompt_only
        self._offsets: dict[tuple[int, int], int] = {}

    def first(self) -> Iterator[Json]:
        """Nothing: a prompt to be repeated comes with its answer, when its logprobs are known."""
        return iter(())

    def pieces(self, prompt: int, part: Part, ticket: Ticket) -> Iterator[Json]:
        """What is new."""
        made = self._made[prompt][part.answer]
        begins = self._echo and not made.tokens
        self.take(prompt, part)
        if self._prompt_only:
            part = replace(part, text="", tokens=(), logprobs=())
        text, logprobs = part.text, list(part.logprobs)
        if begins:
            text = self._vocabulary.decode(self._asks[prompt].prompt, special=True) + text
        entry = self._logprobs(prompt, part.answer, logprobs, ticket if begins else None)
        yield self._choice(prompt, part.answer, text, entry, part.reason)

    def whole(self, tickets: Sequence[Ticket]) -> Json:
        """All of it."""
        choices = []
        for prompt, (answers, ticket) in enumerate(zip(self._made, tickets, strict=True)):
            for answer, made in enumerate(answers):
                text, logprobs = ("", []) if self._prompt_only else (made.text, made.logprobs)
                if self._echo:
                    text = self._vocabulary.decode(self._asks[prompt].prompt, special=True) + text
                entry = self._logprobs(prompt, answer, logprobs, ticket if self._echo else None)
                choices += self._choice(prompt, answer, text, entry, made.reason)["choices"]
        return {**self._head(streamed=False), "choices": choices, "usage": self._usage(tickets)}

    def _choice(self, prompt: int, answer: int, text: str, logprobs: Json | None, reason: Reason | None) -> Json:
        index = sum(ask.answers for ask in self._asks[:prompt]) + answer
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head(streamed=True), "choices": [choice], **({"usage": None} if self._wants_usage else {})}

    def _logprobs(self, prompt: int, answer: int, given: Sequence[TokenLogprob], echoed: Ticket | None) -> Json | None:
        """Four lists, an entry for each token; the first token of a prompt has no logprob."""
        if self._asks[prompt].sampling.logprobs is None:
            return None
        entries: list[TokenLogprob | int] = list(given)
        if echoed is not None:
            entries = [self._asks[prompt].prompt[0], *echoed.prompt_logprobs, *given]
        offset = self._offsets.get((prompt, answer), 0)
        found: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            token = entry if isinstance(entry, int) else entry.token
            text = self._token(token)[0]
            found["tokens"].append(text)
            found["text_offset"].append(offset)
            offset += len(self._vocabulary.decode([token], special=True))
            if isinstance(entry, int):
                found["token_logprobs"].append(None)
                found["top_logprobs"].append(None)
                continue
            likeliest = {self._token(other)[0]: value for other, value in reversed(entry.top)}
            found["token_logprobs"].append(entry.logprob)
            found["top_logprobs"].append({**likeliest, text: entry.logprob})
        self._offsets[prompt, answer] = offset
        return found


def with_prompt(sampling: Sampling, wanted: bool) -> Sampling:
    """With logprobs of the prompt's tokens, where they are wanted."""
    return replace(sampling, prompt_logprobs=wanted)
