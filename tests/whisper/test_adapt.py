"""Weights carried over to another vocabulary and window."""

import pytest
import torch

from almanac.whisper import adapt, decoding, recogniser, tokenizer
from almanac.whisper.model import Dims, Whisper
from almanac.whisper.recogniser import Recogniser


def vocabulary(texts: list[str], languages: tuple[str, ...], seconds: float) -> tokenizer.Tokenizer:
    return tokenizer.build(tokenizer.learn([*texts] * 3, 300), languages, seconds)


@pytest.fixture(scope="module")
def found() -> Recogniser:
    tokens = vocabulary([" haus und hof", " green house"], ("de", "en"), 4.0)
    torch.manual_seed(0)
    model = Whisper(Dims.of_width(64, 1, 2, tokens.encoding.n_vocab, seconds=4.0)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    return Recogniser(model, tokens)


def test_with_its_own_vocabulary_and_window_nothing_changes(found):
    same = adapt.adapted(found, found.tokenizer, 4.0, found.model.dims.n_text_ctx)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name


def test_fewer_blocks_are_those_at_even_distances(found):
    torch.manual_seed(1)
    deep = Recogniser(Whisper(Dims.of_width(64, 4, 3, found.model.dims.n_vocab, seconds=4.0)).eval(), found.tokenizer)
    model = adapt.adapted(deep, found.tokenizer, 4.0, 448, 3, 2)
    for own, other, blocks in (
        (model.encoder, deep.model.encoder, (0, 2, 3)),
        (model.decoder, deep.model.decoder, (0, 2)),
    ):
        assert len(own.blocks) == len(blocks)
        for place, block in enumerate(blocks):
            assert torch.equal(own.blocks[place].mlp[0].weight, other.blocks[block].mlp[0].weight)
    assert torch.equal(model.alignment_heads, deep.model.alignment_heads[[0, 2]])
    last = adapt.adapted(deep, found.tokenizer, 4.0, 448, 1, 1)
    assert torch.equal(last.decoder.blocks[0].mlp[0].weight, deep.model.decoder.blocks[2].mlp[0].weight)


def test_tokens_that_both_know_keep_their_rows_and_others_are_the_mean_of_what_spells_them(found):
    tokens = vocabulary([" hausboot", " greenhouse effect", " maison"], ("en", "fr", "de"), 6.0)
    model = adapt.adapted(found, tokens, 6.0, 500)
    old, new = found.model.decoder.token_embedding.weight, model.decoder.token_embedding.weight
    assert len(new) == tokens.encoding.n_vocab
    for token in range(tokens.eot):
        spelled = found.tokenizer.ranks.get(tokens.encoding.decode_single_token_bytes(token))
        if spelled is not None:
            assert torch.equal(new[token], old[spelled])
    text = " maison"
    own = next(token for token in range(tokens.eot) if tokens.decode([token]) not in ("", text) and token > 256)
    expected = old[found.tokenizer.encode(tokens.decode([own]))].mean(0)
    assert torch.allclose(new[own], expected)
    assert torch.equal(new[tokens.language_token("de")], old[found.tokenizer.language_token("de")])
    assert torch.allclose(new[tokens.language_token("fr")], old[found.tokenizer.language_tokens].mean(0))
    assert torch.equal(new[tokens.timestamp_begin + 7], old[found.tokenizer.timestamp_begin + 7])
    assert torch.equal(new[tokens.timestamp_begin + 300], old[-1])


def test_what_it_hears_stays_in_a_longer_window(found):
    """Sound that fits both windows, and silence after it, is encoded into the longer one's positions."""
    longer = Recogniser(adapt.adapted(found, found.tokenizer, 6.0, 448), found.tokenizer)
    mel = torch.randn(80, 800, generator=torch.Generator().manual_seed(1))
    assert longer.encode(mel).shape[1] == 300
    first = [one.model.encoder.positional_embedding[:200] for one in (found, longer)]
    assert torch.allclose(*first, atol=1e-6)
    options = decoding.Options(language="de", sample_length=5)
    assert decoding.decode(longer.model, longer.tokenizer, longer.encode(mel), options)[0].tokens


def test_a_model_of_the_published_vocabulary_begins_with_numbers_and_keeps_its_tokens(found, needs_data, tmp_path):
    """The last of its ranks spells nothing; its timestamps go on to 30 s in any window."""
    needs_data("whisper-vocabulary")
    tokens = tokenizer.official(51_865)
    assert tokens.encoding.decode_single_token_bytes(tokens.eot - 1) == b""
    model = adapt.adapted(found, tokens, 6.0, 448)
    assert model.decoder.token_embedding.weight.shape == (51_865, 64)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    recogniser.save(Recogniser(model, tokens), tmp_path / "short.safetensors", {})
    again = recogniser.load(str(tmp_path / "short.safetensors"), "cpu")
    assert again.tokenizer.encoding.n_vocab == 51_865 and again.model.dims.seconds == 6.0
    longer = adapt.adapted(again, again.tokenizer, 30.0, 448)
    assert longer.dims.n_audio_ctx == 1500 and longer.dims.n_vocab == 51_865
