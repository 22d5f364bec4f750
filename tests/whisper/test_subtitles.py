"""Files of a transcript are byte for byte the official ones, and subtitles keep to the order of what was said."""

import io
import itertools
import json
import random
import re
from dataclasses import replace

import pytest

from almanac.runtime.errors import UserError
from almanac.whisper.subtitles import FORMATS, Layout, Segment, Transcript, clock, render
from almanac.whisper.timing import Word

SYLLABLES = ["a", "the", "whisper", "don't", "naïve", "語", "音声", "🎧", "-->", "a-->b", "<b>", "&", "Etikettierung"]
ODD = ["", " ", "\n", "\t", " two\nlines", "end\n", "\n\n", " \xa0", "tab\tbed", " \x85", "\r\n", '"\\', "\u2028"]
LAYOUTS = [Layout(*limits) for limits in itertools.product((None, 7, 42), (None, 1, 2), (None, 1, 5), (False, True))]
"""Every combination of settings."""
RECORDED = (
    "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob",
)  # fmt: skip
"""What the official record of a segment holds, in its order."""


def transcript(seed: int) -> Transcript:
    """Speech without sense: segments and words of all lengths, pauses, odd characters, times up to days.

    Args:
        seed: fixes all of it; words have times where it is even, and segments overlap nowhere where it is no multiple of 5.
    """
    draw = random.Random(seed)
    oddness = draw.choice([0, 0, 0.05, 0.5])
    now = draw.choice([0.0, 0.0, 3590.0, 300_000.0]) + draw.random()
    segments = []
    for index in range(draw.choice([0, 1, 2, 5])):
        words = []
        now += draw.choice([0, 0, 0.4, 3, 8])
        for _ in range(draw.choice([0, 1, 3, 9, 25])):
            text = draw.choice(["", " ", " ", " "]) + draw.choice(SYLLABLES)
            text = draw.choice(ODD) if draw.random() < oddness else text
            start = now + draw.choice([0, 0, 0, 0.0004, 0.3, 3, 3.001, 4]) * draw.choice([1, draw.random()])
            now = start + draw.choice([0, 0.2, 1.7]) * draw.random()
            words.append(Word(text, start, now, draw.random(), [draw.randrange(50_000)]))
            now = now if seed % 5 else max(0.0, now - 0.3 * draw.random())
        segments.append(
            Segment(
                id=index,
                start=words[0].start if words else now,
                end=words[-1].end if words else now,
                text="".join(word.text for word in words),
                tokens=[token for word in words for token in word.tokens],
                temperature=draw.choice([0.0, 0.2, 1.0]),
                avg_logprob=-draw.random(),
                compression_ratio=3 * draw.random(),
                no_speech_prob=draw.random(),
                seek=draw.randrange(10_000),
                words=words if seed % 2 == 0 else None,
            )
        )
    return Transcript("".join(segment.text for segment in segments), draw.choice(["en", "ja"]), segments)


def official(transcript: Transcript, form: str, layout: Layout) -> str:
    """What openai-whisper writes."""
    utils = pytest.importorskip("whisper").utils
    segments = []
    for segment in transcript.segments:
        segments.append({name: getattr(segment, name) for name in RECORDED})
        if segment.words is not None:
            segments[-1]["words"] = [
                {"word": word.text, "start": word.start, "end": word.end, "probability": word.probability}
                for word in segment.words
            ]
    file = io.StringIO()
    result = {"text": transcript.text, "segments": segments, "language": transcript.language}
    utils.get_writer(form, "").write_result(result, file, vars(layout))
    return file.getvalue()


def equal_cases(seeds: range) -> int:
    """Compare each transcript with the official files, subtitles in three layouts where words have times."""
    compared = 0
    for seed in seeds:
        said, draw = transcript(seed), random.Random(seed)
        for form in FORMATS:
            cut = form in ("srt", "vtt") and all(segment.words is not None for segment in said.segments)
            for layout in [Layout(), *(draw.sample(LAYOUTS, 3) if cut else [])]:
                assert render(said, form, layout) == official(said, form, layout), (seed, form, layout)
                compared += 1
    return compared


def shown(file: str) -> list[tuple[int, int, str]]:
    """The cues of an srt file whose words hold no line breaks: times in ms, and text."""
    cues = []
    for number, block in enumerate(file.split("\n\n")[:-1], 1):
        first, times, *lines = block.split("\n")
        assert first == str(number)
        clocks = re.fullmatch(r"(\d\d+):(\d\d):(\d\d),(\d{3}) --> (\d\d+):(\d\d):(\d\d),(\d{3})", times)
        assert clocks
        parts = list(map(int, clocks.groups()))
        start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (parts[:4], parts[4:]))
        cues.append((start, end, "\n".join(lines)))
    return cues


def plain(seed: int) -> Transcript:
    """Timed words in order, none of them odd."""
    draw, now, segments = random.Random(seed), 0.0, []
    for segment in transcript(10 * seed + 2).segments:
        words = []
        for word in segment.words or []:
            start = now + draw.choice([0, 0, 1, 4]) * draw.random()
            now = start + draw.random()
            words.append(replace(word, text=f" {draw.choice(SYLLABLES)}", start=start, end=now))
        segments.append(replace(segment, words=words))
    return Transcript("", "en", segments)


def test_files_are_byte_for_byte_the_official_ones():
    assert equal_cases(range(200)) > 1300


def test_every_layout_cuts_as_the_official_one():
    for seed, layout in itertools.product(range(0, 12, 2), LAYOUTS):
        said = transcript(seed)
        assert render(said, "srt", layout) == official(said, "srt", layout), (seed, layout)


def test_lines_and_cues_without_a_limit_end_where_the_official_ones_do():
    words = [Word(f" {index:06d}", index / 4, index / 4 + 0.2, 1.0) for index in range(2500)]
    said = plain(0)
    segment = Segment(0, 0.0, 625.0, "", [], 0.0, 0.0, 1.0, 0.0, words=words)
    for layout in (Layout(), Layout(max_line_count=2), Layout(max_line_width=5000), Layout(None, None, 1200)):
        said = replace(said, segments=[segment])
        assert render(said, "vtt", layout) == official(said, "vtt", layout)


def test_subtitles_never_overlap_or_go_back_and_lose_no_word():
    for seed, layout in itertools.product(range(4), LAYOUTS):
        said = plain(seed)
        cues = shown(render(said, "srt", layout))
        edges = [time for start, end, _ in cues for time in (start, end)]
        assert edges == sorted(edges)
        if not layout.highlight_words:
            words = [word.text for segment in said.segments for word in segment.words or []]
            assert "".join(text for _, _, text in cues).replace("\n", "").replace(" ", "") == "".join(words).replace(
                " ", ""
            )


def test_subtitles_keep_to_their_layout():
    for seed, layout in itertools.product(range(4), LAYOUTS):
        if layout.highlight_words:
            continue
        for _, _, text in shown(render(plain(seed), "srt", layout)):
            lines = text.split("\n")
            assert len(lines) <= (layout.max_line_count or len(lines))
            if layout.max_line_width:
                assert all(len(line) <= layout.max_line_width or " " not in line for line in lines)
            if layout.max_words_per_line and not (layout.max_line_width and layout.max_line_count):
                assert len(text.split()) <= layout.max_words_per_line


def test_times_can_be_read_back_to_the_millisecond():
    draw = random.Random(0)
    for seconds in [0.0, 0.9996, 59.9995, 3599.9999, 3600.0, *(10 ** draw.uniform(-3, 6) for _ in range(300))]:
        hours, minutes, rest = clock(seconds, hours=True, decimal_mark=".").split(":")
        assert abs(int(hours) * 3600 + int(minutes) * 60 + float(rest) - seconds) < 0.001
        short = clock(seconds, hours=False, decimal_mark=",")
        assert short.count(":") == (2 if round(seconds * 1000) >= 3_600_000 else 1)


def test_cues_of_segments_begin_and_end_with_them():
    said = transcript(23)
    cues = shown(render(replace(said, segments=[replace(each, text=" x") for each in said.segments]), "srt"))
    assert len(cues) == len(said.segments) > 0
    for (start, end, _), segment in zip(cues, said.segments, strict=True):
        assert abs(start / 1000 - segment.start) < 0.001
        assert abs(end / 1000 - segment.end) < 0.001


def test_json_holds_the_words_only_where_there_are_some():
    for seed in (2, 3):
        said = transcript(seed)
        for record, segment in zip(json.loads(render(said, "json"))["segments"], said.segments, strict=True):
            assert ("words" in record) == (segment.words is not None)


def test_words_that_only_some_segments_have_are_left_aside():
    said = transcript(24)
    timed = said.segments[0]
    mixed = replace(said, segments=[timed, replace(timed, words=None)])
    bare = replace(said, segments=[replace(timed, words=None)] * 2)
    assert render(mixed, "srt") == render(bare, "srt")


def test_a_time_below_zero_counts_as_zero():
    assert clock(-0.5, hours=True, decimal_mark=",") == "00:00:00,000"


def test_wrong_use_says_what_to_do():
    said = transcript(23)
    with pytest.raises(UserError, match="known: txt, srt, vtt, tsv, json"):
        render(said, "docx")
    with pytest.raises(UserError, match="max_line_width=0"):
        render(said, "srt", Layout(max_line_width=0))
    for layout in LAYOUTS[1:]:
        with pytest.raises(UserError, match="transcribe with word times"):
            render(said, "vtt", layout)
