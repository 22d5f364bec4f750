"""Both parts of the recipe, at a size that takes seconds: what is learnt, what is written, and that a run goes on where it was stopped."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from almanac.runtime import checkpoint
from almanac.runtime.errors import Interrupted, UserError
from almanac.runtime.fit import FitConfig
from almanac.stable_diffusion import models, train
from almanac.stable_diffusion.autoencoder import AutoencoderConfig
from almanac.stable_diffusion.generate import Settings
from almanac.stable_diffusion.matcher import Matcher, matching_loss
from almanac.stable_diffusion.model import NoiseConfig, signal
from almanac.stable_diffusion.text_encoder import TextConfig, TextEncoder
from almanac.stable_diffusion.unet import UnetConfig
from tests.stable_diffusion.test_data import beside

TINY = train.Preset(
    32,
    AutoencoderConfig(32, (1, 1), 1),
    UnetConfig(channels=32, mults=(1, 1), blocks=1, attention=(1,), heads=2, context=32),
    TextConfig(600, 32, 1, 2, 16),
    FitConfig(12, learning_rate=3e-3, warmup_steps=2, save_every=6, precision="fp32"),
    6,
    FitConfig(12, learning_rate=3e-3, warmup_steps=2, save_every=6, precision="fp32"),
    6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(beside(tmp_path_factory.mktemp("pictures")))


@pytest.fixture(scope="module")
def autoencoder(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("vae")
    train.train_autoencoder(folder, out, TINY, device_name="cpu")
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def whole(folder, autoencoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    train.train(folder, autoencoder, out, TINY, device_name="cpu")
    return out / "model.safetensors"


def test_another_model_begins_with_a_whole_ones_autoencoder(folder, whole, tmp_path):
    facts = train.train(folder, whole, tmp_path, replace(TINY, fit=replace(TINY.fit, steps=1)), device_name="cpu")
    known, said = checkpoint.load_weights(whole, "stable_diffusion")
    tensors, _ = checkpoint.load_weights(tmp_path / "model.safetensors", "stable_diffusion")
    assert facts["autoencoder"] == said["autoencoder"]
    changed = {name.split(".")[0] for name in known if not torch.equal(tensors[name], known[name])}
    assert changed == {"model", "cond_stage_model"}


def test_latents_have_about_unit_variance(autoencoder, folder):
    from almanac.stable_diffusion import data

    made, facts = models.autoencoder(autoencoder)
    with torch.inference_mode():
        mean, deviation = made.encode(data.load(folder, "train", 32).pictures(range(18)))
    assert abs((mean * made.config.scale).std().item() - 1) < 0.05
    assert (deviation > 0).all() and facts["config"]["scale"] == made.config.scale


def test_a_run_that_goes_on_with_more_steps_keeps_its_words(tmp_path, monkeypatch, needs_data):
    """Of a set without an end, more pictures are made then."""
    needs_data("mnist")
    one = replace(TINY.fit, steps=1, final_ratio=1.0)
    preset = replace(TINY, size=64, autoencoder_fit=one, fit=one, reading_batch=6)
    monkeypatch.setitem(train._READ_AGAIN, "unet", 1)
    train.train_autoencoder("scenes", tmp_path / "vae", preset, device_name="cpu")
    begun, out = tmp_path / "vae" / "model.safetensors", tmp_path / "model"
    first = train.train("scenes", begun, out, preset, device_name="cpu")
    more = replace(preset, fit=replace(one, steps=4))
    second = train.train("scenes", begun, out, more, device_name="cpu", resume=True)
    assert second["steps"] == 4 and second["vocabulary"] == first["vocabulary"]


def test_what_is_written_paints(whole):
    loaded = models.load(str(whole), "fp32")
    assert loaded.size == 32 and len(loaded.vocabulary) <= 600
    painter = models.painter(loaded)
    pictures = painter.paint(Settings("picture 3", width=32, height=32, steps=4), [1, 2])
    assert pictures.shape == (2, 3, 32, 32) and pictures.isfinite().all() and not torch.equal(*pictures)


@pytest.mark.parametrize("part", ["autoencoder", "unet", "unet that reads first"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(part, folder, autoencoder, whole, tmp_path):
    def run(steps: int, resume: bool) -> None:
        # The learning rate falls over the whole run, so a stopped one is a whole one whose file was written early.
        config = replace(TINY.fit, steps=steps, final_ratio=1.0)
        reading = replace(config, steps=3) if "reads" in part else None
        preset = replace(TINY, fit=config, autoencoder_fit=config, reading=reading, reading_batch=5)
        if "unet" in part:
            train.train(folder, autoencoder, tmp_path, preset, device_name="cpu", resume=resume)
        else:
            train.train_autoencoder(folder, tmp_path, preset, device_name="cpu", resume=resume)

    run(6, resume=False)
    run(12, resume=True)
    stopped, _ = checkpoint.load_weights(tmp_path / "model.safetensors", "stable_diffusion")
    for path in tmp_path.rglob("*.pt"):
        path.unlink()
    run(12, resume=False)
    through, _ = checkpoint.load_weights(tmp_path / "model.safetensors", "stable_diffusion")
    assert all(torch.equal(stopped[name], through[name]) for name in through)


def test_the_text_encoder_first_learns_which_caption_is_whose(folder, autoencoder, tmp_path, monkeypatch):
    reading = FitConfig(40, learning_rate=3e-3, warmup_steps=2, save_every=40, precision="fp32")
    still = replace(TINY.fit, steps=1, learning_rate=1e-12, weight_decay=0.0)
    preset = replace(TINY, reading=reading, reading_batch=18, fit=still)
    train.train(folder, autoencoder, tmp_path, preset, device_name="cpu")
    state = checkpoint.load_state(tmp_path / "reading" / "last.pt")
    assert state["loss"] < 0.7 * math.log(18)  # chance
    read = state["ema"]["weights"]
    tensors, _ = checkpoint.load_weights(tmp_path / "model.safetensors", "stable_diffusion")
    beginning, said = "cond_stage_model.transformer.", "text_encoder."
    own = {name.removeprefix(beginning): tensor for name, tensor in tensors.items() if name.startswith(beginning)}
    assert own and all(torch.equal(read[said + name].bfloat16(), tensor) for name, tensor in own.items())

    def stopped(*_, **__):
        raise Interrupted("stopped at step 3 and saved", f"go on with --resume --out {tmp_path}/reading")

    monkeypatch.setattr(train, "fit", stopped)
    with pytest.raises(Interrupted) as told:
        train.train(folder, autoencoder, tmp_path / "other", preset, device_name="cpu")
    assert told.value.hint == f"go on with --resume --out {tmp_path / 'other'}"


def test_the_loss_of_who_knows_which_caption_is_whose_is_nothing():
    latents, tokens = torch.randn(9, 4, 4, 4), torch.zeros(9, 5, dtype=torch.long)
    batch = (latents, torch.zeros_like(latents), tokens)
    for logits, expected in ((100 * torch.eye(9), 0.0), (torch.zeros(9, 9), math.log(9))):

        class Says(nn.Module):
            def forward(self, latents, tokens, logits=logits):
                return logits

        found = matching_loss(0.5)(Says(), batch, torch.Generator().manual_seed(0))
        assert abs(found.item() - expected) < 1e-5


def test_a_caption_fits_as_well_as_its_words_fit_their_best_cells():
    """By hand; and what fills a caption's line, or stands in another caption, changes nothing."""
    torch.manual_seed(0)
    matcher = Matcher(TextEncoder(TextConfig(20, 16, 1, 2, 8)), end=19, latents=2, side=6, width=12).eval()
    latents = torch.randn(3, 2, 6, 6)
    tokens = torch.tensor([[18, 3, 4, 19, 19, 19, 19, 19], [18, 5, 6, 7, 8, 19, 19, 19], [18, *[19] * 7]])
    with torch.no_grad():
        found = matcher(latents, tokens)
        alone = matcher(latents, tokens[:1])
        said = matcher.say(matcher.text_encoder(tokens[:1, :3]))[0]
        seen = matcher.tell(matcher.see(latents[1:2]) + matcher.places)[0].flatten(1).T
    assert torch.allclose(found[:1], alone, atol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(said[:, None], seen[None], dim=2)
    expected = matcher.sharpness.exp() * cosines.max(1).values.mean()
    assert torch.allclose(found[0, 1], expected, atol=1e-4)


def test_a_decoder_goes_on_learning_and_latents_stay_what_they_are(folder, autoencoder, whole, tmp_path):
    for start in (autoencoder, whole):
        out = tmp_path / start.parent.name
        facts = train.train_autoencoder(folder, out, TINY, start=start, device_name="cpu")
        before, known = checkpoint.load_weights(start, "stable_diffusion")
        after, said = checkpoint.load_weights(out / "model.safetensors", "stable_diffusion")
        assert said["decoder"]["l1"] == facts["l1"] and {**said, "decoder": None} == {**known, "decoder": None}
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and before.keys() == after.keys()
        decoding = ("first_stage_model.decoder.", "first_stage_model.post_quant_conv.")
        assert all(name.startswith(decoding) for name in changed)
    assert models.load(str(out / "model.safetensors")).size == 32


def test_a_model_goes_on_learning_from_where_it_is(folder, whole, tmp_path):
    """It keeps its autoencoder and vocabulary; without a step to speak of, its weights; and with steps it learns."""
    begun = models.load(str(whole), "fp32")
    still = replace(TINY, fit=replace(TINY.fit, steps=1, learning_rate=1e-12, weight_decay=0.0))
    facts = train.train(folder, begun, tmp_path / "still", still, device_name="cpu")
    same = models.load(str(tmp_path / "still" / "model.safetensors"), "fp32")
    assert facts["start"] == begun.name and same.vocabulary.facts() == begun.vocabulary.facts()
    weights = begun.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in same.network.state_dict().items())
    train.train(folder, begun, tmp_path / "more", TINY, device_name="cpu")
    more = models.load(str(tmp_path / "more" / "model.safetensors"), "fp32").network.state_dict()
    changed = {name.split(".")[0] for name in weights if not torch.equal(more[name], weights[name])}
    assert changed == {"model", "cond_stage_model"}


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_the_loss_of_a_network_that_knows_is_nothing(predicts):
    """And of one that says nothing is the variance of what it should say, weighted as min-SNR has it."""
    noising = NoiseConfig(predicts=predicts)
    kept = signal(noising)
    blank = torch.zeros(1, 4, dtype=torch.long)
    mean = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = (mean, torch.zeros_like(mean), torch.ones(64, 4, dtype=torch.long))

    class Knows(nn.Module):
        def forward(self, x, time, tokens):
            level = kept[time.long()][:, None, None, None]
            noise = (x - level.sqrt() * 0.5 * mean) / (1 - level).sqrt()
            return noise if predicts == "noise" else level.sqrt() * noise - (1 - level).sqrt() * 0.5 * mean

    class Silent(nn.Module):
        def forward(self, x, time, tokens):
            silent.append((tokens == 0).all(1).float().mean().item())
            return torch.zeros_like(x)

    silent: list[float] = []
    assert train.noise_loss(noising, 0.5, 5.0, blank)(Knows(), batch, torch.Generator().manual_seed(1)) < 1e-6
    ratio = kept / (1 - kept)
    lighter = ratio.clamp(max=5) / ratio if predicts == "noise" else (ratio.clamp(max=5) + 1) / (ratio + 1)
    variance = torch.ones_like(kept) if predicts == "noise" else kept + (1 - kept) * 0.25
    for least, weights in ((0.0, torch.ones_like(kept)), (5.0, lighter)):
        loss = train.noise_loss(noising, 0.5, least, blank)
        found = [loss(Silent(), batch, torch.Generator().manual_seed(seed)).item() for seed in range(60)]
        assert abs(sum(found) / 60 - (weights * variance).mean().item()) < 0.02
    assert 0.07 < sum(silent) / len(silent) < 0.13  # captions are left out


def test_what_does_not_fit_is_refused(folder, autoencoder, whole, tmp_path):
    with pytest.raises(UserError, match="steps is 0"):
        train.with_overrides(TINY, steps=0, batch_size=None, part="unet")
    with pytest.raises(UserError, match="learning_rate is nan"):
        train.with_overrides(TINY, steps=1, batch_size=None, part="unet", learning_rate=float("nan"))
    with pytest.raises(UserError, match="no whole model"):
        models.load(str(autoencoder))
    with pytest.raises(UserError, match="fewer than a batch of 19"):
        train.train_autoencoder(folder, tmp_path, replace(TINY, autoencoder_batch=19), device_name="cpu")
    tensors, facts = checkpoint.load_weights(whole, "stable_diffusion")
    checkpoint.save_weights(tmp_path / "wrong.safetensors", {**tensors, "more": torch.zeros(1)}, facts)
    with pytest.raises(UserError, match="more"):
        models.load(str(tmp_path / "wrong.safetensors"))
    checkpoint.save_weights(tmp_path / "mute.safetensors", tensors, {**facts, "vocabulary": {"numbers": 3}})
    with pytest.raises(UserError, match="vocabulary is damaged"):
        models.load(str(tmp_path / "mute.safetensors"))
