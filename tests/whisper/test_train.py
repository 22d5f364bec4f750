"""The recipe: that it learns, that a killed run goes on to the same losses, and that what it writes can listen."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig
from almanac.whisper import data, recogniser, tokenizer, train
from almanac.whisper.augment import Augmentation
from almanac.whisper.model import Dims, Whisper
from almanac.whisper.noise import Surroundings
from almanac.whisper.sampler import Sampler
from almanac.whisper.transcribe import Settings, transcribe
from tests.whisper import untrained

SMALL = train.Preset(
    64, 1, 1, 3.0, 300, 4, FitConfig(6, warmup_steps=1, save_every=2, log_every=1), spelling=0.5, guidance=0.5, context=64,
    augmentation=Augmentation(room=0.0, codec=0.0),
    recipe=data.Recipe((), phrases=8, open=2, digits=2, languages=("en", "de"), flite=False),
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ALMANAC_CACHE", str(tmp_path_factory.getbasetemp() / "whisper-cache"))


def losses(run) -> list[float]:
    return [loss for line in (run / "metrics.jsonl").read_text().splitlines() for loss in json.loads(line)["losses"]]


def test_a_stopped_run_goes_on_to_the_same_losses(tmp_path):
    # The learning rate depends on how many steps there will be, so it is constant here.
    constant = replace(SMALL, fit=replace(SMALL.fit, final_ratio=1.0))
    train.train(tmp_path / "whole", constant, device_name="cpu")
    train.train(tmp_path / "parts", replace(constant, fit=replace(constant.fit, steps=3)), device_name="cpu")
    train.train(tmp_path / "parts", constant, device_name="cpu", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6


def test_what_was_trained_listens(tmp_path):
    facts = train.train(tmp_path, SMALL, device_name="cpu")
    assert facts["windows"] == 24 and facts["sources"] == ["digits", "phrases", "words"]
    found = recogniser.load(str(tmp_path / "model.safetensors"), "cpu")
    assert found.tokenizer.languages == ("de", "en") and found.model.dims.seconds == 3.0
    said = transcribe(found, torch.zeros(16_000).numpy(), Settings())
    assert said.language in ("de", "en")


def test_tokens_that_no_text_spells_have_one_embedding():
    """Whatever a text can be cut into keeps its own."""
    corpus = data.prepare(SMALL.recipe)
    ranks = {bytes([value]): value for value in range(256)} | {" привет".encode(): 256, b"\xe3\x81\x82": 257}
    words = [word for utterance in corpus.utterances for word in utterance.text.split()]
    word = max(words, key=len)
    ranks |= {f" {word}".encode(): 258, word[1:3].encode(): 259}
    tokens = tokenizer.build(ranks, ("de", "en"), 3.0)
    found = recogniser.Recogniser(Whisper(Dims.of_width(64, 1, 1, tokens.encoding.n_vocab, seconds=3.0)), tokens)
    before = found.model.decoder.token_embedding.weight.detach().clone()
    train._level_unheard(found, corpus)
    after = found.model.decoder.token_embedding.weight
    assert torch.equal(after[256], after[257]) and torch.allclose(after[256], before[256:258].mean(0))
    others = [rank for rank in range(len(before)) if rank not in (256, 257)]
    assert torch.equal(after[others], before[others])


def test_training_lowers_the_loss(tmp_path):
    longer = replace(SMALL, fit=replace(SMALL.fit, steps=30, learning_rate=3e-3, save_every=30))
    train.train(tmp_path, longer, device_name="cpu")
    found = losses(tmp_path)
    assert sum(found[-5:]) / 5 < 0.8 * found[0]


def test_a_corpus_is_kept_and_is_the_same_again():
    one, other = data.prepare(SMALL.recipe), data.prepare(SMALL.recipe)
    assert one.utterances == other.utterances and len(one.utterances) == 16 + 2 + 4 + 20
    said, digits = one.utterances[-21], one.utterances[-20:]
    assert said.language == "de" and said.words and abs(one.sound(said)).max() > 0.05
    assert [digit.text for digit in digits[::9]] == ["zero", "nine", "eight"] and len(
        {digit.speaker for digit in digits}
    ) == 2
    spectrum = np.abs(np.fft.rfft(one.sound(digits[6])))
    assert spectrum[len(spectrum) // 2 :].max() < 0.02 * spectrum.max()  # as if recorded at 8 kHz


def test_wrong_sizes_are_refused():
    with pytest.raises(UserError, match="width is 100"):
        train.with_overrides(SMALL, width=100)
    with pytest.raises(UserError, match="steps is 0"):
        train.with_overrides(SMALL, steps=0)


def test_who_begins_with_a_model_keeps_its_sizes_learns_slowly_and_from_whole_windows():
    found = untrained.small()
    cpu = train.PRESETS["cpu"]
    preset = train.with_overrides(cpu, start=found)
    sizes = found.model.dims
    assert (preset.width, preset.seconds, preset.vocabulary) == (sizes.n_audio_state, sizes.seconds, sizes.n_vocab)
    assert preset.fit.learning_rate == pytest.approx(cpu.fit.learning_rate / 10)
    assert (cpu.mix.easy, preset.mix.easy) == (2000, 0)
    with pytest.raises(UserError, match="64 wide"):
        train.with_overrides(cpu, start=found, width=128)


def test_initial_logits_are_nearly_even():
    """Nothing is preferred before training: the loss is that of a uniform guess."""
    corpus = data.prepare(SMALL.recipe)
    tokens = train.vocabulary(SMALL, corpus)
    model = train.initialised(train.Whisper(train.dims_of(SMALL, tokens)))
    logits = model(torch.randn(2, 80, 300), torch.randint(0, 300, (2, 9)))
    assert logits.log_softmax(-1).std() < 0.5


def test_listening_elsewhere_costs_the_log_of_what_is_there():
    said = torch.tensor([[[2, 4], [-100, -100], [0, 1]]])
    even = torch.zeros(2, 1, 3, 10)
    assert train.astray(even, said) == pytest.approx((math.log(5) + math.log(10)) / 2)
    there = even.clone()
    there[:, :, 0, 2:4], there[:, :, 2, 0] = 50, 50
    assert train.astray(there, said) < 1e-6
    assert train.astray(even, torch.full_like(said, -100)) == 0


def test_what_no_window_knows_costs_nothing_and_every_weight_has_a_gradient():
    """Also where no window of a batch has words whose times are known: several processes wait for every gradient."""
    corpus = data.prepare(SMALL.recipe)
    tokens = train.vocabulary(SMALL, corpus)
    dims = train.dims_of(SMALL, tokens)
    sampler = Sampler(corpus, tokens, dims, SMALL.mix, SMALL.augmentation, Surroundings(), 3, 0)
    batch = sampler(0)
    unknown = replace(batch, heard=torch.full_like(batch.heard, -100), said=torch.full_like(batch.said, -100))
    learner = train.Learner(train.initialised(train.Whisper(dims)), True)
    generator = torch.Generator()
    alone = train.multitask_loss(0.0, 0.0)(learner, unknown, generator)
    whole = train.multitask_loss(2.0, 1.0)(learner, unknown, generator)
    assert whole == alone and train.multitask_loss(2.0, 1.0)(learner, batch, generator) > alone
    whole.backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_likelihoods_are_of_what_is_asked_and_watching_changes_nothing():
    corpus = data.prepare(SMALL.recipe)
    dims = train.dims_of(SMALL, train.vocabulary(SMALL, corpus))
    whisper = train.initialised(train.Whisper(dims))
    mel, tokens = torch.randn(2, 80, 300), torch.randint(0, 300, (2, 9))
    asked = torch.rand(2, 9) < 0.4
    given = mel, tokens, asked
    watched, *_, listening = train.Learner(whisper, True)(*given)
    plain, *_, nothing = train.Learner(whisper, False)(*given)
    assert listening.shape == (1, 2, 9, 150) and nothing is None
    assert (watched - plain).abs().max() < 1e-4
    assert (plain - whisper(mel, tokens)[asked]).abs().max() < 1e-4
