"""Models of less precision: how near they are to float32, and that their compiled steps are the networks they were made of."""

import copy

import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.whisper import decoding, fast, loops, timing, tokenizer
from almanac.whisper.model import Dims, Whisper


@pytest.fixture(scope="module")
def tokens():
    ranks = {bytes([value]): value for value in range(256)}
    return tokenizer.build(ranks, ("en", "nl"), seconds=6.02)


@pytest.fixture(scope="module")
def model(tokens):
    """A random model of our own kind, whose window is no multiple of 4 positions."""
    torch.manual_seed(0)
    model = Whisper(Dims.of_width(128, 2, 3, tokens.encoding.n_vocab, seconds=6.02)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.08 if parameter.ndim > 1 else 0.2)
    return model


@pytest.fixture(scope="module")
def mel():
    return torch.randn(2, 80, 602, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["int8", "bf16"])
def quick(request, model):
    found = copy.deepcopy(model)
    fast.prepare(found, request.param)
    return found


def test_it_hears_and_writes_nearly_the_same(model, quick, mel):
    texts = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        sound, expected = quick.encoder(mel), model.encoder(mel)
        assert (sound - expected).norm() <= 0.02 * expected.norm()
        logits, expected = quick.decoder(texts, expected), model.decoder(texts, expected)
        assert (logits - expected).norm() <= 0.02 * expected.norm()


def test_token_by_token_is_as_all_at_once(quick, mel):
    texts = torch.randint(0, 256, (4, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        sound = quick.encoder(mel)
        whole = quick.decoder(texts, sound.repeat_interleave(2, 0))
        cache = quick.decoder.begin(sound, 4)
        steps = torch.cat([quick.decoder.step(part, cache) for part in texts.split((5, 1, 1, 3, 20), 1)], 1)
        assert (quick.decoder.logits(steps) - whole).abs().max() <= 0.02 * whole.abs().max()


def test_texts_that_change_places_keep_their_past(quick, mel):
    texts = torch.randint(0, 256, (4, 6), generator=torch.Generator().manual_seed(2))
    swaps = [torch.tensor(rows) for rows in ([1, 1, 0, 3], [3, 2, 2, 0], [0, 0, 0, 1])]
    with torch.inference_mode():
        sound = quick.encoder(mel[:1])
        cache = quick.decoder.begin(sound, 4)
        quick.decoder.step(texts[:, :3], cache)
        past = texts[:, :3]
        for rows, token in zip(swaps, texts[:, 3:].split(1, 1), strict=True):
            cache.reorder(rows)
            found = quick.decoder.step(token, cache)
            past = torch.cat((past[rows], token), 1)
        expected = quick.decoder(past, sound.expand(4, -1, -1))[:, -1]
        assert (quick.decoder.logits(found[:, 0]) - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("beams", [None, 3])
def test_windows_decoded_together_are_as_alone(quick, tokens, mel, beams):
    options = decoding.Options(language="nl", beam_size=beams, sample_length=20)
    with torch.inference_mode():
        sound = quick.encoder(mel)
    together = decoding.decode(quick, tokens, sound, options)
    alone = [decoding.decode(quick, tokens, one[None], options)[0] for one in sound]
    assert [found.tokens for found in together] == [found.tokens for found in alone]


def test_words_have_times(model, quick, tokens, mel):
    text = tokens.encode(" a word or two")
    with torch.inference_mode():
        sound = model.encoder(mel)[0]
    words, expected = (timing.align(one, tokens, text, sound, 300, "en") for one in (quick, model))
    assert [word.text for word in words] == [word.text for word in expected]
    assert [word.probability for word in words] == pytest.approx([word.probability for word in expected], rel=0.1)


def test_functions_of_a_row_are_as_torch_has_them():
    row = torch.randn(1003, generator=torch.Generator().manual_seed(0)) * 8
    for own, theirs in ((loops.softmax, lambda x: x.softmax(-1)), (loops.gelu, torch.nn.functional.gelu)):
        found = row.clone()
        own(found.numpy())
        assert torch.allclose(found, theirs(row), rtol=1e-5, atol=1e-6)


def test_float32_is_left_as_it_is(model, mel):
    same = copy.deepcopy(model)
    fast.prepare(same, "fp32")
    with torch.inference_mode():
        assert torch.equal(same.encoder(mel), model.encoder(mel))
    assert type(same.decoder) is type(model.decoder)


def test_unknown_precisions_are_refused(model):
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        fast.prepare(copy.deepcopy(model), "int4")


@pytest.mark.parametrize("vocabulary", [300, 64, 51_865, 63])
def test_the_likeliest_tokens_are_those_of_a_sort(vocabulary):
    draw = torch.Generator().manual_seed(vocabulary)
    logits = 6 * torch.randn(5, vocabulary, generator=draw)
    logits[:, 1::3] = -torch.inf
    logits[2, :5] = 20.0  # ties
    logprobs, found = decoding.likeliest(logits, 6)
    expected = logits.log_softmax(-1).topk(6)
    assert (logprobs - expected.values).abs().max() < 2e-5
    assert torch.equal(logits.gather(1, found), logits.gather(1, expected.indices))
    assert all(len(set(row)) == 6 for row in found.tolist())
