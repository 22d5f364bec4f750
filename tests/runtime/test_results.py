"""Tables in Markdown come from result files and nowhere else."""

import json
import sys

import pytest

from almanac.runtime import hub, results
from almanac.runtime.errors import UserError


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "PROJECT", tmp_path)
    return tmp_path


def test_a_table_is_rendered_from_its_file_and_again_the_same(project):
    results.write("sys", "evaluate", [{"a": 1, "b": 0.123456, "c": None}, {"a": 2, "b": 3.0}], seed=4)
    text = "before\n<!-- results: sys/evaluate a b c -->\nwhat was there\n<!-- /results -->\nafter\n"
    rendered = results.render(text)
    assert "| 1 | 0.1235 | – |" in rendered
    assert "what was there" not in rendered
    assert rendered.startswith("before\n")
    assert rendered.endswith("after\n")
    assert results.render(rendered) == rendered


def test_measuring_some_again_keeps_the_rows_of_others(project, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["almanac", "first"])
    results.write("sys", "x", [{"model": "b", "n": 1}, {"model": "a", "n": 1}, {"model": "a", "n": 2}], 0, by="model")
    monkeypatch.setattr(sys, "argv", ["almanac", "second"])
    facts = json.loads(results.write("sys", "x", [{"model": "a", "n": 3}], 0, by="model").read_text())
    assert facts["rows"] == [{"model": "a", "n": 3}, {"model": "b", "n": 1}]
    assert {name: source["command"] for name, source in facts["sources"].items()} == {
        "a": "almanac second",
        "b": "almanac first",
    }
    rendered = results.render("<!-- results: sys/x -->\n<!-- /results -->")
    assert rendered.count("almanac first") == rendered.count("almanac second") == 1
    some = results.render("<!-- results: sys/x model=a n -->\n<!-- /results -->")
    assert "| n |\n|---|\n| 3 |\n\n" in some and "almanac second" in some and "almanac first" not in some
    with pytest.raises(UserError, match="model=c"):
        results.render("<!-- results: sys/x model=c n -->\n<!-- /results -->")


def test_a_table_without_results_is_an_error(project):
    with pytest.raises(UserError, match="sys/nothing"):
        results.render("<!-- results: sys/nothing -->\n<!-- /results -->")


def test_a_result_says_how_it_was_measured(project):
    facts = json.loads(results.write("sys", "x", [], seed=7).read_text())
    assert {"command", "commit", "machine", "date", "seed", "rows"} <= facts.keys()
    assert facts["seed"] == 7


def test_the_command_has_no_folders_of_a_machine(project, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["almanac", "x", "--runs", "/home/me/runs/a", "--out=/tmp/b", "runs/c", "n=1"])
    facts = json.loads(results.write("sys", "x", [], seed=0).read_text())
    assert facts["command"] == "almanac x --runs a --out=b runs/c n=1"


def test_every_table_of_the_project_is_rendered_from_its_results():
    for path in results.documents():
        text = path.read_text()
        assert results.render(text) == text, f"{path}: run `make tables`"
