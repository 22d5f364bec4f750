"""Pictures in and out. Reading: a file that a person gives may be missing, truncated, not an image at all, or a bomb; each has
its error, and none reaches a decoder that we don't need (Pillow would hand a PostScript file to Ghostscript). Showing: tensors in
[−1, 1] as pictures, strips and grids, small images enlarged with hard pixels."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from almanac.runtime.errors import UserError

Image.init()  # all decoders at once: Pillow's own lazy registration is not safe when threads read pictures

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""The kinds of file taken from a folder."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The formats read, as Pillow calls them; JPEG covers the MPO files of telephones too."""
MAX_PIXELS = 40_000_000
"""A picture may have this many pixels (a 40-megapixel photograph)."""
MIN_SIDE = 4
"""A picture must be at least this high and wide, pixels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF (tag 0x0112)."""


def read_picture(source: Path | str | BinaryIO | io.IOBase) -> Image.Image:
    """Read a picture upright, as grey (`L`) or colour (`RGB`); transparency is laid on white, 16 bits are scaled to 8,
    and of an animation the first frame is taken.

    Args:
        source: a PNG, JPEG, WebP, GIF or BMP file, or one opened for reading.

    Raises:
        UserError: missing, unreadable, or of a size we don't take.
    """
    name = str(source) if isinstance(source, str | Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and damaged EXIF, which are looked at here
            opened = Image.open(source, formats=FORMATS)  # pyright: ignore[reportArgumentType] (an IOBase is read too)
            with opened as picture:
                _check_size(name, *picture.size)
                picture.load()
                return _plain(_upright(picture))
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {name}", "check the path") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder, not an image", "give a PNG, JPEG or WebP file") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image", "give a PNG, JPEG or WebP file") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has far more than {MAX_PIXELS:,} pixels", "scale it down first") from None
    except PermissionError:
        raise UserError(f"{name} may not be read", "check its permissions") from None
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files, struct.error to IndexError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} is damaged: {reason}", "it may be truncated; export it again") from None


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its camera was held. Of damaged EXIF only the EXIF is lost, and a stranger's is never written
    anew, as Pillow's own `exif_transpose` does, which fails where a field is not of its usual type."""
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # struct.error, TypeError, ValueError … as the damage is
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _plain(picture: Image.Image) -> Image.Image:
    """The picture without transparency, palette, CMYK or more than 8 bits."""
    if picture.mode.startswith("I;16"):
        return _from_16_bits(picture)
    grey = picture.mode in ("1", "L", "LA", "I", "F")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("L" if grey else "RGB")


def _from_16_bits(picture: Image.Image) -> Image.Image:
    wide = np.asarray(picture).astype(np.uint32)
    grey = ((wide + 128) // 257).astype(np.uint8)  # 65535 → 255; Pillow's own conversion clips at 255
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey)


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        what = f"{name} is {width:,}×{height:,} pixels, more than {MAX_PIXELS:,} in all"
        raise UserError(what, "scale it down first")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{name} is {width}×{height} pixels", f"it needs at least {MIN_SIDE}×{MIN_SIDE}")


def to_tensor(picture: Image.Image, channels: int) -> Float[Tensor, "channels height width"]:
    """A picture as a tensor in [−1, 1], with 1 channel (grey) or 3 (colour)."""
    pixels = np.array(picture.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    return torch.from_numpy(pixels.reshape(picture.height, picture.width, channels)).permute(2, 0, 1) / 127.5 - 1


def to_picture(image: Float[Tensor, "channels height width"]) -> Image.Image:
    """A tensor in [−1, 1] as a picture; what lies outside is clipped."""
    pixels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def spread(frames: Sequence, count: int) -> list:
    """At most `count` of the frames, evenly spread, the first and the last among them."""
    if len(frames) <= count:
        return list(frames)
    return [frames[round(place * (len(frames) - 1) / (count - 1))] for place in range(count)]


def enlarged(picture: Image.Image, factor: int) -> Image.Image:
    """Each pixel as a square of `factor` × `factor`."""
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def strip(frames: Sequence[Image.Image], enlarge: int = 1, gap: int = 4) -> Image.Image:
    """Pictures of one size side by side, on white."""
    return _sheet(frames, len(frames), enlarge, gap)


def grid(
    images: Float[Tensor, "count channels height width"], columns: int | None = None, enlarge: int = 1, gap: int = 4
) -> Image.Image:
    """Images in [−1, 1] in rows, on white.

    Args:
        images: at least one.
        columns: images a row; None: as square as it gets.
        enlarge: side of a pixel.
        gap: white between images, pixels.
    """
    return _sheet([to_picture(image) for image in images], columns or math.ceil(math.sqrt(len(images))), enlarge, gap)


def _sheet(frames: Sequence[Image.Image], columns: int, enlarge: int, gap: int) -> Image.Image:
    width, height = frames[0].width * enlarge + gap, frames[0].height * enlarge + gap
    sheet = Image.new("RGB", (columns * width - gap, math.ceil(len(frames) / columns) * height - gap), "white")
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        sheet.paste(enlarged(frame.convert("RGB"), enlarge), (column * width, row * height))
    return sheet
