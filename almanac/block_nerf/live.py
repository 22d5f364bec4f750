"""A city that somebody flies through: a thread that draws what the newest wish says, small and quick while it changes, then larger and
larger while it stands; a large picture is given up as soon as there is a newer wish. Drawing is `render`'s, and what comes out of it is
what the command line draws. How packets travel is left to `connection`."""

import colorsys
import io
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from almanac.block_nerf import render
from almanac.block_nerf.cameras import Camera, Rays, rays_of
from almanac.block_nerf.city import About, City, Loaded
from almanac.block_nerf.model import View
from almanac.block_nerf.render import Abandoned, Appearance, Method, Picture
from almanac.runtime.connection import Sink
from almanac.runtime.errors import UserError
from almanac.runtime.serving import Turns
from almanac.runtime.watching import Patience, Watched

Overlay = Literal["colours", "weights", "visibility", "depth"]
OVERLAYS: tuple[Overlay, ...] = get_args(Overlay)
"""What is drawn: the city; which block each pixel is from; how well blocks' photos saw it; how far it is."""
EYE = 1.5
"""Metres above the ground that somebody looks from."""
MOVING = (128, 160, 192, 256, 320)
"""Pixels across a picture while things move: as many as are quick enough; all pictures are four by three."""
STILL = (160, 320, 640)
"""Across those that follow while they stand, one after the other."""
STOPS = 2.0
"""Of exposure, more or less, at most."""

_RATE = 11.0  # pictures a second that are aimed for while things move
_NEWEST = 0.3  # of the newest measurement in the rate
_SETTLED = 0.08  # s without a newer wish, after which things stand
_QUALITY = {False: 72, True: 94}  # of the JPEG, moving and still
_WIDEST = 1.2  # half of the picture's width over the focal length, at most: 100° across
_RAYS = 8_192  # that are asked for visibility at once
_NEAREST, _FARTHEST = 1.0, 120.0  # metres, of the colours of depth
_KEPT = 8  # blocks that are read ahead, the nearest: as many as a city keeps in memory
_AROUND, _DOWN = 16, (14.0, 20.0)  # lines of sight to the ground round about, and how steep they are, in degrees
_TRUSTED = (1.0, 0.2)
"""Metres that the ground may be away from the rough height, and for each metre from where that is known."""
_CALM, _AFAR = 3.0, 15.0  # metres walked in which a new height is believed, and after which it is at once


@dataclass(frozen=True)
class Look:
    """What somebody wants to see."""

    number: int
    """Of the wish; its pictures carry it."""
    position: tuple[float, float, float]
    """In the world's metres."""
    yaw: float
    """Radians from the x axis, counterclockwise as seen from above."""
    pitch: float
    """Radians above the horizon."""
    light: float = 0.0
    """A session's number, or one between two."""
    stops: float = 0.0
    """Of exposure, above the capture's middle one."""
    method: Method = "idw"
    overlay: Overlay = "colours"
    alone: str | None = None
    """The only block that is shown; None: the mixture."""

    def pose(self) -> Float[np.ndarray, "4 4"]:
        """Camera to world."""
        (cos, sin), (level, up) = ((np.cos(angle), np.sin(angle)) for angle in (self.yaw, self.pitch))
        forward = np.array([cos * level, sin * level, up])
        right = np.array([sin, -cos, 0.0])
        found = np.eye(4)
        found[:3, :3] = np.column_stack([right, np.cross(right, forward), -forward])
        found[:3, 3] = self.position
        return found

    def appearance(self, sessions: int) -> Appearance:
        """Its light, as shares of the two sessions that it is between, and its exposure.

        Args:
            sessions: that the city has.
        """
        at = min(max(self.light, 0.0), sessions - 1.0)
        shares = np.clip(1 - np.abs(np.arange(sessions) - at), 0, 1)
        return Appearance(tuple(float(share) for share in shares), 2.0**self.stops)


@dataclass(frozen=True)
class Shown:
    """A city that several people may look at."""

    name: str
    city: City
    turns: Turns
    """Of the processor: one picture is computed at a time, a part of it in a turn."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While the city is asked."""
        self.turns.acquire()
        try:
            yield
        finally:
            self.turns.release()

    def drawn(
        self, look: Look, width: int, wanted: Callable[[], bool] = lambda: True
    ) -> tuple[Picture, UInt8[np.ndarray, "height width 3"]]:
        """A picture, and how it is painted.

        Args:
            look: what is wanted.
            width: of it, in pixels.
            wanted: whether it still is; others have their turns before it is asked.

        Raises:
            Abandoned: it isn't wanted any more.
        """

        def still() -> bool:
            self.turns.release()
            self.turns.acquire()
            return wanted()

        camera = lens(self.city.about.camera).scaled(width, width * 3 // 4)
        appearance = look.appearance(self.city.about.sessions)
        alone = look.alone is not None
        with self.turn():
            picture = render.view(self.city, camera, look.pose(), appearance, look.method, alone, still)
            return picture, _painted(self.city, camera, look, picture, still)


def lens(camera: Camera) -> Camera:
    """What is looked through: as high a field of view as the photos', four by three, and without distortion.

    Args:
        camera: of the photos.
    """
    focal = max(camera.focal[1] / camera.height * 480, 320 / _WIDEST)
    return Camera(640, 480, (focal, focal), (320.0, 240.0))


def start(about: About) -> tuple[tuple[float, float, float], float]:
    """Where one begins, and the yaw: at the crossing that is most in the middle, along the street that leads nearest to another block;
    else in the middle block, towards its neighbour."""
    middle = np.mean([place.origin[:2] for place in about.places], 0)
    near = sorted(about.places, key=lambda place: float(np.hypot(*(place.origin[:2] - middle))))
    for crossing in sorted(about.crossings, key=lambda each: float(np.hypot(*(each["place"][:2] - middle)))):
        x, y, z = crossing["place"]
        if near[0].holds(np.array([x, y, z])):
            others = np.array([place.origin[:2] for place in near[1:] or near])
            ends = np.array([arm[-1] for arm in crossing["arms"]])
            away = np.linalg.norm(ends[:, None] - others, axis=-1).min(1)
            to = ends[int(away.argmin())] - (x, y)
            return (float(x), float(y), float(z) + EYE), float(np.arctan2(to[1], to[0]))
    to = np.subtract(near[min(1, len(near) - 1)].origin, near[0].origin)
    return near[0].origin, float(np.arctan2(to[1], to[0]))


def height(about: About, x: float, y: float) -> tuple[float, float]:
    """Of the ground at a place, roughly: as at the crossings round about, or where there is none as below the blocks' middles.

    Returns:
        metres, and how far the nearest place is where it is known.
    """
    points = np.array([each["place"] for each in about.crossings] or [place.origin for place in about.places])
    away = np.hypot(points[:, 0] - x, points[:, 1] - y)
    z = float(np.average(points[:, 2], weights=1 / (away**2 + 1)))
    return z if about.crossings else z - EYE, float(away.min())


@torch.no_grad()
def ground(city: City, x: float, y: float, near: float) -> float | None:
    """How high the ground is at a place: the middle of what pairs of opposite lines of sight meet there, which a slope doesn't change.

    Args:
        city: which.
        x: metres.
        y: metres.
        near: roughly how high it is.

    Returns:
        metres; None: too little is seen of it.
    """
    place = min(city.places, key=lambda each: float(np.hypot(each.origin[0] - x, each.origin[1] - y)))
    around, down = np.meshgrid(np.arange(_AROUND) * 2 * np.pi / _AROUND, np.radians(_DOWN))
    directions = np.stack([np.cos(around) * np.cos(down), np.sin(around) * np.cos(down), -np.sin(down)], -1)
    directions = torch.from_numpy(directions.reshape(-1, 3)).float()
    origins = torch.tensor([x, y, near + EYE]).expand(len(directions), 3)
    seen = render.looked(
        city.block(place.name), Rays(origins, directions, torch.full((len(origins),), 5e-3)), Appearance()
    )
    met = torch.where(seen.opacity > 0.9, directions[:, 2] * seen.distance, torch.nan).reshape(len(_DOWN), 2, -1)
    pairs = met.mean(1).ravel()
    pairs = pairs[pairs.isfinite()]
    return near + EYE + float(pairs.median()) if len(pairs) >= _AROUND // 2 else None


def colour(number: int) -> tuple[int, int, int]:
    """Of a block: hues as far from each other as they get, however many there are."""
    red, green, blue = colorsys.hls_to_rgb((0.5 + 0.381966 * number) % 1, 0.54, 0.5)
    return round(255 * red), round(255 * green), round(255 * blue)


def _painted(
    city: City, camera: Camera, look: Look, picture: Picture, wanted: Callable[[], bool]
) -> UInt8[np.ndarray, "height width 3"]:
    """What is to be seen of a picture."""
    shape, names = picture.distance.shape, [place.name for place in city.places]
    asked = [(part.place.name, part.view, part.weights) for part in picture.parts if part.view is not None]
    alone = [(name, view, torch.ones(len(view.distance))) for name, view, _ in asked if name == look.alone]
    layers = alone or [(name, view, weight) for name, view, weight in asked if weight is not None]

    def mixed(value: Callable[[str, View], Tensor]) -> np.ndarray:
        parts = [weight[:, None] * value(name, view).reshape(len(weight), -1) for name, view, weight in layers]
        return torch.stack(parts).sum(0).reshape(*shape, -1).squeeze(-1).numpy()

    colours = mixed(lambda _, view: view.colours) if alone else picture.colours
    if look.overlay == "weights":
        hues = torch.tensor([colour(number) for number in range(len(names))]) / 255
        hue = mixed(lambda name, view: hues[names.index(name)].expand(len(view.distance), 3))
        colours = hue * (0.25 + 0.75 * (colours @ np.array([0.299, 0.587, 0.114])))[..., None]
    elif look.overlay == "visibility":
        rays = rays_of(camera, look.pose(), camera.all_pixels().reshape(-1, 2))
        colours = mixed(lambda name, view: _seen(city.block(name), rays, view.distance, wanted))[..., None].repeat(
            3, -1
        )
    elif look.overlay == "depth":
        import matplotlib

        far = mixed(lambda _, view: view.distance).clip(_NEAREST, _FARTHEST)
        part = np.log(far / _NEAREST) / np.log(_FARTHEST / _NEAREST)
        opacity = mixed(lambda _, view: view.opacity)[..., None].clip(0, 1)
        colours = matplotlib.colormaps["turbo"](1 - part)[..., :3] * opacity
    return np.round(255 * colours.clip(0, 1)).astype(np.uint8)


@torch.no_grad()
def _seen(
    loaded: Loaded, rays: Rays, distance: Float[Tensor, " rays"], wanted: Callable[[], bool]
) -> Float[Tensor, " rays"]:
    """How well a block's photos saw what each ray meets."""
    found = []
    for first in range(0, len(distance), _RAYS):
        if not wanted():
            raise Abandoned
        some = render.local(rays.of(slice(first, first + _RAYS)), loaded.place)
        unit = torch.nn.functional.normalize(some.directions, dim=-1)
        points = some.origins + unit * distance[first : first + _RAYS, None]
        found.append(torch.sigmoid(loaded.block.visibility(points, unit)))
    return torch.cat(found)


def pack(head: dict[str, Any], picture: UInt8[np.ndarray, "height width 3"], still: bool) -> bytes:
    """What is shown, as one packet: the length of the JSON (four bytes, little-endian), the JSON, and a JPEG.

    Args:
        head: what the JSON holds.
        picture: what is seen.
        still: whether it has time to be fine.
    """
    file, said = io.BytesIO(), json.dumps(head).encode()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY[still], subsampling=0 if still else 2)
    return struct.pack("<I", len(said)) + said + file.getvalue()


def unpack(packet: bytes) -> tuple[dict[str, Any], UInt8[np.ndarray, "height width 3"]]:
    """What `pack` packed."""
    (length,) = struct.unpack_from("<I", packet)
    head = json.loads(packet[4 : 4 + length])
    return head, np.array(Image.open(io.BytesIO(packet[4 + length :])).convert("RGB"))


class Session(Watched):
    """A city that somebody looks at, and the thread that draws it.

    Args:
        opens: a city by its name.
        name: of the city.
        on_end: is told that the session has ended.
        patience: how long it waits.
    """

    def __init__(
        self,
        opens: Callable[[str], Shown],
        name: str,
        on_end: Callable[["Session"], None] = lambda session: None,
        patience: Patience | None = None,
    ):
        super().__init__("flight", on_end, patience)
        self._opens = opens
        self._news = threading.Event()
        self._chosen = name  # the city that is wanted
        self._shown: Shown | None = None
        self._look: Look | None = None
        self._is_hidden = False
        self._drawn: Look | None = None
        self._due: list[int] = []  # pixels across what follows while it stands
        self._pictures, self._rate = 0, 0.0
        self._ground = (np.nan, np.nan, 0.0)  # x, y and how high it is there

    def _wake(self) -> None:
        self._news.set()

    def _joined(self, sink: Sink) -> None:
        shown = self._shown
        if shown is not None:
            sink.tell(_about(shown))
        self._drawn = None
        self._wake()

    def ask(self, look: Look, name: str) -> None:
        """See something else.

        Args:
            look: what.
            name: of the city that it is of; of another one than is shown it is let go.
        """
        self.touch()
        shown = self._shown
        if shown is not None and name == shown.name == self._chosen:
            self._look = look
        self._news.set()

    def hide(self, is_hidden: bool) -> None:
        """Draw nothing while nobody looks.

        Args:
            is_hidden: whether nobody does.
        """
        self.touch()
        self._is_hidden = is_hidden
        self._news.set()

    def choose(self, name: str) -> None:
        """Look at another city.

        Args:
            name: of it.
        """
        self.touch()
        self._chosen = name
        self._news.set()

    def saved(self) -> bytes:
        """What is looked at, 640 by 480, as a PNG.

        Raises:
            UserError: nothing is, yet.
            Abandoned: the session has ended.
        """
        shown, look = self._shown, self._look
        if shown is None or look is None:
            raise UserError("nothing is looked at yet", "wait for the first picture")
        _, pixels = shown.drawn(look, STILL[-1], lambda: not self.is_ended)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    def _live(self) -> None:
        while not self.is_ended and not self._gives_up():
            self._news.clear()
            with suppress(Abandoned):
                if not self._goes_on():
                    self._news.wait(0.5)

    def _goes_on(self) -> bool:
        """Do what is most urgent; whether there was anything."""
        shown, look = self._shown, self._look
        if shown is None or shown.name != self._chosen:
            self._enter(self._chosen)
            return True
        if look is None or self._is_hidden or self._sink is None:
            return self._read_ahead(shown)
        if self._drawn is not look:
            width = self._quick()
            self._draw(shown, look, width, still=False)
            self._due = [larger for larger in STILL if larger >= width]
        elif not self._due:
            return self._read_ahead(shown)
        elif not self._news.wait(_SETTLED):
            self._draw(shown, look, self._due[0], still=True)
            self._due = self._due[1:]
        return True

    def _enter(self, name: str) -> None:
        """Another city, its blocks read and everything compiled before anyone flies."""
        self._tell({"type": "phase", "doing": f"reading {name}"})
        shown, self._shown = self._opens(name), None
        (x, y, z), yaw = start(shown.city.about)
        first = Look(0, (x, y, z), yaw, 0.0)
        for place in _nearest(shown, first)[:_KEPT]:
            with shown.turn():
                shown.city.block(place)
        shown.drawn(first, 16, lambda: not self.is_ended)
        self._look = self._drawn = None
        self._ground, self._rate = (x, y, z - EYE), 0.0
        self._shown = shown
        self._tell(_about(shown))

    def _read_ahead(self, shown: Shown) -> bool:
        """Read blocks that may be flown to; whether there is anything else to do now."""
        for name in _nearest(shown, self._look)[:_KEPT] if self._look else []:
            if self._news.is_set():
                return True
            with shown.turn():
                shown.city.block(name)
        return False

    def _quick(self) -> int:
        """Pixels across a picture that is drawn in time."""
        return max((width for width in MOVING if width * width * 3 / 4 <= self._rate / _RATE), default=MOVING[0])

    def _draw(self, shown: Shown, look: Look, width: int, still: bool) -> None:
        """A picture; one of something that stands is abandoned when it doesn't any more."""

        def wanted() -> bool:
            return not self.is_ended and shown.name == self._chosen and not (still and self._look is not look)

        begun = time.monotonic()
        picture, pixels = shown.drawn(look, width, wanted)
        if not still:
            rate = pixels.shape[0] * pixels.shape[1] / max(time.monotonic() - begun, 1e-6)
            self._rate += (_NEWEST if self._rate else 1.0) * (rate - self._rate)
            self._feel(shown, look)
        self._drawn = look
        self._pictures += 1
        sink = self._sink
        if sink is not None:
            parts = [(each.place.name, each.visibility, each.weights) for each in picture.parts]
            head = {
                "picture": self._pictures,
                "number": look.number,
                "city": shown.name,
                "size": [pixels.shape[1], pixels.shape[0]],
                "still": still,
                "last": still and width == STILL[-1],
                "ground": round(self._ground[2], 4),
                "parts": [
                    {"name": name, "visibility": seen, "weight": 0.0 if weights is None else float(weights.mean())}
                    for name, seen, weights in parts
                ],
            }
            sink.offer(pack(head, pixels, still))

    def _feel(self, shown: Shown, look: Look) -> None:
        """For the ground below: near enough to the rough height, and without jumps but for who came from afar."""
        x, y, _ = look.position
        moved = float(np.hypot(x - self._ground[0], y - self._ground[1]))
        if moved < 0.05:
            return
        rough, away = height(shown.city.about, x, y)
        before, slack = rough if moved > _AFAR else self._ground[2], _TRUSTED[0] + _TRUSTED[1] * away
        with shown.turn():
            found = ground(shown.city, x, y, before)
        found = before if found is None else found
        z = before + min(moved / _CALM, 1.0) * (found - before)
        self._ground = (x, y, min(max(z, rough - slack), rough + slack))


def _nearest(shown: Shown, look: Look) -> list[str]:
    """Names of blocks, the nearest first."""
    x, y, _ = look.position
    places = sorted(shown.city.places, key=lambda place: float(np.hypot(place.origin[0] - x, place.origin[1] - y)))
    return [place.name for place in places]


def _about(shown: Shown) -> dict[str, Any]:
    """What a page has to know of a city."""
    about = shown.city.about
    named = dict(enumerate(about.lights))
    position, yaw = start(about)
    camera = lens(about.camera)
    return {
        "type": "city",
        "city": shown.name,
        "places": [
            {
                "name": place.name,
                "x": place.origin[0],
                "y": place.origin[1],
                "radius": place.radius,
                "colour": colour(at),
            }
            for at, place in enumerate(about.places)
        ],
        "streets": [arm for crossing in about.crossings for arm in crossing["arms"]],
        "lights": [named.get(n) or f"light {n + 1}" for n in range(about.sessions)],
        "attribution": about.attribution,
        "exposure": about.exposure,
        "camera": {"w": camera.width, "h": camera.height, "focal": camera.focal[0]},
        "start": {"at": position, "yaw": yaw, "eye": EYE},
    }
