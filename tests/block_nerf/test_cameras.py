import numpy as np
import pytest
import torch

from almanac.block_nerf.cameras import Camera, rays_of
from almanac.runtime.errors import UserError

LENSES = [
    Camera(64, 48, (50.0, 52.0), (31.0, 25.0)),
    Camera(64, 48, (50.0, 50.0), (32.0, 24.0), "SIMPLE_RADIAL", (-0.05,)),
    Camera(64, 48, (50.0, 50.0), (32.0, 24.0), "OPENCV", (0.06, -0.02, 0.004, -0.003)),
    Camera(64, 48, (30.0, 30.0), (32.0, 24.0), "OPENCV_FISHEYE", (0.03, -0.01, 0.002, 0.0)),
]


@pytest.mark.parametrize("camera", LENSES, ids=lambda camera: camera.model)
def test_a_point_on_a_pixels_ray_is_in_that_pixel(camera):
    pixels = camera.all_pixels().reshape(-1, 2)
    points = camera.directions(pixels) * np.random.default_rng(0).uniform(0.5, 20, (len(pixels), 1))
    assert np.abs(camera.projected(points) - pixels).max() < 1e-6


def test_a_camera_looks_along_its_minus_z_with_y_up():
    camera = Camera(4, 4, (2.0, 2.0), (2.0, 2.0))
    upper_left = camera.directions(np.array([0.5, 0.5]))
    assert np.allclose(upper_left, [-0.75, 0.75, -1])


def test_rays_start_at_the_camera_and_turn_with_it():
    pose = np.array([[0.0, 0, -1, 3], [-1, 0, 0, 4], [0, 1, 0, 5], [0, 0, 0, 1]])  # looks along +x, up is z
    rays = rays_of(LENSES[0], pose, np.array([[31.0, 25.0]]))
    assert torch.equal(rays.origins, torch.tensor([[3.0, 4.0, 5.0]]))
    assert torch.allclose(rays.directions, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(rays.radii, torch.tensor([1 / 50 * 2 / 12**0.5]), atol=1e-6)


def test_fewer_pixels_see_the_same():
    small = LENSES[2].scaled(32, 24)
    assert np.allclose(
        small.directions(np.array([[10.0, 5.0]])), LENSES[2].directions(np.array([[20.0, 10.0]])), atol=1e-9
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "EQUIRECTANGULAR"},
        {"model": "SIMPLE_RADIAL", "distortion": (0.1, 0.2)},
        {"focal": (0.0, 50.0)},
    ],
)
def test_lenses_that_are_none_are_said(wrong):
    with pytest.raises(UserError):
        Camera(**{"width": 64, "height": 48, "focal": (50.0, 50.0), "centre": (32.0, 24.0), **wrong})
