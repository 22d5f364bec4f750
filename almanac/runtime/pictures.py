"""Reading pictures that people give us. A file may be missing, truncated, not an image at all, or a bomb; each has its error."""

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from almanac.runtime.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""The kinds of file taken from a folder."""
MAX_PIXELS = 40_000_000
"""A picture may have this many pixels (a 40-megapixel photograph)."""
MIN_SIDE = 4
"""A picture must be at least this high and wide, pixels."""


def read_picture(source: Path | BinaryIO) -> Image.Image:
    """Read a picture upright, as grey (`L`) or colour (`RGB`); transparency is laid on white.

    Args:
        source: a PNG, JPEG or WebP file, or one opened for reading.

    Raises:
        UserError: missing, unreadable, or of a size we don't take.
    """
    name = str(source) if isinstance(source, str | Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(source)
        _check_size(name, *picture.size)
        picture.load()
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
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders raise each of these for damaged files
        raise UserError(f"{name} is damaged: {error}", "it may be truncated; export it again") from None
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture.convert("L" if picture.mode in ("1", "L", "I", "I;16", "F") else "RGB")


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{name} is {width:,}×{height:,} pixels, more than {MAX_PIXELS:,} in all", "scale it down first")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{name} is {width}×{height} pixels", f"it needs at least {MIN_SIDE}×{MIN_SIDE}")
