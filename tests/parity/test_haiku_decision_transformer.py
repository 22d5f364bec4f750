"""Our transformer against one written with Haiku from the paper and what is known of the released code: the reference here is plain, with
tokens one by one and the mask spelled out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from almanac.multigame_dt import published
from almanac.multigame_dt.model import SIZES, DecisionTransformer, Dimensions

hk = pytest.importorskip("haiku")
jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")

STEPS, PATCHES, PER_STEP = 4, 36, 39


class Layers(hk.Module):
    """A GPT-2 with norms before what they feed."""

    def __init__(self, layers: int, heads: int):
        super().__init__(name="sequence")
        self.layers, self.heads = layers, heads

    def __call__(self, x, seen):
        init = hk.initializers.VarianceScaling(2 / self.layers)

        def norm(name, x):
            return hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)(x)

        for i in range(self.layers):
            attention = hk.MultiHeadAttention(self.heads, 64, w_init=init, name=f"h{i}_attn")
            normed = norm(f"h{i}_ln_1", x)
            x = x + attention(normed, normed, normed, seen[None, None])
            x = x + Widened(init, f"h{i}_mlp")(norm(f"h{i}_ln_2", x))
        return norm("ln_f", x)


class Widened(hk.Module):
    """Two linear layers, and a GELU between them."""

    def __init__(self, init, name: str):
        super().__init__(name=name)
        self.init = init

    def __call__(self, x):
        inner = hk.Linear(4 * x.shape[-1], w_init=self.init)(x)
        return hk.Linear(x.shape[-1], w_init=self.init)(jax.nn.gelu(inner, approximate=True))


class Reference(hk.Module):
    """The whole network; modules are called as those of the released checkpoint."""

    def __init__(self, dimensions: Dimensions):
        super().__init__(name="decision_transformer")
        self.width = dimensions.width
        self.sequence = Layers(dimensions.layers, dimensions.heads)

    def _embed_inputs(self, frames, returns, actions, rewards):
        init = hk.initializers.TruncatedNormal(0.02)
        batch = len(frames)
        pictures = frames.reshape(batch * STEPS, 84, 84, 1).astype(jnp.float32) / 255
        patches = hk.Conv2D(self.width, (14, 14), (14, 14), padding="VALID", name="image_emb")(pictures)
        patches = patches.reshape(batch, STEPS, PATCHES, self.width)
        patches += hk.get_parameter(
            "image_pos_enc", (1, 1, PATCHES, self.width), init=hk.initializers.RandomNormal(0.02)
        )
        singles = [
            hk.Embed(count, self.width, w_init=init)(ids)
            for count, ids in ((120, returns), (18, actions), (4, rewards))
        ]
        return patches, singles

    def __call__(self, frames, returns, actions, rewards):
        patches, (shown_return, action, reward) = self._embed_inputs(frames, returns, actions, rewards)
        tokens = []
        for step in range(STEPS):
            tokens += [patches[:, step, i] for i in range(PATCHES)]
            tokens += [shown_return[:, step], action[:, step], reward[:, step]]
        x = jnp.stack(tokens, 1)
        init = hk.initializers.TruncatedNormal(0.02)
        x = x + hk.get_parameter("positional_embeddings", (len(tokens), self.width), init=init)
        hidden = [step * PER_STEP + PATCHES for step in range(1, STEPS)]
        x = x.at[:, jnp.array(hidden)].set(0)
        seen = np.zeros((len(tokens), len(tokens)), bool)
        for one in range(len(tokens)):
            for other in range(len(tokens)):
                in_frame = one // PER_STEP == other // PER_STEP and max(one % PER_STEP, other % PER_STEP) < PATCHES
                seen[one, other] = (other <= one or in_frame) and other not in hidden
        x = self.sequence(x, jnp.array(seen)).reshape(len(x), STEPS, PER_STEP, -1)
        return (
            hk.Linear(120, name="ret_linear")(x[:, :, PATCHES - 1]),
            hk.Linear(18, name="act_linear")(x[:, :, PATCHES]),
            hk.Linear(4, name="rew_linear")(x[:, :, PATCHES + 1]),
        )


def reference(dimensions: Dimensions):
    return hk.without_apply_rng(hk.transform(lambda *window: Reference(dimensions)(*window)))


def window(batch: int) -> list[np.ndarray]:
    """Steps of noise: frames, and numbers of returns, actions and rewards."""
    random = np.random.default_rng(0)
    singles = [random.integers(0, most, (batch, STEPS)) for most in (120, 18, 4)]
    return [random.integers(0, 256, (batch, STEPS, 84, 84), dtype=np.uint8), *singles]


def differences(model: DecisionTransformer, parameters: published.Parameters, batch: int) -> list[float]:
    """Of the three heads."""
    given = window(batch)
    theirs = jax.jit(reference(model.dimensions).apply)(parameters, *given)
    with torch.no_grad():
        ours = model.eval()(*map(torch.from_numpy, given))
    return [float(np.abs(one.numpy() - other).max()) for one, other in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize(
    ("dimensions", "batch"),
    [(Dimensions(128, 3, 2), 3), pytest.param(SIZES["200m"], 1, marks=pytest.mark.slow)],
    ids=["small", "200m"],
)
def test_our_weights_mean_the_same_in_haiku(dimensions, batch):
    torch.manual_seed(0)
    model = DecisionTransformer(dimensions)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms away from zeros and ones
            parameter.data += 0.1 * torch.randn_like(parameter)
    assert max(differences(model, published.to_official(model), batch)) < 1e-4


def test_haikus_weights_mean_the_same_here():
    dimensions = Dimensions(128, 4, 2)
    made = jax.jit(reference(dimensions).init)(jax.random.PRNGKey(0), *window(1))
    parameters = {module: {name: np.asarray(each) for name, each in arrays.items()} for module, arrays in made.items()}
    model = published.from_official(parameters, Path("haiku"))
    assert model.dimensions == dimensions
    assert max(differences(model, parameters, 2)) < 1e-4
    torch.manual_seed(0)
    ours = published.to_official(DecisionTransformer(dimensions))
    for module, arrays in parameters.items():  # and weights begin alike
        for name, array in arrays.items():
            if array.size > 5000:
                assert ours[module][name].std() == pytest.approx(array.std(), rel=0.03), (module, name)
            elif array.std() == 0:
                assert np.array_equal(ours[module][name], array), (module, name)


def test_the_released_size_has_the_released_parameters():
    shapes = jax.eval_shape(reference(SIZES["200m"]).init, jax.random.PRNGKey(0), *window(1))
    assert sum(each.size for each in jax.tree_util.tree_leaves(shapes)) == 197_638_542
    with torch.device("meta"):
        ours = DecisionTransformer(SIZES["200m"])
    places = published._places(10)
    assert {(module, name) for module, arrays in shapes.items() for name in arrays} == set(places.values())
    assert sum(each.numel() for each in ours.parameters()) == 197_638_542
