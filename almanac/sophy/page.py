"""The page of Sophy in Studio: drive against it, race the built-in drivers and watch it in three dimensions, or find the fastest lap that a
car can drive. It lays out controls and results; driving is `api`'s and `live`'s, racing, searching and drawing are `race`'s, `optimal`'s,
`replay`'s and `view`'s."""

import html
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import APIRouter

from almanac.runtime.errors import RunFailed, UserError
from almanac.runtime.services import ONE_AT_A_TIME, Services, tells_errors
from almanac.sophy import api, opponents, optimal, race, replay, steward, view
from almanac.sophy.lap import Lap
from almanac.sophy.names import named
from almanac.sophy.race import Start
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks
from almanac.sophy.sim.track import Track

_CARS = {"GT3": "gt3", "Formula 1, 2014": "f1_2014"}
_LAPS = 5
"""At most, so that other visitors wait less."""
_KINDS = "give a closed line: GPX, GeoJSON, CSV of x, y and widths to the right and left, or fastest-lap's XML"
_SPREAD = 0.1
"""Of the drivers' skills."""
_ROLLING = 30.0
"""m/s of a rolling start."""
_COMPUTES: Any = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": ONE_AT_A_TIME}
_DRIVE = (
    '<iframe class="live" src="live" title="Drive against Sophy" allow="gamepad; fullscreen; clipboard-write" style="display: block; '
    'width: 100%; height: min(820px, 86vh); border: 0; border-radius: 8px"></iframe>'
    '<p style="margin: 10px 0 0"><a href="live" target="_blank" rel="noopener">Open it in a tab of its own</a></p>'
)
_PROGRESS = gr.Progress()
"""Gradio finds it as an argument's default."""


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: not used: races are computed by the processor.
    """
    with gr.Blocks(title="Sophy · Almanac") as page, gr.Tabs():
        with gr.Tab("Drive"):
            gr.HTML(_DRIVE, apply_default_css=False)
        with gr.Tab("Race"):
            _race_tab()
        with gr.Tab("The limit"):
            _limit_tab()
    return page


def router() -> APIRouter:
    """What the page needs of the server: the races that people drive."""
    return api.router()


def _race_tab() -> None:
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            course, own = _course()
            car = gr.Radio(list(_CARS.items()), value="gt3", label="Car")
            count = gr.Slider(1, race.MOST, 8, step=1, label="Cars", buttons=[])
            laps = gr.Slider(1, _LAPS, 1, step=1, label="Laps", buttons=[])
            with gr.Accordion("More settings", open=False):
                skill = gr.Slider(
                    opponents.LEAST + _SPREAD, 1, 1, step=0.01, label="Skill", info="Of the best driver", buttons=[]
                )
                start = gr.Radio([("Standing", 0.0), ("Rolling", _ROLLING)], value=0.0, label="Start")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, info="Draws the grid")
            button = gr.Button("Race", variant="primary", size="lg")
        with gr.Column(elem_classes="results", min_width=320):
            results = _results("Choose a track and a car, then press <b>Race</b>.")

    @tells_errors
    def run(
        course: str,
        own: str | None,
        car: str,
        count: int | float,
        laps: int | float,
        skill: int | float,
        start: int | float,
        seed: Any,
        progress=_PROGRESS,
    ) -> str:
        spec, where = cars.load(car), _track(course, own)
        progress(0.0, "planning the drivers' laps")
        skills = np.linspace(float(skill), float(skill) - _SPREAD, int(count)).round(3).tolist()
        drivers = opponents.Drivers(where, spec, skills)
        progress(0.2, "racing")
        recording = race.run(where, spec, named(drivers, skills), int(laps), Start(speed=float(start)), int(seed or 0))
        progress(0.8, "judging")
        judged = steward.judge(recording, where, spec)
        seen = view.of_race(recording, where, spec)
        title = f"{where.name}, {int(laps)} lap{'s' if laps > 1 else ''}"
        known = _searched.get((race.digest(where), car))
        return _framed(view.page(seen, where, spec, title, known)) + _table(judged)

    button.click(run, [course, own, car, count, laps, skill, start, seed], results, **_COMPUTES)


def _limit_tab() -> None:
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            course, own = _course()
            car = gr.Radio(list(_CARS.items()), value="gt3", label="Car")
            button = gr.Button("Find the fastest lap", variant="primary", size="lg")
        with gr.Column(elem_classes="results", min_width=320):
            results = _results(
                "The fastest lap that the car's equations allow, by optimal control, and how near the simulator comes to it. It takes two "
                "minutes or three."
            )

    @tells_errors
    def run(course: str, own: str | None, car: str, progress=_PROGRESS) -> str:
        spec, where = cars.load(car), _track(course, own)
        laps = 0

        def seek(seconds: float) -> None:
            progress(None, f"searching: {seconds:.2f} s")

        def tell(seconds: float) -> None:
            nonlocal laps
            laps += 1
            progress((laps, replay.LAPS), f"driving it: {seconds:.2f} s")

        found = optimal.optimal_lap(spec, where, tell=seek)
        _searched[race.digest(where), car] = found.lap
        best, shown = found.lap.lap_time, found.lap
        said = f"<p><b>{best:.2f} s</b> is the fastest lap, found in {found.iterations} iterations. "
        try:
            driven = replay.replay(found.lap, where, spec, tell)
            said += (
                f"In the simulator it was driven in <b>{driven.lap.lap_time:.2f} s</b>: below, beside the fastest.</p>"
            )
            shown = driven.lap
        except RunFailed as error:
            said += f"{html.escape(str(error))}.</p>"
        seen = view.of_lap(shown, where, "driven" if shown is not found.lap else "optimal lap")
        return said + _framed(view.page(seen, where, spec, f"{where.name}, {shown.lap_time:.2f} s", found.lap))

    button.click(run, [course, own, car], results, **_COMPUTES)


_searched: dict[tuple[str, str], Lap] = {}
"""Laps that were found here, by the digest of the track and the car."""


def _course() -> tuple[gr.Dropdown, gr.File]:
    """A track that is at hand, or one's own."""
    course = gr.Dropdown(tracks.names(), value="solstice", label="Track")
    with gr.Column(elem_classes="field"):
        gr.HTML('<p class="heading">Or your own track</p>', apply_default_css=False)
        kinds: list[str] = [".gpx", ".geojson", ".json", ".csv", ".xml"]
        own = gr.File(
            label="Your own track", show_label=False, type="filepath", file_types=kinds, elem_classes="drop line"
        )
    return course, own


def _track(course: str, own: str | None) -> Track:
    if own is None:
        return _known(course)
    try:
        return tracks.load(Path(own))
    except UserError as error:
        hint = _KINDS if "--help" in error.hint else error.hint  # no command line is here
        raise UserError(error.what.replace(own, Path(own).name), hint) from None


@lru_cache(8)
def _known(name: str) -> Track:
    return tracks.find(name)


def _framed(page: str) -> str:
    """A page in the page."""
    return (
        f'<iframe class="race" title="The race in three dimensions" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def _table(judged: steward.Result) -> str:
    """Who came in when. Columns that would say nothing are left out, so that it fits a phone."""
    laps, punished = max(each.laps for each in judged.places) > 1, any(each.penalty for each in judged.places)
    head = ["Place", "Driver", "Time, s", *["Best lap, s"] * laps, *["Penalty, s"] * punished]
    rows = []
    for each in judged.places:
        time = "–" if each.time != each.time else f"{each.time:.3f}"
        best = f"{min(each.lap_times):.3f}" if each.lap_times else "–"
        penalty = f"{each.penalty:.1f}" if each.penalty else ""
        rows.append([str(each.place), html.escape(each.name), time, *[best] * laps, *[penalty] * punished])
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="places"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div style="overflow-x: auto">{table}</div>'


def _results(hint: str) -> gr.HTML:
    return gr.HTML(f'<div class="empty"><p>{hint}</p></div>', apply_default_css=False)
