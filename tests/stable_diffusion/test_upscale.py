"""Upscalers in each of their layouts enlarge as the papers' formula does, in tiles as whole."""

import re

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from almanac.runtime import pictures
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import published, tokenizer, upscale
from almanac.stable_diffusion.generate import Painter, Settings
from tests.stable_diffusion import made

CHANNELS, GROWTH, BLOCKS = 16, 8, 2


def weights(folded=1, blocks=BLOCKS, doublings=2):
    """A random upscaler in Real-ESRGAN's layout."""
    generator = torch.Generator().manual_seed(0)
    inside = {"conv_first": (3 * folded**2, CHANNELS)}
    for block in range(blocks):
        for rdb in (1, 2, 3):
            for conv in (1, 2, 3, 4, 5):
                sizes = (CHANNELS + (conv - 1) * GROWTH, CHANNELS if conv == 5 else GROWTH)
                inside[f"body.{block}.rdb{rdb}.conv{conv}"] = sizes
    for name in ["conv_body", *(f"conv_up{number + 1}" for number in range(doublings)), "conv_hr"]:
        inside[name] = (CHANNELS, CHANNELS)
    inside["conv_last"] = (CHANNELS, 3)
    found = {}
    for name, (before, after) in inside.items():
        scale = (2 / (9 * before)) ** 0.5
        found[f"{name}.weight"] = scale * torch.randn(after, before, 3, 3, generator=generator)
        found[f"{name}.bias"] = 0.1 * torch.randn(after, generator=generator)
    return found


def formula(state, x, folded=1, blocks=BLOCKS, doublings=2):
    """RRDBNet as figure 4 and section 3.1 of ESRGAN have it, and Real-ESRGAN's folding (its section 3.3), one equation after another."""

    def conv(name, x):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def lrelu(x):
        return torch.where(x > 0, x, 0.2 * x)

    batch, _, height, width = x.shape
    tall, wide = height // folded, width // folded
    x = x.reshape(batch, 3, tall, folded, wide, folded).permute(0, 1, 3, 5, 2, 4).reshape(batch, -1, tall, wide)
    shallow = x = conv("conv_first", x)
    for block in range(blocks):
        outer = x
        for rdb in (1, 2, 3):
            maps = [x]
            for number in (1, 2, 3, 4):
                maps.append(lrelu(conv(f"body.{block}.rdb{rdb}.conv{number}", torch.cat(maps, 1))))
            x = x + 0.2 * conv(f"body.{block}.rdb{rdb}.conv5", torch.cat(maps, 1))
        x = outer + 0.2 * x
    x = shallow + conv("conv_body", x)
    for number in range(doublings):
        x = lrelu(conv(f"conv_up{number + 1}", x.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    return conv("conv_last", lrelu(conv("conv_hr", x)))


def second(state):
    """ESRGAN's second layout."""
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in (
            ("body.", "RRDB_trunk."),
            (".rdb", ".RDB"),
            ("conv_body", "trunk_conv"),
            ("conv_up", "upconv"),
        ):
            name = name.replace(ours, theirs) if not (ours == "body." and "conv_body" in name) else name
        renamed[name.replace("conv_hr", "HRconv")] = tensor
    return renamed


def oldest(state):
    """ESRGAN's first layout: a doubling, a convolution and its activation have a number each."""
    doublings = sum(name.startswith("conv_up") for name in state) // 2
    numbers = {f"conv_up{number + 1}": 3 + 3 * number for number in range(doublings)}
    numbers |= {"conv_first": 0, "conv_hr": 2 + 3 * doublings, "conv_last": 4 + 3 * doublings}
    renamed = {}
    for name, tensor in state.items():
        module, kind = name.rsplit(".", 1)
        if match := re.match(r"body\.(\d+)\.rdb(\d)\.conv(\d)", name):
            module = "model.1.sub.{}.RDB{}.conv{}.0".format(*match.groups())
        else:
            module = f"model.1.sub.{BLOCKS}" if module == "conv_body" else f"model.{numbers[module]}"
        renamed[f"{module}.{kind}"] = tensor
    return renamed


def random_picture(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("folded", "doublings", "scale"), [(1, 2, 4), (2, 2, 2), (4, 2, 1), (1, 1, 2), (1, 0, 1)])
@pytest.mark.parametrize("layout", [dict, second, oldest])
def test_as_the_formula_in_each_layout(layout, folded, doublings, scale, tmp_path):
    state = weights(folded, doublings=doublings)
    save_file(layout(state), tmp_path / "upscaler.safetensors")
    upscaler = upscale.load(tmp_path / "upscaler.safetensors")
    expected_config = upscale.UpscalerConfig(CHANNELS, GROWTH, BLOCKS, doublings, folded)
    assert upscaler.config == expected_config
    assert expected_config.scale == scale
    images = random_picture(24, 36) / 2 + 0.5
    expected = formula(state, images, folded, doublings=doublings)
    found = upscaler(images)
    assert found.shape == (1, 3, 24 * scale, 36 * scale)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    pixels = upscaler.enlarge(random_picture(24, 36))
    assert (pixels - (2 * expected - 1).clamp(-1, 1)).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("nest", ["params_ema", "params", "state_dict", None])
def test_files_that_torch_wrote(nest, tmp_path):
    state = weights()
    other = {name: torch.zeros_like(each) for name, each in state.items()}
    held = {nest: state} | ({"params": other} if nest == "params_ema" else {}) if nest else state
    torch.save(held, tmp_path / "upscaler.pth")
    found = upscale.load(tmp_path / "upscaler.pth").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("folded", [1, 2])
def test_sides_that_do_not_fold_evenly_repeat_their_edge(folded, tmp_path):
    save_file(weights(folded), tmp_path / "upscaler.safetensors")
    upscaler = upscale.load(tmp_path / "upscaler.safetensors")
    odd = random_picture(17, 23)
    even = F.pad(odd, (0, 1, 0, 1), mode="replicate")
    scale = upscaler.config.scale
    assert upscaler.enlarge(odd).shape == (1, 3, 17 * scale, 23 * scale)
    if folded == 2:
        assert torch.equal(upscaler.enlarge(odd), upscaler.enlarge(even)[..., : 17 * scale, : 23 * scale])


@pytest.mark.parametrize("folded", [1, 2])
def test_tiles_with_margins_beyond_what_the_network_sees_are_the_whole(folded, tmp_path):
    """One block sees 1 + 15 + 1 pixels around, and less than 2 where it doubles; a margin counts from its half on."""
    save_file(weights(folded, blocks=1), tmp_path / "upscaler.safetensors")
    upscaler = upscale.load(tmp_path / "upscaler.safetensors")
    margin, sides = 2 * 20, (250 * folded, 165 * folded)
    picture = random_picture(*sides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscale, "MARGIN", margin)
        tiles = []
        tiled = upscaler.enlarge(picture, 4 * margin, lambda done, of: tiles.append((done, of)))
    assert tiles == [(number + 1, 12) for number in range(12)]
    whole = upscaler.enlarge(picture, 1000)
    assert (tiled - whole).abs().max() < 2e-5


def test_tiles_of_many_blocks_differ_little_on_a_photograph(tmp_path):
    """Where the network sees farther than the margin. Random weights are harder on tiles than trained ones are on their average pixel."""
    save_file(weights(blocks=4), tmp_path / "upscaler.safetensors")
    upscaler = upscale.load(tmp_path / "upscaler.safetensors")
    photograph = Image.fromarray(load_sample_images().images[0]).crop((200, 100, 340, 200))
    picture = pictures.to_tensor(photograph, 3)[None]
    whole = upscaler.enlarge(picture, 1000)
    tiled = upscaler.enlarge(picture, 4 * upscale.MARGIN)
    assert (tiled - whole).abs().max() < 0.01
    assert whole.std() > 0.1


@pytest.mark.parametrize("length", [1, 128, 129, 192, 193, 500, 2047])
@pytest.mark.parametrize("folded", [1, 2, 4])
def test_shares_of_tiles_add_up_to_one(length, folded):
    scale = 4 // folded
    total = torch.zeros(length * scale)
    spans = upscale._spans(length, 4 * upscale.MARGIN, folded)
    for span in spans:
        total[span.painted(scale)] += span.share(scale)
        assert span.seen.start % folded == 0
        assert span.seen.stop - span.seen.start <= 4 * upscale.MARGIN * folded + folded
    assert (total - 1).abs().max() < 1e-6


def test_pictures_of_a_batch_are_enlarged_as_alone(tmp_path):
    save_file(weights(), tmp_path / "upscaler.safetensors")
    upscaler = upscale.load(tmp_path / "upscaler.safetensors")
    both = torch.cat([random_picture(20, 30, seed) for seed in (1, 2)])
    assert torch.equal(upscaler.enlarge(both), torch.cat([upscaler.enlarge(each[None]) for each in both]))


def broken(change):
    state = oldest(weights())
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"conv.weight": torch.zeros(3, 3)}, r"no ESRGAN upscaler: it holds conv\.weight"),
        ({}, "it holds nothing"),
        (broken(lambda state: state.pop("model.6.bias")), "conv_up2.bias is missing"),
        (
            broken(lambda state: state.update({"model.1.sub.0.RDB1.conv1x1.weight": torch.zeros(1)})),
            r"model\.1\.sub\.0\.RDB1\.conv1x1\.weight is unknown",
        ),
        (
            broken(lambda state: state.update({"model.3.weight": torch.zeros(64, 16, 3, 3)})),
            r"model\.3\.weight is 64×16×3×3, not 16×16×3×3",
        ),
        (
            broken(lambda state: state["model.10.bias"].fill_(torch.nan)),
            r"model\.10\.bias holds numbers that are not finite",
        ),
        (broken(lambda state: state.update({"model.0.weight": torch.zeros(16, 1, 3, 3)})), "of 1 channels"),
        (weights(4, doublings=1), "48 channels and 1 doublings"),
    ],
)
def test_other_files_are_refused(state, said, tmp_path):
    torch.save({"params": state}, tmp_path / "upscaler.pth")
    with pytest.raises(UserError, match=said):
        upscale.load(tmp_path / "upscaler.pth")


def test_missing_damaged_and_hostile_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        upscale.load(tmp_path / "upscaler.pth")
    (tmp_path / "upscaler.pth").write_bytes(b"no")
    with pytest.raises(UserError, match=r"upscaler\.pth"):
        upscale.load(tmp_path / "upscaler.pth")
    torch.save({"params": weights(), "more": print}, tmp_path / "upscaler.pth")
    with pytest.raises(UserError, match="could run code"):
        upscale.load(tmp_path / "upscaler.pth")
    (tmp_path / "upscaler.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable"):
        upscale.load(tmp_path / "upscaler.safetensors")


def test_pictures_that_would_become_too_large_are_refused(tmp_path):
    save_file(weights(), tmp_path / "upscaler.safetensors")
    upscaler = upscale.load(tmp_path / "upscaler.safetensors")
    with pytest.raises(UserError, match="12×24000000 pixels"):
        upscaler.enlarge(torch.zeros(1, 3, 1, 1).expand(1, 3, 6_000_000, 3))
    with pytest.raises(UserError, match="tiles of 8 pixels"):
        upscaler.enlarge(random_picture(16, 16), 8)
    with pytest.raises(UserError, match="9000×9000"):
        upscale.resized(random_picture(16, 16)[0], 9000, 9000)


def test_resizing_is_pillows():
    photograph = Image.fromarray(load_sample_images().images[1]).crop((200, 100, 300, 160))
    found = upscale.resized(pictures.to_tensor(photograph, 3), 250, 150)
    expected = photograph.resize((250, 150), Image.Resampling.LANCZOS)
    assert (found - pictures.to_tensor(expected, 3)).abs().max() < 2 / 127.5  # it rounds to 8 bits twice


@pytest.mark.parametrize("channels", [4, 9])
def test_enlarging_by_painting(channels, tmp_path, needs_data):
    """Of no strength, it is resizing; of some, it is another picture of the same size."""
    needs_data("clip_bpe")
    painter = Painter(published.load(made.folder(tmp_path, channels)), tokenizer.published())
    picture, settings = random_picture(25, 37)[0], Settings("a", steps=8, sampler="ddim")
    resized = upscale.resized(picture, 56, 38)
    steps = []
    assert torch.equal(upscale.latent(painter, picture, 1.51, settings, 1, 0.0), resized)
    found = upscale.latent(painter, picture, 1.51, settings, 1, watch=lambda job: steps.append(job.number))
    assert found.shape == resized.shape
    assert steps == [1, 2]
    assert not torch.equal(found, resized)
    with pytest.raises(UserError, match=r"scale is 0\.5"):
        upscale.latent(painter, picture, 0.5, settings, 1)
