"""OpenAI's text API: chat and plain completions, embeddings, and the models' list; `/tokenize`, `/detokenize`, `/health` and `/metrics`
as open servers have them. Accounts and billing are left to who includes the router."""

import asyncio
import base64
import hashlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from almanac.chat import replies, tools
from almanac.chat.engine.engine import Ask, Busy, Engine, Following, Part, Ticket
from almanac.chat.meters import Meters
from almanac.chat.moderation import Moderator
from almanac.chat.replies import ChatReply, CompletionReply
from almanac.chat.requests import (
    NOTHING,
    UPLOAD,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    ModerationBody,
    TokenizeBody,
    listed,
)
from almanac.chat.structure import Forms
from almanac.runtime import serving
from almanac.runtime.serving import Refused

MOST_TEXTS = 256
"""Prompts × answers of a request."""
MOST_TOKENS = 2**20
"""Answers × tokens of a request."""
_ALIVE_SECONDS = 15.0
"""After which a stream in which nothing happens says that it is alive."""
_KEPT_OPEN = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def application(engine: Engine, moderator: Moderator | None = None) -> FastAPI:
    """A server of nothing but this API; see `router`."""
    app = FastAPI(title="Almanac Chat", docs_url=None, redoc_url=None)
    serving.answer_errors(app)
    app.include_router(router(engine, moderator))
    return app


def router(engine: Engine, moderator: Moderator | None = None) -> APIRouter:
    """The API, to be included in an application.

    Args:
        engine: answers.
        moderator: classifies; None: `/v1/moderations` says that there is none.
    """
    api = APIRouter(route_class=serving.openai_route(UPLOAD))
    server = _Server(engine, moderator)

    @api.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": server.name,
            "running": engine.running,
            "waiting": engine.waiting,
            "pid": os.getpid(),
        }

    @api.get("/metrics")
    async def metrics() -> Response:
        return Response(server.meters.text(), media_type="text/plain; version=0.0.4")

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [server.about()]}

    @api.get("/v1/models/{name:path}")
    async def model_by_name(name: str) -> dict[str, Any]:
        server.check_model(name)
        return server.about()

    @api.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: ChatBody) -> Response:
        return await server.chat(request, body)

    @api.post("/v1/completions")
    async def completions(request: Request, body: CompletionBody) -> Response:
        return await server.complete(request, body)

    @api.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody) -> dict[str, Any]:
        return await server.embed(body)

    @api.post("/v1/moderations")
    async def moderations(body: ModerationBody) -> dict[str, Any]:
        return await server.moderate(body)

    @api.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        return await server.tokenize(body)

    @api.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        server.check_model(body.model)
        return {"prompt": server.vocabulary.decode(server.checked(body.tokens), special=True)}

    return api


class _Server:
    """What answers requests.

    Args:
        engine: the model.
        moderator: classifies.
    """

    def __init__(self, engine: Engine, moderator: Moderator | None):
        self.engine, self.moderator, self.name = engine, moderator, engine.model.name
        self.vocabulary, self.template = engine.model.vocabulary, engine.model.template
        self.forms = Forms(self.vocabulary, engine.model.config.vocabulary)
        self.style = tools.style_of(self.template.source)
        self.meters = Meters(engine)
        self.since = int(time.time())

    def about(self) -> dict[str, Any]:
        """What the list of models says."""
        length = {"max_model_len": self.engine.context}
        return {"id": self.name, "object": "model", "created": self.since, "owned_by": "almanac", **length}

    def check_model(self, asked: str) -> None:
        """Refuse a model that is not served."""
        if asked not in ("", self.name):
            what, hint = f"there is no model '{asked}'", f"this server has {self.name}"
            raise Refused(what, hint, 404, "model", "model_not_found")

    def _tokens(self, texts: list[str] | list[list[int]], encode: Callable[[str], list[int]]) -> list[list[int]]:
        """The tokens of texts that a client gave in words, or in tokens."""
        return [encode(text) if isinstance(text, str) else self.checked(text) for text in texts]

    def _begun(self, text: str) -> list[int]:
        """The tokens of a text to be continued. What begins or ends texts is that token at its very start, where clients say so that
        there is nothing before it (OpenAI's default prompt, lm-eval's prefix); anywhere else it stays text."""
        marks = (self.vocabulary.begin, self.vocabulary.end, NOTHING)
        mark = next((mark for mark in marks if mark and text.startswith(mark)), "")
        if mark not in self.vocabulary.specials:
            return self.vocabulary.encode(text)
        return [self.vocabulary.specials[mark], *self.vocabulary.encode(text.removeprefix(mark), begin=False)]

    def checked(self, tokens: list[int]) -> list[int]:
        """Tokens that a client gave."""
        vocabulary = self.engine.model.config.vocabulary
        wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise Refused(f"there is no token {wrong}", f"tokens are 0 to {vocabulary - 1}")
        return tokens

    async def chat(self, request: Request, body: ChatBody) -> Response:
        """Answer a conversation."""
        self.check_model(body.model)
        chosen, forced = body.chosen_tools()
        names = tools.checked(chosen)
        prompt = await asyncio.to_thread(self._chat_prompt, body, chosen)
        logprobs = (body.top_logprobs or 0) if body.logprobs or body.top_logprobs else None
        grammar = await asyncio.to_thread(body.grammar, self.forms)
        if forced:
            several = body.parallel_tool_calls is not False and body.tool_choice == "required"
            arguments = (self.forms, self.vocabulary, self.style, chosen, several)
            grammar = await asyncio.to_thread(tools.forced, *arguments)
        most = self._most(body.most, body.n or 1, len(prompt))
        sampling = body.sampling(most, self.engine.model.config.vocabulary, logprobs)
        ask = self._ask(request, body, prompt, sampling, grammar, special=bool(names))
        reply = ChatReply(self.name, self.vocabulary, [ask], body.wants_usage, self.style if names else None, names)
        return await self._answer(request, body.stream, reply, [ask])

    async def complete(self, request: Request, body: CompletionBody) -> Response:
        """Continue texts."""
        self.check_model(body.model)
        if body.suffix:
            raise Refused("suffix can't be used", "this model continues texts at their end only", param="suffix")
        prompts = self._tokens(listed(body.prompt, "prompt"), self._begun)
        if len(prompts) * (body.n or 1) > MOST_TEXTS:
            what = f"{len(prompts)} prompts with n = {body.n or 1} are more than {MOST_TEXTS} texts"
            raise Refused(what, "ask for fewer at once", param="prompt")
        grammar = await asyncio.to_thread(body.grammar, self.forms)
        asks = []
        for prompt in prompts:
            wanted = body.max_tokens if body.max_tokens is not None else 16
            most = self._most(max(wanted, 1), len(prompts) * (body.n or 1), len(prompt))
            sampling = body.sampling(most, self.engine.model.config.vocabulary, body.logprobs)
            sampling = replies.with_prompt(sampling, body.echo and body.logprobs is not None)
            asks.append(self._ask(request, body, prompt, sampling, grammar))
        reply = CompletionReply(self.name, self.vocabulary, asks, body.wants_usage, body.echo, body.max_tokens == 0)
        return await self._answer(request, body.stream, reply, asks)

    async def embed(self, body: EmbeddingBody) -> dict[str, Any]:
        """Embed texts: what their last token becomes, of length 1."""
        self.check_model(body.model)
        prompts = self._tokens(listed(body.input, "input"), self.vocabulary.encode)
        vectors = await asyncio.to_thread(self._busy_as_429, lambda: self.engine.features(prompts))
        vectors = vectors[:, : body.dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        data = [
            {"object": "embedding", "index": index, "embedding": _as_asked(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        total = sum(map(len, prompts))
        usage = {"prompt_tokens": total, "total_tokens": total}
        return {"object": "list", "data": data, "model": self.name, "usage": usage}

    async def moderate(self, body: ModerationBody) -> dict[str, Any]:
        """Whether texts are what they should not be."""
        moderator = self.moderator
        if moderator is None:
            raise Refused("this server has no model that moderates", "start it with --moderation MODEL", 404)
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not texts:
            raise Refused("input is empty", "give a text, or several", param="input")
        found = await asyncio.to_thread(self._busy_as_429, lambda: moderator.scores(texts))
        results = [
            {
                "flagged": any(value > 0.5 for value in scores.values()),
                "categories": {label: value > 0.5 for label, value in scores.items()},
                "category_scores": scores,
            }
            for scores in found
        ]
        return {"id": f"modr-{uuid.uuid4().hex[:24]}", "model": moderator.name, "results": results}

    async def tokenize(self, body: TokenizeBody) -> dict[str, Any]:
        """The tokens of a text or a conversation."""
        self.check_model(body.model)
        if body.messages is not None:
            messages = [message.plain() for message in body.messages]
            tokens = await asyncio.to_thread(self.template.encode, messages)
        else:
            tokens = self.vocabulary.encode(body.prompt or "", body.add_special_tokens)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": self.engine.context}

    def _chat_prompt(self, body: ChatBody, chosen: list[dict[str, Any]]) -> list[int]:
        messages = [message.plain() for message in body.messages]
        return self.template.encode(
            messages, chosen or None, body.add_generation_prompt, **(body.chat_template_kwargs or {})
        )

    def _most(self, asked: int | None, answers: int, prompt: int) -> int:
        """Tokens of an answer, at most."""
        left = self.engine.context - prompt
        if left <= 0:
            what = f"the prompt has {prompt:,} tokens, and the model's context is {self.engine.context:,}"
            raise Refused(what, "shorten it", param="messages", code="context_length_exceeded")
        most = left if asked is None else min(asked, left)
        if most * answers > MOST_TOKENS:
            what = f"{answers} answers of {most:,} tokens are more than {MOST_TOKENS:,}"
            raise Refused(what, "lower n or max_tokens", param="n")
        return most

    def _ask(self, request: Request, body: Any, prompt: list[int], sampling: Any, grammar: Any, **more: Any) -> Ask:
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        salt = hashlib.blake2b(f"{key}\n{body.cache_salt or ''}".encode(), digest_size=8).digest()
        who = hashlib.blake2b(key.encode(), digest_size=8).hexdigest() if key else body.user or ""
        return Ask(prompt, sampling, body.n or 1, who, salt, body.priority, body.timeout, grammar, **more)

    async def _answer(self, request: Request, stream: bool, reply: "replies.Reply", asks: list[Ask]) -> Response:
        """The response to what is asked, whole or in pieces."""
        following = self._busy_as_429(lambda: self.engine.follow(asks))
        if stream:
            return StreamingResponse(self._events(following, reply), media_type="text/event-stream", headers=_KEPT_OPEN)
        try:
            return await serving.attended(request, self._whole(following, reply))
        finally:
            following.close()

    async def _whole(self, following: Following, reply: "replies.Reply") -> Response:
        watch = self.meters.watch()
        async for ticket, part in following:
            watch.saw(ticket, part)
            self._check_ended(part)
            reply.take(following.tickets.index(ticket), part)
        watch.done(following.tickets[0])
        self.meters.answered.labels("ok").inc()
        return JSONResponse(reply.whole(following.tickets))

    async def _events(self, following: Following, reply: "replies.Reply") -> AsyncIterator[str]:
        """Server-sent events: pieces, what they took, and `[DONE]`; an error is the last one."""
        watch = self.meters.watch()
        try:
            for event in reply.first():
                yield _event(event)
            while (told := await _next(following)) is not None:
                if isinstance(told, str):
                    yield ": still here\n\n"
                    continue
                ticket, part = told
                watch.saw(ticket, part)
                self._check_ended(part)
                for event in reply.pieces(following.tickets.index(ticket), part, ticket):
                    yield _event(event)
            for event in reply.last(following.tickets):
                yield _event(event)
            watch.done(following.tickets[0])
            self.meters.answered.labels("ok").inc()
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield _event(serving.error_body(error))
        finally:
            following.close()

    def _check_ended(self, part: Part) -> None:
        """Refuse to call whole what was given up."""
        match part.reason:
            case "deadline":
                self.meters.answered.labels("deadline").inc()
                raise Refused("the answer was not there in time", "raise timeout, or ask for less", 504, code="timeout")
            case "failed" | "cancelled":
                self.meters.answered.labels("failed").inc()
                raise RuntimeError("an answer was given up")

    def _busy_as_429(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Busy as error:
            self.meters.answered.labels("refused").inc()
            raise Refused(error.what, error.hint, 429, code="rate_limit_exceeded") from None


async def _next(following: Following) -> tuple[Ticket, Part] | Literal["alive"] | None:
    """The next piece; None at the end, `alive` where nothing happened for a while."""
    try:
        return await asyncio.wait_for(anext(following), _ALIVE_SECONDS)
    except TimeoutError:
        return "alive"
    except StopAsyncIteration:
        return None


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _as_asked(vector: np.ndarray, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
