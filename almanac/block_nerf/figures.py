"""Pictures of what was measured, and the paper's scheme (its figure 1 and 6, as the review draws it) of one of our own views: what each
block near the camera makes of it, which is left out, and the mixture."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, ConnectionPatch, Wedge

from almanac.block_nerf.cameras import Camera, rays_of
from almanac.block_nerf.city import City
from almanac.block_nerf.render import Appearance, Part, local, view
from almanac.runtime.checkpoint import write_atomic
from almanac.runtime.plots import INK, MUTED

_ORANGE, _PURPLE, _RED, _STREET, _OURS, _PAPER = "#e08a1e", "#6b4fa0", "#b3402a", "#d9d4ca", "#b3402a", "#bdb6aa"
_DPI = 130
Row = dict[str, Any]


def draw_scheme(
    city: City, camera: Camera, pose: Float[np.ndarray, "4 4"], path: Path, appearance: Appearance | None = None
) -> Path:
    """A view of a city, and how it comes about.

    Args:
        city: which.
        camera: the lens.
        pose: camera to world.
        path: a PNG to write.
        appearance: of the view.
    """
    picture = view(city, camera, pose, appearance, everything=True)
    parts = picture.parts[:4]
    figure = Figure(figsize=(9.6, 7.4), layout="constrained")
    top, bottom = figure.add_gridspec(2, 1, height_ratios=(1.5, 1), hspace=0.06)
    whole, plan = (figure.add_subplot(cell) for cell in top.subgridspec(1, 2, width_ratios=(1.25, 1)))
    whole.imshow(picture.colours, interpolation="nearest")
    whole.set_title("combined colour prediction", color=INK, fontsize=11)
    _bare(whole)
    _plan(plan, city, camera, pose, parts)
    cells = bottom.subgridspec(1, max(len(parts), 2), wspace=0.12)
    for at, part in enumerate(parts):
        pair = cells[at].subgridspec(*((1, 2) if len(parts) < 3 else (2, 1)), wspace=0.12, hspace=0.04)
        seen, coloured = figure.add_subplot(pair[0]), figure.add_subplot(pair[1])
        seen.imshow(_visibility(city, camera, pose, part), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        assert part.view is not None
        coloured.imshow(part.view.colours.reshape(picture.colours.shape).clamp(0, 1), interpolation="nearest")
        weight = 0.0 if part.weights is None else float(part.weights.mean())
        told = f"sees {part.visibility:.0%}, " + (f"weight {weight:.0%}" if part.kept else "discarded")
        seen.set_title(f"{_letter(at)}: {told}", color=INK if part.kept else MUTED, fontsize=9.5)
        for axes, colour, name in ((seen, _PURPLE, "visibility"), (coloured, _RED, "colour")):
            _bare(axes, colour)
            axes.set_ylabel(name, color=colour, fontsize=9)
            if not part.kept:
                for one, other in (((0, 0), (1, 1)), ((0, 1), (1, 0))):
                    axes.plot(*zip(one, other, strict=True), transform=axes.transAxes, color=MUTED, lw=1.6, alpha=0.8)
    return _save(figure, path)


def _plan(axes: Axes, city: City, camera: Camera, pose: Float[np.ndarray, "4 4"], parts: Sequence[Part]) -> None:
    """Streets, blocks and the camera, from above."""
    for crossing in city.about.crossings:
        for arm in crossing["arms"]:
            axes.plot(*np.array(arm).T, color=_STREET, lw=7, solid_capstyle="round", zorder=1)
    for place in city.places:
        axes.add_patch(Circle(place.origin[:2], place.radius, fill=False, ls="--", lw=0.9, ec=MUTED, zorder=2))
        axes.plot(*place.origin[:2], "o", color=_ORANGE, ms=8, zorder=4)
    here = (float(pose[0, 3]), float(pose[1, 3]))
    for at, part in enumerate(parts):
        axes.annotate(
            _letter(at), part.place.origin[:2], (6, 6), textcoords="offset points", color=INK, fontsize=11, zorder=5
        )
        if part.kept:
            axes.add_patch(ConnectionPatch(part.place.origin[:2], here, "data", color=_ORANGE, lw=1.4, zorder=3))
    forward = -pose[:2, 2]
    heading = float(np.degrees(np.arctan2(forward[1], forward[0])))
    half = float(np.degrees(np.arctan(camera.width / 2 / camera.focal[0])))
    axes.add_patch(Wedge(here, 26, heading - half, heading + half, color=_RED, alpha=0.45, lw=0, zorder=4))
    axes.plot(*here, "o", color=_RED, ms=5, zorder=6)
    places = np.array([place.origin[:2] for place in city.places])
    reach = np.array([place.radius for place in city.places])[:, None]
    low, high = (places - reach).min(0), (places + reach).max(0)
    axes.set(xlim=(low[0] - 5, high[0] + 5), ylim=(low[1] - 5, high[1] + 5), aspect="equal")
    axes.set_title("blocks, and where the camera looks", color=INK, fontsize=11)
    _bare(axes)


@torch.no_grad()
def _visibility(
    city: City, camera: Camera, pose: Float[np.ndarray, "4 4"], part: Part
) -> Float[np.ndarray, "height width"]:
    """What a block thinks to see of a view."""
    rays = local(rays_of(camera, pose, camera.all_pixels().reshape(-1, 2)), part.place)
    assert part.view is not None
    unit = torch.nn.functional.normalize(rays.directions, dim=-1)
    points = rays.origins + unit * part.view.distance[:, None]
    seen = torch.sigmoid(city.block(part.place.name).block.visibility(points, unit))
    return seen.numpy().reshape(camera.height, camera.width)


def draw_ablations(rows: Sequence[Row], path: Path) -> Path:
    """What each of the paper's parts is worth, as bars beside the paper's own.

    Args:
        rows: table `ablations`.
        path: a PNG to write.
    """
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    down = np.arange(len(rows))[::-1]
    for name, colour, shift in (("psnr", _OURS, 0.19), ("psnr_paper", _PAPER, -0.19)):
        values = [row[name] for row in rows]
        axes.barh(down + shift, values, 0.36, color=colour, label="ours" if name == "psnr" else "the paper's")
        for at, value in zip(down + shift, values, strict=True):
            axes.text(value + 0.1, at, f"{value:.2f}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(down, [row["variant"] for row in rows])
    shown = [row[name] for row in rows for name in ("psnr", "psnr_paper")]
    axes.set(xlabel="PSNR of the right halves, dB", xlim=(min(shown) - 2, max(shown) + 1))
    _quiet(axes)
    figure.legend(frameon=False, fontsize=9, loc="outside upper right", ncols=2)
    return _save(figure, path)


def draw_blocks(rows: Sequence[Row], path: Path) -> Path:
    """PSNR by the number of blocks, beside the paper's.

    Args:
        rows: table `blocks`.
        path: a PNG to write.
    """
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, colour, whose in (("psnr", _OURS, "ours"), ("psnr_paper", _PAPER, "the paper's")):
        for kept, line in (("of a block", "o-"), ("of all", "s--")):
            mine = [row for row in rows if row[name] is not None and row["same_weights"] == kept]
            axes.plot(
                *zip(*((row["blocks"], row[name]) for row in mine), strict=True),
                line,
                color=colour,
                label=f"{whose}: weights {kept}",
            )
    axes.set_xscale("log", base=2)
    counts = sorted({row["blocks"] for row in rows})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set(xlabel="blocks of equal size", ylabel="PSNR, dB")
    _quiet(axes)
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, path)


def draw_border(rows: Sequence[Row], path: Path) -> Path:
    """How much a picture changes because other blocks are looked at, along a way from one block to the next.

    Args:
        rows: table `border`.
        path: a PNG to write.
    """
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        axes.plot([row["metres"] for row in mine], [row["jump"] for row in mine], lw=1.3, label=method)
    axes.set(xlabel="metres from one block's middle to the next", ylabel="jump, of full scale", yscale="symlog")
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_ylim(bottom=0)
    _quiet(axes)
    axes.legend(frameon=False, fontsize=8.5, ncols=2)
    return _save(figure, path)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _bare(axes: Axes, colour: str | None = None) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(colour is not None)
        spine.set(color=colour, linewidth=2.2)


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def _save(figure: Figure, path: Path) -> Path:
    written = io.BytesIO()
    figure.savefig(written, dpi=_DPI, format="png")
    write_atomic(path, lambda file: file.write(written.getbuffer()))
    return path
