"""An index is brought up to date: with a crawl, of which only what changed is read, or with files and folders. Shards or one index, it is
the same here. What can't be read is told and left out; pages go in by portions, so that any number of them takes little memory."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from almanac.youchat.crawl import crawl
from almanac.youchat.documents import Fetched, Page
from almanac.youchat.index import readers, shards
from almanac.youchat.index.index import Index
from almanac.youchat.index.store import Counts
from almanac.youchat.text.extract import Unread

CRAWL = "crawl"
"""The folder of an index's crawl, in it."""
_SEEN = "crawl-seen.json"
"""How much of the crawl's history the index knows."""
_PORTION = 500
"""Pages."""


@dataclass(frozen=True)
class Refreshed:
    """What was done."""

    counts: Counts
    """Pages that went in, changed and went out."""
    unread: tuple[Unread, ...]
    """What could not be read, and why."""


def from_crawl(folder: Path, progress: Callable[[int], None] | None = None) -> Refreshed:
    """Take what a crawl has found, changed or lost since the last time into its index.

    Args:
        folder: the index's; its crawl is in it.
        progress: is told how many pages were done, now and then.
    """
    seen = folder / _SEEN
    since = json.loads(seen.read_text())["until"] if seen.is_file() else 0
    changes = crawl.changed(folder / CRAWL, since)
    closed = crawl.closed(folder / CRAWL)
    found = (_of_crawl(each, closed) for each in crawl.pages(folder / CRAWL, since))
    done = update(folder, found, changes.gone, progress)
    orphans = _orphans(folder)
    if orphans:
        again = update(folder, (_of_crawl(each, closed) for each in crawl.copies(folder / CRAWL, orphans)))
        done = Refreshed(_sum([done.counts, again.counts]), done.unread + again.unread)
    # Written last: what a run that is killed before it has done is done again, to the same end.
    beside = seen.with_suffix(".part")
    beside.write_text(json.dumps({"until": changes.until}))
    beside.replace(seen)
    return done


def _of_crawl(fetched: Fetched | Unread, closed: Collection[str]) -> Page | Unread:
    """The page of a copy in a crawl. One that calls an address its own that must be in no index is left at the address where it was."""
    page = fetched if isinstance(fetched, Unread) else readers.read_fetched(fetched)
    if isinstance(page, Page) and page.is_canonical and page.aliases and page.url in closed:
        return replace(page, url=page.aliases[0], aliases=page.aliases[1:], is_canonical=False)
    return page


def _orphans(folder: Path) -> list[str]:
    """Addresses whose text was a duplicate's, that is not there any more; the text of their own has to be read again."""
    return [url for each in shards.plan(folder) or [folder] for url in Index.open(each).orphans()]


def from_files(folder: Path, paths: Sequence[Path], progress: Callable[[int], None] | None = None) -> Refreshed:
    """Take files, and all files below folders, into an index. What such a folder held before and holds no more goes out, and so do the
    documents that a JSONL file has no line for any more.

    Raises:
        UserError: a path is not there.
    """
    met: set[str] = set()
    done = update(folder, _noted(readers.read(paths), met), _vanished(folder, paths), progress)
    orphans = set(_orphans(folder))
    if orphans:
        pages = (each for each in readers.read(paths) if isinstance(each, Page) and {each.url, *each.aliases} & orphans)
        done = Refreshed(_sum([done.counts, update(folder, pages).counts]), done.unread)
    left = {url for each in _collections(paths) - met for url in _known(folder, each + "?id=")} - met
    if not left:
        return done
    gone = _put(folder, [], left)
    return Refreshed(replace(done.counts, removed=done.counts.removed + gone.removed), done.unread)


def _noted(found: Iterable[Page | Unread], met: set[str]) -> Iterator[Page | Unread]:
    """What is read, the addresses of JSONL files' documents noted, and those of files that can't be read."""
    for each in found:
        if isinstance(each, Unread) or each.identifier:
            met.add(each.url)
        yield each


def _vanished(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Addresses in an index of files that lay below some folders and are there no more."""
    known = (url for path in paths if path.is_dir() for url in _known(folder, _address(path) + "/"))
    return [url for url in known if not Path(unquote(urlsplit(url).path)).exists()]


def _collections(paths: Sequence[Path]) -> set[str]:
    """The addresses of JSONL files, whose documents have addresses below them."""
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return {_address(file) for file in files if file.name.lower().endswith((".jsonl", ".jsonl.gz"))}


def _known(folder: Path, beginning: str) -> Iterator[str]:
    for each in shards.plan(folder) or [folder]:
        yield from Index.open(each).addresses(beginning)


def _address(path: Path) -> str:
    return path.resolve().as_uri().rstrip("/")


def update(
    folder: Path,
    found: Iterable[Page | Unread],
    gone: Iterable[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Refreshed:
    """Put pages into an index or its shards, and take addresses out."""
    unread: list[Unread] = []
    counts = [_put(folder, [], gone)]
    for pages in _portions(found, unread):
        counts.append(_put(folder, pages, ()))
        if progress:
            progress(len(pages))
    return Refreshed(_sum(counts), tuple(unread))


def _sum(counts: Iterable[Counts]) -> Counts:
    return Counts(*(sum(each) for each in zip(*map(astuple, counts), strict=True)))


def _portions(found: Iterable[Page | Unread], unread: list[Unread]) -> Iterator[list[Page]]:
    """Pages by portions; what is none is put aside."""
    portion: list[Page] = []
    for each in found:
        if isinstance(each, Unread):
            unread.append(each)
            continue
        portion.append(each)
        if len(portion) == _PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _put(folder: Path, pages: Sequence[Page], gone: Iterable[str]) -> Counts:
    folders = shards.plan(folder)
    return shards.update(folders, pages, gone) if folders else Index.open(folder).update(pages, gone)
