"""The page of ChatGPT in Studio: talk with a model, edit, ask again, turn between branches, vote. It lays out controls and shows
conversations; what is said in them is the engine's, their branches are `conversation`'s, votes `feedback`'s."""

import base64
import json
import os
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import gradio as gr

from almanac.chat import conversation as talk
from almanac.chat import models
from almanac.chat.conversation import Conversation
from almanac.chat.engine.engine import Ask, Engine, Options
from almanac.chat.engine.request import Sampling
from almanac.chat.feedback import FeedbackStore, Vote
from almanac.runtime import hub
from almanac.runtime.errors import RunFailed, UserError
from almanac.runtime.services import Services, tells_errors

MOST_KEPT = 50
"""Conversations that a browser keeps."""
_FRAME = 0.07
"""s between the pictures of an answer that grows; a browser that is sent more is behind when it is stopped."""
_TAGS = {
    1: ("Correct", "Clear", "Complete", "Well written"),
    -1: ("Wrong", "Unclear", "Ignores the question", "Unsafe", "Repeats itself"),
}
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden"}
_ALONE = gr.update(visible=False)
_TURN = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-node]");
  if (button) trigger("turn", { node: button.dataset.node });
});
"""


@dataclass(frozen=True)
class _Wish:
    """How a visitor wants answers."""

    system: str
    temperature: float
    top_p: float
    max_tokens: float
    seed: float | None

    @property
    def sampling(self) -> Sampling:
        """As the engine takes it."""
        seed = None if self.seed is None else int(self.seed)
        return Sampling(int(self.max_tokens), self.temperature, self.top_p, seed=seed)


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: where to compute.

    Raises:
        UserError: there is no model to talk with.
    """
    name = _model()
    with gr.Blocks(title="ChatGPT · Almanac") as page:
        _lay_out(page, name, services)
    return page


def _lay_out(page: gr.Blocks, name: str, services: Services) -> None:
    kept = gr.BrowserState([], storage_key="almanac-chat")
    visitor = gr.BrowserState("", storage_key="almanac-visitor")
    shown, voted = gr.State(talk.new), gr.State("")
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=300):
            fresh = gr.Button("New conversation", variant="primary")
            earlier = gr.Radio([], label="Conversations", elem_classes="conversations", visible=False)
            with gr.Accordion("How it answers", open=False):
                system = gr.Textbox(label="System prompt", lines=3, placeholder="What the model is told first")
                temperature = gr.Slider(0, 2, 0.7, step=0.05, label="Temperature")
                top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top p")
                most = gr.Slider(16, 2048, 512, step=16, label="Tokens of an answer, at most")
                seed = gr.Number(None, label="Seed", precision=0, placeholder="another each time")
            exports = gr.HTML(apply_default_css=False)
        with gr.Column(elem_classes="results", min_width=320):
            said = gr.Chatbot(
                show_label=False,
                height="58vh",
                editable="user",
                layout="bubble",
                buttons=["copy", "copy_all"],
                placeholder=f"Say something to <b>{name}</b>.",
                elem_classes="talk",
            )
            turning = gr.HTML(apply_default_css=False, js_on_load=_TURN, elem_classes="versions")
            with gr.Column(elem_classes="vote", visible=False) as ballot:
                tags = gr.CheckboxGroup(label="What about it?")
                comment = gr.Textbox(label="Comment (optional)", lines=2)
                consent = gr.Checkbox(False, label="This conversation may be used to improve models")
                with gr.Row():
                    send_vote = gr.Button("Send", size="sm", variant="primary")
                    no_vote = gr.Button("Close", size="sm")
            told = gr.HTML(apply_default_css=False, elem_classes="remark")
            text = gr.Textbox(
                show_label=False,
                placeholder="Write a message",
                submit_btn=True,
                lines=1,
                max_lines=8,
                autofocus=True,
                elem_classes="compose",
            )

    settings = [system, temperature, top_p, most, seed]
    view = [said, turning]

    async def answer(state: Conversation, asked: str, wish: _Wish) -> AsyncGenerator[tuple, None]:
        """Another answer to a message."""
        async for grown, remark in _answered(services.device, state, asked, wish):
            yield grown, *_view(grown), remark

    @tells_errors
    async def send(words: str, state: Conversation, *wishes: Any) -> AsyncGenerator[tuple, None]:
        if not words.strip():
            return
        wish = _Wish(*wishes)
        state = talk.say({**state, "system": wish.system}, "user", words.strip(), state["leaf"])
        yield state, *_view(state), "", gr.update(value="", submit_btn=False, stop_btn=True)
        async for shows in answer(state, state["leaf"], wish):
            yield *shows, gr.skip()

    @tells_errors
    async def retry(state: Conversation, event: gr.RetryData, *wishes: Any) -> AsyncGenerator[tuple, None]:
        shown_nodes = talk.path(state)
        asked = next(node["id"] for node in reversed(shown_nodes[: _at(event.index) + 1]) if node["role"] == "user")
        yield state, *_view({**state, "leaf": asked}), "", gr.update(submit_btn=False, stop_btn=True)
        async for shows in answer(state, asked, _Wish(*wishes)):
            yield *shows, gr.skip()

    @tells_errors
    async def edit(state: Conversation, event: gr.EditData, *wishes: Any) -> AsyncGenerator[tuple, None]:
        node = talk.path(state)[_at(event.index)]
        state = talk.say(state, "user", str(event.value), node["parent"])
        yield state, *_view(state), "", gr.update(submit_btn=False, stop_btn=True)
        async for shows in answer(state, state["leaf"], _Wish(*wishes)):
            yield *shows, gr.skip()

    def undo(state: Conversation, kept: list[Conversation], event: gr.UndoData) -> tuple:
        node = talk.path(state)[_at(event.index)]
        state = {**state, "leaf": node["parent"]}
        return *remember(state, kept), *_view(state), node["content"]

    @tells_errors
    def turn(state: Conversation, kept: list[Conversation], event: gr.EventData) -> tuple:
        if event.node not in state["nodes"]:
            raise UserError("this version is not part of the conversation", "reload the page")
        state = talk.turn_to(state, event.node)
        return *remember(state, kept), *_view(state)

    def remember(state: Conversation, kept: list[Conversation]) -> tuple:
        kept = _kept(kept, state)
        return state, kept, _list(kept, state), _downloads(state)

    def ended(state: Conversation, kept: list[Conversation]) -> tuple:
        """What is kept of an answer. Not the conversation: who stops an answer is read before its last words have come."""
        _, *notes = remember(state, kept)
        return *notes, gr.update(submit_btn=True, stop_btn=False)

    def begin(kept: list[Conversation]) -> tuple:
        state = talk.new()
        return state, *_view(state), "", _list(kept, state), _ALONE, ""

    def open_one(chosen: str, kept: list[Conversation]) -> tuple:
        state = next((each for each in kept if each["id"] == chosen), talk.new())
        return state, *_view(state), state["system"], _ALONE, _downloads(state)

    def restore(kept: list[Conversation], visitor: str) -> tuple:
        return _list(kept, talk.new()), visitor or secrets.token_hex(8)

    @tells_errors
    def vote(state: Conversation, kept: list[Conversation], who: str, event: gr.LikeData) -> tuple:
        node = talk.path(state)[_at(event.index)]
        thumb = 0 if event.liked is None or event.liked == "" else 1 if event.liked in (True, "Like") else -1
        state = talk.changed(state, node["id"], thumb=thumb)
        _store().record(_vote(state, node["id"], who))
        if not thumb:
            return *remember(state, kept), "", _ALONE, gr.skip()
        return (
            *remember(state, kept),
            node["id"],
            gr.update(visible=True),
            gr.update(choices=list(_TAGS[thumb]), value=[]),
        )

    @tells_errors
    def comment_on(state: Conversation, node: str, who: str, chosen: list[str], words: str, agreed: bool) -> tuple:
        _store().record(_vote(state, node, who, tuple(chosen), words.strip(), agreed))
        gr.Info("Thank you.")
        return gr.update(visible=False), ""

    spoken = [shown, *view, told, text]
    running = [
        text.submit(send, [text, shown, *settings], spoken, concurrency_limit=None, **_QUIET),
        said.retry(retry, [shown, *settings], spoken, concurrency_limit=None, **_QUIET),
        said.edit(edit, [shown, *settings], spoken, concurrency_limit=None, **_QUIET),
    ]
    notes = [kept, earlier, exports]
    memory = [shown, *notes]
    for event in running:
        event.then(ended, [shown, kept], [*notes, text], **_QUIET)
    halt = text.stop(None, cancels=cast(Any, running), **_QUIET)
    halt.then(ended, [shown, kept], [*notes, text], **_QUIET)
    said.undo(undo, [shown, kept], [*memory, *view, text], **_QUIET)
    turning.turn(turn, [shown, kept], [*memory, *view], **_QUIET)
    said.like(vote, [shown, kept, visitor], [*memory, voted, ballot, tags], **_QUIET)
    fresh.click(begin, kept, [shown, *view, told, earlier, ballot, exports], **_QUIET)
    earlier.input(open_one, [earlier, kept], [shown, *view, system, ballot, exports], **_QUIET)
    send_vote.click(comment_on, [shown, voted, visitor, tags, comment, consent], [ballot, comment], **_QUIET)
    no_vote.click(lambda: _ALONE, None, ballot, **_QUIET)
    page.load(restore, [kept, visitor], [earlier, visitor], **_QUIET)


async def _answered(
    device: str, state: Conversation, asked: str, wish: _Wish
) -> AsyncGenerator[tuple[Conversation, str], None]:
    """A conversation with an answer that grows, and a remark on it.

    Raises:
        UserError: the engine can't answer.
    """
    engine = _engine(device)
    prompt = engine.model.template.encode(talk.messages(state, asked))
    most = min(wish.sampling.max_tokens, max(engine.context - len(prompt), 1))
    sampling = wish.sampling
    made = {
        "model": f"{engine.model.name} {engine.digest}",
        "sampling": asdict(sampling),
        "prompt": prompt,
        "answer": [],
    }
    following = engine.follow([Ask(prompt, sampling)])
    state = talk.say(state, "assistant", "", asked, made)
    node, words, tokens, began, shown = state["leaf"], "", [], time.monotonic(), 0.0
    try:
        async for _, part in following:
            words, tokens = words + part.text, [*tokens, *part.tokens]
            now = time.monotonic()
            if not part.reason and now - shown < _FRAME:
                continue
            shown = now
            state = talk.changed(state, node, content=words, made={**made, "answer": tokens})
            cut = " It was cut at its longest." if part.reason == "length" and len(tokens) >= most else ""
            ended = ' class="ended"' if part.reason else ""
            rate = len(tokens) / max(now - began, 1e-3)
            yield state, f"<p{ended}>{len(tokens):,} tokens, {rate:.0f} a second.{cut}</p>"
            if part.reason in ("failed", "cancelled", "deadline"):
                raise RunFailed("the answer broke off", "ask again")
    finally:
        following.close()


def _view(state: Conversation) -> tuple[list[dict], str]:
    """What is shown of a conversation: messages, and a way to the other versions of those that have some."""
    shown, ways = talk.path(state), []
    for place, node in enumerate(shown):
        ids = talk.versions(state, node["id"])
        if len(ids) > 1:
            here = ids.index(node["id"])
            what = f"{'Answer' if node['role'] == 'assistant' else 'Question'} {place // 2 + 1}"
            before, after = ids[here - 1], ids[(here + 1) % len(ids)]
            ways.append(
                f'<p><button type="button" data-node="{before}" aria-label="Previous version of {what}">‹</button> '
                f"<span>{what}: {here + 1} of {len(ids)}</span> "
                f'<button type="button" data-node="{after}" aria-label="Next version of {what}">›</button></p>'
            )
    return [{"role": node["role"], "content": node["content"] or "…"} for node in shown], "".join(ways)


def _downloads(state: Conversation) -> str:
    """Links to save a conversation with."""
    files = {
        "md": ("Markdown", talk.markdown(state)),
        "json": ("JSON, with all branches", json.dumps(state, ensure_ascii=False)),
    }
    links = [
        f'<a download="conversation.{ending}" href="data:text/plain;base64,{base64.b64encode(text.encode()).decode()}">{title}</a>'
        for ending, (title, text) in files.items()
    ]
    return f'<p class="downloads">Save as {" ".join(links)}</p>' if state["nodes"] else ""


def _kept(kept: list[Conversation], state: Conversation) -> list[Conversation]:
    others = [each for each in kept if each["id"] != state["id"]]
    return ([state] if state["nodes"] else []) + others[: MOST_KEPT - 1]


def _list(kept: list[Conversation], state: Conversation) -> Any:
    ids = [each["id"] for each in kept]
    choices = [(each["title"] or "Untitled", each["id"]) for each in kept]
    return gr.update(choices=choices, value=state["id"] if state["id"] in ids else None, visible=bool(kept))


def _vote(
    state: Conversation, node: str, who: str, tags: tuple[str, ...] = (), comment: str = "", consent: bool = False
) -> Vote:
    answer = state["nodes"][node]
    made: Mapping[str, Any] = answer["made"]
    others = [each for each in talk.versions(state, node) if each != node]
    return Vote(
        conversation=state["id"],
        message=node,
        user=who,
        thumb=answer.get("thumb", 0),
        model=made.get("model", ""),
        sampling=made.get("sampling", {}),
        prompt=made.get("prompt", []),
        answer=made.get("answer", []),
        messages=talk.messages(state, answer["parent"]),
        text=answer["content"],
        tags=tags,
        comment=comment,
        consent=consent,
        rival=others[-1] if others else "",
    )


def _at(index: Any) -> int:
    """A message's place, however Gradio says it."""
    return index[0] if isinstance(index, list | tuple) else index


def _model() -> str:
    """The name of the model to talk with."""
    given = os.environ.get("ALMANAC_CHAT_MODEL", "")
    if not given:
        raise UserError(
            "no language model is on this machine",
            "set ALMANAC_CHAT_MODEL to the folder of one, a .gguf file, or hf://owner/repo, e.g. hf://HuggingFaceTB/SmolLM2-135M-Instruct",
        )
    return given.rstrip("/").rsplit("/", 1)[-1]


@lru_cache(maxsize=1)
def _engine(device: str) -> Engine:
    return Engine(models.load(os.environ["ALMANAC_CHAT_MODEL"]), Options(device=device))


@lru_cache(maxsize=1)
def _store() -> FeedbackStore:
    return FeedbackStore(Path(os.environ.get("ALMANAC_FEEDBACK") or hub.cache() / "feedback.sqlite"))
