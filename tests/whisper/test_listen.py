"""Sound as it arrives, and `almanac whisper stream` as a person uses it."""

import json
import os
import select
import stat
import sys
import threading
import time

import numpy as np
import pytest

from almanac import systems
from almanac.runtime.errors import UserError
from almanac.whisper import audio, listen, live, recogniser, stream
from almanac.whisper.timing import Word
from tests.whisper import untrained

RATE = audio.SAMPLE_RATE


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))
    return np.round(drawn * 32768).astype(np.int16).astype(np.float32) / 32768


def pcm(sound: np.ndarray) -> bytes:
    return (sound * 32768).astype("<i2").tobytes()


def everything(arrivals: live.Arrivals) -> list[live.Arrived]:
    found = []
    while not found or not found[-1].ended:
        arrived = arrivals.take()
        assert arrived is not None
        found.append(arrived)
    return found


def test_sound_that_is_faster_than_speech_is_handed_on_in_chunks():
    sound = noise(3.3)
    arrivals = live.arriving(np.array_split(sound, 7), 0.5)
    time.sleep(0.2)
    found = everything(arrivals)
    assert np.array_equal(np.concatenate([arrived.samples for arrived in found]), sound)
    assert [len(arrived.samples) for arrived in found] == [8000] * 6 + [4800]
    assert not any(arrived.late for arrived in found)


def test_a_speaker_who_is_ahead_is_caught_up_with(monkeypatch):
    now = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    arrivals = live.Arrivals(0.5)
    for _ in range(20):
        arrivals.bring(noise(0.1))
        now += 0.1
    first = arrivals.take()
    assert first is not None and first.late and len(first.samples) == 2 * RATE
    arrivals.bring(noise(0.1))
    arrivals.end()
    second = arrivals.take()
    assert second is not None and second.ended and not second.late and len(second.samples) == RATE // 10


def test_a_source_that_breaks_is_an_error_after_what_came_before():
    def breaks():
        yield noise(0.7)
        raise UserError("the cable is broken", "mend it")

    arrivals = live.arriving(breaks(), 0.5)
    first = arrivals.take()
    assert first is not None and len(first.samples) == RATE // 2
    with pytest.raises(UserError, match="cable"):
        arrivals.take()


def test_a_recording_is_played_in_its_own_time(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(live.time, "sleep", slept.append)
    monkeypatch.setattr(live.time, "monotonic", lambda: sum(slept))
    sound = noise(1.25)
    assert np.array_equal(np.concatenate(list(live.played([sound[:9000], sound[9000:]]))), sound)
    assert sum(slept) == pytest.approx(1.25)


def test_raw_sound_is_read_whatever_its_pieces_are():
    reading, writing = os.pipe()
    data = pcm(noise(0.3))

    def send() -> None:
        with os.fdopen(writing, "wb", buffering=0) as end:
            for first in range(0, len(data), 333):
                end.write(data[first : first + 333])
                time.sleep(0.001)

    threading.Thread(target=send).start()
    with os.fdopen(reading, "rb", buffering=0) as end:
        assert np.array_equal(np.concatenate(list(live.pcm(end))), noise(0.3))


def recorder(folder, monkeypatch, script: str) -> None:
    """Have nothing on the path but a program that records."""
    program = folder / "arecord"
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(folder))


def test_a_microphone_is_heard_through_a_program_that_records(tmp_path, monkeypatch):
    (tmp_path / "sound").write_bytes(pcm(noise(0.5)))
    script = f"sys.stdout.buffer.write(open({str(tmp_path / 'sound')!r}, 'rb').read())\nsys.exit('unplugged')"
    recorder(tmp_path, monkeypatch, script)
    heard = []
    with pytest.raises(UserError, match=r"no microphone can be heard \(arecord: unplugged\)"):
        for block in live.microphone():
            heard.append(block)
    assert np.array_equal(np.concatenate(heard), noise(0.5))


def test_without_a_program_that_records_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no program here that records") as error:
        next(live.microphone())
    assert "alsa-utils" in error.value.hint


def update(*committed: str, tentative: str = "", pause: bool = False) -> stream.Update:
    return stream.Update(1.0, [Word(text, 0.0, 1.0, 1.0) for text in committed], tentative, pause)


def test_committed_text_goes_out_and_tentative_text_is_taken_back(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal, end = os.openpty()
    with os.fdopen(end, "w") as both:
        show = listen.Screen(both, both)
        show(update(tentative=" one two"))
        show(update(" one", tentative=" two three four five six"))
        show(update(" two", ",", pause=True))
        show(update(pause=True))
        show(update(" three", pause=True))
        shown = b""
        while select.select([terminal], [], [], 0.5)[0]:  # a terminal hands on what it has so far
            shown += os.read(terminal, 10_000)
    os.close(terminal)
    erase, dim, plain = "\x1b[K", "\x1b[2m", "\x1b[0m"
    steps = [
        f"{dim}one two{plain}\x1b[7D",
        f"one{dim} two three four…{plain}\x1b[16D",  # as much as the line has room for
        " two,\n",
        "",
        "three\n",
    ]
    assert shown.decode().replace("\r\n", "\n") == "".join(erase + step for step in steps)


def test_what_is_piped_on_is_committed_text_alone(tmp_path):
    with (tmp_path / "out").open("w+") as out, (tmp_path / "aside").open("w+") as aside:
        show = listen.Screen(out, aside)
        for shown in (update(tentative=" one"), update(" one", " two", tentative=" x"), update(" three", pause=True)):
            show(shown)
    assert (tmp_path / "out").read_text() == "one two three\n"
    assert (tmp_path / "aside").read_text() == ""


def test_an_interruption_commits_what_was_heard():
    model = untrained.small()
    listening = stream.begin(model)

    def interrupted():
        yield noise(1.5)
        raise KeyboardInterrupt

    told: list[stream.Update] = []
    found = listen.run(listening, interrupted(), True, told.append)
    assert found["interrupted"] and told[-1].pause
    whole = stream.begin(model)
    updates = [*whole.feed(noise(1.5)), whole.finish()]
    assert found["text"] == "".join(word.text for one in updates for word in one.committed).strip() != ""


needs_the_row = pytest.mark.skipif(systems.find("whisper") is None, reason="whisper is not in the table of systems")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "own.safetensors"
    recogniser.save(untrained.small(), path, {})
    return path


@pytest.fixture
def recording(tmp_path):
    import wave

    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm(noise(2.2)))
    return tmp_path / "speech.wav"


@needs_the_row
def test_stream_prints_the_same_text_as_text_as_events_and_as_one_object(almanac, model, recording):
    arguments = ("whisper", "stream", recording, "--model", model, "--language", "nl", "--chunk-seconds", "0.5")
    found = json.loads(almanac(*arguments, "--fast", "--json").stdout)
    assert found["text"] and found["language"] == "nl" and found["seconds"] == 2.2
    assert "".join(word["word"] for word in found["words"]).strip() == found["text"]
    assert found["latency_chunks"] is not None
    assert almanac(*arguments, "--fast").stdout == found["text"] + "\n"
    events = [json.loads(line) for line in almanac(*arguments, "--fast", "--events").stdout.splitlines()]
    assert [event["heard"] for event in events] == [0.5, 1.0, 1.5, 2.0, 2.2]
    assert [word for event in events for word in event["committed"]] == found["words"]


@needs_the_row
def test_stream_takes_raw_sound_on_stdin(model, recording):
    import subprocess

    command = [sys.executable, "-m", "almanac.cli", "whisper", "stream", "-", "--model", str(model), "--fast", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=pcm(noise(2.2)), capture_output=True, timeout=120, env=environment)
    listening = stream.begin(recogniser.load(str(model), "cpu", "auto"))
    updates = [*listening.feed(noise(2.2)), listening.finish()]
    text = "".join(word.text for one in updates for word in one.committed).strip()
    assert json.loads(done.stdout)["text"] == text != ""


@needs_the_row
@pytest.mark.parametrize(
    "arguments, what",
    [
        (("none.wav",), "none.wav"),
        (("SOUND", "--language", "klingon"), "klingon"),
        (("SOUND", "--chunk-seconds", "9"), "hears 6 s at a time"),
        (("SOUND", "--events", "--json"), "--events and --json"),
    ],
)
def test_wrong_use_is_two_lines(almanac, model, recording, arguments, what):
    given = [recording if argument == "SOUND" else argument for argument in arguments]
    done = almanac("whisper", "stream", *given, "--model", model)
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2 and what in lines[0]
