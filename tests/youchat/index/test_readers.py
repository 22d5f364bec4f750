"""Files and folders become pages."""

import gzip
import json
from pathlib import Path

import pytest

from almanac.runtime.errors import UserError
from almanac.youchat.documents import Page
from almanac.youchat.index import readers
from almanac.youchat.index.readers import read
from almanac.youchat.text.extract import Unread

WORDS = "Otters hold hands while they sleep on the water. " * 4


def pdf_of(lines: list[str]) -> bytes:
    """A PDF with a sheet for each line, written out by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    sheets = []
    for line in lines:
        drawn = f"BT /F1 12 Tf 72 720 Td ({line}) Tj ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
        sheets.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
    kids = b" ".join(b"%d 0 R" % each for each in sheets)
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(sheets))
    made, places = b"%PDF-1.4\n", []
    for number, held in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, held)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF"
    return made + end % (len(objects) + 1, table, len(objects) + 1, len(made))


def only(found: list[Page | Unread]) -> Page:
    assert len(found) == 1 and isinstance(found[0], Page), found
    return found[0]


def test_markdown_has_its_headings_and_the_anchors_that_github_gives(tmp_path: Path):
    path = tmp_path / "otters.md"
    path.write_text(
        f'---\ntitle: "All about otters"\n---\n# Otters & co.\n{WORDS}\n\n## Food\n* fish *fresh*\n\n| a | b |\n|-|-|\n| one | two |\n\n'
        f"## Food\n```\n# no heading\n```\n<p style='display:none'>{'acme '}</p>\n{WORDS}\n"
    )
    page = only(list(read([path])))
    assert page.title == "All about otters" and page.url == path.as_uri()
    assert [(each.text, each.anchor) for each in page.headings] == [
        ("Otters & co.", "otters--co"),
        ("Food", "food"),
        ("Food", "food-1"),
    ]
    assert all(page.text[each.start :].startswith(each.text) for each in page.headings)
    assert "fish fresh" in page.text and "two" in page.text and "# no heading" in page.text and "acme" not in page.text


def test_a_pdf_has_a_fragment_for_each_sheet(tmp_path: Path):
    path = tmp_path / "two.pdf"
    path.write_bytes(pdf_of(["Otters hold hands.", "They sleep on water."]))
    page = only(list(read([path])))
    assert page.text == "Otters hold hands.\n\nThey sleep on water."
    assert [(each.anchor, page.text[each.start :][:6]) for each in page.headings] == [
        ("page=1", "Otters"),
        ("page=2", "They s"),
    ]


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
def test_jsonl_is_read_line_by_line_and_bad_lines_are_told(tmp_path: Path, name: str):
    rows = [
        json.dumps({"_id": 7, "title": "T", "text": WORDS}), "{broken", "", json.dumps({"_id": "x"}), json.dumps(["no"]),
        json.dumps({"_id": "8", "title": "", "text": "Fish.", "url": "http://h/8"}), json.dumps({"_id": "9", "title": 1, "text": "x"}),
    ]  # fmt: skip
    raw = "\n".join(rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    found = list(read([tmp_path / name]))
    pages = [each for each in found if isinstance(each, Page)]
    assert [(each.identifier, each.title) for each in pages] == [("7", "T"), ("8", "8")]
    assert pages[0].url.endswith("?id=7") and pages[1].url == "http://h/8"
    assert [each.url.rpartition("line=")[2] for each in found if isinstance(each, Unread)] == ["2", "4", "5", "7"]


def test_a_folder_is_read_through_and_each_fault_is_told(tmp_path: Path):
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "sub" / "a.html").write_text(f"<title>A</title><p>{WORDS}")
    (tmp_path / "sub" / ".git" / "b.html").write_text(f"<p>{WORDS}")
    (tmp_path / "b.txt").write_text("Text.")
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = list(read([tmp_path]))
    assert [each.title for each in found if isinstance(each, Page)] == ["Text.", "A"]
    faults = {each.url.rpartition("/")[2]: each.reason for each in found if isinstance(each, Unread)}
    assert set(faults) == {"empty.md", "broken.pdf", "torn.jsonl.gz"} and "PDF" in faults["broken.pdf"]


def test_what_is_asked_for_by_name_is_told_if_its_kind_is_not_known(tmp_path: Path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (found,) = read([tmp_path / "picture.png"])
    assert isinstance(found, Unread) and ".md" in found.reason
    with pytest.raises(UserError, match="nowhere"):
        list(read([tmp_path / "nowhere"]))


def test_a_pdf_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(readers, "_MOST_DRAWN", 2_000)
    (tmp_path / "o.pdf").write_bytes(pdf_of(["Otters sleep.", "x" * 3_000, "Bears sleep."]))
    page = only(list(read([tmp_path / "o.pdf"])))
    assert page.text == "Otters sleep.\n\nBears sleep." and [each.anchor for each in page.headings] == [
        "page=1",
        "page=3",
    ]
    assert "sheet 2 is left out" in capsys.readouterr().err
    monkeypatch.setattr(readers, "_MOST_SECONDS", -1.0)
    assert isinstance(next(read([tmp_path / "o.pdf"])), Unread)


def test_hostile_lines_are_told_and_the_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "_MOST_CHARACTERS", 500_000)
    rows = [
        "[" * 200_000, json.dumps({"_id": None, "text": WORDS}), json.dumps({"_id": "long", "text": "x" * 1_200_000}),
        json.dumps({"_id": "js", "text": WORDS, "url": "javascript:alert(1)"}),
        json.dumps({"_id": "half\ud800", "title": "t \ud800", "text": WORDS + "\ud800", "url": "http://h/\ud800x"}),
    ]  # fmt: skip
    (tmp_path / "c.jsonl").write_text("\n".join(rows))
    found = list(read([tmp_path / "c.jsonl"]))
    assert [each.url.rpartition("line=")[2] for each in found if isinstance(each, Unread)] == ["1", "2", "3"]
    js, half = (each for each in found if isinstance(each, Page))
    assert js.url.endswith("?id=js") and (half.url, half.title, half.identifier) == ("http://h/x", "t", "half")
    half.text.encode()


def test_a_damaged_archive_does_not_stop_the_others(tmp_path: Path):
    (tmp_path / "a.warc").write_bytes(b"no archive")
    (tmp_path / "b.txt").write_text("Text.")
    first, second = read([tmp_path])
    assert isinstance(first, Unread) and "WARC" in first.reason and isinstance(second, Page)
