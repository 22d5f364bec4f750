"""The released checkpoint's layout, both ways, and pickles that are damaged or mean harm."""

import os
import pickle
import struct
import time

import numpy as np
import pytest
import torch

from almanac.multigame_dt import published
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError

SMALL = Dimensions(64, 2, 1)


@pytest.fixture(scope="module")
def model() -> DecisionTransformer:
    torch.manual_seed(0)
    found = DecisionTransformer(SMALL)
    for parameter in found.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return found


@pytest.fixture(scope="module")
def parameters(model) -> published.Parameters:
    return published.to_official(model)


def same(one: DecisionTransformer, other: DecisionTransformer) -> bool:
    tensors = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(each, copy) for (name, each), (again, copy) in tensors)


def test_a_released_checkpoint_becomes_a_file_of_ours_and_means_the_same(model, tmp_path):
    published.write_official(tmp_path / "released.pkl", model)
    converted = published.convert(tmp_path / "released.pkl", tmp_path / "ours.safetensors")
    loaded = published.load(tmp_path / "ours.safetensors", "cpu")
    assert converted.dimensions == loaded.dimensions == SMALL
    assert same(converted, model)
    assert same(loaded, model)
    window = torch.zeros(1, 4, 84, 84, dtype=torch.uint8), *(torch.ones(1, 4, dtype=torch.long) for _ in range(3))
    with torch.no_grad():
        assert torch.equal(loaded(*window).actions, model.eval()(*window).actions)


def test_the_layout_is_the_released_one(parameters):
    net = "decision_transformer"
    assert parameters[net]["image_pos_enc"].shape == (1, 1, 36, 64)
    assert parameters[net]["positional_embeddings"].shape == (156, 64)
    assert parameters[f"{net}/~_embed_inputs/image_emb"]["w"].shape == (14, 14, 1, 64)
    shapes = {"embed": 120, "embed_1": 18, "embed_2": 4}
    assert {name: len(parameters[f"{net}/~_embed_inputs/{name}"]["embeddings"]) for name in shapes} == shapes
    assert parameters[f"{net}/~/sequence/h1_mlp/linear"]["w"].shape == (64, 256)
    assert set(parameters[f"{net}/~/sequence/ln_f"]) == {"scale", "offset"}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_kind_of_pickle_is_read(model, parameters, tmp_path, protocol):
    path = tmp_path / "released.pkl"
    turned = {
        module: {name: np.asfortranarray(each) for name, each in arrays.items()}
        for module, arrays in parameters.items()
    }
    turned["decision_transformer"]["positional_embeddings"] = parameters["decision_transformer"][
        "positional_embeddings"
    ].astype(">f4")
    path.write_bytes(pickle.dumps((turned, {"step": np.int64(7), "names": ["a", 1]}), protocol))
    assert same(published.from_official(published.read_official(path), path), model)


def test_names_of_older_numpy_are_read(model, parameters, tmp_path):
    path = tmp_path / "released.pkl"
    written = pickle.dumps((parameters, {}), 2)
    assert b"numpy._core" in written
    path.write_bytes(written.replace(b"numpy._core", b"numpy.core"))
    assert same(published.from_official(published.read_official(path), path), model)


class Runs:
    """An object whose pickle runs something."""

    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_hostile_pickles_are_refused_by_name_and_not_run(parameters, tmp_path, protocol):
    path, mark = tmp_path / "hostile.pkl", tmp_path / "was run"
    code = f"open({str(mark)!r}, 'w').close()"
    for hostile, name in (
        (Runs(exec, code), ".exec"),
        (Runs(eval, code), ".eval"),
        (Runs(os.mkdir, str(mark)), ".mkdir"),
        (Runs(getattr, "text", "upper"), ".getattr"),
        (Runs(np.load, str(mark)), "numpy"),
        (np.array([Runs(exec, code)], object), "type O8"),
        (torch.zeros(2), "torch"),
    ):
        for held in (hostile, (parameters, hostile), ({**parameters, "more": {"w": hostile}}, {})):
            path.write_bytes(pickle.dumps(held, protocol))
            with pytest.raises(UserError) as refused:
                published.read_official(path)
            assert name in refused.value.what
            assert "nothing of it was run" in refused.value.hint
    assert not mark.exists()


@pytest.mark.parametrize(
    "written",
    [
        b"cnumpy\nndarray\n}X\x0c\x00\x00\x00__setstate__K\x01sb.",  # to change a maker of ours
        b"cnumpy\nndarray\nN}X\x0a\x00\x00\x00injected_aK\x01s\x86b.",
        b"Vcheckpoint\nP.",
        b"Pcheckpoint\n.",
        b"X\x06\x00\x00\x00system)R.",  # to call a string
        b"\x82\x01.",  # an extension
        b"K\x01r\xff\xff\xff\xff.",  # a place in the memory of a pickle, so far away that the compiled reader fills the machine's
        b"\x8e" + struct.pack("<Q", 2**60) + b"x",  # bytes without end
        b"",
        b"not a pickle at all",
        b"(lp0\n" * 10_000,
    ],
)
def test_pickles_made_by_hand_are_refused_at_once(tmp_path, written):
    (tmp_path / "made.pkl").write_bytes(written)
    began = time.process_time()
    with pytest.raises(UserError):
        published.read_official(tmp_path / "made.pkl")
    assert time.process_time() - began < 5
    assert not hasattr(published._Array, "injected_a")


def test_damaged_pickles_are_refused_or_read_but_never_crash(parameters, tmp_path):
    path = tmp_path / "damaged.pkl"
    few = {
        "decision_transformer": {
            "positional_embeddings": parameters["decision_transformer"]["positional_embeddings"][:2]
        }
    }
    whole = pickle.dumps((few, {}))
    random = np.random.default_rng(0)
    for length in random.integers(0, len(whole), 60):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"is not a readable|holds|asks for"):
            published.from_official(published.read_official(path), path)
    for _ in range(400):
        changed = bytearray(whole)
        for place in random.integers(0, len(changed), 3):
            changed[place % 200 if random.random() < 0.7 else place] = random.integers(256)
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"is not a readable|holds|asks for"):
            published.from_official(published.read_official(path), path)  # which has no layers, if it is read at all


def without(parameters: published.Parameters, module: str) -> published.Parameters:
    return {name: arrays for name, arrays in parameters.items() if name != module}


def test_another_networks_parameters_are_refused(parameters, tmp_path):
    path, net = tmp_path / "other.pkl", "decision_transformer"
    head = parameters[f"{net}/act_linear"]
    for wrong, word in (
        (without(parameters, net), "another network"),
        (without(parameters, f"{net}/rew_linear"), "rew_linear/w is missing"),
        ({**parameters, f"{net}/value": head}, "value/b is unknown"),
        ({**parameters, f"{net}/act_linear": {**head, "w": head["w"][:, :6]}}, "6×64, not 18×64"),
        ({**parameters, f"{net}/act_linear": {**head, "b": head["b"] * np.nan}}, "not finite"),
        ({f"{net}/~/sequence/h0_attn/query": head}, "another network"),
        ({}, "another network"),
        ([1, 2], "no network"),
        ({"a": {"b": 1}}, "no network"),
        ({"a": head["w"]}, "no network"),
        (7, "no network"),
    ):
        path.write_bytes(pickle.dumps((wrong, {})))
        with pytest.raises(UserError, match=word):
            published.convert(path, tmp_path / "never.safetensors")
    assert not (tmp_path / "never.safetensors").exists()
    with pytest.raises(UserError, match="can't read"):
        published.convert(tmp_path / "absent.pkl", tmp_path / "never.safetensors")


def test_files_that_hold_something_else_are_refused(model, tmp_path):
    path, facts = tmp_path / "model.safetensors", {"system": "multigame_dt", "model": "transformer"}
    shape = {"width": 64, "layers": 2, "heads": 1, "returns": True}
    tensors = model.state_dict()
    for about, word in (
        ({**facts, "system": "whisper"}, "of whisper"),
        ({**facts, "model": "cql"}, "another kind, cql"),
        (facts, "shape"),
        ({**facts, "dimensions": {**shape, "layers": 10**9}}, "shape"),
        ({**facts, "dimensions": {**shape, "heads": 0}}, "shape"),
        ({**facts, "dimensions": {**shape, "width": "64"}}, "shape"),
        ({**facts, "dimensions": {**shape, "colour": 1}}, "shape"),
        ({**facts, "dimensions": {**shape, "width": 128}}, "18×64, not 18×128"),
        ({**facts, "dimensions": {**shape, "returns": False}}, "is unknown"),
    ):
        checkpoint.save_weights(path, tensors, about)
        with pytest.raises(UserError, match=word):
            published.load(path, "cpu")


def test_a_behaviour_cloning_transformer_is_kept_as_one(tmp_path):
    path = tmp_path / "bc.safetensors"
    bc = DecisionTransformer(Dimensions(64, 2, 1, returns=False))
    published.save(
        path, bc, {"recipe": "none"}, checkpoint.in_eight_bits({n: t.bfloat16() for n, t in bc.state_dict().items()})
    )
    loaded = published.load(path, "cpu")
    assert loaded.dimensions == bc.dimensions
    assert all((loaded.state_dict()[n] - t).abs().max() < 0.01 for n, t in bc.state_dict().items())
