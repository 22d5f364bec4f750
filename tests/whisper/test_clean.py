"""Cleaning: what each heuristic objects to and what it leaves alone, and what becomes of a list."""

import json
import math
import random
import wave
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.whisper import audio, manifest, recogniser, subtitles
from almanac.whisper.clean import annotations, cut, duplicates, experiment, hearing, language, pipeline, sound, style
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Heard, Row, Sound, each
from almanac.whisper.manifest import Entry
from almanac.whisper.transcript import Segment, Transcript
from tests.whisper.untrained import small

LIMITS = Limits()
SENTENCES = [
    "The old bridge over the river was closed in spring.",
    "Nobody asked why, and nobody was told.",
    "A heavy lorry had cracked one of its stones!",
    "Will it be open again by the end of the year?",
    "The mayor hopes so; the engineers do not.",
    "Until then, children take the ferry to school.",
    "It leaves every ten minutes from the small harbour.",
    "On Fridays, the baker sells bread on board.",
]
"""Written for these tests."""


def row(text: str, code: str = "en", seconds: float | None = None, source: str = "book", **fields) -> Row:
    length = len(text) / 15 if seconds is None else seconds
    return Row(Entry(fields.pop("id", text), Path("x.flac"), code, text, source=source, **fields), Sound(length, -3.0))


def found(judge, *rows: Row, limits: Limits = LIMITS) -> list[bool]:
    """Which of the rows a heuristic has something against."""
    hit = [id(one) for one, _ in judge(rows, limits)]
    return [id(one) in hit for one in rows]


@pytest.mark.parametrize(
    ("judge", "code", "bad", "good"),
    [
        (style.one_case, "en", "IT WAS THE FIRST OF MAY", "It was the first of May"),
        (style.one_case, "en", "it was the first of may", "NASA"),
        (style.one_case, "ru", "он пришёл домой поздно", "Он пришёл домой поздно"),
        (style.one_case, "ja", "all lower case here", "今日は公園に行きます"),
        (style.punctuation, "en", "we went home and then it rained", "We went home."),
        (style.punctuation, "en", "the well-known children's book they read", "Well, it's the children's"),
        (style.punctuation, "en", "And then. " * 41, "And then. " * 30 + "Or so, " + "And then. " * 20),
        (style.punctuation, "zh", "广州市房地产中介协会分析", "广州市房地产中介协会分析。"),
        (style.punctuation, "de", "wir gingen nach hause und aßen", "Wir gingen nach Hause."),
        (style.capitals, "en", "he left. then she came. it rained.", "And he left. Then she came. It rained."),
        (style.capitals, "en", "he left Rome. then she came.", "he left Rome. Then she came."),
        (style.capitals, "de", "gestern kam Post. sie war nass.", "Im Jahr 1990 u. a. kam z. B. Post."),
        (each(style.spacing), "en", "He left.Then she came", "He left at 3.30 for www.example.org, i.e. home"),
        (each(style.spacing), "nl", "Nee,dank u", "Het kostte 3,50 euro"),
        (each(style.spacing), "fi", "x" * 70, "epäjärjestelmällistyttämättömyydellään"),
        (each(style.numbers), "en", "She was twenty five then", "She was twenty-five then, or twenty"),
        (each(style.numbers), "en", "in nineteen eighty four", "in 1984"),
        (each(style.numbers), "en", "no 1 knows", "Chapter 1 is long"),
        (each(style.numbers), "en", "the 5 th of May for $ 20", "the 5th of May for $20"),
        (each(style.numbers), "de", "Es waren fünfundzwanzig Leute", "Es waren zwanzig Leute"),
        (each(style.numbers), "fr", "Il a vingt cinq ans", "Il a vingt-cinq ans"),
        (
            each(annotations.captions),
            "en",
            "Subtitles by the Amara.org community",
            "The subtitles were by and large good.",
        ),
        (
            each(annotations.captions),
            "de",
            "Untertitelung im Auftrag des ZDF, 2020",
            "Der Untertitel des Buches ist lang.",
        ),
        (each(annotations.captions), "en", "Thanks for watching!", "He said thanks for watching the children."),
        (each(annotations.captions), "en", "See www.example.com", "See you at the example"),
        (each(annotations.captions), "en", "I don't know. " * 12, " ".join(SENTENCES)),
    ],
)
def test_transcript_ese_is_told_from_what_people_write(judge, code, bad, good):
    assert found(judge, row(bad, code)) == [True]
    assert found(judge, row(good, code)) == [False]


@pytest.mark.parametrize("text", SENTENCES)
def test_nothing_is_said_against_plain_sentences(text):
    one = row(text)
    pipeline.judge([one], LIMITS)
    assert (one.dropped, one.changed) == ({}, {})


def test_a_source_is_judged_by_all_of_its_texts():
    plain = [row(text.translate(str.maketrans("!?;", "...", ",")), source="plain") for text in SENTENCES * 10]
    book = [row(text) for text in SENTENCES * 10]
    assert found(style.punctuation, *plain, *book) == [True] * 80 + [False] * 80
    lower = [row(text[0].lower() + text[1:], "en", source="lower") for text in SENTENCES * 4]
    assert all(found(style.capitals, *lower))
    assert not any(found(style.capitals, *lower[:10], *book))
    digits = [row(text, "en", source="digits") for text in ("zero", "one", "two") * 50]
    assert not any(found(judge, *digits) == [True] for judge in (style.one_case, style.punctuation, style.capitals))
    shouted = [row(text.upper(), source="shouted") for text in SENTENCES * 4] + [row("YES", source="shouted")]
    assert all(found(style.one_case, *shouted))


def test_pieces_of_sentences_are_not_taken_for_lower_case():
    pieces = [
        row("has never been surpassed."),
        row("the work of Gutenberg and his men."),
        row("It was printed in Mainz."),
    ]
    assert found(style.one_case, *pieces) == [False] * 3
    assert found(style.one_case, pieces[0], pieces[2]) == [True, False]
    assert found(style.one_case, *pieces, row("it was old. nobody knew it.")) == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("judge", "text", "clean"),
    [
        (annotations.speakers, "JOHN: Come in.", "Come in."),
        (annotations.speakers, ">> Come in. >> DR. SMITH: Thank you.", "Come in. Thank you."),
        (annotations.speakers, "- Come in. - Thank you.", "Come in. Thank you."),
        (annotations.speakers, "Speaker 2: Is it late? Sprecherin: Ja.", "Is it late? Ja."),
        (annotations.speakers, "My rule: never wait. He left — at last.", "My rule: never wait. He left — at last."),
        (annotations.sounds, "[MUSIC] Come in (laughs), please. ♪", "Come in, please."),
        (annotations.sounds, "Venez [rires] ! Bonjour !", "Venez ! Bonjour !"),
        (annotations.sounds, "Gut (lacht). *seufzt* Und dann?", "Gut. Und dann?"),
        (annotations.sounds, "he wrote (and still writes) books", "he wrote (and still writes) books"),
        (annotations.markup, "<i>Tom &amp; Jerry</i> {\\an8}ran", "Tom & Jerry ran"),
        (annotations.markup, "if a < b and b > c", "if a < b and b > c"),
    ],
)
def test_what_is_not_said_is_taken_out(judge, text, clean):
    verdict = judge(row(text), LIMITS)
    assert (verdict.entry.text if verdict else text) == clean


def test_a_text_of_annotations_only_is_dropped():
    verdict = annotations.sounds(row("[MUSIC] ♪ (laughter)"), LIMITS)
    assert verdict is not None and verdict.entry is None


DUTCH = "Als u aanvullende informatie hebt, dan is die altijd welkom."
GERMAN = "Auch die Hauptrolle lehnte er nach langem Zögern wieder ab."
ENGLISH = "If you have further information, it is always welcome."


def heard(code: str, probability: float = 0.99, text: str = "") -> Heard:
    return Heard(code, probability, text, no_speech=0.0)


@pytest.mark.parametrize(
    ("named", "text", "task", "spoken", "becomes"),
    [
        ("nl", DUTCH, "transcribe", None, ("nl", "transcribe")),
        ("de", DUTCH, "transcribe", None, None),
        ("nl", ENGLISH, "transcribe", None, None),  # nobody heard that Dutch is spoken
        ("nl", ENGLISH, "transcribe", heard("nl"), ("nl", "translate")),
        ("nl", ENGLISH, "transcribe", heard("nl", 0.4), None),
        ("cy", ENGLISH, "transcribe", heard("en"), ("en", "transcribe")),  # the paper's Welsh
        ("cy", ENGLISH, "translate", heard("en"), ("en", "transcribe")),
        ("cy", ENGLISH, "translate", heard("cy"), ("cy", "translate")),
        ("nl", GERMAN, "translate", None, None),
        ("nl", DUTCH, "transcribe", heard("de"), None),
        ("de", DUTCH, "transcribe", heard("nl"), ("nl", "transcribe")),
        ("", DUTCH, "transcribe", None, ("nl", "transcribe")),
        ("", "ja", "transcribe", None, None),
        ("nl", "ja", "transcribe", None, ("nl", "transcribe")),
        ("hr", "Danas je lijep dan i idemo na more s prijateljima.", "transcribe", heard("sr"), ("hr", "transcribe")),
    ],
)
def test_what_is_written_must_be_what_is_spoken(named, text, task, spoken, becomes):
    one = replace(row(text, named, task=task), heard=spoken)
    verdict = language.language(one, LIMITS)
    entry = one.entry if verdict is None else verdict.entry
    assert (entry and (entry.language, entry.task)) == becomes


def test_control_characters_do_not_upset_the_language():
    assert language.text_language(DUTCH + "\x07\x85\u200b", "nl", LIMITS) == "nl"


def test_alike_texts_are_those_that_share_their_runs():
    draw = random.Random(0)
    words = " ".join(SENTENCES).lower().split()
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 12))) for _ in range(60)]
    texts += [experiment._retyped(text, draw) for text in texts]
    known, hits, misses = duplicates.Texts(0.6), 0, 0
    for number, text in enumerate(texts):
        alike = {
            other: duplicates._similarity(duplicates._runs(text), duplicates._runs(texts[other]))
            for other in range(number)
        }
        best = max(alike.values(), default=0)
        one = known.find(text)
        hits += one is not None
        misses += one is None and best >= 0.6
        assert one is None or alike[int(one)] == best >= 0.6
        known.add(str(number), text)
    assert hits > 40
    assert misses <= 0.05 * hits  # the index is not exact


def test_of_texts_that_are_the_same_one_that_is_kept_stays():
    rows = [row(SENTENCES[0].upper(), id="a"), row(SENTENCES[0], id="b"), row(SENTENCES[0][:-1], id="c")]
    rows += [row("Yes, please.", id=str(number)) for number in range(3)]
    pipeline.judge(rows, LIMITS)
    assert [sorted(one.dropped) for one in rows] == [["case", "repeated"], [], ["punctuation", "repeated"], [], [], []]


def test_what_is_tested_on_is_not_trained_on():
    rows = [row(text) for text in SENTENCES]
    pipeline.judge(rows, LIMITS, against=[replace(row(SENTENCES[2].replace("!", ".")).entry, id="test")])
    assert [sorted(one.dropped) for one in rows] == [["tested"] if number == 2 else [] for number in range(8)]
    assert "test" in rows[2].dropped["tested"]


def write_wave(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * audio.SAMPLE_RATE))


def test_sound_is_measured_without_holding_all_of_it(tmp_path):
    facts, samples = sound.listen(write_wave(tmp_path / "long.wav", noise(3)), seconds=1.0)
    assert facts.seconds == pytest.approx(3, abs=0.01)
    assert facts.peak == pytest.approx(20 * math.log10(0.5), abs=0.1)
    assert len(samples) == audio.SAMPLE_RATE
    (tmp_path / "text.wav").write_text("no sound " * 1000)
    for path in (tmp_path / "text.wav", tmp_path / "missing.wav", write_wave(tmp_path / "empty.wav", np.zeros(0))):
        facts, samples = sound.listen(path, 1.0)
        assert facts.damage and not len(samples)


def test_sound_and_text_must_fit_each_other():
    silent = replace(row("There is a text."), sound=Sound(1.0, -90.0))
    assert found(each(sound.silent), silent, row(""), row("There is a text.")) == [True, False, False]
    assert found(each(sound.long), row("text", seconds=31.0), row("", "zxx", seconds=31.0), row("a")) == [
        True,
        False,
        False,
    ]
    assert found(each(sound.untold), row("", "nl"), row("", "zxx"), row("", "")) == [True, False, False]
    usual = [row(text) for text in SENTENCES * 3]
    fast, slow = row(SENTENCES[0], seconds=1.5), row(SENTENCES[0], seconds=12.0)
    assert found(sound.pace, *usual, fast, slow) == [False] * 24 + [True, True]
    assert found(sound.pace, fast, slow, row("一二三四五", "zh", 1.1)) == [False] * 3  # nobody knows the usual pace


def test_of_recordings_without_speech_some_are_kept():
    def kept(rows: list[Row], seed: int) -> list[int]:
        dropped = {id(one) for one, _ in sound.no_speech(rows, Limits(no_speech_least=5), seed)}
        return [number for number, one in enumerate(rows) if id(one) not in dropped]

    rows = [row("", "zxx") for _ in range(200)]
    assert len(kept(rows, 0)) == 20
    assert kept(rows, 0) == kept(rows, 0) != kept(rows, 1)
    assert len(kept(rows[:30], 0)) == 5
    assert len(kept(rows[:3], 0)) == 3


def test_windows_hold_whole_lines_once_and_nothing_twice():
    draw = random.Random(0)
    for _ in range(200):
        now, lines = 0.0, []
        for number in range(draw.randint(0, 30)):
            now += draw.choice((-1.0, 0.0, 0.0, 0.1, 0.5, 3.0, 45.0)) if now > 1 else 0
            length = draw.choice((0.5, 2.0, 4.0, 12.0))
            lines.append(cut.Line(now, now + length, f"l{number}"))
            now += length
        lines.sort(key=lambda line: line.start)
        duration = now + draw.uniform(-3, 40)
        made = list(cut.windows(lines, duration, 10.0))
        assert all(window.end - window.start <= 10 + 1e-9 for window in made)
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(made))
        assert not made or (made[0].start >= 0 and made[-1].end <= duration + 1e-9)
        times = {line.text: line for line in lines}
        used = [name for window in made for name in window.text.split()]
        assert len(used) == len(set(used))
        for window in made:
            inside = [times[name] for name in window.text.split()]
            assert all(window.start <= line.start and line.end <= window.end + 1e-9 for line in inside)
            if not inside:
                assert not any(line.start < window.end - 1e-9 and line.end > window.start + 1e-9 for line in lines)
        for line in lines:  # what is left out does not fit, or speaks with another
            fits = line.end - line.start <= 10 and line.end <= duration
            alone = not any(other is not line and other.start < line.end and other.end > line.start for other in lines)
            assert line.text in used or not (fits and alone)


def transcript(lines: list[cut.Line]) -> Transcript:
    segments = [
        Segment(number, line.start, line.end, f" {line.text}", [], 0.0, -0.1, 1.0, 0.0)
        for number, line in enumerate(lines)
    ]
    return Transcript("".join(segment.text for segment in segments), "en", segments)


def test_a_recording_with_subtitles_is_cut_and_nothing_of_it_changes(tmp_path):
    lines = [cut.Line(3.0 * number, 3.0 * number + 2.5, text) for number, text in enumerate(SENTENCES)]
    lines = [replace(line, start=line.start + 12, end=line.end + 12) if line.start > 10 else line for line in lines]
    whole = write_wave(tmp_path / "talk.wav", noise(50))
    entry = Entry("ep/1", whole, "en", "")
    samples, all_windows = audio.read(whole), []
    for kind in ("srt", "vtt", "json"):
        path = tmp_path / f"talk.{kind}"
        path.write_text(subtitles.render(transcript(lines), kind))
        assert cut.read(path) == lines
        assert cut.subtitles(entry) == path
        all_windows.append(cut.cut(entry, path, tmp_path / kind, seconds=10.0))
        path.unlink()
    windows, starts = all_windows[0], [window.start for window in cut.windows(lines, 50.0, 10.0)]
    assert [[part.text for part in parts] for parts in all_windows] == [[part.text for part in windows]] * 3
    assert " ".join(part.text for part in windows).split() == " ".join(SENTENCES).split()
    assert {part.language for part in windows if not part.text} == {""}
    assert {part.source for part in windows} == {"ep/1"}
    for part, start in zip(windows, starts, strict=True):
        heard = audio.read(part.path)
        first = round(start * audio.SAMPLE_RATE)
        assert np.array_equal(heard, samples[first : first + len(heard)])
        assert len(heard) <= 10 * audio.SAMPLE_RATE


def test_captions_that_roll_up_are_a_machines(tmp_path):
    rolling = [cut.Line(float(n), n + 1.0, f"{one}\n{other}") for n, (one, other) in enumerate(pairwise(SENTENCES))]
    assert cut.rolls_up(rolling)
    assert not cut.rolls_up([cut.Line(float(n), n + 1.0, text) for n, text in enumerate(SENTENCES)])
    path = tmp_path / "talk.srt"
    path.write_text(subtitles.render(transcript(rolling), "srt"))
    with pytest.raises(UserError, match="rolls up"):
        cut.cut(Entry("1", write_wave(tmp_path / "talk.wav", noise(9)), "en", ""), path, tmp_path / "out", 10.0)
    path.write_text("neither this nor that")
    with pytest.raises(UserError, match="as subtitles"):
        cut.read(path)


@pytest.fixture
def listed(tmp_path) -> Path:
    """A list of recordings, of which some are dirty."""
    texts = [*SENTENCES, SENTENCES[3].upper(), "JOHN: Come in, and close the door.", SENTENCES[0], DUTCH, ""]
    entries = []
    for number, text in enumerate(texts):
        path = write_wave(tmp_path / "in" / f"{number}.wav", noise(len(text) / 15 or 1.0, number))
        entries.append(Entry(str(number), path, "en" if text else "zxx", text, source="talk"))
    (tmp_path / "in" / "13.wav").write_text("no sound")
    entries.append(Entry("13", tmp_path / "in" / "13.wav", "en", "Where is it, then?", source="talk"))
    manifest.write(tmp_path / "in.tsv", entries)
    return tmp_path / "in.tsv"


def test_a_list_is_cleaned_once_and_for_all(listed, tmp_path):
    out = tmp_path / "out.tsv"
    facts = pipeline.run(listed, out, LIMITS)
    kept, dropped = manifest.read(out), manifest.read(tmp_path / "out.dropped.tsv")
    assert [entry.id for entry in kept] == [*map(str, range(8)), "9", "12"]
    assert kept[8].text == "Come in, and close the door."
    assert kept[0].path.is_file()
    assert [entry.id for entry in dropped] == ["8", "10", "11", "13"]
    reasons = (tmp_path / "out.dropped.tsv").read_text().splitlines()
    assert reasons[0].endswith("\treasons")
    assert [line.split("\t")[-1].split(":")[0] for line in reasons[1:]] == ["case", "repeated", "language", "damaged"]
    counts = {one.pop("heuristic"): one for one in facts["rows"]}
    assert (facts["n"], facts["kept"], facts["dropped"], facts["changed"]) == (14, 10, 4, 1)
    assert counts["case"] == {"dropped": 1, "alone": 0, "changed": 0, "kept": 13}  # it repeats another, too
    assert counts["repeated"]["dropped"] == 2
    assert counts["speakers"] == {"dropped": 0, "alone": 0, "changed": 1, "kept": 14}
    assert counts["misheard"] == counts["tested"] == dict.fromkeys(("dropped", "alone", "changed", "kept"))
    again = pipeline.run(out, tmp_path / "again.tsv", LIMITS)
    assert (again["dropped"], again["changed"]) == (0, 0)
    assert (tmp_path / "again.tsv").read_text() == out.read_text()


def test_a_model_is_asked_where_there_is_one(listed, tmp_path):
    model = tmp_path / "model.safetensors"
    recogniser.save(small(), model, {})
    report = tmp_path / "report.json"
    facts = pipeline.run(listed, tmp_path / "out.tsv", LIMITS, model=str(model), device_name="cpu", report=report)
    counts = {one["heuristic"]: one for one in facts["rows"]}
    assert counts["misheard"]["dropped"] == 12  # it knows nothing, and hears syllables
    assert facts["sources"][0]["wer"] >= 0.9
    written = json.loads(report.read_text())
    assert written["limits"] == vars(LIMITS)
    assert {key: written[key] for key in facts} == facts


def test_the_verb_says_what_it_counted(listed, tmp_path, capsys):
    from almanac.whisper import cli

    cli.clean(listed, out=tmp_path / "out.tsv", skip=("repeated",), json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kept"], facts["dropped"]) == (11, 3)
    assert [one["heuristic"] for one in facts["rows"]] == ["cut", *pipeline.NAMES]
    cli.clean(listed, out=tmp_path / "out.tsv")
    shown = capsys.readouterr().out
    assert "heuristic" in shown and "source" in shown and str(tmp_path / "out.dropped.tsv") in shown
    assert all(name in cli.clean.__doc__ for name in pipeline.NAMES)


def test_heuristics_can_be_left_out(listed, tmp_path):
    facts = pipeline.run(listed, tmp_path / "out.tsv", LIMITS, skip=("case", "repeated"))
    assert facts["kept"] == 12
    with pytest.raises(UserError, match="the list itself"):
        pipeline.run(listed, listed, LIMITS)
    with pytest.raises(UserError, match="no heuristic 'cases'") as error:
        pipeline.run(listed, tmp_path / "out.tsv", LIMITS, skip=("cases",))
    assert "case" in error.value.hint


def test_recordings_are_cut_before_they_are_judged(tmp_path):
    path = write_wave(tmp_path / "talk.wav", noise(40))
    lines = [cut.Line(4.0 * number, 4.0 * number + 3.5, text) for number, text in enumerate(SENTENCES)]
    (tmp_path / "talk.en.vtt").write_text(subtitles.render(transcript(lines), "vtt"))
    (tmp_path / "bad.srt").write_text("not subtitles")
    bad = Entry("bad", write_wave(tmp_path / "bad.wav", noise(1)), "en", "")
    manifest.write(tmp_path / "in.tsv", [Entry("talk", path, "en", ""), bad])
    facts = pipeline.run(tmp_path / "in.tsv", tmp_path / "out.tsv", Limits(seconds=10.0), cut_first=True)
    kept = manifest.read(tmp_path / "out.tsv")
    assert " ".join(entry.text for entry in kept).split() == " ".join(SENTENCES).split()
    assert facts["rows"][0] == {"heuristic": "cut", "dropped": 1, "alone": 1, "changed": 0, "kept": facts["n"] - 1}
    assert {one["source"]: one["kept"] for one in facts["sources"]} == {"talk": len(kept), tmp_path.name: 0}


def test_a_model_hears_each_recording_as_if_alone(tmp_path):
    model = small()
    sounds = [noise(seconds, seed).astype(np.float32) for seed, seconds in enumerate((2.0, 13.0, 6.0))]
    entries = [replace(row("text", code).entry, id=str(seed)) for seed, code in enumerate(("en", "nl", "de"))]
    together = hearing.hear(model, entries, sounds)
    alone = [hearing.hear(model, [entry], [samples])[0] for entry, samples in zip(entries, sounds, strict=True)]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.language for one in together] == [one.language for one in alone]
    assert {one.language for one in together} <= {"en", "nl"}
    assert all(0 < one.probability <= 1 and 0 <= one.no_speech <= 1 for one in together)


def mangled(text: str, share: float, seed: int) -> str:
    """A text with a share of its letters wrong, as a model hears it that is none too good."""
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefghij ") if draw.random() < share else letter for letter in text)


def test_a_poor_model_tells_texts_that_belong_elsewhere():
    rows = [replace(row(text), heard=heard("en", text=mangled(text, 0.3, seed))) for seed, text in enumerate(SENTENCES)]
    shifted = [replace(one, heard=other.heard) for one, other in zip(rows, [*rows[1:], rows[0]], strict=True)]
    assert found(each(hearing.misheard), *rows, *shifted) == [False] * 8 + [True] * 8
    halves = [replace(one, entry=replace(one.entry, text=one.entry.text[:12])) for one in rows]
    assert found(each(hearing.partial), *rows, *halves) == [False] * 8 + [True] * 8
    speech = replace(row("", "zxx"), heard=heard("en", text=SENTENCES[0]))
    quiet = replace(speech, heard=replace(speech.heard, no_speech=0.9))
    assert found(each(hearing.partial), speech, quiet) == [True, False]


def test_sources_are_trusted_by_their_error_rate():
    good = [replace(row(text, source="good"), heard=heard("en", text=mangled(text, 0.05, 0))) for text in SENTENCES * 3]
    bad = [replace(row(text, source="bad"), heard=heard("en", text=mangled(text, 0.9, 0))) for text in SENTENCES * 3]
    assert found(hearing.untrusted, *good, *bad) == [False] * 24 + [True] * 24
    rate = hearing.error_rates(good)["good"]
    plain = str.maketrans("", "", ".,;!?")
    said, known = (
        [text.translate(plain).lower() for text in texts] for texts in ([one.heard.text for one in good], SENTENCES * 3)
    )
    assert rate == pytest.approx(jiwer.wer(known, said), abs=0.05)  # but for British spelling and numbers in digits
    table = pipeline.by_origin([*good, *bad])
    assert [one["source"] for one in table] == ["bad", "good"]


def test_the_experiment_finds_what_it_hides():
    rows = [row(text, "en", id=str(number)) for number, text in enumerate(SENTENCES)]
    table = experiment.measure(rows, LIMITS, seed=0)
    assert table == experiment.measure(rows, LIMITS, seed=0)
    sentences = {one["dirt"]: one for one in table if one["unit"] == "sentences"}
    assert sentences["none"]["all"] == 0
    for kind in ("upper case", "no punctuation", "speakers", "sounds", "credits", "duplicates"):
        one = sentences[kind]
        assert (one["dirty"], one["recall"], one["precision"]) == (2, 1, 1), kind
    assert json.dumps(table, allow_nan=False)


def test_real_sentences_pass_and_dirt_does_not(needs_data):
    needs_data("speech")
    rows = [Row(entry, Sound(len(entry.text) / 15, -3.0)) for entry in experiment.entries()[::15]]
    table = {(one["unit"], one["dirt"]): one for one in experiment.measure(rows, LIMITS, seed=0)}
    assert table["sentences", "none"]["all"] <= 0.03
    for kind in ("upper case", "lower case", "no punctuation", "wrong language", "duplicates", "speakers", "sounds"):
        one = table["sentences", kind]
        assert one["recall"] >= 0.85, kind
        assert one["precision"] >= 0.9, kind
