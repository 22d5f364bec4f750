"""Where weights and data come from. `weights("cold_diffusion/mnist-blur")` and `data("mnist")` look, in this order, at a path, at what
ships with the project, at $ALMANAC_DATA, in the cache, and then download: with the licence said first, progress, resume and
a sha256 check. `hf://owner/repo/file` goes through huggingface_hub."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from almanac.runtime import console
from almanac.runtime.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
"""The root of the checkout, where `weights/` and `results/` are."""


@dataclass(frozen=True)
class Source:
    """One file of a data set."""

    url: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A data set that is not ours."""

    folder: str
    """Its folder below $ALMANAC_DATA."""
    licence: str
    files: tuple[str, ...]
    """What must be in the folder for it to count as there."""
    sources: tuple[Source, ...] = ()
    """Where to download it; empty where it can't be had as plain files."""
    how: str = ""
    """How to get it where there are no sources."""


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"

DATA: dict[str, DataSet] = {
    "mnist": DataSet(
        "images/mnist",
        "CC BY-SA 3.0 (LeCun, Cortes, Burges)",
        tuple(f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")),
        (
            Source(f"{_MNIST}/train-images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz", 9_912_422,
                   "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            Source(f"{_MNIST}/train-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte.gz", 28_881,
                   "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            Source(f"{_MNIST}/t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz", 1_648_877,
                   "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            Source(f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 4_542,
                   "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
    "cifar10": DataSet(
        "images/cifar10",
        "none stated (Krizhevsky 2009)",
        ("cifar10_train_subset_jpg.zip", "cifar10_test_subset_jpg.zip"),
        how="zip the class folders of CIFAR-10 as images, `<class>/<name>.jpg`, into these two files",
    ),
    "emoji": DataSet(
        "images/emoji",
        "Apache-2.0 (Noto), MIT (Fluent)",
        ("noto_64_webp.zip",),
        how="zip emoji pictures of 64×64 pixels as WebP into noto_64_webp.zip",
    ),
}


def cache() -> Path:
    """The folder for downloads: $ALMANAC_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("ALMANAC_CACHE") or user_cache_path("almanac"))


def has_data(name: str) -> bool:
    """Whether a data set is here already, so that `data` needs no network."""
    return _local_data(name) is not None


def data(name: str) -> Path:
    """The folder of a data set, downloaded if need be.

    Args:
        name: a key of `DATA`.

    Raises:
        UserError: it is unknown, or neither here nor to be had.
    """
    if name not in DATA:
        raise UserError(f"unknown data set '{name}'", f"known: {', '.join(DATA)}")
    found = _local_data(name)
    if found is not None:
        return found
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
    wanted = DATA[name]
    roots = [Path(os.environ["ALMANAC_DATA"])] if os.environ.get("ALMANAC_DATA") else []
    for root in [*roots, cache() / "data"]:
        folder = root / wanted.folder
        if all((folder / file).is_file() for file in wanted.files):
            return folder
    return None


def weights(name: str) -> Path:
    """The file of a model's weights.

    Args:
        name: a path, the name of a shipped model (`system/model`), or `hf://owner/repo/file`.

    Raises:
        UserError: there is none of that name, or it can't be had.
    """
    if name.startswith("hf://"):
        return _from_hugging_face(name)
    path = Path(name)
    if path.is_file():
        return path
    shipped = PROJECT / "weights" / f"{name}.safetensors"
    if shipped.is_file():
        return shipped
    system = name.split("/")[0]
    known = sorted(shipped_weights(system))
    raise UserError(f"there are no weights '{name}'", f"give a path, hf://owner/repo/file, or one of: {', '.join(known) or 'none shipped'}")


def shipped_weights(system: str) -> list[str]:
    """Names of the models that ship with the project, `system/model`."""
    return sorted(f"{system}/{path.stem}" for path in (PROJECT / "weights" / system).glob("*.safetensors"))


def _from_hugging_face(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, repository, file = ([*name.removeprefix("hf://").split("/", 2), "", ""])[:3]
    if not file:
        raise UserError(f"'{name}' is not of the form hf://owner/repo/file", "name the file in the repository too")
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except LocalEntryNotFoundError:
        raise UserError(f"{name} is not in the cache, and the hub can't be reached", "connect once, or give a path") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{name} could not be fetched: {str(error).splitlines()[0]}", "check the name and your access") from None


def download(url: str, path: Path, sha256: str) -> Path:
    """Download a file unless it is there already; an interrupted download goes on where it stopped.

    Args:
        url: where it is.
        path: where it goes.
        sha256: what its hash must be.

    Raises:
        UserError: no network, the server refused, or the hash is another.
    """
    import httpx

    if path.is_file() and _sha256(path) == sha256:
        return path
    partial = path.with_name(path.name + ".part")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = partial.stat().st_size if partial.is_file() else 0
        headers = {"Range": f"bytes={done}-"} if done else {}
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            resumed = response.status_code == 206
            total = int(response.headers.get("content-length", 0)) + (done if resumed else 0)
            with partial.open("ab" if resumed else "wb") as file, console.progress(path.name, total, "B") as advance:
                advance(done if resumed else 0)
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    advance(len(chunk))
    except httpx.HTTPStatusError as error:
        raise UserError(f"{url} answered {error.response.status_code}", "try again later, or fetch the file by hand") from None
    except (httpx.TransportError, OSError) as error:
        raise UserError(
            f"{path.name} could not be downloaded ({type(error).__name__})",
            f"connect to the network and try again, or put it at {path}",
        ) from None
    found = _sha256(partial)
    if found != sha256:
        partial.unlink()
        raise UserError(f"{url} has sha256 {found}, not {sha256}", "the file was changed or damaged; nothing was kept")
    partial.replace(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_to_manifest(path: Path, facts: dict) -> None:
    """Note in the `manifest.json` beside shipped weights what they are: sha256 and size are added to `facts`."""
    from almanac.runtime.checkpoint import write_atomic

    manifest = PROJECT / "weights" / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.is_file() else {}
    name = str(path.relative_to(manifest.parent).with_suffix(""))
    entries[name] = {"sha256": _sha256(path), "bytes": path.stat().st_size, **facts}
    text = json.dumps(dict(sorted(entries.items())), indent=1) + "\n"
    write_atomic(manifest, lambda file: file.write(text.encode()))
