"""The safety checker sees, scores and flags as diffusers' own, which reads the same folder."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from almanac.runtime import pictures
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import safety

COUNT = 64


def images():
    """Pieces of two photographs, of several sizes and shapes."""
    photographs = [Image.fromarray(each) for each in load_sample_images().images]
    generator = np.random.default_rng(0)
    found = []
    for number in range(COUNT):
        width, height = (int(generator.integers(20, 400)) for _ in range(2))
        left, top = int(generator.integers(0, 640 - width)), int(generator.integers(0, 427 - height))
        found.append(photographs[number % 2].crop((left, top, left + width, top + height)))
    return found


def processor(size):
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """diffusers' checker with random weights, and thresholds that flag about half of the pictures; its folder; what it sees."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
    from transformers import CLIPConfig

    torch.manual_seed(0)
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    peer = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=48)).eval()
    seen = torch.cat([processor(32)(each, return_tensors="pt").pixel_values for each in images()])
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        features = peer.visual_projection(peer.vision_model(seen)[1])
        for kind, share in (("concept", 0.04), ("special_care", 0.2)):
            embeds, weights = getattr(peer, f"{kind}_embeds"), getattr(peer, f"{kind}_embeds_weights")
            embeds.copy_(torch.randn_like(embeds) + features.mean(0) / features.std())
            weights.copy_(cosine_distance(features, embeds).quantile(1 - share, dim=0))
    folder = tmp_path_factory.mktemp("model") / "safety_checker"
    peer.save_pretrained(folder)
    return peer, folder, seen


def test_pictures_are_seen_as_by_clip(made):
    checker = safety.load(made[1])
    seen = torch.cat([checker.seen(pictures.to_tensor(each, 3)[None]) for each in images()])
    assert (seen - made[2]).abs().max() < 2e-6  # steps of 8 bits are 0.014 there


def test_pictures_are_seen_as_by_clip_at_its_own_size(made):
    """At 224 pixels too, which small pictures are enlarged to."""
    with torch.device("meta"):
        checker = safety.Checker()
    for each in images()[:8]:
        expected = processor(224)(each, return_tensors="pt").pixel_values
        assert (checker.seen(pictures.to_tensor(each, 3)[None]) - expected).abs().max() < 2e-6


def test_scores_and_decisions(made):
    from diffusers.pipelines.stable_diffusion.safety_checker import cosine_distance

    peer, folder, seen = made
    checker = safety.load(folder)
    with torch.no_grad():
        features = peer.visual_projection(peer.vision_model(seen)[1])
    concepts, special = checker.cosines(seen)
    assert (concepts - cosine_distance(features, peer.concept_embeds)).abs().max() < 1e-5
    assert (special - cosine_distance(features, peer.special_care_embeds)).abs().max() < 1e-5
    _, expected = peer(clip_input=seen, images=[np.zeros((8, 8, 3)) for _ in range(COUNT)])
    flags = [checker.flagged(pictures.to_tensor(each, 3)[None])[0] for each in images()]
    assert [flag is not None for flag in flags] == expected
    assert COUNT // 4 < sum(expected) < 3 * COUNT // 4
    assert sum(bool(flag and flag.special) for flag in flags) > 4


def test_a_special_hit_makes_later_scores_of_its_picture_stricter(made):
    """Of diffusers' own scores, which it keeps to itself: the same sums, one by one."""
    checker = safety.load(made[1])
    concepts, special = checker.cosines(made[2])
    ours = checker.scores(concepts, special)
    adjusted = 0
    for row in range(COUNT):
        more, expected = 0.0, []
        for cosine, threshold in zip(special[row].numpy(), checker.special_care_embeds_weights.tolist(), strict=True):
            expected.append(round(cosine - threshold + more, 3))
            more = 0.01 if expected[-1] > 0 else more
        assert expected == ours[1][row].numpy().tolist()
        adjusted += more > 0
        thresholds = checker.concept_embeds_weights.tolist()
        pairs = zip(concepts[row].numpy(), thresholds, strict=True)
        assert [round(cosine - threshold + more, 3) for cosine, threshold in pairs] == ours[0][row].numpy().tolist()
    assert 8 < adjusted < COUNT - 8


def test_neighbours_decide_nothing(made):
    checker = safety.load(made[1])
    batch = torch.stack([pictures.to_tensor(each.resize((40, 30)), 3) for each in images()])
    together = checker.flagged(batch)
    assert together == [checker.flagged(each[None])[0] for each in batch]
    assert any(together)
    assert not all(together)


def test_older_names_and_halves_load_the_same(made, tmp_path):
    """Before transformers 5 the tower lay one level deeper, with its places as numbers."""
    tensors = load_file(made[1] / "model.safetensors")
    older = {name.replace("vision_model.", "vision_model.vision_model."): each for name, each in tensors.items()}
    older["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    (tmp_path / "config.json").write_text((made[1] / "config.json").read_text())
    save_file(older, tmp_path / "model.safetensors")
    expected = safety.load(made[1]).state_dict()
    found = safety.load(tmp_path).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (tmp_path / "model.safetensors").unlink()
    save_file({name: each.half() for name, each in tensors.items()}, tmp_path / "model.fp16.safetensors")
    assert safety.load(tmp_path).concept_embeds.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_config": None}, "no vision_config"),
        ({"num_hidden_layers": 4}, "vision_model.encoder.layers.3.self_attn.k_proj.weight is missing"),
        ({"num_hidden_layers": 2}, "vision_model.encoder.layers.2.layer_norm1.bias is unknown"),
        ({"hidden_size": 32}, "is 64, not 32"),
        ({"hidden_size": "64"}, "hidden_size 64"),
        ({"num_attention_heads": 3}, "3 heads for 64 channels"),
        ({"hidden_act": "relu"}, "relu"),
    ],
)
def test_other_networks_are_refused(change, said, made, tmp_path):
    facts = json.loads((made[1] / "config.json").read_text())
    if "vision_config" in change:
        facts |= change
    else:
        facts["vision_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(facts))
    (tmp_path / "model.safetensors").write_bytes((made[1] / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=said):
        safety.load(tmp_path)


def test_missing_and_damaged_folders_are_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        safety.load(tmp_path)
    (tmp_path / "config.json").write_text((made[1] / "config.json").read_text())
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        safety.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((made[1] / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable"):
        safety.load(tmp_path)


@pytest.mark.parametrize("how", ["blur", "blank"])
@pytest.mark.parametrize("size", [(8, 8), (64, 64), (96, 640)])
def test_a_hidden_picture_is_not_black_and_keeps_no_detail(how, size):
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, *size, generator=generator) * 2 - 1
    shown = safety.hidden(picture, how)
    assert shown.shape == picture.shape
    assert shown.mean() > -0.5
    if min(size) > 8:  # words would have no pixels there
        assert shown.max() > 0.9
        finer = picture + 0.2 * torch.tensor([1.0, -1.0]).repeat(size[1] // 2) * (picture.abs() < 0.8)
        assert (safety.hidden(finer, how) - shown).abs().max() < 0.1
