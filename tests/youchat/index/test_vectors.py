"""Vectors of texts, and search by them."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.documents import Page
from almanac.youchat.index import bert, retrieve, vectors
from almanac.youchat.index.bert import Bert, Dimensions
from almanac.youchat.index.index import Index

from .pages import made

SMALL = {
    "vocab_size": 90,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 50,
    "max_position_embeddings": 40,
}


def test_the_encoder_is_transformers_bert():
    transformers = pytest.importorskip(
        "transformers", reason="transformers, the reference, is not installed (almanac[bench])"
    )
    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(**SMALL, layer_norm_eps=1e-12)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Bert(Dimensions.of(theirs.config.to_dict())).eval()
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    tokens, mask = bert.padded([[5, 6, 7], list(range(1, 38)), [89], [4] * 20])
    with torch.inference_mode():
        wanted = theirs(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        found = ours.hidden(tokens, mask)
        assert (found - wanted)[mask].abs().max() < 1e-5
        for row in range(4):
            mean = wanted[row][mask[row]].mean(0)
            assert (ours(tokens, mask)[row] - mean / mean.norm()).abs().max() < 1e-5


def test_the_published_weights_are_read_and_what_is_alike_is_near():
    transformers = pytest.importorskip(
        "transformers", reason="transformers, the reference, is not installed (almanac[bench])"
    )
    if importlib.util.find_spec(vectors.PACKAGE) is None:
        pytest.skip("MiniLM's weights are not installed (almanac[vectors])")
    ours = vectors.load("minilm")
    texts = [
        "Otters hold hands while they sleep.",
        "Sea otters hold each other's paws at night.",
        "The stock market fell.",
    ]
    found = ours.embed(texts, True)
    assert (found * ours.embed(texts, False)).sum(1).min() > 0.9999  # passages are computed in bfloat16
    theirs = transformers.BertModel.from_pretrained(vectors.folder()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(vectors.folder())
    with torch.inference_mode():
        for text, vector in zip(texts, found, strict=True):
            mean = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            assert np.abs(vector - (mean / mean.norm()).numpy()).max() < 1e-5
    assert found[0] @ found[1] > 0.6 > 0.2 > found[0] @ found[2]


def test_weights_that_are_not_the_official_ones_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"model\.safetensors"):
        vectors.load(str(tmp_path))
    for name in vectors.PINS:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UserError, match=hashlib.sha256(b"{}").hexdigest()):
        vectors.load(str(tmp_path))


# An endpoint, on loopback

Answer = Callable[[list[str]], tuple[int, bytes]]


def letters(text: str) -> list[float]:
    """How often a text has each letter: a vector for tests, in which texts of like words are near."""
    return [0.01 + text.lower().count(chr(97 + at)) for at in range(26)]


def rightly(texts: list[str]) -> tuple[int, bytes]:
    rows = [{"object": "embedding", "index": at, "embedding": letters(text)} for at, text in enumerate(texts)]
    return 200, json.dumps({"object": "list", "data": rows[::-1], "model": "m"}).encode()


@pytest.fixture
def endpoint() -> Iterator[Callable[[Answer], str]]:
    servers = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = answer(asked["input"]) if self.path == "/v1/embeddings" else (404, b"no")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_endpoint_gives_vectors_of_length_one_in_the_texts_order(endpoint: Callable[[Answer], str]):
    embedder = vectors.load(endpoint(rightly), model="m")
    texts = [f"text {'abc' * at}" for at in range(150)]
    found = embedder.embed(texts, False)
    wanted = np.array([letters(text) for text in texts])
    assert embedder.dimensions == 26 and np.allclose(
        found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda texts: (401, b"bad key"), "401"), (lambda texts: (500, b"x" * 10_000), "500"),
        (lambda texts: (200, b"<html>"), "not a list"),
        (lambda texts: (200, b'{"data": [{"index": 0}]}'), "not a list"), (lambda texts: (200, b'{"data": []}'), "finite"),
        (lambda texts: (200, b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}'), "finite"),
        (lambda texts: (200, b'{"data": [{"index": 0, "embedding": [0, 0]}]}'), "finite"),
        (lambda texts: (200, b'{"data": [{"index": 0, "embedding": ["a"]}]}'), "not a list"),
    ],
    ids=range(8),
)  # fmt: skip
def test_an_endpoint_that_answers_wrongly_is_told(endpoint: Callable[[Answer], str], answer: Answer, told: str):
    with pytest.raises(RunFailed, match=told) as failed:
        vectors.load(endpoint(answer))
    assert len(str(failed.value)) < 600


def test_an_endpoint_that_is_not_there_is_told():
    with pytest.raises(RunFailed, match="can't be reached"):
        vectors.load("http://127.0.0.1:9/v1")


# Search by vectors


class Letters:
    """Vectors of letters, made here."""

    name = "letters"
    dimensions = 26

    def __init__(self):
        self.made = 0

    def embed(self, texts: Sequence[str], question: bool) -> np.ndarray:
        self.made += len(texts)
        found = np.array([letters(text) for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_vectors_find_what_words_do_not(tmp_path: Path):
    embedder = Letters()
    index = Index.open(tmp_path, embedder=embedder)
    index.update(
        [
            Page("http://h/z", "zz", "zzzz zzz zzzzz"),
            Page("http://h/q", "qq", "qqq qqqq"),
            Page("http://h/a", "aa", "zebra aaaa"),
        ]
    )
    assert index.search("zz zebra")[0].passage.url == "http://h/a"
    assert index.embed() == 3
    hits = index.search("zzzzzz")
    assert hits[0].passage.url == "http://h/z" and hits[0].bm25 == 0 and hits[0].cosine > 0.9


def test_only_what_is_new_is_embedded_and_what_is_gone_is_not_found(tmp_path: Path):
    embedder = Letters()
    index = Index.open(tmp_path, embedder=embedder)
    pages = made(20)
    index.update(pages)
    first = index.embed()
    assert first == index.statistics().passages and index.embed() == 0
    index.update([Page("http://h/new", "new", "something else entirely")], [pages[0].url])
    assert index.embed() == 1 and embedder.made == first + 1
    _, near = index.candidates(
        retrieve.ranking.parse("x"), index.statistics(["x"]), 1000, embedder.embed(["x"], True)[0]
    )
    assert {each.url for each in near} == {*index.urls()} and len(near) == index.statistics().passages


def test_cosines_are_those_of_the_vectors_in_half_precision(tmp_path: Path):
    embedder = Letters()
    index = Index.open(tmp_path, embedder=embedder)
    index.update(made(15))
    index.embed(batch=7)
    for hit in index.search("word3 word20", 10):
        wanted = (
            embedder.embed([f"{hit.passage.title}. {hit.passage.text}"], False)[0]
            @ embedder.embed(["word3 word20"], True)[0]
        )
        assert hit.cosine == pytest.approx(float(wanted), abs=1e-3)


def test_vectors_of_two_embedders_are_not_mixed(tmp_path: Path):
    index = Index.open(tmp_path, embedder=Letters())
    index.update(made(3))
    index.embed()
    other = Letters()
    other.name = "others"
    with pytest.raises(UserError, match="letters"):
        Index.open(tmp_path, embedder=other)


def test_shards_with_vectors_find_what_one_index_finds(tmp_path: Path):
    embedder, pages = Letters(), made(60)
    one = Index.open(tmp_path / "one", embedder=embedder)
    shards = [Index.open(tmp_path / str(at), embedder=embedder) for at in range(3)]
    for index, part in ((one, pages), *((shard, pages[at::3]) for at, shard in enumerate(shards))):
        index.update(part)
        index.embed()
    for question in ("word3 word77", "word250", "no such thing"):
        whole, apart = (retrieve.search(sources, question, 10, embedder) for sources in ([one], shards))
        assert [hit.passage for hit in apart] == [hit.passage for hit in whole]
        assert [hit.score for hit in apart] == pytest.approx([hit.score for hit in whole], abs=1e-5)
