"""Our network against its equations written out plainly, and the official checkpoint layout."""

import pytest
import torch

from almanac.cold_diffusion import published
from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.runtime.errors import UserError
from benchmarks.plain_unet import plain


@pytest.fixture(scope="module")
def model() -> Unet:
    torch.manual_seed(0)
    found = Unet(UnetConfig(16, (1, 2, 4), 3)).eval()
    for parameter in found.parameters():  # biases and norms away from their initial zeros and ones
        parameter.data += 0.05 * torch.randn_like(parameter)
    return found


def test_fused_network_equals_the_plain_one(model):
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([0, 17])
    with torch.no_grad():
        ours, theirs = model(x, t), plain(model)(x, t)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_default_network_has_the_official_size_and_names():
    official = Unet(UnetConfig())
    assert sum(p.numel() for p in official.parameters()) / 1e6 == pytest.approx(56.6, abs=0.05)
    names = official.state_dict()
    shapes = {
        "time_mlp.1.weight": (256, 64),
        "time_mlp.3.weight": (64, 256),
        "downs.0.0.ds_conv.weight": (3, 1, 7, 7),
        "downs.0.0.mlp.1.weight": (3, 64),
        "downs.1.0.net.0.g": (1, 64, 1, 1),
        "downs.3.1.net.1.weight": (1024, 512, 3, 3),
        "downs.0.2.fn.fn.to_qkv.weight": (384, 64, 1, 1),
        "downs.0.2.fn.norm.b": (1, 64, 1, 1),
        "downs.2.3.weight": (256, 256, 4, 4),
        "mid_attn.fn.fn.to_out.bias": (512,),
        "mid_block2.net.3.weight": (512, 1024, 3, 3),
        "ups.0.0.res_conv.weight": (256, 1024, 1, 1),
        "ups.2.3.weight": (64, 64, 4, 4),
        "final_conv.0.net.3.bias": (64,),
        "final_conv.1.weight": (3, 64, 1, 1),
    }
    assert {name: tuple(names[name].shape) for name in shapes} == shapes
    assert "downs.0.0.net.0.g" not in names  # the first block does not normalise
    assert not any(name.startswith("downs.3.3") for name in names)  # the last level does not shrink


@pytest.mark.parametrize("wrapper", ["module.denoise_fn", "defade_fn", "module.restore_fn", "module.denoise_fn.module"])
def test_official_files_load_whatever_wraps_the_network(model, tmp_path, wrapper):
    state = published.to_state_dict(model, wrapper)
    state["ema"][f"{wrapper.split('.')[0]}.gaussian_kernels.0.weight"] = torch.zeros(3, 1, 11, 11)
    path = tmp_path / "model.pt"
    torch.save(state, path)
    loaded = published.load(path)
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_averaged_weights_are_preferred(model, tmp_path):
    state = published.to_state_dict(model)
    state["model"] = {name: torch.zeros_like(tensor) for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "model.pt")
    assert published.load(tmp_path / "model.pt").time_mlp[1].weight.abs().sum() > 0


def test_saved_official_file_loads_again(model, tmp_path):
    published.save(model, tmp_path / "model.pt")
    assert published.load(tmp_path / "model.pt").config == model.config


def test_another_networks_file_is_refused(tmp_path):
    torch.save({"ema": {"encoder.weight": torch.zeros(3)}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="not a checkpoint of the official"):
        published.load(tmp_path / "model.pt")
