"""`almanac youchat …` as a person types it."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from almanac.youchat import own_pages
from almanac.youchat.data import mini_web
from almanac.youchat.evaluate.stub_model import serving
from almanac.youchat.index.index import Index

OTTERS = """# Otters

Otters hold hands while they sleep on the water. They do so in order not to drift apart in the night.

## Food

An otter eats a quarter of its weight each day, mostly crabs and sea urchins. It opens shells with stones.
"""
PAGE = """<html><head><title>Page {n}</title></head><body><h1>Page {n}</h1>
<p>The number of this page is {n}, and it tells about animal number {n} of the island, which sleeps by day and hunts by night.</p>
<p><a href="/{next}.html">next</a></p></body></html>"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "otters.md").write_text(OTTERS)
    (folder / "bears.txt").write_text("Bears sleep through the winter in a den and live on the fat of autumn.\n" * 3)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    return folder


def run(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_files_are_indexed_searched_and_asked(typed, notes: Path, tmp_path: Path):
    index = tmp_path / "index"
    done = typed("youchat", "index", notes, "--index", index, "--json")
    facts = run(done)
    assert (facts["added"], facts["unread"]) == (2, 1) and "broken.pdf" in done.stderr
    found = run(typed("youchat", "search", "what do otters eat?", "--index", index, "-k", 3, "--json"))["results"]
    assert {"url", "title", "passage", "score", "doc_id"} <= found[0].keys()
    assert found[0]["url"].endswith("otters.md") and found[0]["title"] == "Otters"

    answer = run(typed("youchat", "ask", "Why do otters hold hands?", "--index", index, "--json"))
    assert answer["outcome"] == "answer" and answer["removed"] == 0
    text = Index.open(index).page(answer["references"][0]["url"]).text  # pyright: ignore[reportOptionalMemberAccess]
    for sentence in answer["sentences"]:
        (source, start, end), *_ = sentence["spans"]
        assert sentence["citations"] == [source] == [1] and text[start:end] == sentence["text"]
    refused = run(typed("youchat", "ask", "Who won the football world cup in 1998?", "--index", index, "--json"))
    assert refused["outcome"] == "refused" and refused["sentences"] == refused["references"] == []
    shown = typed("youchat", "ask", "Why do otters hold hands?", "--index", index).stdout
    assert "hold hands while" in shown and "[1]" in shown and "otters.md#otters:~:text=" in shown


def test_what_changed_is_asked_anew(typed, notes: Path, tmp_path: Path):
    index = tmp_path / "index"
    run(typed("youchat", "index", notes, "--index", index, "--json"))
    (notes / "otters.md").write_text(OTTERS.replace("hold hands", "wrap themselves in kelp"))
    assert run(typed("youchat", "index", notes, "--index", index, "--json"))["changed"] == 1
    answer = run(typed("youchat", "ask", "How do otters sleep on the water?", "--index", index, "--json"))
    assert "kelp" in answer["sentences"][0]["text"] and "hold hands" not in json.dumps(answer)


def test_shards_answer_as_one_index_does(typed, notes: Path, tmp_path: Path):
    for folder, more in ((tmp_path / "one", ()), (tmp_path / "two", ("--shards", 2))):
        run(typed("youchat", "index", notes, "--index", folder, *more, "--json"))
    one, two = (
        run(typed("youchat", "search", "who sleeps?", "--index", tmp_path / name, "--json"))["results"]
        for name in ("one", "two")
    )
    assert one == two and len(one) == 2


def test_a_language_model_writes_and_what_is_false_is_removed(typed, notes: Path, tmp_path: Path):
    index = tmp_path / "index"
    run(typed("youchat", "index", notes, "--index", index, "--json"))
    said = "Otters hold hands while they sleep on the water [1]. Otters weigh 900 kg [1]. They do not want to drift apart in the night [1]."
    with serving(lambda messages: said) as url:
        answer = run(
            typed(
                "youchat",
                "ask",
                "Why do otters hold hands?",
                "--index",
                index,
                "--mode",
                "abstractive",
                "--llm",
                url,
                "--json",
            )
        )
    assert "900" not in json.dumps(answer["sentences"]) and len(answer["sentences"]) == 2
    assert answer["removed"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask", "why?", "--index", "nowhere"), "there is no index in nowhere"),
        (("search", "why?", "--index", "nowhere"), "there is no index in nowhere"),
        (("index", "--index", "new"), "nothing to index was named"),
        (("index", "nothing.md", "--index", "new"), "there is no file or folder nothing.md"),
        (("crawl", "http://127.0.0.1/", "--index", "new"), "127.0.0.1"),
        (("crawl", "ftp://example.com/", "--index", "new"), "ftp"),
        (("crawl", "--index", "new"), "nothing to crawl"),
        (("crawl", "http://example.com", "--delay", "0", "--index", "new"), "delay of 0 s"),
        (("ask", "why?", "--mode", "abstractive", "--index", "made"), "needs a language model"),
        (("ask", " ", "--index", "made"), "the question is empty"),
        (("index", "made", "--shards", "0", "--index", "new"), "shards is 0"),
        (("index", "made", "--vectors", "nowhere", "--index", "new"), "nowhere"),
    ],
)
def test_wrong_use_is_told_in_two_lines(typed, tmp_path: Path, arguments: tuple, said: str):
    Index.open(tmp_path / "made")
    done = typed("youchat", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2 and done.stdout == ""


def a_site(pages: int) -> dict[str, bytes]:
    return {f"/{n}.html": gzip.compress(PAGE.format(n=n, next=(n + 1) % pages).encode()) for n in range(pages)}


def test_a_crawl_is_stopped_goes_on_and_is_asked(tmp_path: Path):
    with mini_web.Web({"site": mini_web.serve(a_site(40))}) as web:
        host = web.hosts["site"]
        command = [
            sys.executable,
            "-m",
            "almanac.cli",
            "youchat",
            "crawl",
            f"http://{host}/0.html",
            "--index",
            str(tmp_path),
        ]
        command += ["--allow-host", host, "--own-delay", "0.2", "--depth", "50", "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        deadline = time.monotonic() + 60
        while len(web.log) < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 130 and "go on" in err, err
        first = json.loads(out)["fetched"]
        assert 0 < first < 40 and len(Index.open(tmp_path).urls()) == first
        command[command.index("0.2")] = "0"
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert run(done)["fetched"] == 40 - first
        index = Index.open(tmp_path)
        assert len(index.urls()) == 40
        assert index.search("animal number 17 of the island")[0].passage.url.endswith("/17.html")


def test_what_a_site_changes_and_deletes_changes_answers_at_the_next_crawl(typed, tmp_path: Path):
    pages = a_site(4)
    with mini_web.Web({"site": lambda target: mini_web.serve(pages)(target)}) as web:
        host = web.hosts["site"]
        command = ["youchat", "crawl", f"http://{host}/0.html", "--index", tmp_path, "--allow-host", host]
        command += ["--own-delay", "0", "--json"]
        assert run(typed(*command))["added"] == 4
        edited = gzip.decompress(pages["/2.html"]).replace(b"hunts by night", b"sings in the rain")
        pages["/2.html"] = gzip.compress(edited)
        del pages["/3.html"]
        facts = run(typed(*command))
        assert (facts["changed"], facts["removed"], facts["added"]) == (1, 1, 0)
        found = run(typed("youchat", "ask", "Which animal sings in the rain?", "--index", tmp_path, "--json"))
        assert found["references"][0]["url"] == f"http://{host}/2.html"
        hits = run(typed("youchat", "search", "animal number 3", "--index", tmp_path, "--json"))["results"]
        assert hits and not any(hit["url"].endswith("/3.html") for hit in hits)


def test_a_crawl_that_got_nothing_fails(typed, tmp_path: Path):
    with mini_web.Web({"site": lambda target: mini_web.Reply(b"", 404)}) as web:
        host = web.hosts["site"]
        done = typed(
            "youchat", "crawl", f"http://{host}/", "--index", tmp_path, "--allow-host", host, "--own-delay", "0"
        )
    assert done.returncode == 1 and "nothing could be fetched" in done.stderr


@pytest.mark.slow
def test_without_an_index_it_answers_from_this_machines_own_documentation(typed, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ALMANAC_CACHE", str(tmp_path))
    monkeypatch.setattr(own_pages, "MODULES", ["copy", "json", "heapq"])
    answer = run(typed("youchat", "ask", "What is the difference between a shallow and a deep copy?", "--json"))
    assert answer["outcome"] == "answer" and "copy.html" in answer["references"][0]["url"]
    assert "compound objects" in json.dumps(answer["sentences"])
    again = typed("youchat", "ask", "How is Cold Diffusion trained?", "--json")
    assert run(again)["references"] and "first time" not in again.stderr
