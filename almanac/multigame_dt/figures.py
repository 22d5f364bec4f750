"""The review's three pictures of multi-game decision transformers, of our agents: one real step as a row of tokens and what the model makes
of it, bars of agents over the training games, and how scores grow with size. The paper's printed numbers stand beside ours, hollow: they
are of other games and larger models. What is drawn was measured by `evaluate`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from almanac.multigame_dt.games import ACTION_NAMES, Game
from almanac.runtime.checkpoint import write_atomic
from almanac.runtime.plots import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATCHES = 6
"""Along a frame's side (paper, section 3.1)."""
LOWEST_RETURN = -20
"""What the first return token stands for."""
_GREY, _BLUE, _LIGHT, _LINE, _GOLD = "#9a9da6", "#2f6fb0", "#eef0f3", "#c9ccd3", "#f2c14e"
METHODS = {"decision transformer": _BLUE, "behaviour cloning": "#d9822b", "CQL": "#b3402a"}
"""Of training, with their colours."""
_RETURN, _ACTION, _PALE_ACTION, _REWARD = "#3f9b6c", "#d9822b", "#f3c795", "#8a5aa0"
_ROW, _FIRST, _PITCH = 0.34, 0.56, 0.251
"""Inches, of the tokens: from row to row, from the left, from patch to patch."""
_BOXES = ((9.7, 1.1), (10.95, 1.6), (12.7, 0.95))
"""Inches from the left, and width, of a step's return, action and reward."""
_COUNTED = {2: "two", 3: "three", 4: "four"}
_ACTIONS_SHOWN = 6
_SIGNS = ("−", "0", "+")
_TICKS = (1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 2e8)
"""Parameters."""
_DPI = 160


@dataclass(frozen=True)
class Step:
    """One step of an agent, as it was, with the steps before it that it remembers."""

    game: Game
    model: str
    """Its name, and how large it is."""
    frames: UInt8[np.ndarray, "steps 84 84"]
    """What it saw, the newest last."""
    actions: tuple[int, ...]
    """What it did then, each time."""
    points: tuple[float, ...]
    """What followed."""
    screen: UInt8[np.ndarray, "height width 3"]
    """The newest frame as a person sees it."""
    returns: Float[np.ndarray, " returns"]
    """The model's probabilities of the return at the first of the steps."""
    tilted: Float[np.ndarray, " returns"]
    """Those that it was drawn from."""
    kappa: float
    """Of that tilt, towards high returns."""
    target: int
    """The return that was drawn."""
    likely_actions: Float[np.ndarray, " actions"]
    """The model's probabilities of the newest action."""
    likely_rewards: Float[np.ndarray, " signs"]
    """The model's probabilities of the sign of what follows it: −, 0, +."""


@dataclass(frozen=True)
class Bar:
    """An agent over the training games."""

    agent: str
    multi_game: bool
    """Whether one network plays them all."""
    iqm: float | None
    """Human-normalised; None where we have no such agent."""
    low: float | None
    high: float | None
    printed: float | None
    """The paper's; None where it has none."""


@dataclass(frozen=True)
class Point:
    """A model of a size."""

    parameters: float
    iqm: float
    """Human-normalised."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """One of the two plots of scaling."""

    title: str
    ours: Mapping[str, Sequence[Point]]
    """By method."""
    printed: Mapping[str, Sequence[Point]]
    """The paper's, without intervals."""


def draw_step(step: Step, path: Path) -> Path:
    """The interface: the frames' patches, the return, actions and rewards as a row of tokens, and what the decoder predicts at which.

    Args:
        step: a real one.
        path: a PNG to write.
    """
    rows = len(step.frames)
    sheet = _Sheet(14.0, 6.85 + _ROW * rows)
    top = 2.66 + _ROW * rows
    for number in range(rows):
        _draw_tokens(sheet, step, number, top - _ROW * (number + 1))
    _draw_context(sheet, step)
    sheet.box(0.2, top + 0.45, 13.6, 0.56, _LIGHT)
    sheet.text(7.0, top + 0.73, f"causal transformer decoder, {step.model}", size=11)
    for x in (
        *(_FIRST + (number + 0.45) * _PITCH for number in range(PATCHES**2)),
        *(x + width / 2 for x, width in _BOXES),
    ):
        sheet.arrow([(x, top + 0.03), (x, top + 0.41)], _LINE, 0.7)
    newest = top - _ROW * rows + 0.13
    (returns_x, returns_width), (actions_x, actions_width), _ = _BOXES
    for colour, edge, height in (
        (_ACTION, returns_x + returns_width, newest),
        (_REWARD, actions_x + actions_width, newest),
    ):
        sheet.line([(edge, height), (edge + 0.075, height), (edge + 0.075, top + 0.41)], colour, 1.3)
    last_patch = _FIRST + (PATCHES**2 - 0.55) * _PITCH
    for x, colour in (
        (last_patch, _RETURN),
        (returns_x + returns_width, _ACTION),
        (actions_x + actions_width, _REWARD),
    ):
        x += 0.075 * (colour != _RETURN)
        sheet.arrow([(x, top + 1.05), (x, top + 1.43)], colour, 1.5)
    sheet.line([(last_patch, top - 0.02), (last_patch, top + 0.41)], _RETURN, 1.3)
    _draw_returns(sheet.plot(0.75, top + 1.83, 8.6, 1.85), step)
    _draw_actions(sheet.plot(10.35, top + 1.55, 1.45, 2.13), step)
    _draw_rewards(sheet.plot(12.15, top + 1.83, 1.5, 1.85), step)
    return _saved(sheet.figure, path)


class _Sheet:
    """A figure that is drawn on in inches from its lower left corner.

    Args:
        width: of it.
        height: of it.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = _figure(width, height)
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(0, height))
        self._axes.set_axis_off()

    def plot(self, x: float, y: float, width: float, height: float) -> "Axes":
        """Axes at a place."""
        return self.figure.add_axes((x / self.width, y / self.height, width / self.width, height / self.height))

    def picture(
        self, pixels: UInt8[np.ndarray, "height width *channels"], x: float, y: float, width: float, height: float
    ) -> None:
        """A picture at a place, grey or in colour."""
        from matplotlib.image import AxesImage
        from matplotlib.patches import Rectangle

        image = AxesImage(self._axes, extent=(x, x + width, y, y + height), cmap="gray", interpolation="nearest")
        image.set_data(pixels)
        image.set_clim(0, 255)
        self._axes.add_image(image)
        self._axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=_GREY, lw=0.6))

    def box(self, x: float, y: float, width: float, height: float, colour: str, hollow: bool = False) -> None:
        """A rounded box."""
        from matplotlib.patches import FancyBboxPatch

        style = "round,pad=0,rounding_size=0.07"
        box = FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none", lw=0.9)
        if hollow:
            box.set(facecolor="none", edgecolor=colour, linestyle=(0, (3, 2)))
        self._axes.add_patch(box)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """A line through points."""
        self._axes.plot(*zip(*points, strict=True), color=colour, lw=width, solid_capstyle="butt")

    def arrow(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """An arrow from a point to another."""
        from matplotlib.patches import FancyArrowPatch

        style = f"-|>,head_length={0.15 + 0.1 * width},head_width={0.07 + 0.05 * width}"
        arrow = FancyArrowPatch(
            *points, arrowstyle=style, color=colour, lw=width, shrinkA=0, shrinkB=0, mutation_scale=12
        )
        self._axes.add_patch(arrow)

    def fan(
        self, low: tuple[float, float], y_low: float, high: tuple[float, float], y_high: float, colour: str
    ) -> None:
        """What widens from one stretch below to another above."""
        self._axes.fill(
            (low[0], low[1], high[1], high[0]), (y_low, y_low, y_high, y_high), color=colour, alpha=0.16, lw=0
        )

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Words about a place."""
        self._axes.text(x, y, text, **{"ha": "center", "va": "center", "color": INK, "size": 9, **style})


def _draw_context(sheet: _Sheet, step: Step) -> None:
    """The frames of the context, the newest cut into its patches; what a person sees; and what all this is."""
    *earlier, newest = step.frames
    x, y, side = 0.35, 0.35, 1.95
    for number, frame in enumerate(earlier):
        sheet.picture(frame, x, y, 1.15, 1.15)
        sheet.text(x + 0.57, y - 0.14, f"t − {len(earlier) - number}", color=MUTED, size=8)
        x += 1.27
    sheet.picture(newest, x, y, side, side)
    for at in np.arange(1, PATCHES) * side / PATCHES:
        sheet.line([(x, y + at), (x + side, y + at)], _GOLD, 0.7)
        sheet.line([(x + at, y), (x + at, y + side)], _GOLD, 0.7)
    sheet.fan((x, x + side), y + side + 0.03, (_FIRST, _FIRST + PATCHES**2 * _PITCH), 2.63, _GOLD)
    sheet.text(x + side / 2, y - 0.14, "t", color=MUTED, size=8)
    sheet.picture(step.screen, 12.16, y, 1.5, side)
    sheet.text(12.91, y - 0.14, "as a person sees it", color=MUTED, size=8)
    sheet.text(x + side + 0.25, 2.13, f"{step.game.name}, one step of play", ha="left", size=13, weight="bold")
    tokens = PATCHES**2 + 3
    lines = [
        f"The agent sees 84×84 pixels of grey and remembers {_COUNTED[len(step.frames)]} steps. A step is {PATCHES**2} patches,",
        f"the return that is still to come, the action and its reward: {tokens} tokens, {len(step.frames) * tokens} in all.",
        "Coloured lines: the tokens at whose places return, action and reward are predicted.",
        "Of the returns only the first is drawn and shown to the model, as in the released one.",
    ]
    for number, line in enumerate(lines):
        sheet.text(x + side + 0.25, 1.74 - 0.25 * number, line, ha="left", size=9, color=MUTED)


def _draw_tokens(sheet: _Sheet, step: Step, number: int, y: float) -> None:
    """A step's tokens in a row: its patches, and three boxes."""
    frame, side = step.frames[number], step.frames.shape[-1] // PATCHES
    for patch in range(PATCHES**2):
        row, column = divmod(patch, PATCHES)
        cut = frame[row * side : (row + 1) * side, column * side : (column + 1) * side]
        sheet.picture(cut, _FIRST + patch * _PITCH, y + 0.01, 0.9 * _PITCH, 0.9 * _PITCH)
    before = len(step.frames) - 1 - number
    sheet.text(_FIRST - 0.06, y + 0.13, f"t − {before}" if before else "t", ha="right", color=MUTED, size=8)
    sign = _SIGNS[1 + int(np.sign(step.points[number]))]
    said = (f"return {step.target}" if number == 0 else "hidden", _spoken(step.actions[number]), f"reward {sign}")
    for place, ((x, width), colour, text) in enumerate(zip(_BOXES, (_RETURN, _ACTION, _REWARD), said, strict=True)):
        hollow = place == 0 and number > 0
        sheet.box(x, y, width, 0.26, _GREY if hollow else colour, hollow)
        style = {"color": MUTED} if hollow else {"color": "white", "weight": "bold"}
        sheet.text(x + width / 2, y + 0.125, text, size=8, **style)


def _draw_returns(axes: "Axes", step: Step) -> None:
    values = LOWEST_RETURN + np.arange(len(step.returns))
    axes.bar(values, step.returns, 1.0, color=_LINE, label="predicted, as its data plays")
    axes.step(
        values, step.tilted, where="mid", color=_RETURN, lw=1.4, label=f"tilted towards experts, κ = {step.kappa:g}"
    )
    axes.axvline(step.target, color=_RETURN, lw=1.2, ls=":")
    near_end = step.target > values[-1] - 20
    top = 1.02 * max(step.returns.max(), step.tilted.max())
    said = f"drawn: {step.target} "
    axes.text(
        step.target,
        top,
        said if near_end else f" {said}",
        ha="right" if near_end else "left",
        va="top",
        color=_RETURN,
        size=9,
    )
    axes.set(xlim=(values[0] - 1, values[-1] + 1), ylim=(0, 1.04 * top), yticks=[])
    axes.set_xlabel(
        "probability of each sum of rewards (±1 a step at most) from the first step to the game's end",
        size=8,
        color=MUTED,
        labelpad=1,
    )
    axes.set_title("return", size=11, loc="left", color=_RETURN, weight="bold")
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "borderaxespad": 0.0}
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2, **place)
    _quiet(axes, left=False)


def _draw_actions(axes: "Axes", step: Step) -> None:
    likely = np.argsort(-step.likely_actions, kind="stable")[:_ACTIONS_SHOWN]
    if step.actions[-1] not in likely:
        likely[-1] = step.actions[-1]
    chosen = likely == step.actions[-1]
    heights = step.likely_actions[likely]
    axes.barh(range(len(likely)), heights, 0.72, color=np.where(chosen, _PALE_ACTION, _LINE))
    for row, (action, part) in enumerate(zip(likely, heights, strict=True)):
        weight = "bold" if action == step.actions[-1] else "normal"
        axes.text(0.02, row, f"{_spoken(action)}  {_percent(part)}", va="center", size=8, color=INK, weight=weight)
    axes.set(xlim=(0, 1.0), ylim=(len(likely) - 0.5, -0.6), xticks=[], yticks=[])
    axes.set_title("action", size=11, loc="left", color=_ACTION, weight="bold")
    _quiet(axes, left=False, bottom=False)


def _draw_rewards(axes: "Axes", step: Step) -> None:
    came = 1 + int(np.sign(step.points[-1]))
    axes.bar(range(3), step.likely_rewards, 0.62, color=[_REWARD if sign == came else _LINE for sign in range(3)])
    for sign, part in enumerate(step.likely_rewards):
        axes.text(sign, part + 0.02, _percent(part), ha="center", va="bottom", size=8, color=INK)
    axes.set(xlim=(-0.6, 2.6), ylim=(0, 1.12), yticks=[], xticks=range(3), xticklabels=_SIGNS)
    axes.set_xlabel(f"sign of the points; {step.points[-1]:g} came".replace("-", "−"), size=8, color=MUTED, labelpad=1)
    axes.set_title("reward", size=11, loc="left", color=_REWARD, weight="bold")
    _quiet(axes, left=False)


def _spoken(action: int | np.integer) -> str:
    """DOWNRIGHTFIRE as `down right fire`."""
    return " ".join(re.findall("NOOP|UP|DOWN|LEFT|RIGHT|FIRE", ACTION_NAMES[action])).lower().replace("noop", "nothing")


def draw_bars(bars: Sequence[Bar], lines: Mapping[str, float], notes: Sequence[str], path: Path) -> Path:
    """Agents over the training games: ours filled, with their intervals, the paper's hollow; agents of one game grey, of all blue.

    Args:
        bars: from the top.
        lines: human-normalised scores to see them against, by name.
        notes: below the picture: how many games and episodes there are, and what differs from the paper.
        path: a PNG to write.
    """
    sheet = _Sheet(10.0, 0.6 * len(bars) + 1.3 + 0.2 * len(notes))
    below = 0.5 + 0.2 * len(notes)
    axes = sheet.plot(3.1, below, 6.6, sheet.height - below - 0.6)
    most = max(
        100 * each for bar in bars for each in (bar.iqm, bar.high, bar.printed, *lines.values()) if each is not None
    )
    least = min([0.0, *(100 * each for bar in bars for each in (bar.iqm, bar.low) if each is not None)])
    for row, bar in enumerate(bars):
        colour = _BLUE if bar.multi_game else _GREY
        _draw_bar(axes, row, bar, colour, 0.012 * (most - least))
        axes.text(
            -0.02, row, bar.agent, transform=axes.get_yaxis_transform(), ha="right", va="center", size=10, color=INK
        )
    for number, (name, value) in enumerate(sorted(lines.items(), key=lambda line: line[1])):
        height = -0.66 - 0.26 * number
        axes.plot(
            [100 * value] * 2, [len(bars) - 0.45, height], color=MUTED, lw=0.9, ls=(0, (4, 3)), zorder=0, clip_on=False
        )
        to_left = 100 * value > (0.75 if number else 0.25) * most
        said = f" {name}, {_percent(value)} "
        axes.text(100 * value, height, said, ha="right" if to_left else "left", va="center", size=8, color=MUTED)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set(xlim=(min(1.15 * least, -0.001), 1.3 * most), ylim=(len(bars) - 0.45, -0.58), yticks=[])
    axes.set_xlabel("interquartile mean of human-normalised scores, % (0 random play, 100 a person)", size=9, color=INK)
    _quiet(axes, left=False)
    _draw_notes(sheet, notes)
    return _saved(sheet.figure, path)


def _draw_bar(axes: "Axes", row: int, bar: Bar, colour: str, gap: float) -> None:
    """Ours above, the paper's below it; the one that there is in the middle."""
    both = bar.iqm is not None and bar.printed is not None
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    if bar.iqm is not None:
        at, iqm, end = row - 0.19 * both, 100 * bar.iqm, 100 * bar.iqm
        axes.barh(at, iqm, 0.34, color=colour, zorder=2)
        said = _percent(bar.iqm)
        if bar.low is not None and bar.high is not None:
            ends = [[iqm - 100 * bar.low], [100 * bar.high - iqm]]
            axes.errorbar(iqm, at, xerr=ends, color=INK, lw=1.1, capsize=2.5, zorder=3)
            said, end = f"{said}  ({_percent(bar.low, '')} to {_percent(bar.high, '')})", max(end, 100 * bar.high)
        axes.text(max(end, 0) + gap, at, said, va="center", size=9, color=INK, weight="bold", bbox=on_white)
    if bar.printed is not None:
        at = row + 0.19 * both
        axes.barh(at, 100 * bar.printed, 0.30, facecolor="white", edgecolor=colour, lw=1.1, zorder=2)
        said = f"{_percent(bar.printed)}  in the paper"
        axes.text(100 * bar.printed + gap, at, said, va="center", size=9, color=MUTED, bbox=on_white)


def _percent(part: float | np.floating, unit: str = " %") -> str:
    return f"{round(100 * float(part))}{unit}".replace("-", "−")


def draw_scaling(panels: Sequence[Panel], notes: Sequence[str], path: Path) -> Path:
    """Scores against size: ours filled, with their intervals, the paper's hollow.

    Args:
        panels: training games, and held-out games after fine-tuning.
        notes: below the picture.
        path: a PNG to write.
    """
    sheet = _Sheet(12.0, 4.75 + 0.2 * len(notes))
    below, wide = 0.95 + 0.2 * len(notes), 5.3
    every = [
        point
        for panel in panels
        for curves in (panel.ours, panel.printed)
        for line in curves.values()
        for point in line
    ]
    most = max(100 * (point.high if point.high is not None else point.iqm) for point in every)
    least = min(100 * (point.low if point.low is not None else point.iqm) for point in every)
    sizes = [point.parameters for point in every]
    for number, panel in enumerate(panels):
        axes = sheet.plot(0.65 + number * (wide + 0.6), below, wide, sheet.height - below - 0.45)
        for name, colour in METHODS.items():
            _draw_curve(axes, panel.printed.get(name, ()), colour, printed=True)
            _draw_curve(axes, panel.ours.get(name, ()), colour, printed=False)
        axes.set_xscale("log")
        axes.set(xlim=(min(sizes) / 1.35, max(sizes) * 1.35), ylim=(min(-0.03 * most, 1.1 * least), 1.1 * most))
        ticks = [size for size in _TICKS if min(sizes) / 1.35 <= size <= max(sizes) * 1.35]
        axes.set_xticks(ticks, [f"{size / 1e6:g} M" for size in ticks])
        axes.minorticks_off()
        axes.set_xlabel("parameters", size=9)
        axes.set_title(f"({'ab'[number]}) {panel.title}", size=11, loc="left", color=INK)
        axes.grid(axis="y", color=_LIGHT, lw=0.8, zorder=0)
        axes.set_axisbelow(True)
        axes.axhline(100, color=MUTED, lw=1.0, ls=(0, (4, 3)), zorder=0.9)
        _quiet(axes)
    sheet.figure.axes[1].set_ylabel("IQM of human-normalised scores, %", size=9)
    _draw_key(sheet, below - 0.72)
    _draw_notes(sheet, notes)
    return _saved(sheet.figure, path)


def _draw_curve(axes: "Axes", line: Sequence[Point], colour: str, printed: bool) -> None:
    if not line:
        return
    ordered = sorted(line, key=lambda point: point.parameters)
    sizes = [point.parameters for point in ordered]
    heights = np.array([100 * point.iqm for point in ordered])
    if printed:
        axes.plot(sizes, heights, color=colour, lw=1.0, ls=(0, (2, 2)), alpha=0.55, zorder=1)
        axes.scatter(sizes, heights, s=34, facecolor="white", edgecolor=colour, lw=1.1, alpha=0.8, zorder=2)
        return
    axes.plot(sizes, heights, color=colour, lw=2.0, zorder=3)
    axes.scatter(sizes, heights, s=38, color=colour, zorder=4)
    for size, height, point in zip(sizes, heights, ordered, strict=True):
        if point.low is not None and point.high is not None:
            ends = [[height - 100 * point.low], [100 * point.high - height]]
            axes.errorbar(size, height, yerr=ends, color=colour, lw=1.2, capsize=3, zorder=3)


def _draw_key(sheet: _Sheet, y: float) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colour, lw=2, marker="o", ms=6, label=f"{name}, ours") for name, colour in METHODS.items()
    ]
    hollow = {"lw": 1, "ls": (0, (2, 2)), "marker": "o", "ms": 6, "mfc": "white"}
    lines.append(Line2D([], [], color=_GREY, label="the same in the paper", **hollow))
    lines.append(Line2D([], [], color=MUTED, lw=0.9, ls=(0, (4, 3)), label="a person"))
    place = (0.5, y / sheet.height)
    sheet.figure.legend(handles=lines, ncols=len(lines), frameon=False, fontsize=9, loc="center", bbox_to_anchor=place)


def _draw_notes(sheet: _Sheet, notes: Sequence[str]) -> None:
    for number, note in enumerate(reversed(notes)):
        sheet.text(0.15, 0.14 + 0.2 * number, note, ha="left", size=8, color=MUTED)


def _quiet(axes: "Axes", left: bool = True, bottom: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["left"].set_visible(left)
    axes.spines["bottom"].set_visible(bottom)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(labelsize=8, colors=INK, length=3, color=_GREY)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def _saved(figure: "Figure", path: Path) -> Path:
    written = BytesIO()
    figure.savefig(written, dpi=_DPI, format="png")
    write_atomic(path, lambda file: file.write(written.getbuffer()))
    return path
