"""Features of images for FD and KID: the pooled activations of a small classifier of ours. The grey one knows MNIST's digits; the colour
one CIFAR-10's classes and the subgroups of emoji. It never sees a restored image while it is trained, so it can also judge whether
a restored digit is still the same digit."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.cold_diffusion import data
from almanac.runtime import checkpoint, hub
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, Fitted, fit

SIZE = 32
"""Side of the images that it sees; others are resized."""
FIT = FitConfig(2_500, learning_rate=2e-3, weight_decay=0.05, save_every=500)
"""How it is trained: some ten minutes on one core."""
_BATCH = 64


class Extractor(nn.Module):
    """Three convolutional levels, pooled to 64 features, and a linear classifier.

    Args:
        channels: 1 grey, 3 colour.
        classes: number of classes.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.levels = nn.Sequential(
            *_level(channels, 32), nn.MaxPool2d(2), *_level(32, 64), nn.MaxPool2d(2), *_level(64, 64), *_level(64, 64)
        )
        self.head = nn.Linear(64, classes)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 64"]:
        """Pooled activations of images in [−1, 1]."""
        if tuple(images.shape[2:]) != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self.levels(images.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of the classes."""
        return self.head(self.features(images))


def load(channels: int) -> Extractor:
    """The shipped extractor for grey (1) or colour (3) images.

    Raises:
        UserError: it does not ship, or is damaged.
    """
    path = hub.weights(f"cold_diffusion/{_name(channels)}")
    tensors, facts = checkpoint.load_weights(path, "cold_diffusion")
    extractor = Extractor(channels, facts["classes"]).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    try:
        extractor.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError:
        raise UserError(
            f"{path} is not a feature extractor", "train one with `almanac cold-diffusion features`"
        ) from None
    return extractor.eval()


@torch.inference_mode()
def extract(
    extractor: Extractor, images: Float[Tensor, "count channels height width"]
) -> tuple[Float[Tensor, "count 64"], Int[Tensor, " count"]]:
    """Features of images in [−1, 1], and the class that each is taken for."""
    features = torch.cat([extractor.features(part.clamp(-1, 1)) for part in images.split(250)])
    return features, extractor.head(features).argmax(1)


def train(channels: int, out: Path, seed: int = 0, resume: bool = False) -> dict:
    """Train the extractor and write `out/model.safetensors`.

    Args:
        channels: 1: on MNIST; 3: on CIFAR-10 and emoji.
        out: the run's folder.
        seed: of weights and order.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry, its accuracy on test images among them.
    """
    images, labels = _labelled(channels, "train")
    test_images, test_labels = _labelled(channels, "test")
    classes = int(max(labels.max(), test_labels.max())) + 1
    torch.manual_seed(seed)
    extractor = Extractor(channels, classes).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def batches(number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        picks = torch.randint(len(images), (_BATCH,), generator=generator)
        shifted = F.pad(images[picks].float() / 127.5 - 1, (2, 2, 2, 2), mode="replicate")
        row, column = torch.randint(0, 5, (2,), generator=generator).tolist()
        return shifted[:, :, row : row + SIZE, column : column + SIZE], labels[picks]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(batch[0]).float(), batch[1], label_smoothing=0.05)

    fitted: Fitted = fit(extractor, loss, batches, FIT, out, seed=seed, resume=resume)
    extractor.load_state_dict(fitted.weights)
    _, predicted = extract(extractor.eval(), test_images.float() / 127.5 - 1)
    accuracy = round((predicted == test_labels).float().mean().item(), 4)
    facts = {
        "system": "cold_diffusion",
        "classes": classes,
        "accuracy": accuracy,
        "steps": fitted.step,
        "seconds": round(fitted.seconds),
    }
    checkpoint.save_weights(Path(out) / "model.safetensors", fitted.weights, facts)
    return facts


def _level(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU()]


def _name(channels: int) -> str:
    return "features-grey" if channels == 1 else "features-colour"


def _labelled(channels: int, split: str) -> tuple[Tensor, Tensor]:
    if channels == 1:
        mnist = data.load("mnist", split, SIZE)
        assert mnist.labels is not None
        return mnist.pixels, mnist.labels
    cifar10, emoji = data.load("cifar10", split, SIZE), data.load("emoji", split, SIZE)
    assert cifar10.labels is not None and emoji.labels is not None
    return torch.cat((cifar10.pixels, emoji.pixels)), torch.cat((cifar10.labels, emoji.labels + 10))
