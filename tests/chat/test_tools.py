"""Calls are found in an answer however it comes in pieces."""

import json
import random

import pytest

from almanac.chat import tools
from almanac.chat.structure import Forms
from almanac.chat.tokenizer import Vocabulary
from almanac.chat.tools import HERMES, LLAMA, MISTRAL, Call, CallReader
from almanac.runtime.errors import UserError
from tests.chat import made

NAMES = ["order", "get_weather"]
ARGUMENTS = ['{"drink": "a \\"tall\\" latte}", "shots": [1, {"x": 2}]}', "{}", '{"place": "Zürich\\n"}']


def read(style: tools.Style, text: str, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls that are found."""
    reader, said, calls = CallReader(style, NAMES), "", []
    found = [news for piece in pieces for news in reader.add(piece)] + list(reader.finish())
    for news in found:
        if isinstance(news, str):
            said += news
        elif news.name:
            assert news.number == len(calls)
            calls.append((news.name, ""))
        else:
            calls[news.number] = (calls[news.number][0], calls[news.number][1] + news.arguments)
    return said, calls


def cut(text: str, draw: random.Random) -> list[str]:
    """A text in pieces."""
    places = sorted(draw.sample(range(1, len(text)), min(len(text) - 1, draw.randrange(0, 40))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


WRITTEN = {
    "hermes": (
        HERMES,
        "Let me see. "
        + "\n".join(
            f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
            for name, arguments in zip([*NAMES, "order"], ARGUMENTS, strict=True)
        ),
        "Let me see. ",
    ),
    "mistral": (
        MISTRAL,
        "Hm.[TOOL_CALLS] ["
        + ", ".join(
            f'{{"name": "{name}", "arguments": {arguments}}}'
            for name, arguments in zip([*NAMES, "order"], ARGUMENTS, strict=True)
        )
        + "]",
        "Hm.",
    ),
    "llama": (LLAMA, f'{{"name": "order", "parameters": {ARGUMENTS[0]}}}', ""),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_calls_are_found_however_they_come(kind):
    style, text, said = WRITTEN[kind]
    calls = list(zip([*NAMES, "order"], ARGUMENTS, strict=True))[: 1 if kind == "llama" else 3]
    draw = random.Random(0)
    for _ in range(300):
        found = read(style, text, cut(text, draw))
        assert found == (said, calls)
    assert read(style, text, list(text)) == (said, calls)


@pytest.mark.parametrize(
    "text",
    [
        "Nothing is called here. a < b, <tool, <tool_",
        "<tool_call>\nnot json at all",
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '{"name": "order"} is how one would write it',
        "[TOOL_CALLS",
    ],
)
@pytest.mark.parametrize("style", [HERMES, MISTRAL, LLAMA])
def test_what_is_no_call_stays_text(style, text):
    draw = random.Random(1)
    for _ in range(50):
        said, calls = read(style, text, cut(text, draw))
        assert said.strip() == text.strip() and not calls


def test_a_call_that_breaks_off_is_told_as_far_as_it_went():
    said, calls = read(HERMES, "", ['<tool_call>\n{"name": "order", "arguments": {"drink": "te'])
    assert said == "" and calls == [("order", '{"drink": "te')]


def test_words_between_and_after_calls_stay_words():
    text = 'a<tool_call>\n{"name": "order", "arguments": {}}\n</tool_call> b <tool_call>{"name": "order", "arguments": {}}</tool_call>c'
    said, calls = read(HERMES, text, [text])
    assert "".join(said.split()) == "abc" and len(calls) == 2


@pytest.mark.parametrize("style", [HERMES, MISTRAL, LLAMA])
@pytest.mark.parametrize("several", [False, True])
def test_a_forced_call_is_one(style, several):
    """Whatever random tokens the grammar lets through."""
    import numpy as np

    tokenizer = made.tokenizer()
    vocabulary = Vocabulary(tokenizer, [tokenizer.token_to_id("<|im_end|>")])
    forms = Forms(vocabulary, 400)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
    }
    given = [
        {"type": "function", "function": {"name": name, "parameters": {**schema, "additionalProperties": False}}}
        for name in NAMES
    ]
    draw = np.random.default_rng(0)
    numbers = set()
    for _ in range(20):
        grammar, tokens = tools.forced(forms, vocabulary, style, given, several), []
        while not grammar.done and len(tokens) < 400:
            logits = draw.normal(0, 1, 400).astype(np.float32)
            grammar.mask(logits)
            tokens.append(int(logits.argmax()))
            grammar.advance(tokens[-1])
        assert grammar.done
        text = vocabulary.decode(tokens, special=True).removesuffix("<|im_end|>")
        said, calls = read(style, text, [text])
        assert not said.strip() and calls
        assert all(set(json.loads(arguments)) == {"n"} for _, arguments in calls)
        numbers.add(len(calls))
    assert (max(numbers) > 1) == (several and style is not LLAMA)


def test_tools_of_another_form_are_refused():
    for wrong in (
        [{"type": "function"}],
        [{"type": "retrieval", "function": {"name": "x"}}],
        [{"function": {"name": "x"}}],
    ):
        with pytest.raises(UserError, match="is not a tool"):
            tools.checked(wrong)
    named = {"type": "function", "function": {"name": "x"}}
    with pytest.raises(UserError, match="one name"):
        tools.checked([named, named])


def test_a_models_style_is_told_by_its_template():
    assert tools.style_of("... <tool_call> ...") is HERMES
    assert tools.style_of("... [TOOL_CALLS] ...") is MISTRAL
    assert tools.style_of("... <|python_tag|> ...") is LLAMA
    assert Call(0).arguments == ""
