"""A model's own style or subject, taught by a few captioned pictures: low-rank changes beside frozen weights (LoRA, Hu et al. 2022, §4.1;
with convolutions: LoCon), trained by the loss that the model was trained by, and written as the file that everybody's programs read
(kohya's layout). `lora` reads such files and puts them on."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as computed_again

from almanac.runtime import checkpoint, console
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, fit
from almanac.stable_diffusion import data, lora
from almanac.stable_diffusion.data import Batches, CaptionedSet
from almanac.stable_diffusion.model import LatentDiffusion
from almanac.stable_diffusion.models import SYSTEM, PaintingModel
from almanac.stable_diffusion.published import TEXT, UNET
from almanac.stable_diffusion.train import Latents, check_trainable, how_made, noise_loss, tokens_of
from almanac.stable_diffusion.unet import UnetConfig

FILE = "lora.safetensors"
"""What a training writes into its folder."""
LEAST_SNR = 5.0
"""Min-SNR's γ (Hang et al. 2023), as in the recipe from scratch."""
_AHEAD = 10_000
"""Pictures of a set, up to which all latents are computed before the first step: 330 MB of 512 × 512."""
_ATTENTION = re.compile(re.escape(UNET) + r".*\.attn[12]\.(to_[qkv]|to_out\.0)")
_CONVOLUTIONS = re.compile(re.escape(UNET) + r".*\.(in_layers\.2|out_layers\.3|op|conv)")
_WORDS = re.compile(re.escape(TEXT) + r".*\.self_attn\.([qkv]|out)_proj")


@dataclass(frozen=True)
class Preset:
    """How much is learnt, and how."""

    steps: int = 1000
    """Optimiser steps."""
    rank: int = 16
    """Numbers that a layer's change passes through: more learn more, in a larger file."""
    alpha: float = 16.0
    """A change counts alpha / rank."""
    learning_rate: float = 1e-4
    """Peak of AdamW's (diffusers' and kohya's trainers both begin with it)."""
    batch: int = 4
    """Pictures a step; of a smaller set, all of it."""
    size: int | None = None
    """Pixels of a side; None: what the model was trained on."""
    text_encoder: bool = False
    """Whether the text encoder's attention learns too; words keep their meaning if not."""
    convolutions: bool = False
    """Whether the U-Net's 3 × 3 convolutions learn too (LoCon)."""
    frugal: bool = False
    """Whether the U-Net's blocks are computed again on the way back, rather than kept (Chen et al. 2016): for the time of one more forward
    pass a step, 0.05 GiB are kept of a picture instead of 1 GiB (Stable Diffusion 1 in bfloat16, 512 × 512 pixels)."""
    save_every: int = 250
    """Steps between two checkpoints."""

    def __post_init__(self):
        for name in ("steps", "rank", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number from 1 on")
        for name in ("alpha", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"{name} is {getattr(self, name)}", "give a number above 0")


def train(
    model: PaintingModel,
    data_name: str,
    out: Path,
    preset: Preset = Preset(),
    *,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a model's change and write `out/lora.safetensors`. The model's own weights stay as they are. One caption in ten is left out, as
    in the training from scratch: guidance compares what both halves of a step learnt.

    Args:
        model: what is changed; weights in bfloat16 take half the memory.
        data_name: as `data.load` takes it.
        out: the run's folder.
        preset: how much is learnt, and how.
        seed: of first weights, order, times and noise.
        device_name: auto, cpu or cuda.
        resume: go on with the run in `out`.

    Returns:
        The facts that the file carries.

    Raises:
        UserError: there are no such pictures; the size or the model can't be trained; or as `fit`.
    """
    network, config = model.network, model.network.config
    size = model.size if preset.size is None else preset.size
    check_trainable(model, size)
    examples = data.load(data_name, "all", size, seed)
    adapters = Adapters(network, preset, torch.Generator().manual_seed(seed))
    latents = Latents(network.autoencoder, examples, ahead=len(examples) <= _AHEAD)
    batch = min(preset.batch, len(examples))
    order, positions = Batches(examples, batch, seed), config.text.positions

    def batches(number: int) -> tuple[Tensor, Tensor, Tensor]:
        numbers = order(number)
        return (*latents(numbers), tokens_of(model.vocabulary, examples.captions(numbers, number), positions))

    blank = tokens_of(model.vocabulary, [""], positions)
    loss = noise_loss(config.noise, config.autoencoder.scale, LEAST_SNR, blank)
    optimising = FitConfig(
        preset.steps,
        learning_rate=preset.learning_rate,
        warmup_steps=min(100, preset.steps // 10),
        betas=(0.9, 0.999),
        weight_decay=0.01,
        ema_decay=0.99,
        save_every=preset.save_every,
    )
    with adapters.attached(preset.frugal):
        fitted = fit(adapters, loss, batches, optimising, out, seed=seed, device_name=device_name, resume=resume)
    adapters.load_state_dict(fitted.weights)
    facts = {
        "system": SYSTEM,
        "kind": "lora",
        "model": model.name,
        "data": examples.name,
        "size": size,
        "rank": preset.rank,
        "alpha": preset.alpha,
        "learning_rate": preset.learning_rate,
        "batch": batch,
        "text_encoder": preset.text_encoder,
        "convolutions": preset.convolutions,
        **how_made(fitted, batch, seed),
    }
    if console.is_main_process():
        header = _header(model, examples, facts) | {"almanac": json.dumps(facts)}
        blob = safetensors_bytes(adapters.tensors(), header)
        checkpoint.write_atomic(Path(out) / FILE, lambda file: file.write(blob))
    return facts


class Adapters(nn.ModuleDict):
    """The changes of a model's layers, by the names that they have in files, as a module that learns. The model, which is frozen, is no
    part of it: checkpoints, averages and optimisers see the changes alone.

    Args:
        network: what they change.
        preset: which layers, and the rank.
        generator: of the first weights.
    """

    def __init__(self, network: LatentDiffusion, preset: Preset, generator: torch.Generator):
        layers = _layers(network, preset)
        super().__init__({name: Adapter(layer, preset.rank, preset.alpha, generator) for name, layer in layers.items()})
        self._layers = layers  # in a dict and a tuple PyTorch finds no parts
        self._network = (network.requires_grad_(False),)

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        time: Float[Tensor, " batch"],
        tokens: Int[Tensor, "batch words"],
    ) -> Float[Tensor, "batch channels height width"]:
        """The noise in latents: with the changes while they are `attached`, else as the model alone has it."""
        (network,) = self._network
        return network.unet(latents, time, network.text_encoder(tokens))

    @contextmanager
    def attached(self, frugal: bool = False) -> Iterator[None]:
        """While this lasts, the model's layers give what they gave, and the changes' part added.

        Args:
            frugal: see `Preset`.
        """
        (network,) = self._network
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                handle = layer.register_forward_hook(partial(_added, self[name]))
                stack.callback(handle.remove)
            unet = network.unet
            for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks) if frugal else ():
                block.forward = partial(computed_again, block.forward, use_reentrant=False)
                stack.callback(delattr, block, "forward")
            yield

    def tensors(self) -> dict[str, Tensor]:
        """What a file of kohya's layout has of them."""
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        return weights | {f"{name}.alpha": torch.tensor(adapter.alpha) for name, adapter in self.items()}

    def _apply(self, fn: Any, recurse: bool = True) -> "Adapters":
        """The model goes where its changes go."""
        self._network[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


class Adapter(nn.Module):
    """The change of a layer: α/r · B A x, where B begins as nothing.

    Args:
        layer: linear, or a convolution.
        rank: r.
        alpha: α.
        generator: of A's numbers.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.alpha, self.scale = float(alpha), alpha / rank
        if isinstance(layer, nn.Conv2d):
            shape = (layer.kernel_size, layer.stride, layer.padding)
            self.lora_down = nn.Conv2d(layer.in_channels, rank, *shape, bias=False)  # pyright: ignore[reportArgumentType]
            self.lora_up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.lora_down = nn.Linear(layer.in_features, rank, bias=False)
            self.lora_up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_down.weight, math.sqrt(5), generator=generator)  # as in the paper's code
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's."""
        return self.scale * self.lora_up(self.lora_down(x.to(self.lora_down.weight.dtype)))


def _header(model: PaintingModel, examples: CaptionedSet, facts: dict[str, Any]) -> dict[str, str]:
    """What kohya's trainer notes, and web UIs show, of a file."""
    captions = examples.captions(range(min(1000, len(examples))))
    tags = Counter(tag.strip() for caption in captions for tag in caption.split(",") if tag.strip())
    convolved = {"conv_dim": facts["rank"], "conv_alpha": facts["alpha"]} if facts["convolutions"] else {}
    noted = {
        "network_module": "networks.lora",
        "network_dim": facts["rank"],
        "network_alpha": facts["alpha"],
        "network_args": json.dumps(convolved),
        "sd_model_name": model.name,
        "learning_rate": facts["learning_rate"],
        "steps": facts["steps"],
        "batch_size_per_device": facts["batch"],
        "resolution": f"({facts['size']}, {facts['size']})",
        "num_train_images": min(len(examples), facts["steps"] * facts["batch"]),
        "tag_frequency": json.dumps({examples.name: dict(tags.most_common(100))}),
        "seed": facts["seed"],
    }
    if model.network.config.unet == UnetConfig():
        noted["base_model_version"] = "sd_v1"
    return {f"ss_{name}": str(value) for name, value in noted.items()}


def _added(adapter: nn.Module, layer: nn.Module, given: tuple[Tensor, ...], gave: Tensor) -> Tensor:
    """A layer's output with its change: in place, so that nothing is kept twice, and its strides stay."""
    return gave.add_(adapter(given[0]))


def _layers(network: LatentDiffusion, preset: Preset) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers that learn, by their names in files."""
    wanted = [_ATTENTION]
    if preset.text_encoder:
        wanted.append(_WORDS)
    if preset.convolutions:
        wanted.append(_CONVOLUTIONS)
    names = lora.kohya_names(network)
    return {
        names[name]: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(pattern.fullmatch(name) for pattern in wanted)
    }
