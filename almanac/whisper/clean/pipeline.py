"""Cleaning a list: what is known of each recording is gathered (and long ones are cut), the heuristics say what they have against it, and
what is left, what is not, and why, is counted by heuristic and by source."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from almanac.runtime import checkpoint, console
from almanac.runtime import cluster as ray
from almanac.runtime.errors import UserError
from almanac.whisper import manifest
from almanac.whisper.clean import annotations, duplicates, hearing, language, sound, style
from almanac.whisper.clean import cut as cutting
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Judge, Row, Sound, by_source, each
from almanac.whisper.manifest import Entry

_SHARD = 32
"""Recordings that one process takes at a time."""
_EXAMPLES = 5
"""Of each heuristic, in the report."""
CUT = "cut"
"""What a recording is dropped by that could not be cut."""


WITH_MODEL = frozenset(("misheard", "partial", "untrusted"))
_WITH_TESTS = "tested"


def run(
    source: Path,
    out: Path,
    limits: Limits,
    *,
    against: Sequence[Path] = (),
    skip: Sequence[str] = (),
    cut_first: bool = False,
    model: str | None = None,
    device_name: str = "auto",
    address: str | None = None,
    seed: int = 0,
    report: Path | None = None,
) -> dict[str, Any]:
    """Clean a list.

    Args:
        source: the list.
        out: where what is kept goes; what is dropped goes beside it, into NAME.dropped.tsv, with the reasons in a column.
        limits: where lines are drawn.
        against: lists to test on, whose texts must not be trained on.
        skip: heuristics that are left out.
        cut_first: whether recordings with subtitles beside them are cut into windows first; those go beside `out`, into NAME.windows.
        model: what hears the recordings, as `recogniser.load` takes it; None: nothing.
        device_name: where that runs.
        address: of a Ray cluster to spread the recordings over.
        seed: of which recordings without speech are kept.
        report: where what is returned goes as JSON, with the limits.

    Returns:
        `n, kept, dropped, changed, out, dropped_out`, the tables `rows` (by heuristic) and `sources`, and `examples`.

    Raises:
        UserError: a list can't be read or written, or would be overwritten; there is no such heuristic or model.
    """
    if out.resolve() == source.resolve():
        raise UserError(f"{out} is the list itself", "give --out another name: what is dropped would be lost")
    unknown = [name for name in skip if name not in NAMES]
    if unknown:
        raise UserError(f"there is no heuristic '{unknown[0]}'", f"one of: {', '.join(NAMES)}")
    if model is not None and address is None:
        hearing.load(model, device_name)  # before hours of cutting
    entries, tests = manifest.read(source), [entry for path in against for entry in manifest.read(path)]
    failed: list[Row] = []
    if cut_first:
        with console.progress("cutting", len(entries), "recordings") as advance:
            entries, failed = cut(entries, out.with_suffix(".windows"), limits, address, advance)
    with console.progress("listening", len(entries), "recordings") as advance:
        rows = gather(entries, limits, model, device_name, address, advance)
    asked = [CUT] * cut_first + judge(rows, limits, skip, tests, seed)
    rows = [*rows, *failed]
    kept, dropped = [row for row in rows if not row.dropped], [row for row in rows if row.dropped]
    dropped_out = out.with_suffix(".dropped.tsv")
    manifest.write(out, [row.entry for row in kept])
    manifest.write(dropped_out, [row.entry for row in dropped], reasons=[_reasons(row) for row in dropped])
    facts = {
        "n": len(rows),
        "kept": len(kept),
        "dropped": len(dropped),
        "changed": sum(bool(row.changed) for row in kept),
        "out": str(out),
        "dropped_out": str(dropped_out),
        "rows": by_heuristic(rows, asked),
        "sources": by_origin(rows),
        "examples": examples(rows),
    }
    if report is not None:
        text = json.dumps({**facts, "limits": vars(limits)}, indent=1, ensure_ascii=False) + "\n"
        checkpoint.write_atomic(report, lambda file: file.write(text.encode()))
    return facts


def heuristics(against: Sequence[Entry] = (), seed: int = 0) -> dict[str, Judge]:
    """All heuristics in their order: first what can't be used, then what is changed, so that the rest sees it so; those that compare
    recordings with each other come last, when it is known which are kept.

    Args:
        against: what models are tested on.
        seed: of which recordings without speech are kept.
    """
    return {
        "damaged": each(sound.damaged),
        "silent": each(sound.silent),
        "long": each(sound.long),
        "untold": each(sound.untold),
        "markup": each(annotations.markup),
        "sounds": each(annotations.sounds),
        "speakers": each(annotations.speakers),
        "captions": each(annotations.captions),
        "case": style.one_case,
        "punctuation": style.punctuation,
        "capitals": style.capitals,
        "spacing": each(style.spacing),
        "numbers": each(style.numbers),
        "language": each(language.language),
        "pace": sound.pace,
        "misheard": each(hearing.misheard),
        "partial": each(hearing.partial),
        "untrusted": hearing.untrusted,
        _WITH_TESTS: partial(duplicates.tested, against=against),
        "repeated": duplicates.repeated,
        "no-speech": partial(sound.no_speech, seed=seed),
    }


NAMES = tuple(heuristics())


def gather(
    entries: Sequence[Entry],
    limits: Limits,
    model: str | None = None,
    device_name: str = "auto",
    address: str | None = None,
    advance: Callable[..., None] = lambda count: None,
) -> list[Row]:
    """Find out what is known of recordings.

    Args:
        entries: the recordings.
        limits: how much of each is heard.
        model: what hears them, as `recogniser.load` takes it; None: nothing.
        device_name: where that runs.
        address: of a Ray cluster to spread them over.
        advance: told how many more are done.
    """
    shards = [entries[first : first + _SHARD] for first in range(0, len(entries), _SHARD)]
    look = partial(_look, limits=limits, model=model, device_name=device_name)
    rows = []
    for found in ray.map(look, shards, address=address):
        rows += found
        advance(len(found))
    return rows


def _look(entries: Sequence[Entry], limits: Limits, model: str | None, device_name: str) -> list[Row]:
    found = [sound.listen(entry.path, limits.seconds) for entry in entries]
    rows = [Row(entry, facts) for entry, (facts, _) in zip(entries, found, strict=True)]
    heard = [(row, samples) for row, (_, samples) in zip(rows, found, strict=True) if len(samples)]
    if model is not None and heard:
        loaded = hearing.load(model, device_name)
        said = hearing.hear(loaded, [row.entry for row, _ in heard], [samples for _, samples in heard])
        for (row, _), one in zip(heard, said, strict=True):
            row.heard = one
    return rows


def cut(
    entries: Sequence[Entry],
    folder: Path,
    limits: Limits,
    address: str | None = None,
    advance: Callable[..., None] = lambda count: None,
) -> tuple[list[Entry], list[Row]]:
    """Cut the recordings that have subtitles beside them.

    Args:
        entries: the recordings.
        folder: where windows go.
        limits: how long they may be.
        address: of a Ray cluster to spread them over.
        advance: told how many more are done.

    Returns:
        The list with windows in the place of what was cut; and rows of those that could not be cut.
    """
    kept: list[Entry] = []
    failed: list[Row] = []
    work = partial(_cut, folder=folder, seconds=limits.seconds)
    for entry, (windows, fault) in zip(entries, ray.map(work, entries, address=address), strict=True):
        if fault:
            failed.append(Row(entry, Sound(0.0, 0.0), dropped={CUT: fault}))
        else:
            kept += windows
        advance(1)
    return kept, failed


def _cut(entry: Entry, folder: Path, seconds: float) -> tuple[list[Entry], str]:
    found = cutting.subtitles(entry)
    if found is None:
        return [entry], ""
    try:
        return cutting.cut(entry, found, folder, seconds), ""
    except UserError as error:
        return [], error.what


def judge(
    rows: Sequence[Row],
    limits: Limits,
    skip: Sequence[str] = (),
    against: Sequence[Entry] = (),
    seed: int = 0,
) -> list[str]:
    """Let the heuristics judge recordings, and note in each what they say; changes are made in place.

    Args:
        rows: the recordings.
        limits: where lines are drawn.
        skip: heuristics that are left out.
        against: what models are tested on.
        seed: of which recordings without speech are kept.

    Returns:
        The heuristics that were asked: not those that need a model, or a list to test on, where there is none.
    """
    needless = set(skip) | (set() if against else {_WITH_TESTS})
    needless |= set() if any(row.heard for row in rows) else WITH_MODEL
    asked = {name: heuristic for name, heuristic in heuristics(against, seed).items() if name not in needless}
    for name, heuristic in asked.items():
        for row, verdict in list(heuristic(rows, limits)):
            if verdict.entry is None:
                row.dropped[name] = verdict.reason
            else:
                row.entry, row.changed[name] = verdict.entry, verdict.reason
    return list(asked)


def by_heuristic(rows: Sequence[Row], asked: Sequence[str]) -> list[dict[str, Any]]:
    """How many recordings each heuristic dropped (`alone`: no other did) and changed; several may count the same one. None where
    it was not asked."""
    table: list[dict[str, Any]] = []
    for name in (CUT, *NAMES):
        counts: dict[str, int | None] = dict.fromkeys(("dropped", "alone", "changed", "kept"))
        if name in asked:
            dropped = sum(name in row.dropped for row in rows)
            counts = {"dropped": dropped, "alone": sum(list(row.dropped) == [name] for row in rows)}
            counts |= {"changed": sum(name in row.changed for row in rows), "kept": len(rows) - dropped}
        table.append({"heuristic": name, **counts})
    return table


def by_origin(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What each source has lost, and its error rate where a model heard it; the worst and largest first, as they should be looked at
    (paper §2.1)."""
    rates = hearing.error_rates(rows)
    table = []
    for source, own in by_source(rows).items():
        hours = sum(row.sound.seconds for row in own) / 3600
        dropped = [row for row in own if row.dropped]
        found = {"source": source, "recordings": len(own), "hours": round(hours, 3), "dropped": len(dropped)}
        found |= {"changed": sum(bool(row.changed) for row in own), "kept": len(own) - len(dropped)}
        table.append(found | {"wer": rates.get(source)})
    return sorted(table, key=lambda one: (-(one["wer"] or 0) * one["hours"], -one["dropped"]))


def examples(rows: Sequence[Row]) -> dict[str, list[dict[str, str]]]:
    """Some recordings that each heuristic dropped or changed, with what it said."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        for name, reason in (*row.dropped.items(), *row.changed.items()):
            some = found.setdefault(name, [])
            if len(some) < _EXAMPLES:
                some.append({"id": row.entry.id, "reason": reason, "text": row.entry.text})
    return found


def _reasons(row: Row) -> str:
    """Why a recording is dropped, as one line."""
    return "; ".join(f"{name}: {reason}" for name, reason in row.dropped.items())
