"""The chat commands, as they are typed."""

import json

import pytest

from almanac.chat import models
from almanac.chat.engine.engine import Ask, Engine, Options
from almanac.chat.engine.request import Sampling
from tests.chat import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.folder(tmp_path_factory.mktemp("model") / "tiny", ends=False)


def test_a_text_is_continued_as_the_engine_continues_it(folder, almanac):
    found = almanac("chat", "complete", folder, "The quick", "--max-tokens", 9, "--temperature", 0, "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    engine = Engine(models.load(str(folder)), Options(threads=1))
    prompt = engine.model.vocabulary.encode("The quick")
    (expected,) = engine.answer(Ask(prompt, Sampling(9, temperature=0.0, logprobs=0)))
    engine.close()
    assert said["tokens"] == expected.tokens and said["text"] == expected.text
    assert said["logprobs"] == pytest.approx([each.logprob for each in expected.logprobs])
    plain = almanac("chat", "complete", folder, "-", "--max-tokens", 9, "--temperature", 0, input="The quick")
    assert plain.stdout == expected.text + "\n"


def test_a_conversation_in_the_terminal(folder, almanac, tmp_path):
    lines = f"Hello\n/retry\n/system Be brief.\nAnd now?\n/undo\n/save {tmp_path / 'said.json'}\n/what\n/quit\n"
    found = almanac("chat", "repl", folder, "--max-tokens", 8, "--temperature", 0, input=lines)
    assert found.returncode == 0 and "/retry answers again" in found.stderr
    first, again, _ = found.stdout.split("\n")[:3]
    assert first == again != ""
    said = json.loads((tmp_path / "said.json").read_text())
    assert [each["role"] for each in said] == ["system", "user", "assistant"] and said[2]["content"] == first


@pytest.mark.parametrize("wrong", [["--temperature", -1], ["--max-tokens", 0], ["--dtype", "int3"]])
def test_wrong_use_is_two_lines(folder, almanac, wrong):
    found = almanac("chat", "complete", folder, "x", *wrong)
    assert found.returncode == 2 and len(found.stderr.strip().splitlines()) == 2 and not found.stdout


@pytest.mark.parametrize("damage", ["missing", "config", "shard", "truncated"])
def test_a_damaged_model_is_two_lines(almanac, tmp_path, damage):
    folder = made.folder(tmp_path / "tiny")
    weights = folder / "model.safetensors"
    if damage == "config":
        (folder / "config.json").write_text('{"model_type": "mamba"}')
    if damage == "shard":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
        )
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    found = almanac("chat", "complete", tmp_path / "nothing" if damage == "missing" else folder, "x")
    assert found.returncode == 2 and len(found.stderr.strip().splitlines()) == 2, found.stderr


def test_a_text_ends_where_there_is_no_more_memory(folder):
    """Instead of giving its pages back to itself for ever."""
    engine = Engine(models.load(str(folder)), Options(threads=1, memory=1e-9))
    (answer,) = engine.answer(Ask([1, 2, 3], Sampling(1000, temperature=0.0)))
    assert answer.reason == "length" and len(answer.tokens) == 2 * 32 - 3
    engine.close()
