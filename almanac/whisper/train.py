"""The recipe (paper §2.4, appendix F): the likelihood of every token of the multitask format but the previous text, for three sizes of
machine. Small models learn a small vocabulary of their own and listen to windows of their own length."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from almanac.runtime import console, device, hub
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, fit
from almanac.whisper import adapt, audio, augment, data, heads, recogniser, tokenizer
from almanac.whisper.augment import Augmentation
from almanac.whisper.data import Corpus, Recipe
from almanac.whisper.model import Dims, Whisper
from almanac.whisper.noise import Surroundings
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.sampler import IGNORED, SILENT, Batch, Mix, Sampler
from almanac.whisper.tokenizer import Tokenizer

OFFICIAL_VOCABULARY = 51_865
"""Tokens of the published multilingual models, specials among them."""
HELD_OUT_NOISE = ("kitchen", "sb_noise5")
HELD_OUT_ROOM = "rir4"


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    width: int
    """Channels; 64 a head."""
    encoder: int
    """Blocks."""
    decoder: int
    """Blocks."""
    seconds: float
    """Window."""
    vocabulary: int
    """Tokens to learn; `OFFICIAL_VOCABULARY`: the published tokens, so that other programs run the model too."""
    batch_size: int
    """Windows a batch."""
    fit: FitConfig
    """How to optimise."""
    spelling: float = 0.0
    """Weight of a loss on the encoder alone (`Learner`); it spares a small run most of its search for where to listen (docs/log.md)."""
    guidance: float = 0.0
    """Weight of a loss on where the decoder listens as it writes each token (`Learner`); so does this."""
    context: int = 256
    """Tokens that the decoder can look back on; half of them are for the previous text."""
    recipe: Recipe = field(default_factory=Recipe)
    """Speech to train on."""
    mix: Mix = field(default_factory=Mix)
    """What windows are made of."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """What happens to the sound."""


_FIT = FitConfig(
    2_700,
    learning_rate=1.5e-3,
    muon=5e-3,
    betas=(0.9, 0.98),
    weight_decay=0.1,
    warmup_steps=200,
    ema_decay=0.998,
    save_every=250,
)
PRESETS = {
    "cpu": Preset(
        256,
        4,
        3,
        10.0,
        1024,
        8,
        replace(_FIT, steps=6_000),
        spelling=2.0,
        guidance=1.0,
        mix=Mix(easy=2_000),
        # A short training has more use for undisturbed sound.
        augmentation=Augmentation(
            speed=0.6,
            room=0.15,
            noise=0.3,
            snr_db=(5.0, 40.0),
            telephone=0.08,
            narrow=0.15,
            codec=0.02,
            tilt=0.2,
            masks=0.2,
        ),
    ),
    "gpu": Preset(
        384,
        6,
        4,
        10.0,
        2048,
        256,
        replace(_FIT, steps=20_000, warmup_steps=1000, ema_decay=0.999, save_every=1000, compile=True),
        spelling=1.0,
        guidance=0.5,
        recipe=Recipe(phrases=20_000, open=40_000, digits=2_000, spliced=20_000),
        mix=Mix(easy=1_000),
    ),
    # Tiny of Table 1, by appendix F, for 2^20 updates of 256 windows of the user's own lists; its schedule is linear, ours a cosine.
    "paper": Preset(
        384,
        4,
        4,
        30.0,
        OFFICIAL_VOCABULARY,
        256,
        replace(
            _FIT, steps=2**20, learning_rate=1.5e-3, muon=0.0, warmup_steps=2048, ema_decay=0.9999, save_every=10_000
        ),
        context=448,
        recipe=Recipe(digits=0, spliced=0, aligned=False),
        mix=Mix(previous_text=0.5, collage=0.0),
        augmentation=replace(augment.NONE, masks=1.0),
    ),
}


def train(
    out: Path,
    preset: Preset,
    *,
    start: Recogniser | None = None,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a recogniser and write `out/model.safetensors`.

    Args:
        out: the run's folder.
        preset: network, speech, batch and optimisation.
        start: a model to begin with, which `with_overrides` made the preset fit; None: random weights.
        seed: of weights, windows and what happens to them.
        device_name: `auto`, `cpu` or `cuda`.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry: the speech (`hours`, `recipe`), and how they came to be.
    """
    corpus = data.prepare(preset.recipe)
    torch.manual_seed(seed)
    if start is None:
        tokens = vocabulary(preset, corpus)
        whisper = initialised(Whisper(dims_of(preset, tokens)))
    else:
        same = preset.vocabulary == start.model.dims.n_vocab
        tokens = start.tokenizer if same else vocabulary(preset, corpus)
        whisper = adapt.adapted(start, tokens, preset.seconds, preset.context, preset.encoder, preset.decoder)
    dims = whisper.dims
    learner = Learner(whisper, preset.guidance > 0)
    sampler = Sampler(corpus, tokens, dims, preset.mix, preset.augmentation, heard_around(), preset.batch_size, seed)
    started = time.time()
    fitted = fit(
        learner,
        multitask_loss(preset.spelling, preset.guidance),
        sampler,
        preset.fit,
        out,
        seed=seed,
        device_name=device_name,
        resume=resume,
    )
    seen = fitted.batches * preset.batch_size
    facts = {
        "hours": round(corpus.hours, 2),
        "sources": sorted({utterance.source for utterance in corpus.utterances}),
        "steps": fitted.step,
        "windows": seen,
        "loss": round(fitted.loss, 4),
        "seconds": round(fitted.seconds, 1),
        "windows_per_second": round(seen / fitted.seconds, 2),
        "machine": device.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "seed": seed,
    }
    learner.load_state_dict(fitted.weights)
    found = Recogniser(learner.whisper.cpu().eval(), tokens)
    _level_unheard(found, corpus)
    known = timed_speech(corpus, dims.seconds)
    if known:
        found.model.alignment_heads = heads.choose(found, known)
    if console.is_main_process():
        recogniser.save(found, Path(out) / "model.safetensors", facts)
    return facts


@torch.no_grad()
def _level_unheard(found: Recogniser, corpus: data.Corpus) -> None:
    """Give all tokens that no text of the corpus spells the same embedding, their mean: training told nothing about them but that they do
    not follow. Of the published vocabulary that is half, which a file then holds once."""
    texts = {text for utterance in corpus.utterances for text in (utterance.text, utterance.english) if text}
    words = {f" {word}".encode() for text in texts for word in text.split()}
    longest = max(map(len, found.tokenizer.ranks))
    spelt = {
        word[start:end] for word in words for start in range(len(word)) for end in range(start + 1, start + longest + 1)
    }
    unheard = [rank for piece, rank in found.tokenizer.ranks.items() if len(piece) > 1 and piece not in spelt]
    if unheard:
        table = found.model.decoder.token_embedding.weight
        table[unheard] = table[unheard].mean(0)


class Learner(nn.Module):
    """A model while it learns: a layer on its encoder tells at each position which letter is being said, if any, and heads of its decoder
    are watched as they listen. The layer is not kept.

    Args:
        whisper: the model.
        watched: whether heads are watched; attention is slower then.
    """

    def __init__(self, whisper: Whisper, watched: bool):
        super().__init__()
        self.whisper, self.watched = whisper, watched
        self.spell = nn.Linear(whisper.dims.n_audio_state, SILENT + 1)

    def forward(
        self,
        mel: Float[Tensor, "batch mels frames"],
        tokens: Int[Tensor, "batch length"],
        asked: Bool[Tensor, "batch length"],
    ) -> tuple[
        Float[Tensor, "asked vocabulary"],
        Float[Tensor, "batch positions letters"],
        Float[Tensor, "layers batch length positions"] | None,
    ]:
        """Logits of what follows the tokens that are asked for; of letters; and of where the first head of each of the decoder's later
        layers listens."""
        sound = self.whisper.encoder(mel)
        decoder = self.whisper.decoder
        states, seen = decoder.attention(tokens, sound) if self.watched else (decoder.read(tokens, sound), None)
        # A vocabulary of 51,865 is half of a small model's work, and two thirds of the tokens nobody asks for.
        logits = decoder.logits(states[asked])
        return logits, self.spell(sound), None if seen is None else seen[len(seen) // 2 :, :, 0]


def multitask_loss(spelling: float, guidance: float) -> Callable[[nn.Module, Batch, torch.Generator], Tensor]:
    """Mean negative log-likelihood of the tokens that are asked for; and by their weights that of the letters at the encoder's positions,
    and of listening where a token is said, of a `Learner`. What no window of a batch knows costs nothing, and its gradient is zero, not
    missing, which several processes need."""

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        asked = batch.targets != IGNORED
        logits, letters, listening = model(batch.mel, batch.tokens, asked)
        text = _mean_surprise(logits, batch.targets[asked])
        total = text + spelling * _mean_surprise(letters.flatten(0, 1), batch.heard.flatten())
        return total if listening is None else total + guidance * astray(listening, batch.said)

    return loss


def _mean_surprise(logits: Float[Tensor, "targets classes"], targets: Int[Tensor, " targets"]) -> Tensor:
    """Mean cross-entropy over the targets that are known; 0 where none is."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def astray(
    listening: Float[Tensor, "layers batch length positions"], said: Int[Tensor, "batch length 2"]
) -> Float[Tensor, ""]:
    """Mean negative log of how much of a head's attention (given before the softmax) is where the next token is said; 0 where that is not
    known of any."""
    known = said[..., 0] != IGNORED
    listening, said = listening[:, known], said[known]
    positions = torch.arange(listening.shape[-1], device=said.device)
    elsewhere = (positions < said[:, :1]) | (positions >= said[:, 1:])
    there = listening.masked_fill(elsewhere, -torch.inf).logsumexp(-1)
    return (listening.logsumexp(-1) - there).sum() / max(1, there.numel())


def timed_speech(corpus: Corpus, seconds: float, count: int = 60) -> list[heads.Known]:
    """Phrases of a corpus whose words' times are known, evenly from all of it."""
    timed = [
        one
        for one in corpus.utterances
        if one.source == "phrases" and len(one.words) > 2 and one.length < seconds * audio.SAMPLE_RATE
    ]
    return [(corpus.sound(one), one.language, one.words) for one in timed[:: max(1, len(timed) // count)]]


def vocabulary(preset: Preset, corpus: Corpus) -> Tokenizer:
    """The model's tokenizer: the published one, or one learnt from the corpus."""
    if preset.vocabulary == OFFICIAL_VOCABULARY:
        return tokenizer.official(OFFICIAL_VOCABULARY)
    texts = (" " + text for utterance in corpus.utterances for text in (utterance.text, utterance.english) if text)
    languages = tuple(sorted({utterance.language for utterance in corpus.utterances}))
    return tokenizer.build(tokenizer.learn(texts, preset.vocabulary), languages, preset.seconds)


def dims_of(preset: Preset, tokens: Tokenizer) -> Dims:
    """The network's sizes."""
    size = tokens.encoding.n_vocab
    dims = Dims.of_width(preset.width, preset.encoder, preset.decoder, size, seconds=preset.seconds)
    return replace(dims, n_text_ctx=preset.context)


def initialised(model: Whisper) -> Whisper:
    """Gaussian weights by fan-in (appendix F), embeddings of 0.02; what ends a residual branch is smaller by √(2 × blocks), as GPT-2's."""
    depth = {"encoder": 2 * model.dims.n_audio_layer, "decoder": 3 * model.dims.n_text_layer}
    for name, parameter in model.named_parameters():
        if "embedding" in name:
            nn.init.normal_(parameter, std=0.02 if "token" in name else 0.01)
        elif parameter.dim() > 1:
            fan_in = parameter[0].numel()
            ends = name.endswith(("out.weight", "mlp.2.weight"))
            nn.init.normal_(parameter, std=(fan_in * (depth[name.split(".")[0]] if ends else 1)) ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


def heard_around() -> Surroundings:
    """The recorded noises and rooms of the development data, where they are, without those that are kept for testing."""
    if not hub.has_data("speech"):
        return Surroundings()
    folder = hub.data("speech")
    noises = [path for path in sorted((folder / "noise").glob("*")) if path.stem not in HELD_OUT_NOISE]
    rooms = [path for path in sorted((folder / "rir").glob("*")) if path.stem != HELD_OUT_ROOM]
    return Surroundings([audio.read(path) for path in noises], [audio.read(path) for path in rooms])


def with_overrides(
    preset: Preset,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    width: int | None = None,
    encoder: int | None = None,
    decoder: int | None = None,
    seconds: float | None = None,
    vocabulary: int | None = None,
    learning_rate: float | None = None,
    lists: tuple[str, ...] = (),
    made: bool = True,
    compile: bool = False,
    start: Recogniser | None = None,
) -> Preset:
    """A preset with what the person changed of it. To begin with a model, it is as large as that, or has fewer blocks, learns a tenth as
    fast, and from whole windows at once.

    Raises:
        UserError: a number is below 1, the width is not of whole heads, or a model that it begins with can't have such sizes.
    """
    changed = {
        "batch_size": batch_size,
        "width": width,
        "encoder": encoder,
        "decoder": decoder,
        "vocabulary": vocabulary,
    }
    for name, value in {"steps": steps, "seconds": seconds, **changed}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}", "give a number from 1 on")
    if width is not None and width % 64:
        raise UserError(f"width is {width}", "give a multiple of 64, the channels of a head")
    recipe = replace(preset.recipe, real=lists or preset.recipe.real)
    if not made:
        recipe = replace(recipe, phrases=0, open=0, digits=0, spliced=0)
    fit = replace(preset.fit, steps=steps or preset.fit.steps, compile=compile or preset.fit.compile)
    if start is not None:
        sizes = start.model.dims
        has = (sizes.n_audio_state, sizes.n_audio_layer, sizes.n_text_layer)
        if width not in (None, has[0]) or (encoder or 0) > has[1] or (decoder or 0) > has[2]:
            raise UserError(
                f"the model that the training begins with is {has[0]} wide and has {has[1]} + {has[2]} blocks",
                "ask for the same width and at most as many blocks, or leave --start out",
            )
        preset = replace(
            preset,
            **dict(zip(("width", "encoder", "decoder"), has, strict=True)),
            seconds=sizes.seconds,
            vocabulary=sizes.n_vocab,
            context=sizes.n_text_ctx,
            mix=replace(preset.mix, easy=0),
        )
        fit = replace(fit, learning_rate=fit.learning_rate / 10, muon=fit.muon / 10)
    if learning_rate is not None:
        fit = replace(fit, learning_rate=learning_rate, muon=fit.muon * learning_rate / fit.learning_rate)
    known = {name: value for name, value in {**changed, "seconds": seconds}.items() if value}
    if seconds is not None and seconds > 10:
        known["context"] = 448  # as many tokens as the published models have for 30 s
    return replace(preset, fit=fit, recipe=recipe, **known)
