"""What a step of the decoder is made of besides `nn.int8`, as loops compiled by numba: norms, attention to what was written and to sounds,
and GELU. With one new token a text, `torch` spends most of its time on starting operations. `fast` puts them together."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types
from numba.extending import intrinsic

from almanac.nn.compiled import compiled
from almanac.nn.int8 import multiply

_BLOCK = 64
"""Tokens of whom the likeliest is noted."""
_FAR = -1e30
"""Below all logits."""


@compiled
def normalise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, normed: np.ndarray) -> None:
    """Layer normalisation of each row."""
    rows, state = x.shape
    for row in range(rows):
        mean = float32(0)
        for i in range(state):
            mean += x[row, i]
        mean /= float32(state)
        variance = float32(0)
        for i in range(state):
            variance += (x[row, i] - mean) ** 2
        scale = float32(1) / np.sqrt(variance / float32(state) + float32(1e-5))
        for i in range(state):
            normed[row, i] = (x[row, i] - mean) * scale * weight[i] + bias[i]


@compiled
def look_back(
    qkv: np.ndarray, keys: np.ndarray, values: np.ndarray, came: np.ndarray, seen: int, mixed: np.ndarray
) -> None:
    """Add tokens to the past of texts, and attend to it.

    Args:
        qkv: float32, texts · tokens × 3 · state: queries, keys and values of the new tokens.
        keys: float32, texts × heads × context × size; written to.
        values: the same.
        came: texts × context: in which text's place each of a text's tokens is; written to.
        seen: tokens that are there already.
        mixed: float32, texts · tokens × state; written to.
    """
    texts, heads, context, size = keys.shape
    state, length = heads * size, len(qkv) // texts
    room = np.empty(context, np.float32)
    scale = float32(1) / np.sqrt(float32(size))
    for row in range(len(qkv)):
        text, now = row // length, seen + row % length
        came[text, now] = text
        weights = room[: now + 1]
        for head in range(heads):
            at = head * size
            keys[text, head, now] = qkv[row, state + at : state + at + size]
            values[text, head, now] = qkv[row, 2 * state + at : 2 * state + at + size]
            query = qkv[row, at : at + size]
            for position in range(now + 1):
                key = keys[came[text, position], head, position]
                product = float32(0)
                for i in range(size):
                    product += query[i] * key[i]
                weights[position] = product * scale
            softmax(weights)
            found = mixed[row, at : at + size]
            found[:] = 0
            for position in range(now + 1):
                value, weight = values[came[text, position], head, position], weights[position]
                for i in range(size):
                    found[i] += weight * value[i]


@compiled
def listen(
    query: np.ndarray,
    keys: np.ndarray,
    key_scale: np.ndarray,
    values: np.ndarray,
    value_scale: np.ndarray,
    mixed: np.ndarray,
) -> None:
    """Attend to sounds, as many successive rows to each as there are for it.

    Args:
        query: float32, rows × state.
        keys: int8, sounds × heads × positions × size.
        key_scale: float32, sounds × heads × positions.
        values: int8, sounds × heads × size × positions.
        value_scale: float32, sounds × heads × positions.
        mixed: float32, rows × state; written to.
    """
    sounds, heads, positions, size = keys.shape
    each = len(query) // sounds
    own, heard = np.empty((each, size), np.float32), np.empty((each, size), np.float32)
    weights, nothing, once = (
        np.empty((each, positions), np.float32),
        np.zeros(positions, np.float32),
        np.ones(size, np.float32),
    )
    totals = np.empty(each, np.float32)
    scale = float32(1) / np.sqrt(float32(size))
    for sound in range(sounds):
        for head in range(heads):
            for row in range(each):
                for i in range(size):
                    own[row, i] = query[sound * each + row, head * size + i] * scale
            multiply(own, keys[sound, head], key_scale[sound, head], nothing, weights)
            for row in range(each):
                peak, total = largest(weights[row]), float32(0)
                for i in range(positions):
                    weight = exponential(weights[row, i] - peak)
                    total += weight
                    weights[row, i] = weight * value_scale[sound, head, i]
                totals[row] = total
            multiply(weights, values[sound, head], once, nothing, heard)
            for row in range(each):
                for i in range(size):
                    mixed[sound * each + row, head * size + i] = heard[row, i] / totals[row]


@compiled
def rounded(x: np.ndarray, whole: np.ndarray, scale: np.ndarray) -> None:
    """Keys or values of sounds in eight bits, with a scale for each head and position.

    Args:
        x: float32, sounds × positions × state.
        whole: int8, sounds × heads × positions × size; written to.
        scale: float32, sounds × heads × positions; written to.
    """
    sounds, heads, positions, size = whole.shape
    for sound in range(sounds):
        for head in range(heads):
            for position in range(positions):
                own = x[sound, position, head * size : (head + 1) * size]
                most = float32(1e-12)
                for i in range(size):
                    most = max(most, abs(own[i]))
                scale[sound, head, position] = most / float32(127)
                factor = float32(127) / most
                for i in range(size):
                    whole[sound, head, position, i] = np.int8(np.rint(own[i] * factor))


@compiled
def softmax(x: np.ndarray) -> None:
    """Of a flat array, in place."""
    peak, total = largest(x), float32(0)
    for i in range(len(x)):
        x[i] = exponential(x[i] - peak)
        total += x[i]
    x *= float32(1) / total


@compiled
def likeliest(logits: np.ndarray, logprobs: np.ndarray, tokens: np.ndarray) -> None:
    """The likeliest tokens of each row, in order. They lie in the blocks with the largest maxima, so that few have to be compared.

    Args:
        logits: float32, rows × vocabulary.
        logprobs: float32, rows × count; written to.
        tokens: int64, rows × count; written to.
    """
    rows, vocabulary = logits.shape
    most = np.empty((vocabulary + _BLOCK - 1) // _BLOCK, np.float32)
    rest = np.empty(_BLOCK, np.float32)
    for row in range(rows):
        x, total = logits[row], float32(0)
        for block in range(vocabulary // _BLOCK):
            found = float32(_FAR)
            for i in range(_BLOCK):
                found = max(found, x[block * _BLOCK + i])
            most[block] = found
        if vocabulary % _BLOCK:
            most[-1] = largest(x[vocabulary // _BLOCK * _BLOCK :])
        peak = largest(most)
        for i in range(vocabulary):
            total += exponential(x[i] - peak)
        below = peak + np.log(total)
        for place in range(tokens.shape[1]):
            block = place_of(largest(most), most)
            first = block * _BLOCK
            own = rest[: min(_BLOCK, vocabulary - first)]
            own[:] = x[first : first + len(own)]
            for other in tokens[row, :place]:
                if first <= other < first + len(own):
                    own[other - first] = _FAR
            token = place_of(most[block], own)
            tokens[row, place], logprobs[row, place] = first + token, own[token] - below
            own[token] = _FAR
            most[block] = largest(own)


@compiled
def largest(x: np.ndarray) -> Any:
    """The largest number of a flat array, looked for in `_BLOCK` places side by side, as numpy's does not."""
    lanes = np.full(_BLOCK, float32(_FAR))
    whole = len(x) // _BLOCK * _BLOCK
    for first in range(0, whole, _BLOCK):
        for i in range(_BLOCK):
            lanes[i] = max(lanes[i], x[first + i])
    found = float32(_FAR)
    for lane in lanes:
        found = max(found, lane)
    for i in range(whole, len(x)):
        found = max(found, x[i])
    return found


@compiled
def place_of(number: float, x: np.ndarray) -> int:
    """Where a number first is in a flat array that holds it."""
    for i in range(len(x)):
        if x[i] == number:
            return i
    return 0


@compiled
def gelu(x: np.ndarray) -> None:
    """Of a flat array, in place; the error function by Abramowitz and Stegun 7.1.26, to 1.5e-7."""
    for i in range(len(x)):
        t = float32(1) / (float32(1) + float32(0.3275911 / 2**0.5) * abs(x[i]))
        series = float32(1.061405429)
        series = series * t - float32(1.453152027)
        series = series * t + float32(1.421413741)
        series = series * t - float32(0.284496736)
        series = series * t + float32(0.254829592)
        decay = exponential(-float32(0.5) * x[i] * x[i])
        beyond = float32(0.5) * series * t * decay  # how likely a normal number is to be beyond |x|
        x[i] *= float32(1) - beyond if x[i] > 0 else beyond


@compiled
def exponential(x: Any) -> Any:
    """exp of a float32 that is not above 0: 2ⁿ by the exponent's bits, the rest by a Taylor series (to 2e-7). Unlike a library's, it is
    computed for many numbers of a loop at once."""
    y = max(x * float32(1.4426950408889634), float32(-90))  # far from the numbers that processors are slow with
    n = np.rint(y)
    f = (y - n) * float32(0.6931471805599453)
    series = float32(1 / 720)
    series = series * f + float32(1 / 120)
    series = series * f + float32(1 / 24)
    series = series * f + float32(1 / 6)
    series = series * f + float32(0.5)
    series = series * f + float32(1)
    series = series * f + float32(1)
    return series * _as_float((int32(n) + int32(127)) << int32(23))


def _bitcast(typing: Any, bits: Any) -> Any:
    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], ir.FloatType())

    return types.float32(types.int32), made


_as_float: Any = intrinsic(_bitcast)
"""The float32 whose bits an int32 has."""
