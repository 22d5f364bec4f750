"""Answers of a given form: JSON, JSON by a schema, what a regular expression or a grammar allows. llguidance says which tokens may
follow; here it is made to fit the engine."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import llguidance
import numpy as np

from almanac.chat.tokenizer import Vocabulary
from almanac.runtime.errors import UserError

COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line: a model that may put spaces anywhere can go on with them for ever."""
_PER_WORD = 32
_SHIFTS = np.arange(_PER_WORD, dtype=np.uint32)


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
            text = json.dumps(schema)
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=COMPACT)
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
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise UserError(f"{what} can't be used ({_first_line(matcher.get_error())})", "simplify it")
        return TokenGrammar(matcher, self._outputs)

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
        return self._matcher.is_stopped() or self._matcher.is_error()

    def copy(self) -> "TokenGrammar":
        """Another text at the same place."""
        return TokenGrammar(self._matcher.deep_copy(), self._outputs)


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
