"""Whether a text is what it should not be, by a classifier in Hugging Face's layout: one of our networks
(LlamaForSequenceClassification and its kin) with a head of its own, which reads what the last token became."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from almanac.chat import models, published
from almanac.chat.engine.engine import Engine, Options
from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import read_json, read_tensors

HARMLESS = frozenset({"safe", "ok", "neutral", "none", "harmless", "not_toxic", "non_toxic", "label_0"})
"""What classifiers call a text that is as it should be."""


class Moderator:
    """A classifier.

    Args:
        engine: computes it.
        head: labels × width.
        labels: what its outputs mean.
        several: whether a text may be of several; else they share one probability.
    """

    def __init__(self, engine: Engine, head: Float[Tensor, "labels width"], labels: Sequence[str], several: bool):
        self.engine, self._head, self._labels, self._several = engine, head.numpy(), list(labels), several

    @property
    def name(self) -> str:
        """The model's."""
        return self.engine.model.name

    def scores(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """How likely each text is of each category.

        Args:
            texts: of which what fits the model's context counts.
        """
        most = self.engine.context - 1
        prompts = [self.engine.model.vocabulary.encode(text)[:most] or [0] for text in texts]
        logits = self.engine.features(prompts) @ self._head.T
        if self._several or len(self._labels) == 1:
            likely = 1 / (1 + np.exp(-logits))
        else:
            likely = np.exp(logits - logits.max(1, keepdims=True))
            likely /= likely.sum(1, keepdims=True)
        return [
            {
                label: float(value)
                for label, value in zip(self._labels, row, strict=True)
                if label.lower() not in HARMLESS
            }
            for row in likely
        ]


def load(name: str, options: Options) -> Moderator:
    """Load a classifier.

    Args:
        name: the path of a folder, or `hf://owner/repo`.
        options: how it runs.

    Raises:
        UserError: there is none of that name, or it has no head for classes.
    """
    folder = hub.repository(name, published.FILES)
    facts = read_json(folder / "config.json")
    head = _head(folder)
    named = facts.get("id2label") or {}
    labels = [str(named.get(str(number), f"LABEL_{number}")) for number in range(len(head))]
    engine = Engine(models.load(name), options)
    if head.shape[1] != engine.model.config.width:
        raise UserError(
            f"the head of {folder} reads {head.shape[1]} channels, not {engine.model.config.width}", "get it anew"
        )
    return Moderator(engine, head, labels, facts.get("problem_type") == "multi_label_classification")


def _head(folder: Path) -> Float[Tensor, "labels width"]:
    for file in sorted(folder.glob("*.safetensors")):
        tensors = read_tensors(file)
        if "score.weight" in tensors:
            return tensors["score.weight"].to(torch.float32)
    raise UserError(f"{folder} has no head for classes (score.weight)", "give a model for sequence classification")
