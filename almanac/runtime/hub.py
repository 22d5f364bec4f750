"""Where weights and data come from. `weights("cold_diffusion/mnist-blur")` and `data("mnist")` look, in this order, at a
path, at what ships with the project, at $ALMANAC_DATA, in the cache, and then download: with the licence said first,
progress, resume and a sha256 check. `hf://owner/repo/file` goes through huggingface_hub."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from almanac.runtime import console
from almanac.runtime.catalogue import DATA, DataSet
from almanac.runtime.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
"""The root of the checkout, where `weights/` and `results/` are."""
WEIGHTS = Path(os.environ.get("ALMANAC_WEIGHTS") or PROJECT / "weights")
"""The folder of the weights that ship with the project."""


def cache() -> Path:
    """The folder for downloads: $ALMANAC_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("ALMANAC_CACHE") or user_cache_path("almanac"))


def has_data(name: str) -> bool:
    """Whether a data set of `DATA` is here already, so that `data` needs no network."""
    return name in DATA and _local_data(name) is not None


def data(name: str) -> Path:
    """The folder of a data set, downloaded if need be.

    Args:
        name: a key of `DATA`, or the path of a folder. A folder that is called like a data set counts if that set's
            files are in it.

    Raises:
        UserError: it is unknown, or neither here nor to be had.
    """
    found = _local_data(name)
    if found is not None:
        return found
    if name not in DATA:
        raise UserError(f"unknown data set '{name}'", f"give a folder, or one of: {', '.join(DATA)}")
    wanted = DATA[name]
    folder = cache() / "data" / wanted.folder
    if not wanted.sources:
        raise UserError(
            f"the data set '{name}' is not on this machine",
            f"{wanted.how} in {folder}, or set ALMANAC_DATA to a folder that holds {wanted.folder}",
        )
    total = sum(source.size for source in wanted.sources)
    console.log(f"{name}: {total / 1e6:.1f} MB to download into {folder}; licence: {wanted.licence}")
    for source in wanted.sources:
        download(source.url, folder / source.name, source.sha256)
    return folder


def _local_data(name: str) -> Path | None:
    if name not in DATA:
        return Path(name) if _exists(Path(name), folder=True) else None
    wanted = DATA[name]
    folders = [Path(name), *(root / wanted.folder for root in _roots("data"))]
    return next((folder for folder in folders if _holds(folder, wanted)), None)


def _holds(folder: Path, wanted: DataSet) -> bool:
    """Whether one of the set's layouts is in the folder, whole."""
    return any(all((folder / file).is_file() for file in layout) for layout in wanted.layouts)


def _roots(kind: str) -> list[Path]:
    """Where things that were put or downloaded lie: $ALMANAC_DATA, then the cache's folder of that kind."""
    own = os.environ.get("ALMANAC_DATA")
    return [*([Path(own)] if own else []), cache() / kind]


def _exists(path: Path, folder: bool = False) -> bool:
    """Whether there is such a file (or folder); what can't be a path is none."""
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # too long a name, a NUL in it
        return False


def weights(name: str) -> Path:
    """The file of a model's weights.

    Args:
        name: a path, a model's name (`system/model`: shipped, or below $ALMANAC_DATA or the cache's `weights`), or
            `hf://owner/repo/file`.

    Raises:
        UserError: there is none of that name, or it can't be had.
    """
    if name.startswith("hf://"):
        return _from_hugging_face(name)
    file = f"{name}.safetensors"
    places = [Path(name), WEIGHTS / file, *(root / file for root in _roots("weights"))]
    found = next((place for place in places if _exists(place)), None)
    if found is not None:
        return found
    known = ", ".join(shipped_weights(name.split("/")[0])) or "none shipped"
    raise UserError(f"there are no weights '{name}'", f"give a path, hf://owner/repo/file, or one of: {known}")


def shipped_weights(system: str) -> list[str]:
    """Names of the models that ship with the project, `system/model`; of one in several files, each file's."""
    names = [path.relative_to(WEIGHTS).with_suffix("") for path in WEIGHTS.rglob("*.safetensors")]
    return sorted(name.as_posix() for name in names if name.parts[0] == system)


def repository(name: str, files: Sequence[str]) -> Path:
    """The folder of a model that is several files.

    Args:
        name: the path of a folder, or `hf://owner/repo`.
        files: patterns of the files that are needed of a repository, e.g. `*.safetensors`.

    Raises:
        UserError: there is none of that name, or it can't be had.
    """
    if not name.startswith("hf://"):
        if _exists(Path(name), folder=True):
            return Path(name)
        raise UserError(f"there is no folder {name}", "give the path of a model's folder, or hf://owner/repo")
    from huggingface_hub import snapshot_download

    owner, _, repo = name.removeprefix("hf://").partition("/")
    if not (owner and repo) or "/" in repo:
        raise UserError(f"'{name}' is not of the form hf://owner/repo", "name a repository, not a file in it")
    return _fetched(name, lambda: snapshot_download(f"{owner}/{repo}", allow_patterns=list(files)))


def _from_hugging_face(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, repo, file = ([*name.removeprefix("hf://").split("/", 2), "", ""])[:3]
    if not (owner and repo and file):
        raise UserError(f"'{name}' is not of the form hf://owner/repo/file", "name the file in the repository too")
    return _fetched(name, lambda: hf_hub_download(f"{owner}/{repo}", file))


def _fetched(name: str, fetch: Callable[[], str]) -> Path:
    """What huggingface_hub fetches, or what went wrong."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(fetch())
    except LocalEntryNotFoundError:
        what = f"{name} is not in the cache, and the hub can't be reached"
        raise UserError(what, "connect once, or give a path") from None
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} could not be fetched: {reason}", "check the name and your access") from None


def download(url: str, path: Path, sha256: str) -> Path:
    """Download a file unless it is there already; an interrupted download goes on where it stopped.

    Args:
        url: where it is.
        path: where it goes; `<path>.part` until it is whole.
        sha256: what its hash must be.

    Raises:
        UserError: no network, the server refused, the disk is full, or the hash is another.
    """
    if path.is_file() and hash_of(path) == sha256:
        return path
    partial = path.with_name(path.name + ".part")
    resumed = partial.is_file()
    if not (resumed and hash_of(partial) == sha256):  # else it was stopped just before it got its name
        _fetch(url, partial, path)
    found = hash_of(partial)
    if found != sha256 and resumed:  # what was there may be of another version of the file
        partial.unlink()
        _fetch(url, partial, path)
        found = hash_of(partial)
    if found != sha256:
        partial.unlink()
        raise UserError(f"{url} has sha256 {found}, not {sha256}", "the file was changed or damaged; nothing was kept")
    partial.replace(path)
    return path


def _fetch(url: str, partial: Path, path: Path) -> None:
    """Download `url` into `partial`, from where it ends on if the server can; `path` is what the person hears of."""
    import httpx

    from almanac.runtime.checkpoint import cannot_write

    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = partial.stat().st_size if partial.is_file() else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
            if response.status_code == 416:  # the server has no more than we have
                return
            response.raise_for_status()
            resumed = response.headers.get("content-range", "").startswith(f"bytes {done}-")
            done = done if resumed else 0
            total = int(response.headers.get("content-length", 0)) + done
            with partial.open("ab" if resumed else "wb") as file, console.progress(path.name, total, "B") as advance:
                advance(done)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    advance(len(chunk))
    except httpx.HTTPStatusError as error:
        what = f"{url} answered {error.response.status_code}"
        raise UserError(what, f"try again later, or fetch the file by hand and put it at {path}") from None
    except httpx.RequestError as error:
        raise UserError(
            f"{path.name} could not be downloaded ({type(error).__name__})",
            f"connect to the network and try again, or put it at {path}",
        ) from None
    except OSError as error:
        raise cannot_write(partial, error) from None


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
