"""The tour: every system once, on shipped weights and real input, as one HTML report. Each system's part is its own
`tour.py`; a system that fails gets a line that says so, and the others still run."""

import html
import importlib
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from almanac import __version__, systems
from almanac.runtime import console
from almanac.runtime.errors import UserError
from almanac.runtime.report import Section


@dataclass
class Stop:
    """One system's part of a tour."""

    name: str
    """The system."""
    seconds: float
    """How long it took."""
    section: Section | None = None
    """What came of it."""
    error: str | None = None
    """Why nothing came of it."""


def run(out: Path, only: Sequence[str] = ()) -> list[Stop]:
    """Run every registered system once and write `out/index.html`.

    Args:
        out: folder for the report.
        only: names of systems; none: all.

    Raises:
        UserError: `only` names a system that isn't there.
    """
    chosen = [systems.find(name) for name in only] if only else list(systems.SYSTEMS)
    if None in chosen:
        known = ", ".join(system.command for system in systems.SYSTEMS)
        raise UserError(f"unknown system in --only {' '.join(only)}", f"known: {known}")
    stops = []
    with console.progress("touring", len(chosen), "systems") as advance:
        for system in chosen:
            assert system is not None
            advance(0, note=system.title)
            stops.append(_visit(system, out / system.name))
            advance()
    _write(out, stops)
    return stops


def summary(stops: Sequence[Stop], out: Path) -> str:
    """A line a system, and where the report is."""
    lines = [
        f"{stop.name:<18} {stop.seconds:6.1f} s  {stop.error or (stop.section and stop.section.sentence)}"
        for stop in stops
    ]
    return "\n".join([*lines, f"report: {out / 'index.html'}"])


def _visit(system: systems.System, folder: Path) -> Stop:
    started = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        section = importlib.import_module(f"almanac.{system.name}.tour").run(folder)
        return Stop(system.name, round(time.monotonic() - started, 2), section)
    except UserError as error:
        said = f"{error.what}; {error.hint}"
    except Exception as error:  # a defect in one system must not keep the others from their turn
        console.log(traceback.format_exc())
        said = f"{type(error).__name__}: {error}"
    return Stop(system.name, round(time.monotonic() - started, 2), error=said)


def _write(out: Path, stops: Sequence[Stop]) -> None:
    from almanac.runtime import device
    from almanac.runtime.checkpoint import write_atomic

    facts = f"{device.machine()} · {time.strftime('%Y-%m-%d %H:%M')} · almanac {__version__} · {sum(s.seconds for s in stops):.0f} s"
    body = "\n".join(_section(out, stop) for stop in stops)
    text = _PAGE.format(facts=html.escape(facts), contents=_contents(stops), body=body)
    write_atomic(out / "index.html", lambda file: file.write(text.encode()))


def _contents(stops: Sequence[Stop]) -> str:
    links = []
    for stop in stops:
        system = systems.find(stop.name)
        assert system is not None
        mark = "failed" if stop.error else f"{stop.seconds:.1f} s"
        links.append(f'<a href="#{stop.name}">{html.escape(system.title)}<small>{mark}</small></a>')
    return "\n".join(links)


def _section(out: Path, stop: Stop) -> str:
    system = systems.find(stop.name)
    assert system is not None
    title, paper = html.escape(system.title), html.escape(system.paper)
    head = f'<section id="{stop.name}"><h2>{title} <small>{paper}</small></h2><p class="line">{html.escape(system.line)}</p>'
    if stop.section is None:
        return f'{head}<p class="failed">{html.escape(stop.error or "")}</p></section>'
    figures = "\n".join(_figure(out, path, caption) for path, caption in stop.section.figures)
    return f"{head}<p>{html.escape(stop.section.sentence)}</p>{_table(stop.section.rows)}{figures}</section>"


def _figure(out: Path, path: Path, caption: str) -> str:
    source, said = html.escape(path.relative_to(out).as_posix()), html.escape(caption)
    if path.suffix == ".wav":
        shown = f'<audio controls src="{source}"></audio>'
    elif path.suffix == ".mp4":
        shown = f'<video controls loop muted src="{source}"></video>'
    else:
        shown = f'<img src="{source}" alt="{said}">'
    return f"<figure>{shown}<figcaption>{said}</figcaption></figure>"


def _table(rows: Sequence) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = ["".join(f"<td>{html.escape(console.cell(row.get(column)))}</td>" for column in columns) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Almanac: the tour</title>
<style>
:root {{ --ink: #1c1d22; --muted: #6b6e78; --paper: #fbfaf7; --line: #dedbd2; --accent: #b3402a; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ecebe6; --muted: #9b9ea8; --paper: #17181b; --line: #34363c; --accent: #ef8a72; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 68rem; padding: 3rem 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, sans-serif; }}
h1 {{ font: 600 2.2rem/1.2 Georgia, serif; margin: 0; }}
h2 {{ font: 600 1.5rem/1.3 Georgia, serif; margin: 0; }}
small, .line, figcaption, footer {{ color: var(--muted); font-size: .875rem; font-weight: 400; }}
nav {{ display: flex; flex-wrap: wrap; gap: .75rem; margin: 2rem 0; }}
nav a {{ border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; color: inherit; text-decoration: none; }}
nav a:hover, nav a:focus-visible {{ border-color: var(--accent); }}
nav small {{ display: block; }}
section {{ border-top: 1px solid var(--line); padding: 2rem 0; }}
.failed {{ color: var(--accent); font-weight: 600; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }}
th, td {{ text-align: left; padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th {{ color: var(--muted); font-weight: 500; font-size: .875rem; }}
figure {{ margin: 1.5rem 0; }}
img, video {{ max-width: 100%; image-rendering: pixelated; border-radius: .25rem; background: #fff; }}
</style></head>
<body><header><h1>Almanac</h1><p class="line">Every system once, on real input. {facts}</p></header>
<nav>{contents}</nav>
{body}
</body></html>
"""
