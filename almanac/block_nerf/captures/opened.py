"""Whatever a user has of a place, as a capture: told by what lies in the folder."""

from pathlib import Path

from almanac.block_nerf.captures import colmap, transforms, waymo
from almanac.block_nerf.captures.capture import Capture, checked
from almanac.runtime.errors import UserError


def opened(source: Path, work: Path) -> Capture:
    """A capture of a `transforms.json` (or its folder), a folder of COLMAP's, the files of Waymo's Block-NeRF data set, a folder of photos
    without poses, or a film.

    Args:
        source: which.
        work: folder for what has to be made on the way: unpacked photos, poses.

    Raises:
        UserError: there is nothing there, or something is wrong with it.
    """
    if not source.exists():
        raise UserError(f"there is no {source}", "give a transforms.json, a folder of COLMAP's, photos or a film")
    if source.suffix == ".json" or (source / transforms.FILE).exists():
        return checked(transforms.read(source))
    if source.is_file():
        return checked(colmap.reconstructed(source, work))
    if any(source.glob(waymo.PATTERN)):
        return checked(waymo.read(source, work))
    if any((source / place).exists() for place in ("sparse", "colmap", "cameras.bin", "cameras.txt")):
        return checked(colmap.read(source))
    return checked(colmap.reconstructed(source, work))
