"""The recipe, in two parts (Rombach et al. 2022): an autoencoder that keeps what is seen of a picture in few numbers, then a U-Net that
learns to take noise from these, reading captions with a text encoder that learns beside it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.runtime import checkpoint, console, device
from almanac.runtime.errors import Interrupted, UserError
from almanac.runtime.fit import FitConfig, Fitted, fit
from almanac.stable_diffusion import data, models, tokenizer
from almanac.stable_diffusion.autoencoder import Autoencoder, AutoencoderConfig
from almanac.stable_diffusion.data import Batches, CaptionedSet
from almanac.stable_diffusion.matcher import Matcher, matching_loss
from almanac.stable_diffusion.model import Config, LatentDiffusion, NoiseConfig, signal
from almanac.stable_diffusion.models import PaintingModel
from almanac.stable_diffusion.text_encoder import TextConfig, TextEncoder
from almanac.stable_diffusion.tokenizer import Vocabulary
from almanac.stable_diffusion.unet import Unet, UnetConfig

KL = 1e-6
"""Weight of the latents' distance from a standard normal (paper, appendix G: kl-f8's)."""
PICTURE = 0.3
"""Weight of `picture_error`, which is 1 where an autoencoder gives back a background alone."""
_QUIET = 8.0
"""By which the logarithm of latents' variance is lower than drawn weights have it."""
_READ_AGAIN = {"autoencoder": 4, "unet": 20}
"""How often a training reads each picture of an endless set, of which that many are made ahead."""
_PLAIN_READING = 0.5
"""Share of pictures that the text encoder's own training begins with, which are plain ones if the set knows such."""
DROPPED = 0.1
"""Share of captions that are left out, for guidance (model card of Stable Diffusion 1)."""


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    size: int
    """Pixels of a side."""
    autoencoder: AutoencoderConfig
    unet: UnetConfig
    text: TextConfig
    autoencoder_fit: FitConfig
    autoencoder_batch: int
    fit: FitConfig
    batch: int
    ahead: bool = True
    """Whether latents are computed before the U-Net is trained, and pictures of an endless set made before any training."""
    reading: FitConfig | None = None
    """How the text encoder learns, before the U-Net, which caption is of which picture; None: it learns with the U-Net alone."""
    reading_batch: int = 64
    """Captions and pictures, among which each is to find its own."""
    plain: float = 0.0
    """Share of its pictures that the U-Net begins with, which are plain ones if the set knows such (a curriculum, Bengio et al. 2009;
    docs/log.md)."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(predicts="velocity"))
    """How latents become noisy, and what the U-Net predicts."""
    guidance: float = 3.0
    """Scale of guidance that suits the model."""
    least_snr: float = 5.0
    """Signal-to-noise ratio from which on a step's loss counts less, in proportion (min-SNR-γ, Hang et al. 2023); 0: all count alike."""


PRESETS = {
    "cpu": Preset(
        64,
        AutoencoderConfig(32, (1, 2, 2), 1, groups=8),
        UnetConfig(channels=64, mults=(1, 2, 2), blocks=1, attention=(1, 2), heads=4, context=128, groups=16),
        TextConfig(1024, 128, 3, 4, 48),
        FitConfig(4_000, learning_rate=2e-3, warmup_steps=50, save_every=500, replay=True),
        8,
        FitConfig(10_000, learning_rate=1e-3, warmup_steps=300, ema_decay=0.999, save_every=500, replay=True),
        32,
        reading=FitConfig(1_500, learning_rate=1e-3, warmup_steps=50, weight_decay=0.05, save_every=500),
        plain=0.1,
    ),
    "gpu": Preset(
        64,
        AutoencoderConfig(48, (1, 2, 2), 1, groups=8),
        UnetConfig(channels=64, mults=(1, 2, 2), blocks=2, attention=(1, 2), heads=4, context=192, groups=16),
        TextConfig(2048, 192, 4, 4, 64),
        FitConfig(3_000, learning_rate=2e-3, warmup_steps=100, save_every=1_000, replay=True),
        128,
        FitConfig(12_000, learning_rate=8e-4, warmup_steps=300, ema_decay=0.999, save_every=1_000, replay=True),
        256,
        reading=FitConfig(800, learning_rate=1e-3, warmup_steps=100, weight_decay=0.05, save_every=1_000),
        reading_batch=256,
        plain=0.1,
    ),
    # The model card of Stable Diffusion 1: AdamW, 2,048 pictures a step, 1e-4 after a warm-up of 10,000 steps.
    "paper": Preset(
        256,
        AutoencoderConfig(),
        UnetConfig(),
        TextConfig(),
        FitConfig(600_000, learning_rate=4.5e-6, final_ratio=1.0, warmup_steps=0, betas=(0.5, 0.9)),
        12,
        FitConfig(
            237_000,
            learning_rate=1e-4,
            final_ratio=1.0,
            warmup_steps=10_000,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            ema_decay=0.9999,
            accumulate=64,
        ),
        32,
        ahead=False,
        noise=NoiseConfig(),
        guidance=7.5,
        least_snr=0.0,
    ),
}


def train_autoencoder(
    data_name: str,
    out: Path,
    preset: Preset,
    *,
    start: Path | None = None,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train an autoencoder and write `out/model.safetensors`: |x − D(z)| + `KL` · KL(z ‖ N(0, 1)), z drawn by the encoder, and instead of
    the paper's perceptual loss, `picture_error`.

    Args:
        data_name: as `data.load` takes it.
        out: the run's folder.
        preset: its size and how it is trained.
        start: weights of an autoencoder or a whole model, whose decoder alone goes on learning, so that latents stay what they are; what is
            written is the same with a better decoder.
        seed: of weights, order and latents.
        device_name: auto, cpu or cuda.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry.
    """
    if start is None:
        torch.manual_seed(seed)
        first, about = Autoencoder(preset.autoencoder), {"size": preset.size}
        with torch.no_grad():  # latents begin with little noise, of which all would be lost in the beginning
            first.quant_conv.bias.chunk(2)[1].sub_(_QUIET)  # pyright: ignore[reportOptionalMemberAccess]
    else:
        first, about = models.autoencoder(start)
        first.decoder.requires_grad_(True)
        first.post_quant_conv.requires_grad_(True)
    size, config = about["size"], first.config
    examples = data.load(data_name, "train", size, seed)
    if preset.ahead:
        read = preset.autoencoder_fit.steps * preset.autoencoder_batch
        examples = data.made_ahead(examples, max(read // _READ_AGAIN["autoencoder"], preset.autoencoder_batch))
    held_out = data.load(data_name, "test", size, seed)
    held_out = held_out.pictures(range(min(64, len(held_out))))
    model = _Autoencoding(first).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batches = Batches(examples, preset.autoencoder_batch, seed)
    shape = (config.latents, size // config.factor, size // config.factor)

    def loss(model: nn.Module, pictures: Tensor, generator: torch.Generator) -> Tensor:
        noise = device.send(torch.randn((len(pictures), *shape), generator=generator), pictures.device)
        painted, mean, deviation = model(pictures, noise)
        divergence = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.clamp(min=1e-9).log()).sum((1, 2, 3)).mean()
        return F.l1_loss(painted, pictures) + PICTURE * picture_error(painted, pictures) + KL * divergence

    def validate(model: nn.Module) -> float:
        pictures = held_out.to(next(model.parameters()).device)
        return F.l1_loss(model(pictures, None)[0], pictures).item()

    fitted = fit(
        model,
        loss,
        lambda number: examples.pictures(batches(number)),
        preset.autoencoder_fit,
        out,
        seed=seed,
        device_name=device_name,
        resume=resume,
        validate=validate,
    )
    model.load_state_dict(fitted.weights)
    model.eval()
    with torch.inference_mode():
        made = {"l1": round(validate(model), 5), **how_made(fitted, preset.autoencoder_batch, seed)}
    named = {f"first_stage_model.{name}": tensor for name, tensor in model.autoencoder.state_dict().items()}
    if start is None:
        pictures = examples.pictures(range(min(512, len(examples)))).to(_device(model))
        with torch.inference_mode():
            latents = torch.cat([model.autoencoder.encode(part)[0].cpu() for part in pictures.split(64)])
        scaled = asdict(replace(config, scale=round(1 / latents.std().item(), 5)))
        about = {"system": "stable_diffusion", "kind": "autoencoder", "data": examples.name, "size": size}
        facts = {**about, "config": scaled, **made}
    else:
        facts = {**about, "decoder": made}
        named = {**checkpoint.load_weights(start, models.SYSTEM)[0], **named}
    if console.is_main_process():
        checkpoint.save_weights(Path(out) / "model.safetensors", checkpoint.in_sixteen_bits(named), facts)
    return {**facts, **made}


def picture_error(painted: Float[Tensor, "batch 3 h w"], pictures: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
    """Mean square of the error, as a part of how far each picture is from its background, the median of each channel: to a plain error,
    a few strokes are nothing, and least those that are not much darker or lighter (docs/log.md)."""
    background = pictures.flatten(2).median(2).values[..., None, None]
    shown = (pictures - background).square().mean((1, 2, 3)) + 1e-3
    return ((painted - pictures).square().mean((1, 2, 3)) / shown).mean()


def train(
    data_name: str,
    begun: Path | PaintingModel,
    out: Path,
    preset: Preset,
    *,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a U-Net and a text encoder on an autoencoder's latents, and write the whole model as `out/model.safetensors`.

    Args:
        data_name: as `data.load` takes it.
        begun: weights of an autoencoder that `train_autoencoder` wrote, or of a whole model, of which the autoencoder is taken; or a whole
            model that learns more, and keeps its sizes, autoencoder and vocabulary.
        out: the run's folder.
        preset: sizes, and how they are trained.
        seed: of weights, order, times and noise.
        device_name: auto, cpu or cuda.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry.

    Raises:
        UserError: the autoencoder is missing or damaged, the model can't be trained, or as `fit`.
    """
    if isinstance(begun, PaintingModel):
        check_trainable(begun, begun.size)
        first, size, about = begun.network.autoencoder.float(), begun.size, {"start": begun.name}
    else:
        first, made = models.autoencoder(begun)
        known = made.get("autoencoder", made)  # a whole model's, or one alone
        size, about = made["size"], {"autoencoder": {name: known[name] for name in ("l1", "steps", "seconds")}}
    examples = data.load(data_name, "train", size, seed)
    held_out = data.load(data_name, "test", size, seed)
    where = device.resolve(device_name)
    first.to(where)
    if isinstance(begun, PaintingModel):
        words, config = begun.vocabulary, begun.network.config
    else:  # before any are made ahead, so that a run that goes on with other steps has the same words
        some = range(min(10_000, len(examples)))
        said = [examples.caption(number, wording) for number in some for wording in range(2)]
        words = tokenizer.learnt(said, preset.text.vocabulary)
        config = Config(preset.unet, first.config, replace(preset.text, vocabulary=len(words)), preset.noise)
    if preset.ahead:
        count = max(preset.fit.steps * preset.batch // _READ_AGAIN["unet"], preset.batch, preset.reading_batch)
        examples = data.made_ahead(examples, count)
    text = config.text
    kept = Latents(first, examples, preset.ahead)
    torch.manual_seed(seed)
    learner = Learner(config).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def in_batches(size: int, steps: int, plain: float) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
        order = Batches(examples, size, seed, round(plain * size * steps))

        def batch(number: int) -> tuple[Tensor, Tensor, Tensor]:
            numbers = order(number)
            return (*kept(numbers), tokens_of(words, examples.captions(numbers, number), text.positions))

        return batch

    painting = resume and (out / "last.pt").is_file()
    if isinstance(begun, PaintingModel):
        learner.unet.load_state_dict(begun.network.unet.state_dict())
        learner.text_encoder.load_state_dict(begun.network.text_encoder.state_dict())
    elif preset.reading is not None and not painting:
        matcher = Matcher(learner.text_encoder, words.end, config.autoencoder.latents, size // first.config.factor)
        batch, folder = min(preset.reading_batch, len(examples)), out / "reading"
        batches = in_batches(batch, preset.reading.steps, _PLAIN_READING)
        how = {"seed": seed, "device_name": device_name, "resume": resume}
        try:
            read = fit(matcher, matching_loss(config.autoencoder.scale), batches, preset.reading, folder, **how)
        except Interrupted as stopped:
            raise Interrupted(stopped.what, f"go on with --resume --out {out}") from None
        matcher.load_state_dict(read.weights)
    batches = in_batches(preset.batch, preset.fit.steps, preset.plain if isinstance(begun, Path) else 0.0)

    blank = tokens_of(words, [""], text.positions)
    loss = noise_loss(config.noise, config.autoencoder.scale, preset.least_snr, blank)
    tested = range(min(256, len(held_out)))
    test_mean, test_deviation = Latents(first, held_out, ahead=False)(tested)
    test_tokens = tokens_of(words, held_out.captions(tested), text.positions)

    def validate(model: nn.Module) -> float:
        here = _device(model)
        batch = (test_mean.to(here), test_deviation.to(here), test_tokens.to(here))
        return loss(model, batch, torch.Generator().manual_seed(seed)).item()

    fitted = fit(
        learner,
        loss,
        batches,
        preset.fit,
        out,
        seed=seed,
        device_name=device_name,
        resume=resume if preset.reading is None else painting,
        validate=validate,
    )
    learner.load_state_dict(fitted.weights)
    facts = {
        "system": "stable_diffusion",
        "kind": "model",
        "data": examples.name,
        "size": size,
        "config": asdict(config),
        "vocabulary": words.facts(),
        "least_snr": preset.least_snr,
        "guidance": preset.guidance if isinstance(begun, Path) else begun.guidance,
        **about,
        **how_made(fitted, preset.batch, seed),
    }
    if console.is_main_process():
        whole = LatentDiffusion(config)
        whole.autoencoder.load_state_dict(first.state_dict())
        whole.unet.load_state_dict(learner.unet.state_dict())
        whole.text_encoder.load_state_dict(learner.text_encoder.state_dict())
        checkpoint.save_weights(Path(out) / "model.safetensors", checkpoint.in_sixteen_bits(whole.state_dict()), facts)
    return facts


def check_trainable(model: PaintingModel, size: int) -> None:
    """Refuse what can't be trained.

    Args:
        model: what would learn.
        size: pixels of a side of what it would learn from.

    Raises:
        UserError: the size is no multiple of a latent's, or the model repaints.
    """
    config = model.network.config
    factor = config.autoencoder.factor
    if size < factor or size % factor:
        nearest = max(round(size / factor), 1) * factor
        raise UserError(f"size is {size}, and {model.name} paints multiples of {factor}", f"give {nearest}")
    if config.unet.in_channels != config.autoencoder.latents:
        what = f"{model.name} repaints: it reads {config.unet.in_channels} channels, where a mask is among them"
        raise UserError(what, "train the model that paints; a LoRA of it fits this one too")


class Learner(nn.Module):
    """What is trained together: the U-Net, and the text encoder that it reads with.

    Args:
        config: of the whole model.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.unet = Unet(config.unet)
        self.text_encoder = TextEncoder(config.text)

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        time: Float[Tensor, " batch"],
        tokens: Int[Tensor, "batch words"],
    ) -> Float[Tensor, "batch channels height width"]:
        """The noise in latents."""
        return self.unet(latents, time, self.text_encoder(tokens))


def noise_loss(
    noising: NoiseConfig,
    scale: float,
    least_snr: float,
    blank: Int[Tensor, "1 words"],
    dropped: float = DROPPED,
) -> Callable[[nn.Module, tuple[Tensor, Tensor, Tensor], torch.Generator], Tensor]:
    """The loss: |ε − ε_θ(√ᾱ z + √(1 − ᾱ) ε, t, c)|² (Ho et al. 2020, eq. 14), or the same of v, by min-SNR's weights.

    Args:
        noising: how latents become noisy, and what is predicted.
        scale: of latents.
        least_snr: see `Preset`.
        blank: tokens of no caption.
        dropped: share of captions that are left out.
    """
    kept, velocity = signal(noising), noising.predicts == "velocity"
    ratio = kept / (1 - kept) + velocity  # an error of v is one of z times the ratio + 1
    weights = torch.ones_like(kept) if not least_snr else ratio.clamp(max=least_snr + velocity) / ratio

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
        mean, deviation, tokens = batch
        count, where = len(mean), mean.device

        def drawn() -> Tensor:
            return device.send(torch.randn(mean.shape, generator=generator), where)

        z = scale * (mean + deviation * drawn())
        # Evenly spread times, shifted together: less chance in a batch than times of their own.
        at = (torch.arange(count) + torch.rand((), generator=generator)) / count
        time = (at * len(kept)).long().clamp(max=len(kept) - 1)[torch.randperm(count, generator=generator)]
        level = device.send(kept[time], where)[:, None, None, None]
        noise = drawn()
        silent = device.send(torch.rand(count, generator=generator) < dropped, where)[:, None]
        said = torch.where(silent, device.send(blank, where), tokens)
        predicted = model(level.sqrt() * z + (1 - level).sqrt() * noise, device.send(time, where).float(), said).float()
        wanted = level.sqrt() * noise - (1 - level).sqrt() * z if velocity else noise
        return (device.send(weights[time], where) * (predicted - wanted).square().mean((1, 2, 3))).mean()

    return loss


def tokens_of(vocabulary: Vocabulary, captions: Sequence[str], positions: int) -> Int[Tensor, "captions positions"]:
    """Captions as the text encoder reads them: cut where they are too long, and filled with what ends them."""
    lines = []
    for words in vocabulary.encode_all(captions):
        words = words[: positions - 2]
        lines.append([vocabulary.begin, *words, *[vocabulary.end] * (positions - 1 - len(words))])
    return torch.tensor(lines)


def with_overrides(
    preset: Preset, *, steps: int | None, batch_size: int | None, part: str, learning_rate: float | None = None
) -> Preset:
    """A preset with what the person changed of it.

    Args:
        part: `autoencoder` or `unet`: of which the change is.

    Raises:
        UserError: a number is below 1, or the learning rate not above 0.
    """
    for name, value in {"steps": steps, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}", "give a whole number from 1 on")
    if learning_rate is not None and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise UserError(f"learning_rate is {learning_rate}", "give a number above 0")

    def changed(config: FitConfig) -> FitConfig:
        return replace(config, steps=steps or config.steps, learning_rate=learning_rate or config.learning_rate)

    if part == "autoencoder":
        batch = batch_size or preset.autoencoder_batch
        return replace(preset, autoencoder_fit=changed(preset.autoencoder_fit), autoencoder_batch=batch)
    return replace(preset, fit=changed(preset.fit), batch=batch_size or preset.batch)


class _Autoencoding(nn.Module):
    """There and back."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pictures: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mean, deviation = self.autoencoder.encode(pictures)
        drawn = mean if noise is None else mean + deviation * noise
        return self.autoencoder.decode(drawn), mean, deviation


class Latents:
    """A set's latents: means and deviations.

    Args:
        autoencoder: encodes.
        examples: the set.
        ahead: whether all are computed before the first is asked for; several processes share the work.
    """

    def __init__(self, autoencoder: Autoencoder, examples: CaptionedSet, ahead: bool):
        self.autoencoder, self.examples = autoencoder.eval(), examples
        self._ahead: tuple[Tensor, Tensor] | None = None
        if not ahead:
            return
        state = PartialState(cpu=_device(autoencoder).type == "cpu")
        share = -(-len(examples) // state.num_processes)
        own = range(state.process_index * share, min((state.process_index + 1) * share, len(examples)))
        found = []
        with console.progress("encoding", len(own), "pictures") as advance:
            for first in range(own.start, own.stop, 512):
                numbers = range(first, min(first + 512, own.stop))
                found.append([each.half() for each in self._encoded(numbers)])
                advance(len(numbers))
        means, deviations = zip(*gather_object(found), strict=True)
        self._ahead = torch.cat(means), torch.cat(deviations)

    def __call__(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of these examples."""
        if self._ahead is None:
            return self._encoded(numbers)
        picks = torch.tensor(numbers)
        return self._ahead[0][picks].float(), self._ahead[1][picks].float()

    @torch.inference_mode()
    def _encoded(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        where = _device(self.autoencoder)
        with device.autocast(where):
            mean, deviation = self.autoencoder.encode(self.examples.pictures(numbers).to(where))
        return mean.float().cpu(), deviation.float().cpu()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def how_made(fitted: Fitted, batch: int, seed: int) -> dict[str, Any]:
    """How weights came to be."""
    return {
        "steps": fitted.step,
        "loss": round(fitted.loss, 5),
        "seconds": round(fitted.seconds, 1),
        "images_per_second": round(fitted.batches * batch / fitted.seconds, 1),
        "machine": device.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": seed,
    }
