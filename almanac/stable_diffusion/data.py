"""Captioned pictures for training: scenes of digits, emoji by their names, or a folder of one's own (`metadata.jsonl`, a text beside each
picture, or webdataset's archives). A set holds bytes at its training size; a training sees [−1, 1]."""

import csv
import io
import json
import random
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from almanac.runtime import console, hub
from almanac.runtime.errors import UserError
from almanac.runtime.pictures import SUFFIXES, read_picture
from almanac.runtime.shuffled import order
from almanac.stable_diffusion import scenes

ENDLESS = 2**40
"""Examples of a set that is made as it is read."""
_WORDINGS = 8
"""Captions of each picture that is made ahead."""
_PART = 500
"""Pictures that a process makes at a time."""
_EVERY = 10
"""Of a folder without parts, one picture in so many is for testing."""


@dataclass(frozen=True)
class CaptionedSet:
    """Pictures with captions."""

    name: str
    size: int
    """Pixels of a side."""
    count: int
    picture: Callable[[int], UInt8[Tensor, "3 size size"]]
    """Of a number."""
    caption: Callable[[int, int], str]
    """Of a number, and another number that says by which of the ways to caption it."""
    is_plain: Callable[[int], bool] | None = None
    """Of a number: whether a training should begin with such pictures; None: no picture is simpler than others."""
    seed: int = 0
    split: str = "train"
    """Of a set that is made as it is read: by which another process makes the same."""

    def __len__(self) -> int:
        return self.count

    def pictures(self, numbers: Sequence[int]) -> Float[Tensor, "batch 3 size size"]:
        """In [−1, 1]."""
        return torch.stack([self.picture(number) for number in numbers]).float() / 127.5 - 1

    def captions(self, numbers: Sequence[int], seed: int = 0) -> list[str]:
        """One for each; the seed says which."""
        return [self.caption(number, seed) for number in numbers]


def load(name: str, split: str = "train", size: int = 64, seed: int = 0) -> CaptionedSet:
    """Load a set of captioned pictures.

    Args:
        name: `scenes`, `emoji`, or the path of a folder of pictures and captions, or of a webdataset archive.
        split: `train`, `test`, or `all` that may be trained on: a folder's both parts.
        size: pixels of a side; pictures are scaled to cover it, and cropped at the centre.
        seed: of which scenes are made.

    Raises:
        UserError: there is no such set, or it has no captioned pictures, or not of that size.
    """
    if split not in ("train", "test", "all"):
        raise UserError(f"unknown split '{split}'", "use train, test or all")
    if split == "all" and name in ("scenes", "emoji"):
        split = "train"
    if name == "scenes":
        if size != scenes.SIDE:
            raise UserError(f"scenes of {size} pixels are asked for", f"they are made of {scenes.SIDE}")

        def picture(number: int) -> Tensor:
            rng = np.random.default_rng([seed, number, split == "test", 1])
            return scenes.render(scenes.draw(number, split, seed), rng, split)

        def caption(number: int, wording: int) -> str:
            return scenes.caption(scenes.draw(number, split, seed), random.Random(f"{wording} {number}"))

        def is_plain(number: int) -> bool:
            scene = scenes.draw(number, split, seed)
            return scene.background == "black" and len(scene.digits) == 1

        return CaptionedSet("scenes", size, ENDLESS, picture, caption, is_plain, seed, split)
    found = _emoji(split) if name == "emoji" else _own(Path(name), split)
    return _held(Path(name).name, found, size)


def made_ahead(examples: CaptionedSet, count: int) -> CaptionedSet:
    """The beginning of a set that is made as it is read, made now by all cores and kept in memory; another set as it is.

    Args:
        examples: the set.
        count: pictures.
    """
    if examples.count != ENDLESS:
        return examples
    jobs = [
        joblib.delayed(_made)(
            examples.name, examples.split, examples.size, examples.seed, range(start, min(start + _PART, count))
        )
        for start in range(0, count, _PART)
    ]
    made: Any = joblib.Parallel(-1 if len(jobs) > 1 else 1, return_as="generator")(jobs)
    parts: list[_Part] = []
    with console.progress("making", count, "pictures") as advance:
        for part in made:
            parts.append(part)
            advance(len(part.captions))
    pixels = torch.from_numpy(np.concatenate([part.pixels for part in parts]))
    captions = [ways for part in parts for ways in part.captions]
    plain = [each for part in parts for each in part.plain]

    def caption(number: int, wording: int) -> str:
        return captions[number][wording % _WORDINGS]

    return CaptionedSet(examples.name, examples.size, count, pixels.__getitem__, caption, plain.__getitem__)


@dataclass(frozen=True)
class _Part:
    """What a process made."""

    pixels: UInt8[np.ndarray, "count 3 size size"]
    captions: list[list[str]]
    """The ways to say each picture."""
    plain: list[bool]


def _made(name: str, split: str, size: int, seed: int, numbers: Sequence[int]) -> _Part:
    examples = load(name, split, size, seed)
    pixels = np.stack([examples.picture(number).numpy() for number in numbers])
    captions = [[examples.caption(number, wording) for wording in range(_WORDINGS)] for number in numbers]
    return _Part(pixels, captions, [bool(examples.is_plain and examples.is_plain(number)) for number in numbers])


class Batches:
    """Which examples a batch has, as a function of its number.

    Args:
        examples: the set.
        batch_size: examples a batch.
        seed: of their order.
        plain: pictures in the first batches, which are plain ones.
    """

    def __init__(self, examples: CaptionedSet, batch_size: int, seed: int, plain: int = 0):
        if len(examples) < batch_size:
            what = f"{examples.name} has {len(examples)} pictures, fewer than a batch of {batch_size}"
            raise UserError(what, "add pictures, or use a smaller --batch-size")
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.plain = torch.empty(0, dtype=torch.long)
        if plain and examples.is_plain and examples.count != ENDLESS:
            self.plain = torch.tensor([each for each in range(len(examples)) if examples.is_plain(each)])
        self.begun = plain // batch_size if len(self.plain) >= batch_size else 0

    def __call__(self, number: int) -> list[int]:
        """The examples of batch `number`."""
        if number < self.begun:
            return self.plain[self._some(len(self.plain), number)].tolist()
        if self.examples.count == ENDLESS:
            return list(range(number * self.batch_size, (number + 1) * self.batch_size))
        return self._some(len(self.examples), number).tolist()

    def _some(self, count: int, number: int) -> Int[Tensor, " batch"]:
        """Of so many, batch `number` of those that take turns."""
        epoch, place = divmod(number, count // self.batch_size)
        return order(count, self.seed, epoch)[place * self.batch_size : (place + 1) * self.batch_size]


Captions = Callable[[random.Random], str]
"""One of the ways to caption a picture."""


def _held(name: str, found: Sequence[tuple[io.BytesIO | Path, Captions]], size: int) -> CaptionedSet:
    """A set in memory."""
    if not found:
        raise UserError(f"there are no captioned pictures in {name}", _HOW)
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda each: _covering(read_picture(each[0]), size), found))
    captions = [each[1] for each in found]

    def caption(number: int, wording: int) -> str:
        return captions[number](random.Random(f"{wording} {number}"))

    return CaptionedSet(name, size, len(found), pixels.__getitem__, caption)


def _covering(picture: Image.Image, size: int) -> UInt8[Tensor, "3 size size"]:
    fitted = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()


_HOW = "give metadata.jsonl lines of file_name and text, a .txt beside each picture, or webdataset's .tar"


def _own(path: Path, split: str) -> list[tuple[io.BytesIO | Path, Captions]]:
    """A person's own pictures. Parts are folders `train` and `test`; else one in ten is for testing."""
    if not path.exists():
        raise UserError(f"there is no data set or folder '{path}'", f"known sets: scenes, emoji; or {_HOW}")
    parts = (path / "train").is_dir() and (path / "test").is_dir()
    if split == "all" and parts:
        return [*_own(path, "train"), *_own(path, "test")]
    folder = path / split if parts else path
    archives = [folder] if folder.is_file() else sorted(folder.glob("*.tar"))
    if archives:
        found = [each for archive in archives for each in _webdataset(archive)]
    else:
        found = _listed(folder) if (folder / "metadata.jsonl").is_file() else _beside(folder)
    plain = [(source, _always(caption)) for source, caption in found]
    if parts or split == "all":
        return plain
    return [each for number, each in enumerate(plain) if (number % _EVERY == 0) == (split == "test")]


def _always(caption: str) -> Captions:
    return lambda _: caption


def _listed(folder: Path) -> list[tuple[io.BytesIO | Path, str]]:
    """As `datasets` has a folder of images: a line of JSON for each."""
    found = []
    for number, line in enumerate((folder / "metadata.jsonl").read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            about = json.loads(line)
            name = about["file_name"]
            caption = about["text"] if "text" in about else about["caption"]
        except (ValueError, KeyError, TypeError):
            what = f"line {number} of {folder / 'metadata.jsonl'} has no file_name and text"
            raise UserError(what, "write a JSON object a line") from None
        picture = (folder / str(name)).resolve()
        if not picture.is_relative_to(folder.resolve()):
            raise UserError(f"line {number} names {name}, which is outside the folder", "put the pictures inside")
        if not picture.is_file():
            raise UserError(
                f"line {number} names {name}, and there is no such picture", "put it there, or drop the line"
            )
        found.append((picture, str(caption)))
    return found


def _beside(folder: Path) -> list[tuple[io.BytesIO | Path, str]]:
    """A text beside each picture."""
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    texts = [(picture, picture.with_suffix(".txt")) for picture in pictures]
    return [(picture, text.read_text("utf-8").strip()) for picture, text in texts if text.is_file()]


def _webdataset(archive: Path) -> list[tuple[io.BytesIO | Path, str]]:
    """An archive whose files of one name belong together."""
    pictures: dict[str, bytes] = {}
    captions: dict[str, str] = {}
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                stem, _, suffix = member.name.partition(".")
                file = opened.extractfile(member)
                if file is None:
                    continue
                if f".{suffix.lower()}" in SUFFIXES:
                    pictures[stem] = file.read()
                elif suffix == "txt":
                    captions[stem] = file.read().decode("utf-8").strip()
                elif suffix == "json":
                    about = json.loads(file.read())
                    captions.setdefault(stem, str(about.get("text", about.get("caption", ""))))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{archive} is not a readable archive ({error})", "it may be truncated") from None
    return [(io.BytesIO(pictures[stem]), captions[stem]) for stem in pictures if captions.get(stem)]


@dataclass(frozen=True)
class Emoji:
    """What is known of an emoji."""

    file: str
    style: str
    """`noto` or `fluent3d`."""
    sequence: str
    """Code points in hexadecimal, joined by `-`."""
    name: str
    """Unicode's short name: "woman firefighter: medium-dark skin tone"."""
    keywords: tuple[str, ...]

    @property
    def tones(self) -> tuple[str, ...]:
        """Skin tones in it."""
        return tuple(re.findall(r"1f3f[b-f]", self.sequence))

    @property
    def is_held_out(self) -> bool:
        """Whether no training sees it: one in ten of those with a tone (by a hash of the sequence, which is the same for both styles),
        and one in ten of the Fluent ones whose Noto twin stays in training."""
        if self.tones:
            return int(sha256(self.sequence.encode()).hexdigest(), 16) % 10 == 0
        return self.style != "noto" and int(sha256(f"{self.style} {self.sequence}".encode()).hexdigest(), 16) % 10 == 0


_STYLES = {"noto": "noto emoji of", "fluent3d": "3d emoji of"}


def emoji() -> list[Emoji]:
    """All emoji that there are captions of."""
    path = hub.data("emoji") / "captions.tsv"
    if not path.is_file():
        raise UserError("there are no captions of the emoji", "put captions.tsv beside the pictures")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        Emoji(
            row["file"],
            row["style"],
            row["sequence"],
            row["cldr_short_name"],
            tuple(word.strip() for word in row["cldr_keywords"].split("|") if word.strip()),
        )
        for row in rows
    ]


def caption_of(each: Emoji, draw: random.Random | None = None) -> str:
    """A caption: style and name; with random numbers, a keyword now and then beside it or, rarely, in its place."""
    name = each.name
    if draw is not None and each.keywords and draw.random() < 0.3:
        word = draw.choice(each.keywords)
        name = f"{name}, {word}" if draw.random() < 0.8 or each.tones else word
    return f"{_STYLES.get(each.style, 'emoji of')} {name}"


def _emoji(split: str) -> list[tuple[io.BytesIO | Path, Captions]]:
    folder, found = hub.data("emoji"), emoji()
    pictures: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            pictures |= {name: archive.read(name) for name in archive.namelist() if name.endswith(".webp")}
    chosen = [each for each in found if each.file in pictures and each.is_held_out == (split == "test")]
    if split == "test":
        return [(io.BytesIO(pictures[each.file]), _always(caption_of(each))) for each in chosen]
    return [(io.BytesIO(pictures[each.file]), lambda draw, each=each: caption_of(each, draw)) for each in chosen]
