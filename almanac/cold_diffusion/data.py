"""Images for training and measuring: MNIST, CIFAR-10, emoji, the photographs that scikit-learn carries, or any folder. A set is held
in memory as bytes at its training size; networks see batches in [−1, 1]."""

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from almanac.runtime import hub, mnist
from almanac.runtime.errors import UserError
from almanac.runtime.pictures import SUFFIXES, read_picture
from almanac.runtime.shuffled import generator, order

MEMORY_LIMIT = 8 * 2**30
"""A set may take this many bytes at its training size."""


@dataclass(frozen=True)
class ImageSet:
    """Images in memory.

    Args:
        name: what it is called in tables.
        pixels: bytes, all of one size.
        labels: class of each image, where there is one.
        mirrored: whether a mirrored image belongs to the set as well (a digit does not).
    """

    name: str
    pixels: UInt8[Tensor, "count channels height width"]
    labels: Int[Tensor, " count"] | None = None
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: Int[Tensor, " batch"] | slice) -> Float[Tensor, "batch channels height width"]:
        """The images at `index`, in [−1, 1]."""
        return self.pixels[index].float() / 127.5 - 1


@lru_cache(maxsize=8)
def load(name: str, split: str = "train", size: int | tuple[int, int] = 32, channels: int | None = None) -> ImageSet:
    """Load a set of images.

    Args:
        name: `mnist`, `cifar10`, `emoji`, `animals` (CIFAR-10's, or photographs where that is not at hand), `photos`,
            `digits`, or the path of a folder of images (PNG, JPEG or WebP, searched through all its folders).
        split: `train` or `test`; a folder without folders `train` and `test` has every tenth image in `test`.
        size: side, or height and width, pixels; images are scaled to cover it and cropped at the centre.
        channels: 1 or 3; None: as the set has it.

    Raises:
        UserError: there is no such set, or no image in it, or no such split.
    """
    if split not in ("train", "test"):
        raise UserError(f"unknown split '{split}'", "use train or test")
    size = (size, size) if isinstance(size, int) else size
    readers = {
        "mnist": _mnist,
        "cifar10": _cifar10,
        "animals": _animals,
        "emoji": _emoji,
        "photos": _photos,
        "digits": _digits,
    }
    reader = readers.get(name)
    found = reader(split, size) if reader else _folder(name, split, size)
    if channels is None or found.pixels.shape[1] == channels:
        return found
    return ImageSet(found.name, _to_channels(found.pixels, channels), found.labels, found.mirrored)


def at_hand(name: str) -> bool:
    """Whether `load` needs no network for a set."""
    built_in = name in ("animals", "photos", "digits") or Path(name).is_dir()
    return built_in or hub.has_data(name) or (name == "emoji" and _EMOJI_FONT.is_file())


class Batches:
    """Shuffled batches as a function of their number: batch k is the same however often and on whichever machine it is asked for.

    Args:
        images: the set.
        batch_size: images a batch.
        seed: order of the images, and which of them are mirrored.
    """

    def __init__(self, images: ImageSet, batch_size: int, seed: int):
        if len(images) < batch_size:
            raise UserError(f"{images.name} has {len(images)} images, fewer than a batch of {batch_size}", "add images")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.per_epoch = len(images) // batch_size

    def __call__(self, number: int) -> Float[Tensor, "batch channels height width"]:
        """Batch `number`, in [−1, 1]."""
        epoch, place = divmod(number, self.per_epoch)
        shuffled = order(len(self.images), self.seed, epoch)
        batch = self.images.batch(shuffled[place * self.batch_size : (place + 1) * self.batch_size])
        if not self.images.mirrored:
            return batch
        flip = torch.rand(len(batch), generator=generator(self.seed, number)) < 0.5
        return torch.where(flip[:, None, None, None], batch.flip(3), batch)


def _mnist(split: str, size: tuple[int, int]) -> ImageSet:
    pixels, labels = mnist.read(split)
    return ImageSet("mnist", _resized(torch.from_numpy(pixels[:, None]), size), torch.from_numpy(labels).long())


_ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")


def _cifar10(split: str, size: tuple[int, int], only: tuple[str, ...] = ()) -> ImageSet:
    """The official binary archive, or JPEGs of a part of it where those are at hand."""
    folder = hub.data("cifar10")
    binary = folder / "cifar-10-binary.tar.gz"
    pixels, names = _cifar10_binary(binary, split) if binary.is_file() else _cifar10_jpeg(folder, split)
    chosen = [i for i, name in enumerate(names) if not only or name in only]
    classes = sorted({names[i] for i in chosen})
    labels = torch.tensor([classes.index(names[i]) for i in chosen])
    return ImageSet("cifar10", _resized(pixels[chosen], size), labels, mirrored=True)


def _cifar10_binary(path: Path, split: str) -> tuple[UInt8[Tensor, "count 3 32 32"], list[str]]:
    """Records of a label byte and 3 × 32 × 32 pixel bytes, in the five training files or the test file."""
    stem = "data_batch" if split == "train" else "test_batch"
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.name.endswith(".bin") and stem in m.name), key=lambda m: m.name)
        blobs = [file.read() for member in members if (file := archive.extractfile(member))]
        meta = archive.extractfile("cifar-10-batches-bin/batches.meta.txt")
        classes = meta.read().decode().split() if meta else []
    records = torch.frombuffer(bytearray(b"".join(blobs)), dtype=torch.uint8).view(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32), [classes[label] for label in records[:, 0].tolist()]


def _cifar10_jpeg(folder: Path, split: str) -> tuple[UInt8[Tensor, "count 3 32 32"], list[str]]:
    names, pictures = [], []
    with zipfile.ZipFile(folder / f"cifar10_{split}_subset_jpg.zip") as archive:
        for entry in sorted(name for name in archive.namelist() if name.endswith(".jpg")):
            names.append(Path(entry).parent.name)
            pictures.append(np.asarray(Image.open(io.BytesIO(archive.read(entry))).convert("RGB")))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), names


def _animals(split: str, size: tuple[int, int]) -> ImageSet:
    found = _cifar10(split, size, only=_ANIMALS) if hub.has_data("cifar10") else _photos(split, size)
    return ImageSet("animals", found.pixels, found.labels, mirrored=True)


def _emoji(split: str, size: tuple[int, int]) -> ImageSet:
    """Emoji of several styles; the label is the subgroup in Unicode's list ("face-smiling", "animal-bird" …). Where only the font is at
    hand, its pictures, in another order and so with another test part."""
    if not hub.has_data("emoji") and _EMOJI_FONT.is_file():
        return _from_pictures("emoji", _font_pictures(_EMOJI_FONT), split, size)
    folder = hub.data("emoji")
    names, pictures = [], []
    for archive_path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(archive_path) as archive:
            entries = [entry for entry in sorted(archive.namelist()) if entry.endswith(".webp")]
            names += entries
            pictures += [io.BytesIO(archive.read(entry)) for entry in entries]
    found = _from_pictures("emoji", pictures, split, size)
    captions = folder / "captions.tsv"
    if not captions.is_file():
        return found
    with captions.open(newline="", encoding="utf-8") as file:
        subgroup = {row["file"]: row["subgroup"] for row in csv.DictReader(file, delimiter="\t")}
    classes = sorted(set(subgroup.values()))
    labels = torch.tensor([classes.index(subgroup.get(name, classes[0])) for name in names])
    return ImageSet(found.name, found.pixels, labels[_split(len(names), split)], mirrored=True)


_EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian and its like keep the font."""


def _font_pictures(font: Path) -> list[io.BytesIO]:
    """The colour bitmaps of a font (its CBDT table holds a PNG a glyph)."""
    from fontTools.ttLib import TTFont

    glyphs = TTFont(font, lazy=True)["CBDT"].strikeData[0]  # pyright: ignore[reportAttributeAccessIssue]
    return [io.BytesIO(glyphs[name].imageData) for name in sorted(glyphs)]


def _photos(split: str, size: tuple[int, int]) -> ImageSet:
    from sklearn.datasets import load_sample_images

    crops = []
    for photo in load_sample_images().images:
        picture = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None]
        for side in (48, 96, 192):
            tiles = picture.unfold(2, side, side // 2).unfold(3, side, side // 2)
            crops.append(_resized(tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side), size))
    pixels = torch.cat(crops)
    return ImageSet("photos", pixels[_split(len(pixels), split)], mirrored=True)


def _digits(split: str, size: tuple[int, int]) -> ImageSet:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = (torch.from_numpy(digits.images).float() * (255 / 16)).round().to(torch.uint8)[:, None]
    # The 8 × 8 digits fill their frame; MNIST's have a margin of a seventh.
    pixels = F.pad(_resized(pixels, (20, 20)), (4, 4, 4, 4))
    chosen = _split(len(pixels), split)
    return ImageSet("digits", _resized(pixels[chosen], size), torch.from_numpy(digits.target)[chosen].long())


def _folder(name: str, split: str, size: tuple[int, int]) -> ImageSet:
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"there is no data set or folder '{name}'",
            "known sets: mnist, cifar10, emoji, animals, photos, digits; or give the path of a folder of images",
        )
    splits = (folder / "train").is_dir() and (folder / "test").is_dir()
    paths = sorted(_pictures_in(folder / split if splits else folder))
    if not paths:
        raise UserError(f"there are no images in {folder}", f"put {', '.join(SUFFIXES)} files there")
    return _from_pictures(folder.name, paths, None if splits else split, size)


def _pictures_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _from_pictures(name: str, pictures: list, split: str | None, size: tuple[int, int]) -> ImageSet:
    chosen = pictures if split is None else [pictures[i] for i in _split(len(pictures), split).tolist()]
    if not chosen:
        raise UserError(f"the {split} part of {name} is empty", "a set needs at least ten images to have a test part")
    if len(chosen) * 3 * size[0] * size[1] > MEMORY_LIMIT:
        raise UserError(
            f"{name}: {len(chosen):,} images of {size[0]}×{size[1]} need more than {MEMORY_LIMIT >> 30} GiB",
            "use a smaller --size, or a folder with fewer images",
        )
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda picture: _covering(read_picture(picture), size), chosen))
    return ImageSet(name, torch.stack(pixels), mirrored=True)


def _covering(picture: Image.Image, size: tuple[int, int]) -> UInt8[Tensor, "3 height width"]:
    height, width = size
    scale = max(height / picture.height, width / picture.width)
    scaled = picture.convert("RGB").resize(
        (max(width, round(picture.width * scale)), max(height, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    cropped = scaled.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)


def _split(count: int, split: str) -> Int[Tensor, " chosen"]:
    index = torch.arange(count)
    return index[index % 10 == 9] if split == "test" else index[index % 10 != 9]


def _resized(
    pixels: UInt8[Tensor, "count channels h w"], size: tuple[int, int]
) -> UInt8[Tensor, "count channels h2 w2"]:
    if tuple(pixels.shape[2:]) == size:
        return pixels
    resized = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _to_channels(pixels: UInt8[Tensor, "count c h w"], channels: int) -> UInt8[Tensor, "count channels h w"]:
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1).contiguous()
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601, as Pillow's "L"
    return (pixels.float() * luma).sum(1, keepdim=True).round().to(torch.uint8)
