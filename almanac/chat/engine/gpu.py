"""A model in PyTorch, on a GPU or wherever else: the network itself, with attention that reads keys and values from pages. Rows are
computed together by libraries that may order their sums by how many there are, so that here an answer's last digits may depend on its
company, as `engine.cpu`'s never do."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from almanac.chat.engine.pages import PAGE
from almanac.chat.engine.rows import Batch
from almanac.chat.model import Transformer


class TorchRunner:
    """Runs a model's steps.

    Args:
        model: the model; its weights are used as they are.
        pages: how many pages of 32 tokens there is memory for.
    """

    def __init__(self, model: Transformer, pages: int):
        self.model, config = model, model.config
        weight = model.lm_head.weight
        shape = (config.layers, pages * PAGE, config.kv_heads, config.head_dim)
        self._keys, self._values = (torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
        self._features = torch.empty(0)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Float[Tensor, "wanted vocabulary"]:
        """Compute tokens, keep their keys and values, and return the logits of what follows those that are wanted."""
        device = self._keys.device
        tokens, positions, owner, table, wanted = (
            torch.from_numpy(part).to(device, torch.long)
            for part in (batch.tokens, batch.positions, batch.owner, batch.table, batch.wanted)
        )
        slots = table[owner, positions // PAGE] * PAGE + positions % PAGE
        past = (table[:, :, None] * PAGE + torch.arange(PAGE, device=device)).flatten(1)  # sequences × positions
        spans = batch.owner.tolist()
        starts = [place for place, each in enumerate(spans) if place == 0 or spans[place - 1] != each] + [len(spans)]
        lengths = [end - start for start, end in pairwise(starts)]
        place = torch.arange(past.shape[1], device=device)
        behind = positions[:, None] - place

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self._keys[layer, slots], self._values[layer, slots] = key[0], value[0]
            window = self.model.config.window(layer)
            seen = (behind >= 0) & (behind < (window or past.shape[1]))
            if max(lengths) == 1:
                keys, values = self._keys[layer][past], self._values[layer][past]
                return _read(query[0][:, None], keys, values, seen[:, None]).transpose(0, 1)
            parts = []
            for line, (start, length) in enumerate(zip(starts, lengths, strict=False)):
                rows = slice(start, start + length)
                keys, values = self._keys[layer][past[line]], self._values[layer][past[line]]
                parts.append(_read(query[:, rows], keys[None], values[None], seen[None, rows])[0])
            return torch.cat(parts)[None]

        features = self.model.model(tokens[None], positions[None], attend)[0, wanted]
        self._features = features
        return self.model.lm_head(features).float()

    def features(self, count: int) -> Float[Tensor, "count width"]:
        """What the last step's first so many wanted rows were before the head."""
        return self._features[:count].float()

    def copy_page(self, source: int, target: int) -> None:
        """Give a page what another holds."""
        for part in (self._keys, self._values):
            part[:, target * PAGE : (target + 1) * PAGE] = part[:, source * PAGE : (source + 1) * PAGE]

    def close(self) -> None:
        """Nothing to end."""


def _read(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attention: [texts, length, heads, dim] over [texts, positions, kv_heads, dim], where `seen`."""
    q, k, v = (part.transpose(1, 2) for part in (query, keys, values))
    shared = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, seen[:, None], enable_gqa=shared).transpose(1, 2)
