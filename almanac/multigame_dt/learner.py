"""A transformer while it learns: of its last layer only the tokens that a head reads, 9 of 156, and on a processor the products of
attention and the activation in the forms that are quickest there. What it says is what `DecisionTransformer` says of those tokens."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from almanac.multigame_dt.model import Attention, Block, DecisionTransformer
from almanac.multigame_dt.tokens import PATCHES, STEPS


class Expected(NamedTuple):
    """Logits of what a window holds."""

    actions: Float[Tensor, "batch steps 18"]
    """Of each step's action."""
    rewards: Float[Tensor, "batch steps 4"]
    """Of each step's reward."""
    returns: Float[Tensor, "batch 120"]
    """Of the first step's return; of none, [batch 0], without returns."""


class Learner(nn.Module):
    """The network, for training.

    Args:
        transformer: what learns.
    """

    asked: Tensor
    asked_seen: Tensor
    seen: Tensor

    def __init__(self, transformer: DecisionTransformer):
        super().__init__()
        self.transformer = transformer
        step = torch.arange(STEPS)[:, None] * transformer.dimensions.tokens
        places = [
            step.flatten() + transformer.dimensions.tokens - 3,
            step.flatten() + transformer.dimensions.tokens - 2,
        ]
        asked = torch.cat(
            [*places, torch.tensor([PATCHES - 1] if transformer.dimensions.returns else [], dtype=torch.int64)]
        )
        self.register_buffer("asked", asked, persistent=False)
        self.register_buffer("seen", transformer.seen, persistent=False)
        self.register_buffer("asked_seen", transformer.seen[asked], persistent=False)

    def forward(
        self,
        frames: UInt8[Tensor, "batch steps 84 84"],
        returns: Int[Tensor, "batch steps"],
        actions: Int[Tensor, "batch steps"],
        rewards: Int[Tensor, "batch steps"],
    ) -> Expected:
        """What is expected in windows of four steps, given what is before it in each.

        Args:
            frames: as `DecisionTransformer` takes them, like all that follows.
            returns: numbers of the returns to go.
            actions: of the full set.
            rewards: their numbers.
        """
        model = self.transformer
        x = model._embedded(frames, returns, actions, rewards)
        *before, last = [cast(Block, block) for block in model.blocks]
        for block in before:
            x = _through(block, x, self.seen, None)
        x = model.norm(_through(last, x, self.asked_seen, self.asked))
        at_actions, at_rewards, at_return = x.split([STEPS, STEPS, x.shape[1] - 2 * STEPS], 1)
        found = model.return_head(at_return[:, 0]) if model.return_head else x.new_zeros(len(x), 0)
        return Expected(model.action_head(at_actions), model.reward_head(at_rewards), found)


def _through(block: Block, x: Tensor, seen: Bool[Tensor, "queries keys"], asked: Tensor | None) -> Tensor:
    """What a layer makes of tokens, or of those that are asked for."""
    normed = _lowered(block.attention_norm(x))
    key, value = block.attention.key_value(normed)
    if asked is not None:
        x, normed = x[:, asked], normed[:, asked]
    x = x + block.dropout(_mixed(block.attention, normed, key, value, seen))
    normed = _lowered(block.mlp_norm(x))
    # In bfloat16 on a processor GELU's own form, not its approximation by tanh: within bfloat16's rounding, in a third of the time.
    form = "none" if _lowers_on_processor(x) else "tanh"
    return x + block.dropout(block.mlp.down(F.gelu(block.mlp.up(normed), approximate=form)))


def _mixed(attention: Attention, x: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """`Attention.forward`; on a processor by plain products, which for 156 tokens are twice as fast as PyTorch's fused ones."""
    if x.device.type != "cpu":
        return attention(x, key, value, seen)
    query = attention._split(attention.query(x)) * key.shape[-1] ** -0.5
    hidden = torch.zeros(seen.shape, dtype=query.dtype).masked_fill_(~seen, float("-inf"))
    weights = (query @ key.transpose(2, 3) + hidden).softmax(3).to(value.dtype)
    return attention.out((weights @ value).transpose(1, 2).flatten(2))


def _lowered(x: Tensor) -> Tensor:
    """In autocast's type, once for all layers that read it."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x


def _lowers_on_processor(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
