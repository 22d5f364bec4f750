"""What a camera sees of a town at an hour of a day: Mitsuba traces paths under its measured model of sun and sky (Hosek and Wilkie 2012).
What few paths leave of noise, Open Image Denoise takes away. Radiance is linear; an exposure makes a photo of it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from almanac.block_nerf.capture_city.meshes import Mesh
from almanac.block_nerf.capture_city.town import PLAIN, Town, pattern
from almanac.runtime.errors import UserError

_PATHS = {"type": "path", "max_depth": 4}  # further bounces add less than a photo's noise
_DISTANCE = {"type": "aov", "aovs": "distance:depth"}
_LOOKS = 4  # rays of a pixel that measure distances
_SURFACES = {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}
_FEWEST = 8  # rays of a pixel that say what is there, to whatever takes the noise away
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

    @cached_property
    def empty(self) -> "Stage":
        """Without cars that drive."""
        return Stage(self, [])

    def with_cars(self, cars: list[Mesh]) -> "Stage":
        """With cars that drive, where they are at one moment."""
        return Stage(self, cars) if cars else self.empty

    def scenes(self, cars: list[Mesh]) -> tuple[Any, Any]:
        """What stands in the town and some cars, under the sky, and under the sun if there is one."""
        driven = {f"car-{at}": self._mesh(f"car-{at}", each, self._paint) for at, each in enumerate(cars)}
        lit = [
            None if light is None else self._mi.load_dict({"type": "scene", "light": light, **self._fixed, **driven})
            for light in (self._sky, self._sun)
        ]
        return lit[0], lit[1]

    def render(self, scene: Any, sensor: Any, integrator: dict[str, Any], samples: int, seed: int) -> np.ndarray:
        """One picture.

        Args:
            scene: of `scenes`.
            sensor: of `camera`.
            integrator: what a path brings back.
            samples: paths a pixel.
            seed: of the paths.
        """
        how = self._mi.load_dict(integrator)
        return np.array(self._mi.render(scene, sensor=sensor, integrator=how, spp=samples, seed=seed))

    def camera(self, pose: Float[np.ndarray, "4 4"], size: tuple[int, int], focal: float) -> Any:
        """A pinhole.

        Args:
            pose: camera to world; the camera looks along its −z, y is up.
            size: width and height in pixels.
            focal: in pixels.
        """
        flip = np.diag([-1.0, 1.0, -1.0, 1.0])  # Mitsuba's camera looks along +z, x to the left
        return self._mi.load_dict(
            {
                "type": "perspective",
                "fov": float(np.degrees(2 * np.arctan(size[0] / 2 / focal))),
                "fov_axis": "x",
                "near_clip": 0.05,
                "far_clip": 10_000.0,
                "to_world": self._mi.ScalarTransform4f(pose @ flip),
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
        )

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


class Stage:
    """A town at one moment: what finds out where rays meet it is made once for all photos of that moment.

    Args:
        studio: the town and its light.
        cars: that drive.
    """

    def __init__(self, studio: Studio, cars: list[Mesh]):
        self._studio, self._sky_and_sun, self._driven = studio, studio.scenes(cars), bool(cars)

    def photograph(
        self, pose: Float[np.ndarray, "4 4"], size: tuple[int, int], focal: float, samples: int, seed: int
    ) -> "Photograph":
        """One view.

        Args:
            pose: camera to world; the camera looks along its −z, y is up.
            size: width and height in pixels.
            focal: in pixels.
            samples: paths a pixel.
            seed: of the paths.
        """
        (sky, sun), render = self._sky_and_sun, self._studio.render
        camera = self._studio.camera(pose, size, focal)
        # The sun's light has no noise but where it was reflected before, so it takes fewer paths than the sky's.
        noisy = render(sky, camera, _PATHS, samples, seed)
        if sun is not None:
            noisy = noisy + render(sun, camera, _PATHS, max(samples // 2, 1), seed)
        surfaces = render(sky, camera, _SURFACES, max(samples // 2, _FEWEST), seed)
        radiance = _denoised(noisy, surfaces[..., :3], surfaces[..., 3:])
        distance = render(sky, camera, _DISTANCE, _LOOKS, seed)[..., 0]
        moving = np.zeros(distance.shape, bool)
        if self._driven:
            still, _ = self._studio.empty._sky_and_sun
            behind = render(still, camera, _DISTANCE, _LOOKS, seed)[..., 0]
            moving, distance = distance != behind, behind
        return Photograph(radiance, distance, moving)


@dataclass(frozen=True)
class Photograph:
    """What a pixel sees."""

    radiance: Float[np.ndarray, "height width 3"]
    """Linear."""
    distance: Float[np.ndarray, "height width"]
    """Metres along the ray to what is there; 0 in the sky."""
    moving: Bool[np.ndarray, "height width"]
    """Where a car that drives is seen, be it in a part of the pixel."""


def _denoised(
    radiance: Float[np.ndarray, "height width 3"],
    albedo: Float[np.ndarray, "height width 3"],
    normal: Float[np.ndarray, "height width 3"],
) -> Float[np.ndarray, "height width 3"]:
    """By Open Image Denoise, which is told what the surfaces are. It expects light of about 1."""
    import pyoidn

    full = max(float(np.median(radiance)), 1e-6)
    guides = [np.nan_to_num(each).astype(np.float32) for each in (albedo.clip(0, 1), normal)]
    found = pyoidn.denoise((radiance / full).astype(np.float32), albedo=guides[0], normal=guides[1], hdr=True)
    return np.asarray(found) * full


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
        import pyoidn  # noqa: F401
    except ImportError as error:
        what = f"{error.name}, which the city is rendered with, isn't installed"
        raise UserError(what, "pip install 'almanac[city]'") from error
    mitsuba.set_variant("scalar_rgb")
    return mitsuba
