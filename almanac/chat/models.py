"""A model that is ready to speak: found by name, whatever its layout, with its tokenizer and its chat template."""

from dataclasses import dataclass
from pathlib import Path

import torch

from almanac.chat import gguf, published, templates, tokenizer
from almanac.chat.model import Config, Transformer
from almanac.chat.templates import ChatTemplate
from almanac.chat.tokenizer import Vocabulary
from almanac.runtime import hub


@dataclass(frozen=True)
class ChatModel:
    """A model with what belongs to it."""

    name: str
    """What clients call it."""
    network: Transformer
    vocabulary: Vocabulary
    template: ChatTemplate

    @property
    def config(self) -> Config:
        """Its shape."""
        return self.network.config


def load(name: str, dtype: torch.dtype = torch.float32) -> ChatModel:
    """Load a model.

    Args:
        name: the path of a folder of Hugging Face's or of a .gguf file, or `hf://owner/repo`.
        dtype: of its weights.

    Raises:
        UserError: there is none of that name, it is damaged, or of an architecture that is not ours.
    """
    short = name.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    if name.endswith(".gguf"):
        path = hub.weights(name)
        file = gguf.read(path)
        network = published.assemble(file.config, file.tensors, path, dtype)
        return ChatModel(
            short, network, file.vocabulary, ChatTemplate(file.template or templates.CHATML, file.vocabulary)
        )
    folder = hub.repository(name, published.FILES)
    network = published.load(folder, dtype)
    vocabulary = tokenizer.load(folder, network.config.vocabulary)
    return ChatModel(short or Path(folder).resolve().name, network, vocabulary, templates.load(folder, vocabulary))
