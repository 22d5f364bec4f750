"""SearXNG's search API over an index, so that front ends which ask a SearXNG can ask this one: `/search?format=json` with `q` and `pageno`,
by GET or POST, answered in its form. What it has many of, engines, categories, languages, is one here, and choosing among them is
without effect. Formats other than JSON and HTML are refused as it refuses those that are not enabled, with 403."""

from typing import Any
from urllib.parse import urlencode, urlparse

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from almanac.youchat.api import snippets, wire
from almanac.youchat.api.asking import LONGEST, Asking, Served
from almanac.youchat.ask.ask import left_out
from almanac.youchat.documents import Hit

ENGINE = "almanac"
"""What results name as their engine."""
_A_PAGE = 10
"""Results on a page."""
_PAGES = 20
"""Pages of results, at most."""
_REFUSED = ("csv", "rss")
"""SearXNG's other formats; names that it doesn't know are HTML to it."""


def add(api: APIRouter, asking: Asking, page: str = "ask") -> None:
    """Add `/search`; `page` is where whoever wants HTML is sent."""

    async def search(request: Request) -> Response:
        given = dict(request.query_params)
        if request.method == "POST":
            given |= {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
        question, form, number = (
            given.get("q", "").strip()[:LONGEST],
            given.get("format", "html"),
            given.get("pageno", "1"),
        )
        if form in _REFUSED:
            return _error(f"The format {form} is not enabled here", 403)
        if form != "json":
            return RedirectResponse(f"{page}?{urlencode({'q': question})}" if question else page, 303)
        if not question:
            return _error("No query", 400)
        if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
            return _error(f'Invalid value "{number[:40]}" for parameter pageno', 400)
        return JSONResponse(await asking.run(lambda index: results(index, question, int(number))))

    api.add_api_route("/search", search, methods=["GET", "POST"], response_model=None)


def results(index: Served, question: str, page: int) -> dict[str, Any]:
    """What is found, in SearXNG's form: a page of the web once, by its best passage."""
    wanted = _A_PAGE * min(page, _PAGES)
    found: dict[str, Hit] = {}
    for hit in index.search(question, 2 * wanted):  # no more than two of a page
        found.setdefault(hit.passage.url, hit)
    hits = list(found.values())
    shown = hits[_A_PAGE * (page - 1) : _A_PAGE * page] if page <= _PAGES else []
    note = left_out(index)
    lines = snippets.of_hits(question, shown, index.idf)
    entries = [
        _result(hit, "".join(piece["text"] for piece in line), _A_PAGE * (page - 1) + place)
        for place, (hit, line) in enumerate(zip(shown, lines, strict=True), 1)
    ]
    return {
        "query": question, "number_of_results": len(hits), "results": entries, "answers": [], "corrections": [],
        "infoboxes": [], "suggestions": [], "unresponsive_engines": [[ENGINE, note]] if note else [],
    }  # fmt: skip


def _result(hit: Hit, content: str, position: int) -> dict[str, Any]:
    passage = hit.passage
    return {
        "url": passage.url, "title": passage.title, "content": content, "publishedDate": wire.date(passage.published_at),
        "engine": ENGINE, "engines": [ENGINE], "category": "general", "score": hit.score, "positions": [position],
        "parsed_url": list(urlparse(passage.url)), "template": "default.html", "thumbnail": "", "img_src": "",
        "iframe_src": "", "priority": "",
    }  # fmt: skip


def _error(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status)
