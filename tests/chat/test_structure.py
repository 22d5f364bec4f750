"""Answers to random schemas, of a model that nobody trained: whatever it would rather say, all are JSON of their schema."""

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from almanac.chat import models
from almanac.chat.engine.engine import Answer, Ask, Engine, Options
from almanac.chat.engine.request import Sampling
from almanac.chat.structure import Forms
from almanac.runtime.errors import UserError
from tests.chat import made

Schema = dict[str, Any]

NAMES = ("name", "größe", "日本", "a b", 'quo"te', "back\\slash", "tab\t", "👩‍👧", "", "$ref", "type", "__proto__", "1")
PATTERNS = ("^[a-z]{1,5}$", "^(yes|no)+$", r"^\d{3}-\d{2,4}$", "^[^a-y]{2,4}$", "^ab?c", "^.{0,4}$")
FORMATS = ("date-time", "date", "time", "duration", "ipv4", "ipv6", "uuid")
LONG_FORMATS = ("email", "hostname", "uri")
VALUES = ("x", "日本", 'a "word"', "", 0, -7, 1.5, 2.5e-7, True, None, [1, ["ü"]], {"k": {"é": None}}, [], {})
CHECKED = FormatChecker(("email", "ipv4", "ipv6", "uuid"))
"""Formats of which `jsonschema` itself knows what they are; its dates have no year 0."""
ENDING = {b'"': 8.0, b"}": 6.0, b"]": 6.0, b"n": 4.0, b",": 2.0}
"""How much likelier tokens are made that begin so: what has no bound ends soon."""
DEFINITIONS: Schema = {
    "list": {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    },
    "tree": {
        "type": "object",
        "properties": {
            "left": {"$ref": "#/$defs/leaf"},
            "right": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}]},
        },
        "required": ["right"],
        "additionalProperties": False,
    },
    "leaf": {"enum": ["🍁", "leaf", 0]},
}


def schema(draw: random.Random) -> Schema:
    """A random schema of an object."""
    return {**_object(draw, 3), "$defs": DEFINITIONS}


def _value(draw: random.Random, depth: int) -> Schema:
    kinds = [_string, _integer, _number, _other, _chosen, _reference]
    return draw.choice(kinds + [_object, _array, _several] * 2 if depth else kinds)(draw, depth - 1)


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(NAMES, draw.randint(0, 4))
    made = {
        "type": "object",
        "properties": {name: _value(draw, depth) for name in names},
        "required": [name for name in names if draw.random() < 0.5],
    }
    match draw.randrange(8):
        case 0:
            pass  # whatever else may be there
        case 1:
            made["additionalProperties"] = True
        case 2:
            made["additionalProperties"] = _value(draw, 0)
        case 3:
            rest = draw.choice([False, _value(draw, 0)])
            made |= {"patternProperties": {"^x[0-9]{1,2}$": _value(draw, 0)}, "additionalProperties": rest}
        case _:
            made["additionalProperties"] = False
    return made


def _array(draw: random.Random, depth: int) -> Schema:
    least = draw.randint(0, 2)
    made: Schema = {"type": "array", "items": _value(draw, depth)}
    if draw.random() < 0.3:
        made["prefixItems"] = [_value(draw, 0) for _ in range(draw.randint(1, 2))]
        made["items"] = draw.choice([False, made["items"]])
        least = 0
    return {**made, **({"minItems": least} if least else {}), "maxItems": least + draw.randint(0, 3)}


def _several(draw: random.Random, depth: int) -> Schema:
    match draw.randrange(4):
        case 0:  # told apart by a constant
            kinds = [_object(draw, depth) for _ in range(2)]
            for number, kind in enumerate(kinds):
                kind["properties"]["kind"] = {"const": f"kind {number}"}
                kind["required"].append("kind")
            return {"oneOf": kinds}
        case 1:
            least = draw.randint(-9, 99)
            return {"allOf": [{"type": "integer", "minimum": least}, {"maximum": least + draw.randint(0, 99)}]}
    return {"anyOf": [_value(draw, depth) for _ in range(draw.randint(1, 3))]}


def _string(draw: random.Random, depth: int) -> Schema:
    match draw.randrange(5):
        case 0:
            return {"type": "string", "pattern": draw.choice(PATTERNS)}
        case 1:
            return {"type": "string", "format": draw.choice(FORMATS)}
        case 2:
            return {"type": "string", "format": draw.choice(LONG_FORMATS), "maxLength": draw.randint(8, 30)}
        case 3:
            return {"type": ["string", "null"], "maxLength": draw.randint(0, 10)}
    least = draw.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 6)}


def _integer(draw: random.Random, depth: int) -> Schema:
    least = draw.choice([-(2**40), -100, -1, 0, 1, 98])
    most = least + draw.choice([0, 1, 9, 1234, 2**41])
    whole: Schema = {"type": "integer", "minimum": least, "maximum": most}
    bare: Schema = {"type": "integer"}
    return draw.choice(
        [bare, whole, {**bare, "exclusiveMinimum": least - 1}, {**whole, "maximum": most + 7, "multipleOf": 7}]
    )


def _number(draw: random.Random, depth: int) -> Schema:
    least = draw.choice([-1e6, -1.5, -0.25, 0, 0.125])
    most = least + draw.choice([0.25, 1, 1e3])
    bare: Schema = {"type": "number"}
    return draw.choice(
        [
            bare,
            {**bare, "minimum": least, "maximum": most},
            {**bare, "exclusiveMinimum": least, "exclusiveMaximum": most},
            {**bare, "maximum": most},
            {**bare, "minimum": least, "maximum": most, "multipleOf": 0.125},
        ]
    )


def _other(draw: random.Random, depth: int) -> Schema:
    return {"type": draw.choice(["boolean", "null"])}


def _chosen(draw: random.Random, depth: int) -> Schema:
    if draw.random() < 0.3:
        return {"const": draw.choice(VALUES)}
    return {"enum": draw.sample(VALUES, draw.randint(1, 4))}


def _reference(draw: random.Random, depth: int) -> Schema:
    return {"$ref": f"#/$defs/{draw.choice(list(DEFINITIONS))}"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Engine]:
    folder = made.folder(tmp_path_factory.mktemp("model") / "tiny")
    own = Engine(models.load(str(folder)), Options("fp32", threads=1))
    yield own
    own.close()


def answers(engine: Engine, forms: Forms, schemas: list[Schema]) -> list[Answer]:
    """What the model says to each, all asked at once."""
    vocabulary = engine.model.vocabulary
    bias = {token: ENDING.get(spelt[:1], 0.0) for token, spelt in enumerate(vocabulary.bytes)}
    found = [Answer() for _ in schemas]
    left = threading.Semaphore(0)
    for number, each in enumerate(schemas):

        def tell(ticket: object, part: Any, answer: Answer = found[number]) -> None:
            answer.text += part.text
            answer.reason = part.reason
            if part.reason:
                left.release()

        sampling = Sampling(900, temperature=1.0, seed=number, logit_bias=bias)
        engine.submit(Ask(vocabulary.encode(f"JSON {number}:"), sampling, grammar=forms.schema(each)), tell)
    for _ in found:
        left.acquire()
    return found


@pytest.fixture(scope="module")
def forms(engine) -> Forms:
    return Forms(engine.model.vocabulary, engine.model.config.vocabulary)


def test_random_weights_write_json_of_random_schemas(engine, forms):
    """200 of them at once; all end by themselves."""
    draw = random.Random(0)
    schemas = [schema(draw) for _ in range(200)]
    for each, answer in zip(schemas, answers(engine, forms, schemas), strict=True):
        assert answer.reason == "stop", each
        Draft202012Validator(each, format_checker=CHECKED).validate(json.loads(answer.text))


@pytest.mark.parametrize(
    "bounds, written",
    [
        ({"exclusiveMinimum": 0, "maximum": 0.25}, "0"),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 0.25, "minimum": 0}, "0"),
        ({"exclusiveMinimum": 12, "maximum": 12.5}, "12"),
        ({"minimum": -0.5, "exclusiveMaximum": 0}, "-0"),
        ({"minimum": -1.25, "exclusiveMaximum": -1}, "-1"),
    ],
)
def test_an_exclusive_bound_is_not_written(engine, forms, bounds, written):
    """llguidance alone would let it end there."""
    vocabulary = engine.model.vocabulary
    for name in ("x", "const"):  # a name that is a keyword too
        grammar = forms.schema(
            {"type": "object", "properties": {name: {"type": "number", **bounds}}, "required": [name]}
        )
        text = f'{{"{name}": {written}'
        for letter in text:
            grammar.advance(vocabulary.bytes.index(letter.encode()))
            assert not grammar.done
        logits = np.zeros(engine.model.config.vocabulary, np.float32)
        grammar.mask(logits)
        following = {vocabulary.bytes[token] for token in np.flatnonzero(logits == 0)}
        assert b"." in following and not following & {b"}", b","}


def _chain(links: int) -> Schema:
    """Definitions of which each has the next within it."""
    inner = {
        str(link): {"properties": {"": {"$ref": f"#/$defs/{link + 1}"}}, "required": [""]} for link in range(links)
    }
    return {"$ref": "#/$defs/0", "$defs": {**inner, str(links): {"type": "null"}}}


def test_long_references_are_followed(forms):
    """With a thread's usual stack, they would end the process."""
    assert not forms.schema(_chain(1800)).done


@pytest.mark.parametrize("low", [-(2**63), -(2**63) + 500, -1e300])
def test_numbers_that_would_end_the_process_are_refused(forms, low):
    """llguidance alone would call itself for ever."""
    for wrong in ({"const": low}, {"enum": [[low]]}, {"type": "integer", "minimum": low, "maximum": low}):
        with pytest.raises(UserError):
            forms.schema({"properties": {"x": wrong}})
        with pytest.raises(UserError):
            forms.grammar(f"start: %json {json.dumps(wrong)}")


@pytest.mark.parametrize("wrong", [{"const": 2**53 + 1}, {"enum": ["x", {"y": [-(2**60)]}]}, _chain(3000)])
def test_what_is_not_kept_is_refused(forms, wrong):
    with pytest.raises(UserError):
        forms.schema({"properties": {"x": wrong}, **wrong})


def test_what_grows_too_complex_fails_alone(engine, forms):
    """It is not said to have ended; who asks beside it is answered."""
    wide = {"type": "object", "properties": {str(number): {"type": "null"} for number in range(3000)}}
    schemas = [{"type": "object"}, {"$ref": "#"}, wide, {"type": "array", "items": {"type": "null"}, "minItems": 10**6}]
    found = answers(engine, forms, schemas)
    assert [answer.reason for answer in found] == ["stop", "failed", "failed", "failed"]
