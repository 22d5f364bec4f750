"""The tour of ChatGPT: many conversations at once on one engine, when each of them was served, and that none of them was answered
otherwise than alone. Without a model of one's own (ALMANAC_CHAT_MODEL) the weights are random: what is shown is how answers are served,
not what they say."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models

from almanac.chat import models
from almanac.chat.engine.engine import Ask, Engine, Options, Part, Ticket
from almanac.chat.engine.request import Sampling
from almanac.chat.model import Config, Transformer
from almanac.chat.models import ChatModel
from almanac.chat.templates import CHATML, ChatTemplate
from almanac.chat.tokenizer import Vocabulary
from almanac.runtime import hub
from almanac.runtime.plots import INK, MUTED
from almanac.runtime.report import Section

_CONVERSATIONS = 24
_TOKENS = 48
"""Of each answer."""
_SYSTEM = (
    "You answer questions about Almanac, the deep learning of 2022 as one readable codebase. Be brief, be exact, and say so "
    "where you do not know."
)
_SHAPE = Config(384, 256, 6, 8, 4, 32, 704, 2048, tied=True)


@dataclass
class _Served:
    """When a conversation was served, s."""

    asked: float
    begun: float = 0.0
    tokens: list[float] = field(default_factory=list)
    said: list[int] = field(default_factory=list)


def run(out: Path) -> Section:
    """Run once on real input.

    Args:
        out: folder for the pictures.
    """
    given = os.environ.get("ALMANAC_CHAT_MODEL")
    engine = Engine(models.load(given) if given else untrained(), Options(guess=False))
    prompts = [
        engine.model.template.encode([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}])
        for text in _questions()
    ]
    _serve(engine, prompts[:1], 0.0)  # makes machine code, the first time
    engine.core.pool.forget()
    started = time.monotonic()
    alone = [each for prompt in prompts for each in _serve(engine, [prompt], 0.0)]
    one_by_one = time.monotonic() - started
    engine.core.pool.forget()
    found, started = engine.counts.cached_tokens, time.monotonic()
    together = _serve(engine, prompts, 0.004)
    at_once = time.monotonic() - started
    found = engine.counts.cached_tokens - found
    engine.close()
    same = sum(one.said == other.said for one, other in zip(alone, together, strict=True))
    tokens = sum(len(each.said) for each in together)
    rows = [
        {"served": name, "seconds": round(seconds, 2), "tokens a second": round(tokens / seconds)}
        for name, seconds in (("one after the other", one_by_one), (f"{len(prompts)} at once", at_once))
    ]
    figure = _draw(together, out / "served.png")
    sentence = (
        f"{len(prompts)} conversations were answered at once in {at_once:.1f} s, {one_by_one / at_once:.1f} times as fast as "
        "one after the other, and "
        f"{same} of {len(prompts)} word for word as alone; {found:,} tokens of their common beginning were computed once."
    )
    return Section(
        sentence, [(figure, "When each conversation waited, was read, and was answered, a dot a token")], rows
    )


def untrained() -> ChatModel:
    """A small model that nobody trained, of bytes and ChatML."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(token_models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    vocabulary = Vocabulary(tokenizer, [257], "", "<|im_end|>")
    generator = torch.Generator().manual_seed(0)
    network = Transformer(_SHAPE).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.1, generator=generator)
    return ChatModel("untrained", network, vocabulary, ChatTemplate(CHATML, vocabulary))


def _questions() -> list[str]:
    """Paragraphs of the project's own README, as questions."""
    readme = hub.PROJECT / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else _SYSTEM
    paragraphs = [" ".join(each.split())[:400] for each in text.split("\n\n") if len(each) > 80 and "|" not in each]
    return [f"What does this mean: {paragraphs[n % len(paragraphs)]} ({n})" for n in range(_CONVERSATIONS)]


def _serve(engine: Engine, prompts: Sequence[Sequence[int]], apart: float) -> list[_Served]:
    """Ask for answers, one every so many seconds."""
    served, tickets, left = [], [], threading.Semaphore(0)
    sampling = Sampling(_TOKENS, temperature=0.0, ignore_end=True)
    for prompt in prompts:
        mine = _Served(time.monotonic())
        served.append(mine)

        def tell(ticket: Ticket, part: Part, mine: _Served = mine) -> None:
            mine.tokens += [time.monotonic()] * len(part.tokens)
            mine.said += part.tokens
            if part.reason:
                left.release()

        tickets.append(engine.submit(Ask(prompt, sampling), tell))
        time.sleep(apart)
    for _ in prompts:
        left.acquire()
    for mine, ticket in zip(served, tickets, strict=True):
        mine.begun = ticket.sequences[0].begun or mine.asked
    return served


def _draw(served: Sequence[_Served], path: Path) -> Path:
    """A line a conversation."""
    start = served[0].asked
    figure, axes = plt.subplots(figsize=(9, 0.22 * len(served) + 1.2), layout="constrained")
    for line, each in enumerate(served):
        first, last = each.tokens[0] - start, each.tokens[-1] - start
        axes.barh(line, each.begun - each.asked, left=each.asked - start, height=0.7, color="#ddd7cb")
        axes.barh(line, first - (each.begun - start), left=each.begun - start, height=0.7, color="#f0a18c")
        axes.plot(
            [token - start for token in each.tokens], [line] * len(each.tokens), ".", color="#b3402a", markersize=3
        )
        axes.plot([first, last], [line, line], color="#b3402a", linewidth=0.5)
    for name, colour in (("waits", "#ddd7cb"), ("is read", "#f0a18c"), ("is answered", "#b3402a")):
        axes.barh(0, 0, color=colour, label=name)
    axes.invert_yaxis()
    axes.set_xlabel("seconds", color=INK)
    axes.set_ylabel("conversation", color=INK)
    axes.set_yticks([])
    axes.tick_params(colors=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
