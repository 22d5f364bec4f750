"""Words that people taught stand where their names do: whole ones, however they are written, the longest first."""

import pytest
import torch

from almanac.stable_diffusion import tokenizer
from almanac.stable_diffusion.text import Reader
from almanac.stable_diffusion.text_encoder import TextConfig, TextEncoder


@pytest.fixture(scope="module")
def reader():
    words = tokenizer.learnt(["a cat in a category of cats, my style", "my style-two"] * 3, 600)
    torch.manual_seed(0)
    encoder = TextEncoder(TextConfig(len(words), 64, 1, 1, 77)).eval()
    taught = {"cat": torch.randn(2, 64), "my style": torch.randn(1, 64), "<my style>": torch.randn(3, 64)}
    return Reader(encoder, words, taught)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a cat", ["a", 2]),
        ("a CAT, a category of cats", ["a", 2, ", a category of cats"]),
        ("(cat)cat", ["(", 2, ")", 2]),
        ("bobcat", ["bobcat"]),
        ("in My Style and <my style>", ["in", 1, "and", 3]),
        ("", []),
    ],
)
def test_taught_words_are_found_whole(reader, prompt, found):
    expected = [
        each for part in found for each in ([part] if isinstance(part, int) else reader.vocabulary.encode(part))
    ]
    pieces = reader._pieces(prompt)
    counts = iter(part for part in found if isinstance(part, int))
    seen = [next(counts) if isinstance(piece, torch.Tensor) else piece for piece in pieces]
    assert seen == expected
    assert [len(each) for each in pieces if isinstance(each, torch.Tensor)] == [p for p in found if isinstance(p, int)]
