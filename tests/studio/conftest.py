"""Small models that nobody trained: enough for what a page does with a model, whatever the model does with a picture."""

import pytest
import torch

from almanac.cold_diffusion import page
from almanac.cold_diffusion.degradations import Blur, Colour, Degradation, Mask, to_json
from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.runtime import checkpoint, hub


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """A weights folder with a grey and two colour models of 16 pixels a side."""
    models: dict[str, tuple[Degradation, int]] = {
        "mnist-blur": (Blur(4, kernel_size=5, to_mean=True), 1),
        "emoji-mask": (Mask(4), 3),
        "emoji-colour": (Colour(4), 3),
    }
    for name, (degradation, channels) in models.items():
        torch.manual_seed(0)
        network = Unet(UnetConfig(8, (1, 2), channels))
        prior = degradation.fit_prior(torch.rand(32, channels, 16, 16) * 2 - 1)
        tensors = {f"model.{key}": tensor for key, tensor in network.state_dict().items()}
        tensors |= {f"prior.{key}": tensor for key, tensor in prior.items()}
        facts = {
            "system": "cold_diffusion",
            "data": name.split("-")[0],
            "degradation": to_json(degradation),
            "network": {"dim": 8, "dim_mults": [1, 2], "channels": channels},
            "size": 16,
        }
        checkpoint.save_weights(tmp_path / "cold_diffusion" / f"{name}.safetensors", tensors, facts)
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    page._load.cache_clear()
    yield tmp_path
    page._load.cache_clear()
