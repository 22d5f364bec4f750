"""Models that nobody trained, as whole folders: weights, tokenizer and chat template."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from almanac.chat import published
from almanac.chat.model import Config, Transformer

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on the mat near the door.",
    'A coffee, please: a tall latte with oat milk. {"name": "order", "arguments": {"drink": "latte", "size": "tall"}}',
    "What is the weather in Paris today? It is 12 degrees, and it rains. Übergröße, naïve café, 日本語, 👩‍👧.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SMALL = Config(
    vocabulary=400,
    width=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    hidden=96,
    context=1024,
    qkv_bias=True,
    tied=True,
)


def tokenizer(size: int = 400) -> Tokenizer:
    """A byte-level vocabulary learnt from a few sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXT * 4, learner)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return made


def network(config: Config = SMALL, seed: int = 0, spread: float = 0.25) -> Transformer:
    """Random weights, of which something other than one token again and again comes."""
    torch.manual_seed(seed)
    model = Transformer(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, spread if "embed" in name or "lm_head" in name else 1.5 * parameter.shape[1] ** -0.5)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def folder(path: Path, config: Config = SMALL, seed: int = 0, template: str | None = None, ends: bool = True) -> Path:
    """A model's folder, as Hugging Face has them.

    Args:
        path: where to.
        config: its shape.
        seed: of its weights.
        template: its chat template; None: it has none.
        ends: whether there are tokens that end a text.
    """
    path.mkdir(parents=True, exist_ok=True)
    made = tokenizer(config.vocabulary)
    published.save(network(config, seed), path, torch.float32)
    made.save(str(path / "tokenizer.json"))
    facts = {"eos_token": "<|im_end|>" if ends else None, "bos_token": None}
    (path / "tokenizer_config.json").write_text(
        json.dumps({**facts, **({"chat_template": template} if template else {})})
    )
    numbers = [made.token_to_id(text) for text in ("<|im_end|>", "<|endoftext|>") if ends]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": numbers}))
    return path
