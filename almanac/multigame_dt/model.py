"""The multi-game decision transformer (arXiv 2205.15241, sections 3.1 and 4.1; the released notebook's `DecisionTransformer`): a GPT-2
over four steps of play, each 36 patches of the frame, the return, the action and the reward. Patches of one frame see each other, else
each token sees those before it, and of the returns only the first is seen at all. Without returns it is the behaviour-cloning
transformer (section 4.2). How its guesses become actions is acting.py's to know."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from almanac.multigame_dt.games import ACTIONS
from almanac.multigame_dt.tokens import PATCH, PATCHES, RETURNS, REWARDS, STEPS

_WIDENING = 4  # of a feed-forward layer
_TRUNCATED = 0.87962566103423978  # standard deviation of a normal distribution that is cut off at ±2


@dataclass(frozen=True)
class Dimensions:
    """The shape of a model."""

    width: int
    """Channels between layers, a multiple of the heads."""
    layers: int
    heads: int
    """Of 64 channels each in the paper's models."""
    returns: bool = True
    """Whether it knows returns; else it is the behaviour-cloning transformer."""
    dropout: float = 0.1
    """Share of what each half of a layer adds that is left out in training."""

    @property
    def tokens(self) -> int:
        """Of a step."""
        return PATCHES + 2 + self.returns


SIZES = {
    "0.8m": Dimensions(128, 4, 2),
    "1.5m": Dimensions(192, 3, 3),
    "3m": Dimensions(256, 4, 4),
    "10m": Dimensions(512, 4, 8),
    "40m": Dimensions(768, 6, 12),
    "200m": Dimensions(1280, 10, 20),
}
"""Models by name: the paper's three, and three that a processor trains."""


class Logits(NamedTuple):
    """What the model expects next, at each step."""

    returns: Float[Tensor, "batch steps 120"] | None
    """The return, from the frame; None without returns."""
    actions: Float[Tensor, "batch steps 18"]
    """The action, from all before it."""
    rewards: Float[Tensor, "batch steps 4"]
    """The reward, from all before it."""


class Prefix(NamedTuple):
    """What the first frame of each window comes to."""

    returns: Float[Tensor, "batch 120"] | None
    """Logits of the first step's return; None without returns."""
    read: list["KeyValue"]
    """Its patches' keys and values in each layer."""


KeyValue = tuple[Tensor, Tensor]
"""Keys and values of tokens, each [batch, heads, tokens, dim]."""


class DecisionTransformer(nn.Module):
    """The network.

    Args:
        dimensions: its shape, such as `SIZES["10m"]`.
    """

    shown: Tensor
    seen: Tensor
    rest_places: Tensor
    rest_seen: Tensor

    def __init__(self, dimensions: Dimensions):
        super().__init__()
        self.dimensions = dimensions
        width = dimensions.width
        self.patches = nn.Linear(PATCH * PATCH, width)
        self.patch_positions = nn.Parameter(torch.empty(PATCHES, width))
        self.returns = nn.Embedding(RETURNS, width) if dimensions.returns else None
        self.actions = nn.Embedding(ACTIONS, width)
        self.rewards = nn.Embedding(REWARDS, width)
        self.positions = nn.Parameter(torch.empty(STEPS * dimensions.tokens, width))
        self.blocks = nn.ModuleList(Block(dimensions) for _ in range(dimensions.layers))
        self.norm = nn.LayerNorm(width)
        self.return_head = nn.Linear(width, RETURNS) if dimensions.returns else None
        self.action_head = nn.Linear(width, ACTIONS)
        self.reward_head = nn.Linear(width, REWARDS)
        _initialise(self)
        with torch.device(
            "cpu"
        ):  # numbers even where weights are only shapes yet, until a file's are put in their place
            shown, places = _shown(dimensions), _rest_places(dimensions)
            seen = _seen(dimensions) & shown
            rest_seen = seen[places][:, torch.cat((torch.arange(PATCHES), places))]
        tables = {"shown": shown, "seen": seen, "rest_places": places, "rest_seen": rest_seen}
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(
        self,
        frames: UInt8[Tensor, "batch steps 84 84"],
        returns: Int[Tensor, "batch steps"],
        actions: Int[Tensor, "batch steps"],
        rewards: Int[Tensor, "batch steps"],
    ) -> Logits:
        """What follows, at each step of windows.

        Args:
            frames: as emulator.py gives them.
            returns: numbers of the returns to go (tokens.py); all but the first are hidden, and all are from a model without returns.
            actions: of the full set; each is hidden from its own guess.
            rewards: their numbers; likewise.
        """
        x = self._embedded(frames, returns, actions, rewards)
        seen = self.seen[: x.shape[1], : x.shape[1]]
        for block in self.blocks:
            x, _ = block(x, seen)
        x = self.norm(x).unflatten(1, (-1, self.dimensions.tokens))
        return Logits(
            self.return_head(x[:, :, PATCHES - 1]) if self.return_head else None,
            self.action_head(x[:, :, -3]),  # at the return, even a hidden one; without returns at the last patch
            self.reward_head(x[:, :, -2]),  # at the action
        )

    def prefix(self, first: UInt8[Tensor, "batch 84 84"]) -> Prefix:
        """The first half of acting: the first frame of each window by itself, since its patches see nothing else.

        Args:
            first: those frames.
        """
        x = self._patches(first[:, None])[:, 0] + self.positions[:PATCHES]
        read = []
        for block in self.blocks:
            x, key_value = block(x, None, only_last=block is self.blocks[-1])
            read.append(key_value)
        return Prefix(self.return_head(self.norm(x[:, -1])) if self.return_head else None, read)

    def rest(
        self,
        prefix: Prefix,
        frames: UInt8[Tensor, "batch 3 84 84"],
        returns: Int[Tensor, " batch"] | None,
        actions: Int[Tensor, "batch 3"],
        rewards: Int[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch 18"]:
        """The second half: logits of the last step's action, those that `forward` has for the whole window. Tokens that
        nobody sees are left out, and of the last layer all but the one that is asked for.

        Args:
            prefix: of each window's first frame.
            frames: those after it.
            returns: numbers of the first step's return; None without returns.
            actions: of the first three steps.
            rewards: numbers of theirs.
        """
        whole = [F.pad(each, (0, 1)) for each in (actions, rewards)]
        shown_return = None if returns is None else F.pad(returns[:, None], (0, STEPS - 1))
        x = self._embedded(F.pad(frames, (0, 0, 0, 0, 1, 0)), shown_return, *whole)[:, self.rest_places]
        for block, earlier in zip(self.blocks, prefix.read, strict=True):
            x, _ = block(x, self.rest_seen, earlier, only_last=block is self.blocks[-1])
        return self.action_head(self.norm(x[:, -1]))

    def _embedded(self, frames: Tensor, returns: Tensor | None, actions: Tensor, rewards: Tensor) -> Tensor:
        """The tokens of windows, [batch, steps × tokens, width]."""
        tokens = [self._patches(frames)]
        if self.returns is not None and returns is not None:
            tokens.append(self.returns(returns)[:, :, None])
        tokens += [self.actions(actions)[:, :, None], self.rewards(rewards)[:, :, None]]
        x = torch.cat(tokens, 2).flatten(1, 2)
        length = x.shape[1]
        return (x + self.positions[:length]) * self.shown[:length, None]

    def _patches(self, frames: Tensor) -> Tensor:
        """The patches of frames, [batch, steps, 36, width]."""
        pixels = rearrange(frames, "b t (h p) (w q) -> b t (h w) (p q)", p=PATCH, q=PATCH)
        return self.patches(pixels.to(self.patches.weight.dtype) / 255) + self.patch_positions


class Block(nn.Module):
    """A layer: attention and a feed-forward network, each of what is normalised, added to what was there.

    Args:
        dimensions: of the model.
    """

    def __init__(self, dimensions: Dimensions):
        super().__init__()
        width = dimensions.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, dimensions.heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.dropout = nn.Dropout(dimensions.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        seen: Bool[Tensor, "tokens keys"] | None,
        earlier: KeyValue | None = None,
        only_last: bool = False,
    ) -> tuple[Float[Tensor, "batch asked width"], KeyValue]:
        """Mix tokens, then channels.

        Args:
            x: the tokens at hand.
            seen: which keys, those of `earlier` first, each of them sees; None: all.
            earlier: keys and values of tokens before.
            only_last: whether only the last token is asked for.

        Returns:
            What the tokens have become, and their keys and values.
        """
        normed = self.attention_norm(x)
        key_value = self.attention.key_value(normed)
        if only_last:
            x, normed, seen = x[:, -1:], normed[:, -1:], None if seen is None else seen[-1:]
        key, value = (
            key_value if earlier is None else (torch.cat(both, 2) for both in zip(earlier, key_value, strict=True))
        )
        x = x + self.dropout(self.attention(normed, key, value, seen))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), key_value


class Attention(nn.Module):
    """Attention of several heads, whose queries and whose keys and values may be of different tokens.

    Args:
        width: channels.
        heads: that they are shared among.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def key_value(self, x: Float[Tensor, "batch tokens width"]) -> KeyValue:
        """What tokens show of themselves."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch heads keys dim"],
        value: Float[Tensor, "batch heads keys dim"],
        seen: Bool[Tensor, "queries keys"] | None,
    ) -> Float[Tensor, "batch queries width"]:
        """What tokens read from those that they see."""
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), key, value, seen)
        return self.out(rearrange(mixed, "b h t d -> b t (h d)"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h d) -> b h t d", h=self.heads)


class MLP(nn.Module):
    """down(gelu(up(x))).

    Args:
        width: channels outside.
    """

    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, _WIDENING * width)
        self.down = nn.Linear(_WIDENING * width, width)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Mix channels."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


def _shown(dimensions: Dimensions) -> Bool[Tensor, " tokens"]:
    """All tokens but the returns after the first."""
    shown = torch.ones(STEPS, dimensions.tokens, dtype=torch.bool)
    if dimensions.returns:
        shown[1:, PATCHES] = False
    return shown.flatten()


def _seen(dimensions: Dimensions) -> Bool[Tensor, "queries keys"]:
    """Those before a token and itself; of a frame's patches all see each other."""
    step = torch.arange(STEPS).repeat_interleave(dimensions.tokens)
    patch = (torch.arange(dimensions.tokens) < PATCHES).repeat(STEPS)
    return torch.ones(len(step), len(step), dtype=torch.bool).tril() | (
        patch & patch[:, None] & (step == step[:, None])
    )


def _rest_places(dimensions: Dimensions) -> Int[Tensor, " places"]:
    """The tokens that the last step's action hangs on, without the first frame's: the shown ones before it, and where it is read."""
    read_at = STEPS * dimensions.tokens - 3
    hidden = {step * dimensions.tokens + PATCHES for step in range(1, STEPS - 1)} if dimensions.returns else set()
    return torch.tensor([place for place in range(PATCHES, read_at + 1) if place not in hidden])


def _initialise(model: DecisionTransformer) -> None:
    """As the released code does: layers' weights of variance 2 / layers / inputs, positions and tokens of 0.02, biases zero."""
    scale = 2 / model.dimensions.layers
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            deviation = module.in_features**-0.5
            _truncated(module.weight, scale**0.5 * deviation / _TRUNCATED if name.startswith("blocks.") else deviation)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            _truncated(module.weight, 0.02)
    _truncated(model.positions, 0.02)
    nn.init.normal_(model.patch_positions, std=0.02)


def _truncated(weight: Tensor, deviation: float) -> None:
    """Normal numbers, of those within two deviations."""
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
