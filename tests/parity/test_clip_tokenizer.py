"""Tokens of prompts are those of transformers' CLIPTokenizer."""

import random

import pytest

from almanac.stable_diffusion import tokenizer

TEXT = """a photo of the astronaut riding horses masterpiece, best-quality; 8K!! it's they're I'VE don't café naïve Übergröße ÅNGSTRÖM
日本語 привет नमस्ते مرحبا 👩‍👧 👍🏽 e\u0301 ﬁ ½ ² 12345 3.14 <lora:x:0.5> (a:1.2) [b] <|startoftext|> <|endoftext|> \u200b \ufeff
İstanbul ẞ \x00 \x1b"""
WORDS = TEXT.split()
LETTERS = [
    *map(chr, range(32, 127)),
    *"äöüßéñçøåæœ€£¥©®™°±×÷¿¡…–—‘’“”日本語中文한국어абвгдअआا١٢٣😀🎉\u0301\u0308\u200d\u00a0\u3000\t\n\r\x00\x1b",
]


@pytest.fixture(scope="module")
def ours(vocabulary):
    return vocabulary


@pytest.fixture(scope="module")
def theirs(ours):
    from transformers import CLIPTokenizer

    model = ours.tokenizer.model
    made = CLIPTokenizer(vocab=ours.tokenizer.get_vocab(), merges=ours.merges)
    assert model.end_of_word_suffix == "</w>" and len(made) == len(ours) == 49_408
    return made


def test_a_cat(ours):
    assert ours.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert (ours.begin, ours.end) == (49_406, 49_407)


def test_tokens_of_ten_thousand_strings(ours, theirs):
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 12))) for _ in range(5000)]
    texts += ["".join(draw.choices(LETTERS, k=draw.randint(0, 40))) for _ in range(5000)]
    for text, ids in zip(texts, theirs(texts, add_special_tokens=False)["input_ids"], strict=True):
        assert ours.encode(text) == ids, text


def test_a_folder_of_diffusers_has_the_same(ours, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    if not (tmp_path / "merges.txt").is_file():  # new versions write tokenizer.json alone
        import json

        (tmp_path / "vocab.json").write_text(json.dumps(ours.tokenizer.get_vocab()))
        (tmp_path / "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in ours.merges) + "\n"
        )
    again = tokenizer.published(tmp_path)
    assert [again.encode(text) for text in WORDS] == [ours.encode(text) for text in WORDS]
