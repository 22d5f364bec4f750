"""`almanac youchat VERB`: parse, call, print."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import Interrupted, RunFailed, UserError

if TYPE_CHECKING:
    from almanac.youchat.ask.language_model import Endpoint
    from almanac.youchat.crawl.crawl import Progress
    from almanac.youchat.documents import Answer
    from almanac.youchat.index.index import Index
    from almanac.youchat.index.refresh import Refreshed
    from almanac.youchat.index.retrieve import Embeds
    from almanac.youchat.index.shards import Shards

Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Count = Annotated[int, tyro.conf.arg(name="k", aliases=["-k"])]
Part = Literal["extraction", "retrieval", "speed", "answers", "crawl"]
Mode = Literal["extractive", "semi", "abstractive"]
_INDEX = Path(os.environ["ALMANAC_YOUCHAT_INDEX"]) if os.environ.get("ALMANAC_YOUCHAT_INDEX") else None
_LLM = os.environ.get("ALMANAC_YOUCHAT_LLM", "")


def crawl(
    urls: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    index: Path = _INDEX or Path("out/youchat"),
    sitemap: tuple[str, ...] = (),
    warc: tuple[Path, ...] = (),
    allow_host: tuple[str, ...] = (),
    pages: int = 100_000,
    pages_per_host: int = 10_000,
    depth: int = 20,
    alike: int = 1_000,
    wander: bool = False,
    delay: float = 1.0,
    own_delay: float = 1.0,
    contact: str = "",
    shards: int | None = None,
    json: bool = False,
) -> None:
    """Crawl sites politely and keep an index of them up to date.

    robots.txt is obeyed, a host is asked once a second at most, and only public addresses are connected to. All that came is kept as WARC
    1.1 in DIR/crawl. A run that is stopped (Ctrl-C, SIGTERM, kill -9) goes on when it is started again. After one that came to its end,
    sites that are named again are visited anew, and without names what is due by how often it changes; what changed or went is changed
    or goes in the index.

    Args:
        urls: where to begin; none: go on with what DIR holds.
        index: the folder of the index and its crawl ($ALMANAC_YOUCHAT_INDEX).
        sitemap: addresses of sitemaps, whose pages are begun with too.
        warc: WARC or WET files, as Common Crawl has them, to index instead of or beside a crawl.
        allow_host: host:port of servers of your own that are not public, which may be crawled.
        pages: that are ever asked for, in all.
        pages_per_host: likewise of one host.
        depth: links from where it began.
        alike: addresses of a host that differ in their numbers only and that no sitemap lists.
        wander: follow links to other hosts too.
        delay: seconds between requests to a host, at least 1.
        own_delay: the same for those of --allow-host; may be 0.
        contact: web or mail address that servers are told.
        shards: cut a new index into so many, by what pages say.
        json: print one JSON object.
    """
    from almanac.runtime.stopping import stop_signals
    from almanac.youchat.crawl import crawl as crawler
    from almanac.youchat.crawl.settings import Settings
    from almanac.youchat.index import refresh

    settings = Settings(
        pages=pages, pages_per_host=pages_per_host, depth=depth, alike=alike, wander=wander, delay=delay, own_delay=own_delay,
        contact=contact,
    )  # fmt: skip
    _plan(index, shards)
    facts: dict[str, Any] = {}
    stopped = in_vain = False
    if urls or sitemap or not warc:
        stop = Event()
        with stop_signals() as asked_to, console.progress("crawling", 0, "pages") as advance:
            tell = _told(advance)

            def progress(now: "Progress") -> None:
                tell(now)
                if asked_to and not stop.is_set():
                    console.log("stopping: what is under way is finished")
                    stop.set()

            found = crawler.crawl(
                urls, index / refresh.CRAWL, settings, sitemap_seeds=sitemap, allow_hosts=allow_host, stop=stop, progress=progress
            )  # fmt: skip
        for host, reason in found.shut.items():
            console.log(f"{host} was left alone: {reason}")
        for url, reason in found.troubles[:_TOLD]:
            console.log(f"{url}: {reason}")
        if found.alike:
            console.log(
                f"{found.alike:,} addresses were left out, as {alike:,} like them but for their numbers are known: see --alike"
            )
        facts |= {name: getattr(found, name) for name in _CRAWLED}
        facts["troubles"] = [{"url": url, "reason": reason} for url, reason in found.troubles]
        stopped = found.stopped
        in_vain = bool(found.shut or found.troubles or found.gone or found.disallowed) and not (
            found.fetched or found.unchanged or found.pages or found.noindex
        )
        with console.progress("indexing", 0, "pages") as advance:
            facts |= _counted(refresh.from_crawl(index, advance))
    if warc and not stopped:
        with console.progress("indexing", 0, "pages") as advance:
            facts |= _counted(refresh.from_files(index, warc, advance))
    console.result({"index": str(index), **facts}, json)
    if stopped:
        raise Interrupted("the crawl was stopped; what came is indexed", "run the same command again to go on")
    if in_vain:
        raise RunFailed("nothing could be fetched", "see above why, and whether the addresses are right")


_CRAWLED = (
    "fetched",
    "unchanged",
    "waiting",
    "pages",
    "noindex",
    "redirects",
    "gone",
    "disallowed",
    "failed",
    "alike",
    "seconds",
)


def index(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    *,
    index: Path = _INDEX or Path("out/youchat"),
    shards: int | None = None,
    vectors: str = "",
    json: bool = False,
) -> None:
    """Index files, and all files below folders: HTML, Markdown, PDF, text, WARC and WET, and JSONL with _id, title and text.

    What was indexed before and changed is replaced; what can't be read is named, and the rest goes on.

    Args:
        paths: files and folders.
        index: the folder of the index, made where it is missing ($ALMANAC_YOUCHAT_INDEX).
        shards: cut a new index into so many, by what pages say.
        vectors: also give passages vectors: minilm, the folder of its files, or the address of an embeddings endpoint (…/v1).
        json: print one JSON object.
    """
    from almanac.youchat.index import refresh
    from almanac.youchat.index import shards as cut
    from almanac.youchat.index.index import Index

    if not paths:
        raise UserError("nothing to index was named", "name files or folders: almanac youchat index docs/ --index DIR")
    embedder = _embedder(vectors)
    _plan(index, shards)
    with console.progress("indexing", 0, "pages") as advance:
        facts = _counted(refresh.from_files(index, paths, advance))
    if embedder is not None:
        folders = cut.plan(index) or [index]
        with console.progress("making vectors", 0, "passages") as advance:
            for folder in folders:
                advance(Index.open(folder, embedder=embedder).embed())
    console.result({"index": str(index), **facts}, json)


def search(
    question: tyro.conf.Positional[str],
    *,
    index: Folder = _INDEX,
    k: Count = 10,
    vectors: str = "",
    replicas: int = 1,
    cluster: str | None = None,
    json: bool = False,
) -> None:
    """Find passages: the best ones, two of a page at most.

    Args:
        question: any words.
        index: the folder of an index ($ALMANAC_YOUCHAT_INDEX); none: this machine's Python documentation and Almanac's,
            indexed at first use.
        k: how many.
        vectors: who made the index's vectors, as `index --vectors` takes it; without, by words alone.
        replicas: of an index in shards: workers of each, of which a second is asked where the first is slow.
        cluster: of an index in shards: a Ray to hold them (local, auto or host:port); none: processes of this machine.
        json: print one JSON object.
    """
    from almanac.youchat.api import wire
    from almanac.youchat.ask.ask import left_out

    _at_least_1("k", k)
    with _opened(index, vectors, cluster, replicas) as found:
        hits = found.search(question, k)
        note = left_out(found)
    if note:
        console.log(note)
    facts: dict[str, Any] = {"results": [wire.hit(hit) for hit in hits], "note": note}
    lines = [
        f"{number}. {hit.passage.title}\n   {hit.passage.url}\n   {_line(hit.passage.text, 300)}"
        for number, hit in enumerate(hits, 1)
    ]
    console.result(facts, json, "\n\n".join(lines) or "nothing was found")


def ask(
    question: tyro.conf.Positional[str],
    *,
    index: Folder = _INDEX,
    mode: Mode = "extractive",
    llm: str = _LLM,
    llm_model: str = "",
    hits: int = 10,
    vectors: str = "",
    replicas: int = 1,
    cluster: str | None = None,
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Answer a question from an index, every sentence with references that can be checked.

    Where the index does not hold an answer, that is said, with what came closest.

    Args:
        question: what you want to know.
        index: the folder of an index ($ALMANAC_YOUCHAT_INDEX); none: this machine's Python documentation and Almanac's,
            indexed at first use.
        mode: extractive: sentences of the pages, as they stand; semi: those, joined by a few words; abstractive: a language model writes,
            and what no page supports is taken out.
        llm: for abstractive: the address of any server with OpenAI's chat API, up to /v1 ($ALMANAC_YOUCHAT_LLM; its key in
            $OPENAI_API_KEY).
        llm_model: its model; default: the first that it has.
        hits: passages that are read.
        vectors: who made the index's vectors, as `index --vectors` takes it; without, by words alone.
        replicas: of an index in shards: workers of each, of which a second is asked where the first is slow.
        cluster: of an index in shards: a Ray to hold them (local, auto or host:port); none: processes of this machine.
        picture: a .png to draw the answer into.
        json: print one JSON object.
    """
    from almanac.youchat.api import wire
    from almanac.youchat.ask import ask as asking

    _at_least_1("hits", hits)
    settings = asking.Settings(mode, hits, endpoint=_endpoint(llm, llm_model))
    with _opened(index, vectors, cluster, replicas) as found:
        answer = asking.ask(question, found, settings=settings)
    if picture is not None:
        from almanac.youchat import draw

        draw.card(answer, picture)
    console.result(wire.answer(answer), json, _written(answer))


def serve(
    *,
    index: Folder = _INDEX,
    host: str = os.environ.get("ALMANAC_HOST", "127.0.0.1"),
    port: int = int(os.environ.get("ALMANAC_PORT", "8090")),
    llm: str = _LLM,
    llm_model: str = "",
    vectors: str = "",
    replicas: int = 1,
    cluster: str | None = None,
) -> None:
    """Serve the search page, a JSON API, OpenAI's chat API (/v1/chat/completions, with citations) and SearXNG's (/search?format=json).

    What is crawled or indexed meanwhile is found at the next question.

    Args:
        index: the folder of an index ($ALMANAC_YOUCHAT_INDEX); none: this machine's Python documentation and Almanac's.
        host: address to listen on ($ALMANAC_HOST); 0.0.0.0 lets other machines in.
        port: port to listen on ($ALMANAC_PORT); 0 takes a free one.
        llm: a server with OpenAI's chat API, up to /v1, which may write answers ($ALMANAC_YOUCHAT_LLM; its key in $OPENAI_API_KEY).
        llm_model: its model; default: the first that it has.
        vectors: who made the index's vectors, as `index --vectors` takes it; without, by words alone.
        replicas: of an index in shards: workers of each, of which a second is asked where the first is slow.
        cluster: of an index in shards: a Ray to hold them (local, auto or host:port); none: processes of this machine.
    """
    try:
        import fastapi  # noqa: F401

        from almanac.runtime import serving
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs {error.name}, which is not installed", "pip install 'almanac[studio]'"
        ) from None
    from almanac.youchat.api import serve as service
    from almanac.youchat.ask.ask import Settings

    with serving.listen(host, port) as listener, _opened(index, vectors, cluster, replicas) as found:
        console.log(f"YouChat on http://{host}:{listener.getsockname()[1]}")
        serving.serve(service.app(found, Settings(endpoint=_endpoint(llm, llm_model))), listener)


def evaluate(
    *,
    parts: tuple[Part, ...] = ("extraction", "retrieval", "speed", "answers", "crawl"),
    vectors: str = "",
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure search (SciFact, questions of a small web), answers (ClapNQ, WiCE, CANARD, injections, a model that lies), speed and a crawl.

    Takes ten minutes or so on one core; with vectors an hour more.

    Args:
        parts: what is measured.
        vectors: also measure search with vectors, as `index --vectors` takes it.
        write: whether to write results/youchat/PART.json.
        seed: kept with the results.
        json: print one JSON object.
    """
    from almanac.runtime import results
    from almanac.youchat.evaluate import evaluate as tables

    embedder = _embedder(vectors)
    measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "extraction": tables.extraction,
        "retrieval": lambda: tables.retrieval(embedder),
        "speed": tables.speed,
        "answers": tables.answers,
        "crawl": tables.crawling,
    }
    rows: list[dict[str, Any]] = []
    with console.progress("measuring", len(parts), "parts") as advance:
        for part in parts:
            found = measures[part]()
            if write:
                results.write("youchat", part, found, seed)
                if part == "answers":
                    results.write("youchat", "audit", tables.audit(found), seed)
            rows += [{"part": part, **each} for each in found]
            advance(1, part)
    console.result({"rows": rows}, json, "\n".join(_line(str(each)) for each in rows))


COMMANDS: dict[str, Callable[..., None]] = {
    "crawl": crawl,
    "index": index,
    "search": search,
    "ask": ask,
    "serve": serve,
    "evaluate": evaluate,
}


# Opening


@contextmanager
def _opened(folder: Path | None, vectors: str, cluster: str | None, replicas: int) -> "Iterator[Index | Shards]":
    """An index, or its shards in workers of their own."""
    from almanac.youchat import own_pages
    from almanac.youchat.index import shards
    from almanac.youchat.index.index import Index

    _at_least_1("replicas", replicas)
    if folder is None:
        folder = own_pages.folder()
        if not own_pages.is_made():
            console.log("indexing this machine's Python documentation and Almanac's, for the first time …")
            with console.progress("crawling", 0, "pages") as advance:
                own_pages.make(folder, _told(advance))
    embedder = _embedder(vectors)
    folders = shards.plan(folder)
    if not folders:
        yield Index.open(folder, create=False, embedder=embedder)
        return
    with _crew(cluster, len(folders) * replicas) as crew:
        yield shards.Shards(crew, folders, replicas, embedder=embedder)


def _crew(address: str | None, workers: int) -> Any:
    if address is None:
        from almanac.runtime import workers as here

        return here.processes()
    from almanac.runtime import cluster

    return cluster.workers(address, float(workers))


def _endpoint(address: str, model: str) -> "Endpoint | None":
    from almanac.youchat.ask.language_model import Endpoint

    return Endpoint(address, model, os.environ.get("OPENAI_API_KEY", "")) if address else None


def _embedder(name: str) -> "Embeds | None":
    if not name:
        return None
    from almanac.youchat.index import vectors

    return vectors.load(name, os.environ.get("OPENAI_API_KEY", ""))


def _plan(folder: Path, count: int | None) -> None:
    from almanac.youchat.index import shards

    if count is not None:
        _at_least_1("shards", count)
    shards.plan(folder, count)


def _at_least_1(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} is {value}", "give at least 1")


# Telling


def _told(advance: Callable[..., None]) -> "Callable[[Progress], None]":
    done = 0

    def tell(now: "Progress") -> None:
        nonlocal done
        left = f", {now.seconds_left:.0f} s left" if now.seconds_left < 1e6 else ""
        note = f"{now.waiting:,} wait, {now.disallowed:,} disallowed, {now.failed:,} failed, {now.pages_per_second:.1f}/s{left}"
        advance(now.fetched - done, note)
        done = now.fetched

    return tell


def _counted(done: "Refreshed") -> dict[str, Any]:
    for each in done.unread[:_TOLD]:
        console.log(f"{each.url}: {each.reason}")
    if len(done.unread) > _TOLD:
        console.log(f"… and {len(done.unread) - _TOLD} more that can't be read")
    counts = done.counts
    return {
        "added": counts.added,
        "changed": counts.changed,
        "removed": counts.removed,
        "duplicates": counts.duplicates,
        "passages": counts.passages,
        "unread": len(done.unread),
    }


_TOLD = 20
"""Addresses and files that can't be had or read and are named."""


def _written(answer: "Answer") -> str:
    """An answer as a person reads it in a terminal."""
    lines = [answer.note] if answer.note else []
    if answer.outcome == "refused":
        lines.append("The index does not hold an answer." + _about(answer))
        lines += [f"  close: {hit.passage.title}  {hit.passage.url}" for hit in answer.closest]
        return "\n".join(lines)
    if answer.outcome == "partial":
        lines.append("This answers a part of it." + _about(answer))
    lines += [
        f"{_line(each.text)} {''.join(f'[{number}]' for number in each.citations)}\n" for each in answer.sentences
    ]
    for each in answer.references:
        dates = [f"fetched {each.fetched_at:%Y-%m-%d}"] if each.fetched_at else []
        dates += [f"published {each.published_at:%Y-%m-%d}"] if each.published_at else []
        lines.append(f"[{each.n}] {each.title}" + (f" ({', '.join(dates)})" if dates else "") + f"\n    {each.link}")
    if answer.removed:
        lines.append(f"{answer.removed} statements were removed: no page supports them.")
    return "\n".join(lines)


def _about(answer: "Answer") -> str:
    return f" Nothing found speaks of: {', '.join(answer.missing)}." if answer.missing else ""


def _line(text: str, most: int = 1_000) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= most else joined[: most - 1].rstrip() + "…"
