"""Nerfstudio's nerfacto, as it comes but in its PyTorch implementation, on a folder with a transforms.json; run by the Python of an
environment of its own: python block_nerf_nerfacto.py DATA SECONDS RAYS THREADS OUT. It trains for so many seconds; then each test photo's
appearance is fitted to its left half, as ours is, and what it sees is written to OUT as PNGs, with rates in rates.json."""

# ruff: noqa: E402

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

_OPERATORS = torch.library.Library("torchvision", "DEF")  # its own need PyTorch's CUDA build; nothing here calls them
for each in ("nms", "qnms"):
    _OPERATORS.define(f"{each}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from PIL import Image
from torchmetrics.image import lpip

ITERATIONS, RATE, LOOKED_AT = 100, 0.05, 512  # of the fit of an appearance, as ours but for fewer pixels: it takes long


class Fitted(torch.nn.Module):
    """Stands where nerfacto keeps its photos' appearances: their mean is the one that is fitted."""

    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.code = torch.nn.Parameter(start.clone())

    def mean(self, dim: int) -> torch.Tensor:
        return self.code


def main(data: Path, seconds: float, rays: int, threads: int, out: Path) -> None:
    torch.manual_seed(0)
    lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: torch.nn.Identity()  # its weights are elsewhere
    torch.set_num_threads(threads)
    began = time.perf_counter()
    pipeline = VanillaPipelineConfig(
        datamanager=VanillaDataManagerConfig(
            dataparser=NerfstudioDataParserConfig(data=data, downscale_factor=1), train_num_rays_per_batch=rays
        ),
        model=NerfactoModelConfig(
            implementation="torch",
            average_init_density=0.01,
            camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
        ),
    ).setup(device="cpu", test_mode="test")
    adam = {
        name: {
            "optimizer": AdamOptimizerConfig(lr=rate, eps=1e-15),
            "scheduler": ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=until),
        }
        for name, rate, until in (
            ("proposal_networks", 1e-2, 200_000),
            ("fields", 1e-2, 200_000),
            ("camera_opt", 1e-3, 5_000),
        )
    }
    optimizers = Optimizers(adam, pipeline.get_param_groups())
    told = TrainingCallbackAttributes(optimizers, None, pipeline, None)
    callbacks = pipeline.get_training_callbacks(told)
    prepared, taken, step = time.perf_counter() - began, [], 0
    pipeline.train()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for each in callbacks:
            each.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        optimizers.zero_grad_all()
        _, losses, _ = pipeline.get_train_loss_dict(step)
        sum(losses.values()).backward()
        optimizers.optimizer_step_all()
        optimizers.scheduler_step_all(step)
        for each in callbacks:
            each.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        taken.append(time.perf_counter() - start)
        step += 1
        print(f"step {step}, {taken[-1]:.2f} s", file=sys.stderr, flush=True)
    pipeline.eval()
    looks = look(pipeline, out)
    rates = {
        "steps": step,
        "prepared_s": round(prepared, 1),
        "rays_per_s": round(rays / float(np.median(taken[1:] or taken))),
        "looks_rays_per_s": round(looks),
    }
    (out / "rates.json").write_text(json.dumps(rates))


def look(pipeline: torch.nn.Module, out: Path) -> float:
    """Render the test photos; rays a second, without the fits."""
    model, dataset = pipeline.model, pipeline.datamanager.eval_dataset
    mean = model.field.embedding_appearance.mean(dim=0).detach()
    spent, seen = 0.0, 0
    for number in range(len(dataset)):
        model.field.embedding_appearance = Fitted(mean)
        photo = dataset[number]["image"]
        height, width = photo.shape[:2]
        bundle = dataset.cameras.generate_rays(camera_indices=number, keep_shape=True)
        left = torch.zeros(height, width, dtype=torch.bool)
        left[:, : width // 2] = True
        if "mask" in dataset[number]:
            left &= dataset[number]["mask"].bool().reshape(height, width)
        here = torch.nonzero(left)
        here = here[:: -(-len(here) // LOOKED_AT)]
        some, truth = bundle[here[:, 0], here[:, 1]], photo[here[:, 0], here[:, 1]]
        optimizer = torch.optim.Adam(model.field.embedding_appearance.parameters(), RATE)
        shape, weights = met(model, some)
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            (lit(model, shape, weights) - truth).square().mean().backward()
            optimizer.step()
        start = time.perf_counter()
        with torch.no_grad():
            colours = model.get_outputs_for_camera_ray_bundle(bundle)["rgb"]
        spent, seen = spent + time.perf_counter() - start, seen + height * width
        name = Path(dataset.image_filenames[number]).stem
        Image.fromarray((colours.clamp(0, 1).numpy() * 255).round().astype(np.uint8)).save(out / f"{name}.png")
    return seen / spent


def met(model: torch.nn.Module, bundle: object) -> tuple:
    """What rays meet, whatever the appearance."""
    with torch.no_grad():
        samples, _, _ = model.proposal_sampler(model.collider(bundle), density_fns=model.density_fns)
        density, features = model.field.get_density(samples)
        return (samples, features), samples.get_weights(density)


def lit(model: torch.nn.Module, shape: tuple, weights: torch.Tensor) -> torch.Tensor:
    """Its colours by the appearance that is fitted."""
    samples, features = shape
    outputs = model.field.get_outputs(samples, density_embedding=features)
    return model.renderer_rgb(rgb=outputs[FieldHeadNames.RGB], weights=weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
