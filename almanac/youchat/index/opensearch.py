"""An index in an OpenSearch (or Elasticsearch) cluster instead of a folder: for who has one already. Passages are indexed as stems, as ours
are, so that the server's own BM25 with a cluster's statistics (`dfs_query_then_fetch`) ranks by nearly the same numbers. UNTESTED against a
real server: written by the documentation of OpenSearch 2, and held to a stand-in that speaks the few requests of it."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import httpx

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.documents import Heading, Hit, Page, Passage
from almanac.youchat.index import ranking
from almanac.youchat.index.retrieve import A_PAGE
from almanac.youchat.text import passages

_PORTION = 2_000
"""Lines of a bulk request."""
_MAPPINGS = {
    "dynamic": False,
    "properties": {
        "text": {"type": "text", "analyzer": "whitespace"},
        "title": {"type": "text", "analyzer": "whitespace"},
        "url": {"type": "keyword"},
        "passage": {"type": "object", "enabled": False},
    },
}


class OpenSearch:
    """An index that `ask` can ask, in two indices of a server: NAME-passages and NAME-pages.

    Args:
        address: of the server, with user and password where it wants them: https://user:password@host:9200.
        name: of the indices.
        shards: into which a new index is cut.
        replicas: of each shard.
        seconds: to wait for an answer.

    Raises:
        RunFailed: the server can't be reached or refuses.
    """

    def __init__(self, address: str, name: str = "almanac", shards: int = 1, replicas: int = 0, seconds: float = 30.0):
        if not address.startswith(("http://", "https://")):
            raise UserError(f"'{address}' is no address of a server", "give http://host:9200 or https://…")
        self._client = httpx.Client(base_url=address, timeout=seconds, trust_env=False)
        self._passages, self._pages = f"{name}-passages", f"{name}-pages"
        bm25 = {"default": {"type": "BM25", "k1": ranking.K1, "b": ranking.B}}
        settings = {"number_of_shards": shards, "number_of_replicas": replicas}
        self._make(self._passages, {"settings": {"index": {**settings, "similarity": bm25}}, "mappings": _MAPPINGS})
        self._make(self._pages, {"settings": {"index": settings}, "mappings": {"enabled": False}})

    def update(self, pages: Iterable[Page], removed_urls: Iterable[str] = ()) -> int:
        """Put pages in, or in the place of those at their addresses, and take addresses out; gives how many passages went in."""
        gone, lines, count = list(removed_urls), list[str](), 0
        for page in pages:
            gone.append(page.url)
            lines += _line(self._pages, _key(page.url), _told(page))
            for passage in passages.split(page):
                stems = ranking.stemmed(passage.text, passage.title, passage.headings)
                fields = {"text": stems.text, "title": stems.title, "url": page.url, "passage": _told(passage)}
                lines += _line(self._passages, _key(f"{page.url}\n{passage.start}"), fields)
                count += 1
        for first in range(0, len(gone), _PORTION):  # before the new ones: an edited page may have fewer passages
            asked = {"query": {"terms": {"url": gone[first : first + _PORTION]}}}
            self._ask("POST", f"/{self._passages}/_delete_by_query?refresh=true&conflicts=proceed", asked)
        kept = {line for line in lines[::2] if f'"{self._pages}"' in line}
        for url in gone:
            head = _line(self._pages, _key(url), {})[0]
            if head not in kept:
                lines.append(head.replace('{"index"', '{"delete"', 1))
        for first in range(0, len(lines), _PORTION * 2):
            self._bulk(lines[first : first + _PORTION * 2])
        self._ask("POST", f"/{self._passages},{self._pages}/_refresh")
        return count

    def search(self, question: str, k: int = 10) -> list[Hit]:
        """The best passages for a question, no more than two of a page."""
        query = ranking.parse(question)
        if not query.stems or k < 1:
            return []
        should = [
            {"term": {field: {"value": stem, "boost": weight * count}}}
            for stem, count in zip(query.stems, query.counts, strict=True)
            for field, weight in zip(("text", "title"), ranking.WEIGHTS, strict=True)
        ]
        asked = {"size": 4 * k, "query": {"bool": {"should": should}}, "_source": ["passage"]}
        found = self._ask("POST", f"/{self._passages}/_search?search_type=dfs_query_then_fetch", asked)
        hits = [
            Hit(_passage(each["_source"]["passage"]), each["_score"], each["_score"]) for each in found["hits"]["hits"]
        ]
        return ranking.few_of_a_page(hits, A_PAGE, lambda hit: hit.passage.url)[:k]

    def page(self, url: str) -> Page | None:
        """The page at an address, None if it isn't there."""
        found = self._ask("GET", f"/{self._pages}/_doc/{_key(url)}", missing={})
        return _page(found["_source"]) if found.get("found") else None

    def idf(self, stem: str) -> float:
        """ln(1 + (N − n + ½)/(n + ½)) of a stem among the passages' texts."""
        count = self._ask("POST", f"/{self._passages}/_count", {"query": {"term": {"text": stem}}})["count"]
        return math.log(1 + (self.statistics().passages - count + 0.5) / (count + 0.5))

    def statistics(self, stems: Sequence[str] = ()) -> ranking.Statistics:
        """How many pages and passages there are; frequencies are the server's own matter."""
        pages, held = (self._ask("POST", f"/{name}/_count", {})["count"] for name in (self._pages, self._passages))
        return ranking.Statistics(pages, held)

    def _make(self, name: str, body: dict[str, Any]) -> None:
        if self._ask("GET", f"/{name}", missing={}) == {}:
            self._ask("PUT", f"/{name}", body)

    def _bulk(self, lines: Sequence[str]) -> None:
        done = self._ask("POST", "/_bulk", "\n".join(lines) + "\n")
        failed = [
            one for each in done["items"] for one in each.values() if one["status"] >= 400 and one["status"] != 404
        ]
        if failed:
            raise RunFailed(f"OpenSearch refused {len(failed)} documents: {failed[0]['error']}", "see its log")

    def _ask(self, method: str, path: str, body: Any = None, missing: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the server answers; `missing` where it answers 404."""
        text = body if isinstance(body, str) else json.dumps(body) if body is not None else None
        kind = "application/x-ndjson" if isinstance(body, str) else "application/json"
        try:
            answer = self._client.request(method, path, content=text, headers={"Content-Type": kind} if text else None)
            if answer.status_code == 404 and missing is not None:
                return missing
            if answer.status_code >= 400:
                raise RunFailed(
                    f"OpenSearch answers {answer.status_code} to {method} {path}: {answer.text[:300]}", "see its log"
                )
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RunFailed(f"OpenSearch at {self._client.base_url} fails: {error}", "check its address") from None


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _line(index: str, key: str, fields: dict[str, Any]) -> list[str]:
    return [json.dumps({"index": {"_index": index, "_id": key}}), json.dumps(fields)]


def _told(held: Page | Passage) -> dict[str, Any]:
    """Its fields as JSON has them."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(held).items()
        if value not in (None, "", ())
    }


def _page(told: dict[str, Any]) -> Page:
    dated = dict(_dated(told))
    headings = tuple(Heading(**each) for each in dated.pop("headings", ()))
    return Page(**{"title": "", "text": "", **dated, "headings": headings, "aliases": tuple(dated.get("aliases", ()))})


def _passage(told: dict[str, Any]) -> Passage:
    dated = dict(_dated(told))
    return Passage(**{"title": "", **dated, "headings": tuple(dated.get("headings", ()))})


def _dated(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        yield name, datetime.fromisoformat(value) if name in ("fetched_at", "published_at") else value
