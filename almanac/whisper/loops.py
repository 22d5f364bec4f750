"""What a step of the decoder is made of besides `nn.int8`, as loops compiled by numba: norms, attention to what was written and to sounds,
and GELU. With one new token a text, `torch` spends most of its time on starting operations. `fast` puts them together."""

import numpy as np
from numba import float32, int32

from almanac.nn.int8 import compiled, multiply


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
    scale = float32(1) / np.sqrt(float32(size))
    for sound in range(sounds):
        for head in range(heads):
            for row in range(each):
                for i in range(size):
                    own[row, i] = query[sound * each + row, head * size + i] * scale
            multiply(own, keys[sound, head], key_scale[sound, head], nothing, weights)
            for row in range(each):
                softmax(weights[row])
                weights[row] *= value_scale[sound, head]
            multiply(weights, values[sound, head], once, nothing, heard)
            for row in range(each):
                mixed[sound * each + row, head * size : (head + 1) * size] = heard[row]


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
    x -= x.max()
    exponential(x)
    x *= float32(1) / x.sum()


@compiled
def gelu(x: np.ndarray) -> None:
    """Of a flat array, in place; the error function by Abramowitz and Stegun 7.1.26, to 1.5e-7."""
    decay = -float32(0.5) * x * x
    exponential(decay)
    for i in range(len(x)):
        t = float32(1) / (float32(1) + float32(0.3275911 / 2**0.5) * abs(x[i]))
        series = float32(1.061405429)
        series = series * t - float32(1.453152027)
        series = series * t + float32(1.421413741)
        series = series * t - float32(0.284496736)
        series = series * t + float32(0.254829592)
        beyond = float32(0.5) * series * t * decay[i]  # how likely a normal number is to be beyond |x|
        x[i] *= float32(1) - beyond if x[i] > 0 else beyond


@compiled
def exponential(x: np.ndarray) -> None:
    """exp of a flat array of numbers that are not above 0, in place: 2ⁿ by the exponent's bits, the rest by a Taylor series (to 2e-7).
    Unlike a library's, it is computed for many numbers at once."""
    powers = np.empty(len(x), np.int32)
    for i in range(len(x)):
        y = max(x[i] * float32(1.4426950408889634), float32(-90))  # far from the numbers that processors are slow with
        n = np.rint(y)
        f = (y - n) * float32(0.6931471805599453)
        series = float32(1 / 720)
        series = series * f + float32(1 / 120)
        series = series * f + float32(1 / 24)
        series = series * f + float32(1 / 6)
        series = series * f + float32(0.5)
        series = series * f + float32(1)
        x[i] = series * f + float32(1)
        powers[i] = (int32(n) + int32(127)) << int32(23)
    x *= powers.view(np.float32)
