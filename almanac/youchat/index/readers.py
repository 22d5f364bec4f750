"""Files and folders become pages: HTML and plain text (`extract`), Markdown, PDF, JSONL with `_id`, `title` and `text`, and WARC or WET
(`warc`). A file that can't be read is told with its reason, and the others are read."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from io import TextIOBase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from almanac.runtime import console
from almanac.runtime.errors import UserError
from almanac.youchat.documents import Fetched, Heading, Page
from almanac.youchat.text import extract
from almanac.youchat.text.extract import Unread
from almanac.youchat.text.hidden import clean_characters

TYPES = {
    ".html": "text/html", ".htm": "text/html", ".xhtml": "application/xhtml+xml", ".txt": "text/plain", ".text": "text/plain",
    ".rst": "text/plain", ".md": "text/markdown", ".markdown": "text/markdown", ".pdf": "application/pdf",
}  # fmt: skip
"""By the file's name."""
_COLLECTIONS = (".jsonl", ".jsonl.gz", ".warc", ".warc.gz", ".wet", ".wet.gz")
_MOST_PAGES = 5_000
"""Of a PDF."""
_MOST_SECONDS = 60.0
"""For the sheets of a PDF; pypdf takes about 20 ms for one."""
_MOST_DRAWN = 2_000_000
"""Bytes that draw one sheet of a PDF; 5 MB of nothing but text take pypdf many minutes."""
_MOST_CHARACTERS = extract.LARGEST
"""Of a line of JSONL."""
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def read(paths: Iterable[Path]) -> Iterator[Page | Unread]:
    """The pages of files, and of all files below folders, in the order of their names; what can't be read says why.

    Raises:
        UserError: a path that was given is not there.
    """
    for path in paths:
        if not path.exists():
            raise UserError(
                f"there is no file or folder {path}",
                "give files or folders of HTML, Markdown, PDF, text, JSONL or WARC",
            )
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            if path.is_dir() and (
                any(part.startswith(".") for part in file.relative_to(path).parts) or not is_known(file)
            ):
                continue  # .git and the like; pictures: nobody asked for these by name
            try:
                yield from read_file(file)
            except OSError as error:
                yield Unread(_address(file), f"it can't be read: {error.strerror or error}")


def is_known(path: Path) -> bool:
    """Whether files of that name are read."""
    return path.suffix.lower() in TYPES or path.name.lower().endswith(_COLLECTIONS)


def read_file(path: Path) -> Iterator[Page | Unread]:
    """The pages of one file."""
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        yield from _jsonl(path)
    elif name.endswith(_COLLECTIONS):
        yield from _warc(path)
    elif path.suffix.lower() not in TYPES:
        known = ", ".join(sorted({*TYPES, *_COLLECTIONS}))
        yield Unread(_address(path), f"its kind is not known by its name; known are {known}")
    else:
        yield _document(path, TYPES[path.suffix.lower()])


def read_fetched(fetched: Fetched) -> Page | Unread:
    """The page of a document of any kind that is read, from wherever."""
    kind = fetched.content_type.partition(";")[0].strip().lower()
    special: dict[str, Callable[[Fetched], Page | Unread]] = {
        "application/pdf": of_pdf, "text/markdown": of_markdown, "text/x-markdown": of_markdown,
    }  # fmt: skip
    return special.get(kind, extract.read)(fetched)


def of_markdown(fetched: Fetched) -> Page | Unread:
    """A page of Markdown (CommonMark with tables): its text as it is read, headings with the anchors that GitHub gives them."""
    from markdown_it import MarkdownIt

    if len(fetched.body) > extract.LARGEST:
        return Unread(fetched.url, f"its {len(fetched.body) / 2**20:.0f} MiB are too many")
    source = extract.decode(fetched.body, fetched.content_type).replace("\r\n", "\n")
    if extract.is_binary(source):
        return Unread(fetched.url, "it is no text in a charset that could be told")
    front = _FRONT_MATTER.match(source)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(source[front.end() :] if front else source)
    page = extract.of_html(f"<body>{html}</body>", fetched, whole=True)
    if isinstance(page, Unread):
        return page
    used: dict[str, int] = {}
    headings = tuple(
        Heading(each.level, each.text, each.start, each.anchor or _slug(each.text, used)) for each in page.headings
    )
    named = re.search(r"^title:\s*[\"']?(.+?)[\"']?\s*$", front[1], re.MULTILINE) if front else None
    title = named[1] if named else next((each.text for each in headings), Path(fetched.url).stem)
    return Page(
        page.url, title, page.text, headings, page.language, fetched.fetched_at, page.published_at, page.aliases
    )


def of_pdf(fetched: Fetched) -> Page | Unread:
    """A page of the text of a PDF; a heading for each sheet, whose fragment `page=N` leads there."""
    import io
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every small fault of a file
    try:
        reader = pypdf.PdfReader(io.BytesIO(fetched.body))
        if reader.is_encrypted and not reader.decrypt(""):
            return Unread(fetched.url, "it is encrypted, and asks for a password")
        sheets = list(_sheets(reader.pages[:_MOST_PAGES], fetched.url))
        about = reader.metadata
        title = " ".join((about.title or "").split()) if about else ""
        changed = (about.modification_date or about.creation_date) if about else None
    except Exception as error:  # pypdf raises whatever a broken file leads it to
        return Unread(fetched.url, f"it is no PDF that can be read ({type(error).__name__}: {str(error)[:100]})")
    text, headings = "", []
    for number, sheet in enumerate(sheets, 1):
        if sheet:
            text += "\n\n" if text else ""
            headings.append(Heading(6, f"Page {number}", len(text), f"page={number}"))
            text += sheet
    if not text:
        return Unread(fetched.url, "it holds no text (a scan?)")
    title = title or text.split("\n", 1)[0][:120]
    return Page(fetched.url, title, text, tuple(headings), extract.language(text), fetched.fetched_at, _aware(changed))


def _sheets(pages: Iterable[Any], url: str) -> Iterator[str]:
    """The texts of a PDF's sheets, as far as they are to be had within the bounds; a small file can ask for hours."""
    until, left = time.monotonic() + _MOST_SECONDS, extract.LARGEST
    for number, page in enumerate(pages, 1):
        if left <= 0 or time.monotonic() > until:
            console.log(f"{url}: read up to sheet {number - 1}; the rest takes too long")
            return
        content = page.get_contents()
        if content is not None and len(content.get_data()) > _MOST_DRAWN:
            console.log(f"{url}: sheet {number} is left out; it draws too much")
            yield ""
            continue
        text = clean_characters(page.extract_text()).strip()
        left -= len(text)
        yield text


def _document(path: Path, kind: str) -> Page | Unread:
    url = _address(path)
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    if path.stat().st_size > 100 * 2**20:
        return Unread(url, f"its {path.stat().st_size / 2**20:.0f} MiB are too many")
    page = read_fetched(Fetched(url, path.read_bytes(), kind, when))
    if isinstance(page, Page) and page.title == url:
        return Page(**{**vars(page), "title": path.name})
    return page


def _jsonl(path: Path) -> Iterator[Page | Unread]:
    """A collection: a document a line."""
    import gzip

    base = _address(path)
    opening = gzip.open if path.suffix == ".gz" else open
    with opening(path, "rt", encoding="utf-8", errors="replace") as file:
        try:
            for number, line in enumerate(_lines(file), 1):
                if len(line) > _MOST_CHARACTERS:
                    yield Unread(f"{base}?line={number}", f"it has more than {_MOST_CHARACTERS:,} characters")
                elif line.strip():
                    yield _line(line, f"{base}?line={number}", base)
        except (OSError, EOFError) as error:
            yield Unread(base, f"it is damaged: {error}")


def _lines(file: TextIOBase) -> Iterator[str]:
    """The lines of a file; of one that is too long, its beginning, which is too long as well."""
    while line := file.readline(_MOST_CHARACTERS + 1):
        yield line
        while len(line) > _MOST_CHARACTERS and not line.endswith("\n"):
            line = file.readline(_MOST_CHARACTERS + 1)


def _line(line: str, place: str, base: str) -> Page | Unread:
    try:
        row = json.loads(line)
        text, name = row["text"], clean_characters(str(row["_id"]))
        title, url = row.get("title") or "", row.get("url") or ""
        if row["_id"] is None or not name:
            return Unread(place, "its _id is empty")
    except KeyError as error:
        return Unread(place, f"the line has no {error}; _id, title and text are wanted")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return Unread(place, f"the line is not an object with _id, title and text ({type(error).__name__})")
    if not all(isinstance(each, str) for each in (text, title, url)) or not text.strip():
        return Unread(place, "its text is empty, or is no text")
    held, url = clean_characters(text), clean_characters(url)
    if not url.lower().startswith(("http://", "https://")):  # javascript: and the like would become links
        url = f"{base}?id={quote(name, safe='')}"
    return Page(url, clean_characters(title).strip() or name, held, (), extract.language(held), identifier=name)


def _warc(path: Path) -> Iterator[Page | Unread]:
    """The responses of a WARC or the texts of a WET."""
    from almanac.youchat.crawl import warc

    try:
        for fetched in warc.read(path):
            yield read_fetched(fetched)
    except UserError as error:
        yield Unread(_address(path), error.what)


def _address(path: Path) -> str:
    return path.resolve().as_uri()


def _slug(text: str, used: dict[str, int]) -> str:
    """A heading's anchor, as GitHub makes it; the second of a name ends in -1."""
    slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
    used[slug] = used.get(slug, -1) + 1
    return f"{slug}-{used[slug]}" if used[slug] else slug


def _aware(date: datetime | None) -> datetime | None:
    """In UTC; a date to come is none."""
    if date is None:
        return None
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    return date if date <= datetime.now(UTC) else None
