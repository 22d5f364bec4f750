"""Transcribing recordings in files: reading them, showing progress and what is said as it is found, and writing transcripts in the formats
that were asked for. How a recording is transcribed is `transcribe`'s, how a transcript is written `subtitles`'."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from almanac.runtime import checkpoint, console
from almanac.runtime.errors import UserError
from almanac.whisper import audio, subtitles
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.transcribe import Settings, transcribe
from almanac.whisper.transcript import Segment


@dataclass(frozen=True)
class Output:
    """What becomes of transcripts."""

    formats: tuple[str, ...]
    """Files to write, of `subtitles.FORMATS`; none: what is said is shown as it is found."""
    folder: Path
    """Where they go, named as the recordings."""
    layout: subtitles.Layout
    """How subtitles are cut into cues."""
    quiet: bool
    """Whether nothing is shown."""

    def targets(self, file: Path) -> dict[str, Path]:
        """The files that are written for a recording, by format."""
        return {form: self.folder / f"{file.stem}.{form}" for form in self.formats}


def check(files: Sequence[Path], output: Output) -> None:
    """Check what is wrong with files before hours go into some of them.

    Raises:
        UserError: there are none, or two of them would write the same transcript, or a transcript would replace a recording.
    """
    if not files:
        raise UserError("there is no recording to transcribe", "give the path of an audio or video file, or several")
    owners: dict[Path, Path] = {}
    for file in files:
        for target in output.targets(file).values():
            if target in owners and owners[target] != file:
                raise UserError(
                    f"{owners[target]} and {file} would both be written to {target}", "transcribe them on their own"
                )
            owners[target] = file
            if target.exists() and target.samefile(file):
                raise UserError(f"{target} is a recording, and its transcript would replace it", "give another --out")


def run(recogniser: Recogniser, file: Path, settings: Settings, output: Output) -> dict[str, Any]:
    """Transcribe a file.

    Args:
        recogniser: the model.
        file: an audio or video file.
        settings: how.
        output: what becomes of the transcript.

    Returns:
        What the transcript's JSON holds; the file, its length, s, the task, and the files that were written.

    Raises:
        UserError: the file holds no sound that can be read, or a transcript could not be written.
    """
    samples = audio.read_pcm(file)
    seconds = len(samples) / audio.SAMPLE_RATE
    stdout = sys.stdout  # a bar takes sys.stdout over while it is drawn, and leads it to stderr
    done = 0

    with console.progress(file.name, round(seconds), "s") as advance:

        def tell(now: float, segments: Sequence[Segment]) -> None:
            nonlocal done
            advance(round(now) - done)
            done = round(now)
            if not (output.formats or output.quiet):
                shown = sys.stdout if stdout.isatty() else stdout
                shown.write("".join(map(_line, segments)))
                shown.flush()

        found = transcribe(recogniser, samples, settings, tell)
    if not found.text.strip():
        console.log(f"{file}: nothing is said in it")
    targets = output.targets(file)
    for form, target in targets.items():
        text = subtitles.render(found, form, output.layout)
        checkpoint.write_atomic(target, lambda out, text=text: out.write(text.encode()))
    facts = {"file": str(file), "seconds": seconds, "task": settings.options.task}
    return {**facts, **subtitles.record(found), "written": [str(target) for target in targets.values()]}


def _line(segment: Segment) -> str:
    """A segment as a person reads it, with its times."""
    start, end = (subtitles.clock(time, hours=False, decimal_mark=".") for time in (segment.start, segment.end))
    return f"[{start} --> {end}] {segment.text.strip()}\n" if segment.text.strip() else ""
