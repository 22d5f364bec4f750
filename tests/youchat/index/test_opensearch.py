"""The OpenSearch adapter against a stand-in that speaks the few requests of it, over HTTP: what it sends is well formed, and what comes
back is what went in. How a real server ranks is not known here."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.ask.ask import ask
from almanac.youchat.documents import Heading, Page
from almanac.youchat.index.opensearch import OpenSearch

OTTERS = Page(
    "http://h/otters",
    "Otters",
    "Otters\n\nOtters hold hands while they sleep on the water, so that they do not drift apart in the night.",
    (Heading(1, "Otters", 0, "otters"),),
    "en",
    datetime(2026, 1, 2, tzinfo=UTC),
)
BEARS = Page("http://h/bears", "Bears", "Bears sleep through the winter in a den and live on the fat of autumn.")


class StandIn:
    """Indices in memory; a term's score is its boost."""

    def __init__(self):
        self.held: dict[str, dict[str, dict]] = {}

    def answer(self, method: str, path: str, body: str) -> tuple[int, dict]:
        path, _, _ = path.partition("?")
        if path == "/_bulk":
            return 200, {"items": list(self._bulk(body))}
        name, _, verb = path.strip("/").partition("/")
        if method == "PUT" and not verb:
            json.loads(body)
            self.held[name] = {}
            return 200, {"acknowledged": True}
        names = name.split(",")
        if any(each not in self.held for each in names):
            return 404, {"error": {"type": "index_not_found_exception"}}
        documents = self.held[names[0]]
        if not verb or verb == "_refresh":
            return 200, {name: {}}
        if key := re.fullmatch(r"_doc/(\w+)", verb):
            found = documents.get(key[1])
            return (200, {"found": True, "_source": found}) if found else (404, {"found": False})
        asked = json.loads(body).get("query")
        if verb == "_count":
            return 200, {
                "count": sum(self._score(asked, each) > 0 for each in documents.values()) if asked else len(documents)
            }
        if verb == "_delete_by_query":
            for key in [key for key, each in documents.items() if each["url"] in asked["terms"]["url"]]:
                del documents[key]
            return 200, {"deleted": 1}
        assert verb == "_search"
        scored = [(self._score(asked, each), each) for each in documents.values()]
        best = sorted((each for each in scored if each[0] > 0), key=lambda each: -each[0])[: json.loads(body)["size"]]
        return 200, {
            "hits": {"hits": [{"_score": score, "_source": {"passage": each["passage"]}} for score, each in best]}
        }

    def _bulk(self, body: str) -> Iterator[dict]:
        assert body.endswith("\n")
        lines = iter(body.splitlines())
        for line in lines:
            ((what, where),) = json.loads(line).items()
            if what == "index":
                self.held[where["_index"]][where["_id"]] = json.loads(next(lines))
                yield {what: {"status": 201}}
            else:
                yield {what: {"status": 200 if self.held[where["_index"]].pop(where["_id"], None) else 404}}

    def _score(self, query: dict, document: dict) -> float:
        if "bool" in query:
            return sum(self._score(each, document) for each in query["bool"]["should"])
        ((field, term),) = query["term"].items()
        value, boost = (term, 1.0) if isinstance(term, str) else (term["value"], term["boost"])
        return boost * (value in document[field].split())


@contextmanager
def a_server(stand_in: StandIn) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            status, said = stand_in.answer(self.command, self.path, body)
            told = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_PUT = do_POST = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_goes_in_comes_back_and_is_asked():
    with a_server(StandIn()) as address:
        index = OpenSearch(address)
        assert index.update([OTTERS, BEARS]) == 2
        assert index.page(OTTERS.url) == OTTERS and index.page("http://h/none") is None
        hits = OpenSearch(address).search("who holds hands?")
        assert [hit.passage.url for hit in hits] == [OTTERS.url] and hits[0].passage.text in OTTERS.text
        assert index.search("?!") == [] and index.idf("sleep") < index.idf("winter") < index.idf("nothing")
        answer = ask("Why do otters hold hands?", index)
        assert answer.outcome == "answer" and answer.references[0].url == OTTERS.url


def test_an_edit_and_a_removal_take_what_was_there_out():
    with a_server(StandIn()) as address:
        index = OpenSearch(address)
        index.update([OTTERS, BEARS])
        index.update(
            [replace(OTTERS, text="Otters wrap themselves in kelp.", headings=())], [BEARS.url, "http://h/never"]
        )
        assert index.search("who holds hands?") == [] and index.page(BEARS.url) is None
        assert index.search("kelp")[0].passage.url == OTTERS.url
        assert (index.statistics().pages, index.statistics().passages) == (1, 1)


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(RunFailed, match="fails"):
        OpenSearch("http://127.0.0.1:9")
    with pytest.raises(UserError, match="no address"):
        OpenSearch("localhost:9200")
