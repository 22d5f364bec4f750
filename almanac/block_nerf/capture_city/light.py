"""What a camera sees of a town at an hour of a day: Mitsuba traces paths under its measured model of sun and sky (Hosek and Wilkie 2012).
Radiance is linear; an exposure makes a photo of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from almanac.block_nerf.capture_city.meshes import Mesh
from almanac.block_nerf.capture_city.town import PLAIN, Town, pattern
from almanac.runtime.errors import UserError

_PATHS = {"type": "path", "max_depth": 4}  # further bounces add less than a photo's noise
_DISTANCE = {"type": "aov", "aovs": "distance:depth"}
_PAINTED = {"type": "diffuse", "reflectance": {"type": "mesh_attribute", "name": "vertex_color"}}


@dataclass(frozen=True)
class Hour:
    """Sun and sky."""

    date: tuple[int, int, int]
    """Year, month, day."""
    hour: float
    """Local standard time."""
    turbidity: float
    """Of the air: 2 is arctic, 10 hazy."""
    sun: float = 1.0
    """How much of the sun comes through the clouds, 0 to 1."""


class Studio:
    """A town in one light, ready to be photographed.

    Args:
        town: what stands there.
        hour: the light.
        place: latitude and longitude in degrees.
        timezone: hours from Greenwich.

    Raises:
        UserError: Mitsuba isn't installed.
    """

    def __init__(self, town: Town, hour: Hour, place: tuple[float, float], timezone: float = -8.0):
        self._mi = mi = _mitsuba()
        year, month, day = hour.date
        minute = round(hour.hour * 60)
        heavens = {
            "type": "sunsky",
            "latitude": place[0],
            "longitude": place[1],
            "timezone": timezone,
            "year": year,
            "month": month,
            "day": day,
            "hour": minute // 60,
            "minute": minute % 60,
            "turbidity": hour.turbidity,
        }
        self._sky = mi.load_dict({**heavens, "sun_scale": 0.0})
        self._sun = (
            self._sunlight(mi.load_dict({**heavens, "sky_scale": 0.0, "sun_scale": hour.sun})) if hour.sun else None
        )
        self._paint = mi.load_dict({"type": "twosided", "material": _PAINTED})
        self._fixed = {f"static-{name}": self._shape(name, mesh, town) for name, mesh in town.parts.items()}

    def photograph(
        self,
        pose: Float[np.ndarray, "4 4"],
        size: tuple[int, int],
        focal: float,
        samples: int,
        cars: list[Mesh],
        seed: int,
    ) -> "Photograph":
        """One view.

        Args:
            pose: camera to world; the camera looks along its −z, y is up.
            size: width and height in pixels.
            focal: in pixels.
            samples: paths a pixel.
            cars: what moves, where it is at this moment.
            seed: of the paths.
        """
        mi = self._mi
        driven = {f"car-{at}": self._mesh(f"car-{at}", each, self._paint) for at, each in enumerate(cars)}
        flip = np.diag([-1.0, 1.0, -1.0, 1.0])  # Mitsuba's camera looks along +z, x to the left
        camera = {
            "type": "perspective",
            "fov": float(np.degrees(2 * np.arctan(size[0] / 2 / focal))),
            "fov_axis": "x",
            "near_clip": 0.05,
            "far_clip": 10_000.0,
            "to_world": mi.ScalarTransform4f(pose @ flip),
            "film": {
                "type": "hdrfilm",
                "width": size[0],
                "height": size[1],
                "pixel_format": "rgb",
                "component_format": "float32",
                "rfilter": {"type": "box"},
            },
            "sampler": {"type": "independent"},
        }

        def seen(shapes: dict[str, Any], light: Any, integrator: dict[str, Any], spp: int) -> np.ndarray:
            scene = mi.load_dict(
                {"type": "scene", "light": light, "integrator": integrator, "sensor": camera, **shapes}
            )
            return np.array(mi.render(scene, spp=spp, seed=seed))

        everything = {**self._fixed, **driven}
        # The sun's light has no noise but where it was reflected before, so it takes fewer paths than the sky's.
        radiance = seen(everything, self._sky, _PATHS, samples)
        if self._sun is not None:
            radiance = radiance + seen(everything, self._sun, _PATHS, max(samples // 4, 1))
        distance = seen(self._fixed, self._sky, _DISTANCE, 4)[..., 0]
        moving = (
            seen(everything, self._sky, _DISTANCE, 4)[..., 0] != distance if driven else np.zeros(distance.shape, bool)
        )
        return Photograph(radiance, distance, moving)

    def _sunlight(self, disc: Any) -> Any:
        """The sun as if all of its light came from one point."""
        mi = self._mi
        random = np.random.default_rng(0)
        from_here = mi.SurfaceInteraction3f()
        scene = mi.load_dict({"type": "scene", "sun": disc, "floor": {"type": "rectangle"}})
        sun = next(each for each in scene.emitters())
        drawn = [sun.sample_direction(from_here, mi.Point2f(*random.random(2)), True) for _ in range(2_000)]
        up = [(np.array(sample.d), np.array(weight)) for sample, weight in drawn if np.any(np.array(weight) > 0)]
        if not up:
            return None
        direction = np.mean([d for d, _ in up], 0)
        irradiance = np.sum([weight for _, weight in up], 0) / len(drawn)
        return mi.load_dict(
            {
                "type": "directional",
                "direction": [float(-each) for each in direction],
                "irradiance": {"type": "rgb", "value": [float(each) for each in irradiance]},
            }
        )

    def _shape(self, name: str, mesh: Mesh, town: Town) -> Any:
        mi = self._mi
        if name == PLAIN:
            material = _PAINTED
        elif name == "ground":
            bitmap = mi.Bitmap(np.ascontiguousarray(town.ground))
            material = {
                "type": "diffuse",
                "reflectance": {"type": "bitmap", "bitmap": bitmap, "wrap_mode": "clamp"},
            }
        else:
            trim, glass = pattern(name)
            weights = [
                {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(each[..., None])), "raw": True}
                for each in (trim, glass)
            ]
            frames = {"type": "blendbsdf", "weight": weights[0], "a": _PAINTED, "b": _grey(0.78)}
            panes = {
                "type": "roughplastic",
                "diffuse_reflectance": {"type": "rgb", "value": [0.02, 0.025, 0.03]},
                "alpha": 0.1,
            }
            material = {"type": "blendbsdf", "weight": weights[1], "a": frames, "b": panes}
        return self._mesh(name, mesh, mi.load_dict({"type": "twosided", "material": material}))

    def _mesh(self, name: str, mesh: Mesh, material: Any) -> Any:
        mi = self._mi
        facts = mi.Properties()
        facts["mesh_bsdf"] = material
        found = mi.Mesh(
            name, len(mesh.vertices), len(mesh.faces), has_vertex_normals=False, has_vertex_texcoords=True, props=facts
        )
        found.add_attribute("vertex_color", 3, mesh.colours.astype(np.float32).ravel())
        told = mi.traverse(found)  # rows of a bitmap go down
        told["vertex_positions"] = mesh.vertices.astype(np.float32).ravel()
        told["faces"] = mesh.faces.astype(np.uint32).ravel()
        told["vertex_texcoords"] = (mesh.texture * (1, -1) + (0, 1)).astype(np.float32).ravel()
        told.update()
        return found


@dataclass(frozen=True)
class Photograph:
    """What a pixel sees."""

    radiance: Float[np.ndarray, "height width 3"]
    """Linear."""
    distance: Float[np.ndarray, "height width"]
    """Metres along the ray to what is there; 0 in the sky."""
    moving: Bool[np.ndarray, "height width"]
    """Where a car that drives is seen, be it in a part of the pixel."""


def developed(radiance: Float[np.ndarray, "*pixels 3"], exposure: float) -> UInt8[np.ndarray, "*pixels 3"]:
    """A photo: radiance times exposure, cut off at 1, with sRGB's curve."""
    linear = np.clip(radiance * exposure, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(curved * 255).astype(np.uint8)


def _grey(value: float) -> dict[str, Any]:
    return {"type": "diffuse", "reflectance": {"type": "rgb", "value": [value] * 3}}


def _mitsuba() -> Any:
    try:
        import mitsuba
    except ImportError as error:
        raise UserError("Mitsuba, which renders the city, isn't installed", "pip install 'almanac[city]'") from error
    mitsuba.set_variant("scalar_rgb")
    return mitsuba
