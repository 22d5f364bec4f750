"""What clients send: the bodies of OpenAI's text API with the fields that open servers add to it, checked, as what the engine is asked."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from almanac.chat.engine.request import Sampling
from almanac.chat.structure import Forms, TokenGrammar
from almanac.runtime.serving import Refused

UPLOAD = 16 * 2**20
"""Bytes of a request."""
NOTHING = "<|endoftext|>"
"""What OpenAI's API continues where it is given no prompt: the token before a new text."""
MOST_ANSWERS = 16
MOST_STOPS = 16
"""OpenAI takes 4; tasks of lm-eval have more."""
MOST_TOP_LOGPROBS = 20


class _Body(BaseModel):
    """Fields of all requests for text."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool = False
    priority: int = 0
    timeout: Annotated[float, Field(gt=0)] | None = None
    cache_salt: str | None = None
    response_format: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None

    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        found = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(found) > MOST_STOPS:
            raise Refused(f"stop has {len(found)} strings", f"give at most {MOST_STOPS}", param="stop")
        if "" in found:
            raise Refused("stop has an empty string", "leave it out", param="stop")
        return found

    def sampling(self, most: int, vocabulary: int, logprobs: int | None) -> Sampling:
        """How answers are drawn.

        Args:
            most: tokens, at most.
            vocabulary: tokens that there are.
            logprobs: likeliest tokens of which logprobs are wanted; None: none.
        """
        bias = {}
        for token, value in (self.logit_bias or {}).items():
            if not token.isdecimal() or int(token) >= vocabulary:
                raise Refused(
                    f"logit_bias names the token '{token}'", f"tokens are 0 to {vocabulary - 1}", param="logit_bias"
                )
            bias[int(token)] = value
        return Sampling(
            max_tokens=most,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=bias,
            seed=self.seed,
            stop=self.stops(),
            ignore_end=self.ignore_eos,
            min_tokens=min(self.min_tokens or 0, most),
            logprobs=logprobs,
        )

    def grammar(self, forms: Forms) -> TokenGrammar | None:
        """The form that answers must have."""
        if self.guided_regex is not None:
            return forms.regex(self.guided_regex)
        if self.guided_grammar is not None:
            return forms.grammar(self.guided_grammar)
        match self.response_format:
            case None | {"type": "text"}:
                return None
            case {"type": "json_object"}:
                return forms.json()
            case {"type": "json_schema", "json_schema": {"schema": schema}}:
                return forms.schema(schema)
        what = f"response_format is {str(self.response_format)[:80]}"
        hint = 'give {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": …}}'
        raise Refused(what, hint, param="response_format")

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return bool((self.stream_options or {}).get("include_usage"))


class ChatMessage(BaseModel):
    """Something that was said."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """As templates read it: text, and calls whose arguments are objects."""
        found: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text()}
        if self.name is not None:
            found["name"] = self.name
        if self.tool_call_id is not None:
            found["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            calls = []
            for call in self.tool_calls:
                function: dict[str, Any] = call["function"] if isinstance(call.get("function"), dict) else {}
                given = function.get("arguments", "{}")
                try:
                    arguments = json.loads(given) if isinstance(given, str) else given
                except ValueError:
                    arguments = given
                calls.append({**call, "function": {"name": function.get("name", ""), "arguments": arguments}})
            found["tool_calls"] = calls
        return found

    def text(self) -> str:
        """Its words."""
        if isinstance(self.content, list):
            other = next((part.get("type") for part in self.content if part.get("type") != "text"), None)
            if other is not None:
                raise Refused(f"a message has a part of type '{other}'", "this model reads text only", param="messages")
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class ChatBody(_Body):
    """A request for `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True

    @property
    def most(self) -> int | None:
        """Tokens of an answer, at most; None: as many as fit."""
        return self.max_completion_tokens or self.max_tokens or None

    def chosen_tools(self) -> tuple[list[dict[str, Any]], bool]:
        """Tools that may be called, and whether one must be."""
        tools = self.tools or []
        match self.tool_choice:
            case "none":
                return [], False
            case None | "auto":
                return tools, False
            case "required":
                chosen = tools
            case {"type": "function", "function": {"name": name}}:
                chosen = [
                    tool
                    for tool in tools
                    if isinstance(tool.get("function"), dict) and tool["function"].get("name") == name
                ]
            case other:
                hint = 'give "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
                raise Refused(f"tool_choice is {str(other)[:80]}", hint, param="tool_choice")
        if not chosen:
            raise Refused(
                "tool_choice asks for a tool that is not among tools", "name one of tools", param="tool_choice"
            )
        return chosen, True


class CompletionBody(_Body):
    """A request for `/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]] = NOTHING
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    suffix: str | None = None


def listed(given: str | list[str] | list[int] | list[list[int]], field: str) -> list[str] | list[list[int]]:
    """One or several texts, in words or tokens.

    Args:
        given: by a client.
        field: where.

    Raises:
        Refused: there is none.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise Refused(f"{field} is empty", "give a text, several, or tokens", param=field)
    several: Any = [given] if isinstance(given[0], int) else given
    return several


class EmbeddingBody(BaseModel):
    """A request for `/v1/embeddings`."""

    model: str = ""
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class ModerationBody(BaseModel):
    """A request for `/v1/moderations`."""

    model: str = ""
    input: str | list[str]


class TokenizeBody(BaseModel):
    """A request for `/tokenize`."""

    model: str = ""
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True


class DetokenizeBody(BaseModel):
    """A request for `/detokenize`."""

    model: str = ""
    tokens: list[int]
