"""Transcribing what is long or is stopped: memory does not grow with the recording, a full disk keeps the old transcript, and Ctrl-C
leaves no half of one."""

import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from almanac.whisper import recogniser
from tests.whisper import sounds, untrained

_COMMAND = """
import resource, sys
from almanac import cli, systems
if systems.find("whisper") is None:  # until it is in the table
    systems.SYSTEMS += (systems.System("whisper", "Whisper", "", "", ("transcribe",)),)
"""

_MEMORY = """
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

import sys, threading, time
import numpy, torch
from almanac.runtime import device
from almanac.whisper import audio, vad

device.resolve("cpu")
peak = before = anonymous()

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
samples = audio.read_pcm(sys.argv[1])
mel = audio.LogMel(samples, 80, torch.device("cpu"))
vad.speech(samples)
mel(mel.frames - 3000, mel.frames)
print(len(samples), round(peak - before))
"""


@pytest.fixture
def model(tmp_path) -> Path:
    recogniser.save(untrained.small(), tmp_path / "model.safetensors", {})
    return tmp_path / "model.safetensors"


def start(code: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("environment", {})}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is told by /proc")
def test_an_hour_takes_no_more_memory_than_minutes(tmp_path):
    """As float32, an hour of sound is 230 MB, and its spectrogram 115 MB and more."""
    path = tmp_path / "hour.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        minute = np.random.default_rng(0).integers(100, 156, 8000 * 60, np.uint8).tobytes()
        for _ in range(60):
            file.writeframes(minute)
    said, complaints = start(_MEMORY, path).communicate(timeout=240)
    assert said, complaints
    samples, grown = map(int, said.split())
    assert samples == pytest.approx(3600 * 16_000, abs=100)
    assert grown < 200


def test_a_full_disk_keeps_the_old_transcript(model, tmp_path):
    recording = sounds.write(tmp_path / "talk.mp3", sounds.noise(5))
    (tmp_path / "talk.json").write_text("what was there before")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
    arguments = ("whisper", "transcribe", recording, "--model", model, "--format", "json", "--out", tmp_path)
    # the sound itself goes through a temporary file; the limit on sizes comes after it
    code = _COMMAND + (
        "from almanac.whisper import transcribe_file\n"
        "original = transcribe_file.transcribe\n"
        "def limited(*arguments):\n"
        "    found = original(*arguments)\n"
        f"    {limit}"
        "    return found\n"
        "transcribe_file.transcribe = limited\n"
        "cli.main(sys.argv[1:])"
    )
    process = start(code, *arguments)
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 2
    assert complaints.splitlines()[-2].startswith(f"could not write {tmp_path / 'talk.json'}")
    assert (tmp_path / "talk.json").read_text() == "what was there before"


def test_a_disk_without_room_for_the_sound_is_two_lines(model, tmp_path):
    recording = sounds.write(tmp_path / "talk.mp3", sounds.noise(5))
    code = _COMMAND + "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\ncli.main(sys.argv[1:])"
    process = start(code, "whisper", "transcribe", recording, "--model", model)
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 2
    assert complaints.splitlines()[0].startswith(f"{recording} does not fit into ")
    assert len(complaints.splitlines()) == 2


def test_what_is_interrupted_writes_nothing(model, tmp_path):
    recording = sounds.write(tmp_path / "talk.mp3", sounds.noise(60))
    arguments = ("whisper", "transcribe", recording, "--model", model, "--out", tmp_path / "out")
    code = _COMMAND + (
        "from almanac.whisper import transcribe_file\n"
        "original = transcribe_file.transcribe\n"
        "def loud(*arguments):\n"
        "    print('begun', flush=True)\n"
        "    return original(*arguments)\n"
        "transcribe_file.transcribe = loud\n"
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what a shell starts behind & ignores it
        "cli.main(sys.argv[1:])"
    )
    process = start(code, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 130
    assert complaints.splitlines()[-1] == "interrupted" and "Traceback" not in complaints
    assert said == "" and not (tmp_path / "out").exists()
