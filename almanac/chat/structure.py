"""Answers of a given form: JSON, JSON by a schema, what a regular expression or a grammar allows. llguidance says which tokens may
follow; here it is made to fit the engine."""

import json
import math
import re
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import llguidance
import numpy as np

from almanac.chat.tokenizer import Vocabulary
from almanac.runtime.errors import UserError

COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line: a model that may put spaces anywhere can go on with them for ever."""
MOST_LETTERS = 2**17
"""Of a schema, regular expression or grammar."""
_STACK = 2**28
"""Bytes of stack for llguidance, which follows references by recursion; with 2²⁶, nothing of `MOST_LETTERS` overflowed (measured)."""
_NEGATIVE = re.compile(r"-\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_LOWEST = -(2.0**63)
"""From here down llguidance 1.9 loses itself among whole numbers, and takes the process with it."""
_EXACT = 2**53
"""Up to here llguidance, which reads numbers as float64, keeps whole ones."""
_HAIR = 2.0**-20
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords under which schemas have names."""
_PER_WORD = 32
_SHIFTS = np.arange(_PER_WORD, dtype=np.uint32)
_STARTING = threading.Lock()


class Forms:
    """Makes grammars for a vocabulary.

    Args:
        vocabulary: its tokens.
        outputs: tokens that the model has logits of, which may be more.
    """

    def __init__(self, vocabulary: Vocabulary, outputs: int):
        self._vocabulary, self._outputs = vocabulary, outputs

    def json(self) -> "TokenGrammar":
        """Any JSON object."""
        return self.schema({"type": "object"})

    def schema(self, schema: Mapping[str, Any] | bool) -> "TokenGrammar":
        """JSON that a schema allows.

        Raises:
            UserError: it is no schema, or says what can't be held to.
        """
        try:
            text = json.dumps(exact(schema))
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=COMPACT)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the schema can't be used ({_first_line(error)})", "give a JSON schema") from None
        return self._made(grammar, "the schema")

    def regex(self, pattern: str) -> "TokenGrammar":
        """What a regular expression matches whole.

        Raises:
            UserError: it is none.
        """
        return self._made(llguidance.LLMatcher.grammar_from_regex(pattern), "the regular expression")

    def grammar(self, text: str) -> "TokenGrammar":
        """What a grammar in Lark's form makes.

        Raises:
            UserError: it is none.
        """
        return self._made(llguidance.LLMatcher.grammar_from_lark(text), "the grammar")

    def _made(self, grammar: str, what: str) -> "TokenGrammar":
        if len(grammar) > MOST_LETTERS:
            raise UserError(f"{what} has {len(grammar):,} letters", f"give at most {MOST_LETTERS:,}")
        low = next((number for number in _NEGATIVE.findall(grammar) if float(number) <= _LOWEST), None)
        if low is not None:
            raise UserError(f"{what} has the number {low}", "numbers may be no lower than -9.2e18")
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise UserError(f"{what} can't be used ({_first_line(matcher.get_error())})", "simplify it")
        return TokenGrammar(matcher, self._outputs)

    def _matcher(self, grammar: str) -> llguidance.LLMatcher:
        """llguidance's, made in a thread that has stack enough."""
        tokenizer, made = self._tokenizer, []
        with _STARTING:
            usual = threading.stack_size(_STACK)
            thread = threading.Thread(target=lambda: made.append(llguidance.LLMatcher(tokenizer, grammar, log_level=0)))
            try:
                thread.start()
            finally:
                threading.stack_size(usual)
        thread.join()
        return made[0]

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        ends = sorted(self._vocabulary.ends)
        if not ends:
            raise UserError(
                "the model has no token that ends a text, so that no form can be held to", "use another model"
            )
        return llguidance.LLTokenizer(self._vocabulary.tokenizer.to_str(), n_vocab=self._outputs, eos_token=ends)


class TokenGrammar:
    """Where a text is in its grammar.

    Args:
        matcher: llguidance's.
        outputs: tokens that there are logits of.
    """

    def __init__(self, matcher: llguidance.LLMatcher, outputs: int):
        self._matcher, self._outputs = matcher, outputs
        self._words = np.zeros(-(-outputs // _PER_WORD), np.uint32)

    def mask(self, logits: np.ndarray) -> None:
        """Make impossible what must not follow, in place."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        allowed = (self._words[:, None] >> _SHIFTS & 1).astype(bool).ravel()[: self._outputs]
        logits[~allowed] = -np.inf

    def advance(self, token: int) -> None:
        """A token follows."""
        self._matcher.consume_token(token)

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped()

    @property
    def failed(self) -> bool:
        """Whether it grew too complex to be held to."""
        return self._matcher.is_error()

    def copy(self) -> "TokenGrammar":
        """Another text at the same place."""
        return TokenGrammar(self._matcher.deep_copy(), self._outputs)


def exact(schema: Any) -> Any:
    """A schema that llguidance holds to by the letter. It lets a whole exclusive bound through where the other bound is less than 1 away;
    there the schema gets a bound that is a hair stricter.

    Raises:
        UserError: it would write another number than a constant says.
    """
    if isinstance(schema, list):
        return [exact(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in ("const", "enum"):
            _check_constant(value)
            found[key] = value
        elif key in _NAMED and isinstance(value, dict):
            found[key] = {name: exact(each) for name, each in value.items()}
        else:
            found[key] = exact(value)
    return _bounded(found)


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without the exclusive bounds that llguidance would let through."""
    bounds = {key: value for key, value in schema.items() if type(value) in (int, float)}
    low, high = bounds.get("exclusiveMinimum", -math.inf), bounds.get("exclusiveMaximum", math.inf)
    least, most = max(low, bounds.get("minimum", -math.inf)), min(high, bounds.get("maximum", math.inf))
    found = dict(schema)
    if 0 < most - low < 1 and float(low).is_integer():
        del found["exclusiveMinimum"]
        found["minimum"] = max(least, low + _HAIR * (most - low))
    if 0 < high - least < 1 and float(high).is_integer():
        del found["exclusiveMaximum"]
        found["maximum"] = min(most, high - _HAIR * (high - least))
    return found


def _check_constant(value: Any) -> None:
    """Refuse a constant with whole numbers that llguidance changes."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_constant(each)
    elif isinstance(value, int) and abs(value) > _EXACT:
        raise UserError(
            "the schema has a constant beyond ±2⁵³, where whole numbers are not kept", "give it as a string"
        )


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
