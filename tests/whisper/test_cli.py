"""The command line as a person types it, good and bad."""

import json

import numpy as np
import pytest
import torch

from almanac.runtime import checkpoint
from almanac.whisper import audio, recogniser, transcribe, transcribe_file
from almanac.whisper import cli as verbs
from tests.typed import two_lines
from tests.whisper import sounds, untrained


@pytest.fixture
def whisper(typed):
    """Run `almanac whisper`."""
    return lambda *arguments, cwd=None: typed("whisper", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    recogniser.save(untrained.small(), path, {})
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return sounds.write(tmp_path_factory.mktemp("recording") / "talk.ogg", sounds.noise(14))


@pytest.mark.parametrize("verb", ["transcribe", "convert"])
def test_every_field_of_every_verb_is_explained(whisper, verb):
    done = whisper(verb, "--help")
    assert done.returncode == 0
    assert f"almanac whisper {verb}" in done.stdout


def test_what_is_said_is_shown_with_its_times(whisper, model, recording):
    done = whisper("transcribe", recording, "--model", model, "--language", "dutch")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 1
    for line in lines:
        times, text = line[1:].split("] ", 1)
        start, end = times.split(" --> ")
        assert "00:00.000" <= start <= end <= "00:20.000"
        assert text.strip()
    assert "talk.ogg: 14/14 s" in done.stderr


def test_json_is_one_object(whisper, model, recording):
    done = whisper("transcribe", recording, "--model", model, "--json", "--word-timestamps", "--temperatures", "0")
    found = json.loads(done.stdout)
    assert found["file"] == str(recording)
    assert found["language"] in ("en", "nl")
    assert found["seconds"] == pytest.approx(14, abs=0.1)
    assert "".join(segment["text"] for segment in found["segments"]) == found["text"]
    word = found["segments"][0]["words"][0]
    assert word.keys() == {"word", "start", "end", "probability"}
    assert found["written"] == []


def test_every_format_is_written(whisper, model, recording, tmp_path):
    arguments = ("--model", model, "--format", "all", "--out", tmp_path / "new", "--max-words-per-line", 2)
    done = whisper("transcribe", recording, *arguments)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["talk.json", "talk.srt", "talk.tsv", "talk.txt", "talk.vtt"]
    assert sorted(done.stdout.split()) == sorted(str(tmp_path / "new" / name) for name in written)
    found = json.loads((tmp_path / "new" / "talk.json").read_text())
    assert found.keys() == {"text", "segments", "language"}
    cues = (tmp_path / "new" / "talk.srt").read_text().strip().split("\n\n")
    assert all(len(cue.split("\n")[2].split()) <= 2 for cue in cues)
    lines = (tmp_path / "new" / "talk.txt").read_text().splitlines()
    assert lines == [segment["text"].strip() for segment in found["segments"]]


def test_a_format_alone_goes_into_the_current_folder_and_a_folder_alone_takes_text(whisper, model, recording, tmp_path):
    whisper("transcribe", recording, "--model", model, "--format", "srt", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.srt"]
    whisper("transcribe", recording, "--model", model, "--out", tmp_path / "texts")
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["talk.txt"]


def test_all_that_one_can_ask_for_reaches_the_decoder(recording, model, monkeypatch, tmp_path):
    asked = []
    original = transcribe_file.transcribe
    monkeypatch.setattr(transcribe_file, "transcribe", lambda *args: asked.append(args[2]) or original(*args))
    verbs.transcribe((recording,), model=str(model), language="English", out=tmp_path)
    assert asked[0] == transcribe.Settings(transcribe.Options(language="en", beam_size=5), best_of=5), (
        "the official defaults"
    )
    verbs.transcribe(
        (recording,), model=str(model), language="nl", task="translate", out=tmp_path, vad=True, batch_size=3, clips=(1.0, 9.0),
        prompt="bako", keep_prompt=True, previous_text=False, beam_size=1, patience=2.0, length_penalty=0.5,
        temperatures=(0.0, 0.5), best_of=2, compression_ratio_limit=2.0, logprob_limit=-2.0, no_speech_limit=0.5,
        silence_limit=2.0, seed=7,
    )  # fmt: skip
    options = transcribe.Options("translate", "nl", patience=2.0, length_penalty=0.5, seed=7)
    assert asked[1] == transcribe.Settings(
        options, (0.0, 0.5), 2, 2.0, -2.0, 0.5, False, "bako", True, True, (1.0, 9.0), 2.0, True, 3
    )


def test_seeds_decide_what_is_drawn(whisper, model, recording):
    def text(seed):
        asked = ("--temperatures", 0.8, "--best-of", 1, "--language", "nl", "--seed", seed, "--json")
        return json.loads(whisper("transcribe", recording, "--model", model, *asked).stdout)["text"]

    assert text(1) == text(1) != text(2)


def test_any_batch_size_gives_the_same_subtitles(whisper, model, recording, tmp_path):
    for size in (1, 4):
        arguments = ("--batch-size", size, "--format", "srt", "--out", tmp_path / str(size), "--language", "nl")
        assert whisper("transcribe", recording, "--model", model, *arguments).returncode == 0
    assert (tmp_path / "1" / "talk.srt").read_text() == (tmp_path / "4" / "talk.srt").read_text()


def test_containers_of_every_kind_are_heard(tmp_path):
    sound = sounds.noise(5)
    for name in ("a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.mp4", "a.mkv", "a.webm", "odd:name #1.wav"):
        heard = audio.read(
            sounds.write(tmp_path / name, sound, rate=48_000 if name.endswith(("ogg", "webm")) else 16_000)
        )
        assert len(heard) / audio.SAMPLE_RATE == pytest.approx(5, abs=0.15), name
        assert np.sqrt((heard**2).mean()) == pytest.approx(np.sqrt((sound**2).mean()), rel=0.2), name


def test_files_joined_of_two_rates_are_heard_whole(tmp_path):
    first = sounds.write(tmp_path / "a.mp3", sounds.noise(3), rate=16_000)
    second = sounds.write(tmp_path / "b.mp3", sounds.noise(4), rate=48_000)
    (tmp_path / "c.mp3").write_bytes(first.read_bytes() + second.read_bytes())
    assert len(audio.read(tmp_path / "c.mp3")) / audio.SAMPLE_RATE == pytest.approx(7, abs=0.3)


def test_bad_recordings_are_two_lines(whisper, model, tmp_path):
    for kind, (path, said) in sounds.bad(tmp_path).items():
        lines = two_lines(whisper("transcribe", path, "--model", model, "--out", tmp_path / "out"))
        assert said in lines[0], kind
    assert not (tmp_path / "out").exists()


def test_a_bad_recording_does_not_stop_the_others(whisper, model, recording, tmp_path):
    empty = tmp_path / "empty.wav"
    empty.touch()
    files = (empty, recording, tmp_path / "missing.mp3")
    done = whisper("transcribe", *files, "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert (tmp_path / "out" / "talk.txt").is_file()
    assert f"{empty} is empty (0 bytes)\ncheck that the recording was saved\n" in done.stderr
    assert "there is no file" in done.stderr and "Traceback" not in done.stderr
    done = whisper("transcribe", *files, "--model", model, "--json")
    found = json.loads(done.stdout)["recordings"]
    assert done.returncode == 2
    assert [one["file"] for one in found] == list(map(str, files))
    assert [sorted(one) == ["error", "file", "hint"] for one in found] == [True, False, True]


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".webm"])
def test_of_what_breaks_off_there_is_what_can_be_decoded_and_a_remark(whisper, model, tmp_path, suffix):
    whole = sounds.write(tmp_path / f"whole{suffix}", sounds.noise(12), rate=48_000).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    done = whisper("transcribe", path, "--model", model, "--language", "nl", "--json")
    assert done.returncode == 0, done.stderr
    assert "is damaged or cut short" in done.stderr and "s of 12.0 s are missing" in done.stderr
    assert 4 < json.loads(done.stdout)["seconds"] < 8


def test_damage_in_the_middle_is_left_out(tmp_path, capsys):
    whole = bytearray(sounds.write(tmp_path / "whole.mp3", sounds.noise(12)).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 1000] = np.random.default_rng(1).bytes(1000)
    (tmp_path / "damaged.mp3").write_bytes(whole)
    assert 10 < len(audio.read(tmp_path / "damaged.mp3")) / audio.SAMPLE_RATE < 12
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no recording"),
        (("a.wav", "--language", "xx"), "does not know the language 'xx'"),
        (("a.wav", "--task", "sing"), ""),
        (("a.wav", "--format", "doc"), ""),
        (("a.wav", "--batch-size", "0"), "batch_size is 0"),
        (("a.wav", "--best-of", "0"), "best_of is 0"),
        (("a.wav", "--patience", "0.01"), "beams"),
        (("a.wav", "--clips", "3", "1"), "go back in time"),
        (("a.wav", "--model", "missing.pt"), "no weights 'missing.pt'"),
        (("a.wav", "--max-line-width", "0", "--format", "srt"), "max_line_width=0"),
        (("a.wav", "other/a.wav", "--out", "out"), "would both be written to out/a.txt"),
        (("a.wav", "--device", "tpu"), "tpu"),
    ],
)
def test_wrong_use_is_two_lines(whisper, model, tmp_path, arguments, said):
    (tmp_path / "other").mkdir()
    for name in ("a.wav", "other/a.wav"):
        sounds.write(tmp_path / name, sounds.noise(2))
    named = () if "--model" in arguments else ("--model", model)
    assert said in two_lines(whisper("transcribe", *arguments, *named, cwd=tmp_path))[0]
    assert not (tmp_path / "out").exists()


def test_a_recording_is_not_replaced_by_its_transcript(whisper, model, tmp_path):
    path = sounds.write(tmp_path / "a.flac", sounds.noise(2)).rename(tmp_path / "a.txt")
    assert "would replace it" in two_lines(whisper("transcribe", path, "--model", model, "--out", tmp_path))[0]


def test_a_checkpoint_with_missing_weights_is_two_lines(whisper, model, recording, tmp_path):
    tensors, facts = checkpoint.load_weights(model, "whisper")
    del tensors["decoder.ln.weight"], tensors["encoder.conv1.bias"]
    checkpoint.save_weights(tmp_path / "part.safetensors", tensors, facts)
    lines = two_lines(whisper("transcribe", recording, "--model", tmp_path / "part.safetensors"))
    assert "lacks decoder.ln.weight, encoder.conv1.bias" in lines[0]
    state = {"dims": facts["dims"], "model_state_dict": tensors, "almanac": facts}
    torch.save(state, tmp_path / "part.pt")
    assert "lacks decoder.ln.weight" in two_lines(whisper("transcribe", recording, "--model", tmp_path / "part.pt"))[0]
    (tmp_path / "half.pt").write_bytes((tmp_path / "part.pt").read_bytes()[:100_000])
    two_lines(whisper("convert", tmp_path / "half.pt", tmp_path / "out", "--to", "hf"))
    assert not (tmp_path / "out").exists()


def test_a_model_is_converted_there_and_back(whisper, model, tmp_path):
    steps = [
        (model, "folder", "hf"),
        (tmp_path / "folder", "model.pt", "openai"),
        (tmp_path / "model.pt", "again", "hf"),
    ]
    for source, target, layout in steps:
        done = whisper("convert", source, tmp_path / target, "--to", layout, "--dtype", "float32", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["layout"] == layout
        assert "made for 30 s and OpenAI's vocabularies" in done.stderr  # for this model has neither
    first, last = (recogniser.load(str(path), "cpu") for path in (model, tmp_path / "again"))
    assert first.tokenizer.ranks == last.tokenizer.ranks
    assert first.tokenizer.start("nl", "translate") == last.tokenizer.start("nl", "translate")
    assert torch.equal(first.model.alignment_heads, last.model.alignment_heads)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, last.model.state_dict()[name]), name
    assert "does not end in .pt" in two_lines(whisper("convert", model, tmp_path / "x", "--to", "openai"))[0]
    assert "is a file" in two_lines(whisper("convert", model, tmp_path / "model.pt", "--to", "hf"))[0]
