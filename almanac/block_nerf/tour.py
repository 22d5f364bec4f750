"""The tour of Block-NeRF: a drive through the city that ships, from block to block, while the light goes from one session's to another's;
and one of its views, with what each block near the camera makes of it."""

from pathlib import Path

import numpy as np

from almanac.block_nerf import api, export, figures, ways
from almanac.block_nerf.city import City
from almanac.block_nerf.render import Appearance, fading
from almanac.runtime.errors import UserError
from almanac.runtime.report import Section

SIZE = (192, 144)
"""Of a picture of the drive."""
PICTURES, RATE = 60, 10
"""Of the drive, and of a second."""


def run(out: Path) -> Section:
    """Run once on the city that ships.

    Args:
        out: folder for the film and the picture.

    Raises:
        UserError: no city ships.
    """
    shipped = api.cities()
    if not shipped:
        raise UserError("no city ships with this copy", "make one: almanac block-nerf capture-city, then train")
    folder = next(iter(shipped.values()))
    city = City(folder)
    places = ways.through(city)
    length = float(np.linalg.norm(np.diff(places, axis=0), axis=-1).sum())
    poses = ways.along(places, length / (PICTURES - 1))
    shares = np.linspace(0, 1, len(poses))
    lights = [fading(Appearance(0), city.about.sessions - 1, float(share)) for share in shares]
    film = out / "drive.mp4"
    export.film(city, city.about.camera.scaled(*SIZE), poses, film, lights, rate=RATE)
    between = poses[len(poses) // 3]
    scheme = figures.draw_scheme(city, city.about.camera, between, out / "view.png")
    rows = [
        {
            "block": place.name,
            "radius, m": round(place.radius),
            "photos": city.block(place.name).facts.get("photos"),
            "steps": city.block(place.name).facts.get("steps"),
            "minutes": round(float(city.block(place.name).facts.get("seconds", 0.0)) / 60, 1),
        }
        for place in city.places
    ]
    lit = city.about.lights
    change = f"from the light of {lit[0]} to that of {lit[-1]}" if len(lit) > 1 else "in one light"
    return Section(
        f"A drive of {length:.0f} m through {len(city.places)} blocks, each learnt alone, {change}. {city.about.attribution}",
        figures=[(film, "The drive"), (scheme, "A view, and what each block near the camera makes of it")],
        rows=rows,
    )
