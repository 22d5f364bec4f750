"""Published language models as our `Transformer`: folders of Hugging Face's (config.json and safetensors, in one file or in shards) of
GPT-2, the Llama family, Mistral, Qwen2, Qwen2.5 and Qwen3; and back. Files of llama.cpp's are `gguf`'s to read."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from almanac.chat.model import Config, Transformer
from almanac.nn.embeddings import Rope
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import read_json, read_weights

FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
"""What is fetched of a repository."""

_GPT2 = (
    (r"^(transformer\.)?wte\.", "model.embed_tokens."),
    (r"^(transformer\.)?wpe\.", "model.embed_positions."),
    (r"^(transformer\.)?ln_f\.", "model.norm."),
    (r"^(transformer\.)?h\.(\d+)\.", r"model.layers.\2."),
    (r"\.ln_1\.", ".input_layernorm."),
    (r"\.ln_2\.", ".post_attention_layernorm."),
    (r"\.attn\.c_proj\.", ".self_attn.o_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.up_proj."),
    (r"\.mlp\.c_proj\.", ".mlp.down_proj."),
)
"""GPT-2's names → Llama's."""


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    """Load a folder of Hugging Face's.

    Args:
        folder: holds config.json and model.safetensors, or shards with their index.
        dtype: of the weights.

    Raises:
        UserError: something is missing or damaged, or the architecture is not one of ours.
    """
    facts = read_json(folder / "config.json")
    config = config_from(facts, folder)
    tensors = read_weights(folder)
    if facts["model_type"] == "gpt2":
        tensors = _from_gpt2(tensors)
    return assemble(config, tensors, folder, dtype)


def assemble(config: Config, tensors: dict[str, Tensor], source: Path, dtype: torch.dtype) -> Transformer:
    """A model of weights by their names.

    Raises:
        UserError: some are missing, or of other shapes than the config says.
    """
    if config.tied or "lm_head.weight" not in tensors:
        config = replace(config, tied=True)
        tensors["lm_head.weight"] = tensors.get("model.embed_tokens.weight", torch.empty(0))
    with torch.device("meta"):
        model = Transformer(config)
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise UserError(f"{source} lacks {_some(missing)}", "it is not whole; get it anew")
    wrong = [name for name in wanted if wanted[name].shape != tensors[name].shape]
    if wrong:
        one = wrong[0]
        what = f"{source} has {one} of {tuple(tensors[one].shape)}, and its config says {tuple(wanted[one].shape)}"
        raise UserError(what, "weights and config are of different models; get them anew")
    model.load_state_dict({name: tensors[name].to(dtype) for name in wanted}, assign=True)
    if config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval().requires_grad_(False)


def config_from(facts: Mapping[str, Any], source: Path) -> Config:
    """The shape that a config.json describes.

    Raises:
        UserError: it is of an architecture that is not ours, or lacks numbers.
    """
    kind = facts.get("model_type")
    if kind not in _CONFIGS:
        known = ", ".join(_CONFIGS)
        raise UserError(f"{source} is a model of type '{kind}'", f"those that run here: {known}")
    try:
        return _CONFIGS[kind](facts)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"the config of {source} can't be used ({type(error).__name__}: {error})"
        raise UserError(what, "it is damaged, or of a variant that is not ours") from None


def _gpt2(facts: Mapping[str, Any]) -> Config:
    width, heads = facts["n_embd"], facts["n_head"]
    if facts.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ValueError(f"activation {facts['activation_function']}")
    if facts.get("scale_attn_by_inverse_layer_idx") or not facts.get("scale_attn_weights", True):
        raise ValueError("attention that is scaled by layer")
    return Config(
        vocabulary=facts["vocab_size"],
        width=width,
        layers=facts["n_layer"],
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=facts.get("n_inner") or 4 * width,
        context=facts["n_positions"],
        norm="layer",
        norm_eps=facts.get("layer_norm_epsilon", 1e-5),
        rope=None,
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=facts.get("tie_word_embeddings", True),
    )


def _llama(facts: Mapping[str, Any]) -> Config:
    width, heads = facts["hidden_size"], facts["num_attention_heads"]
    if facts.get("hidden_act", "silu") != "silu":
        raise ValueError(f"activation {facts['hidden_act']}")
    if facts.get("no_rope_layers") and not all(facts["no_rope_layers"]):
        raise ValueError("layers without positions")
    bias = facts.get("attention_bias", False)
    return Config(
        vocabulary=facts["vocab_size"],
        width=width,
        layers=facts["num_hidden_layers"],
        heads=heads,
        kv_heads=facts.get("num_key_value_heads") or heads,
        head_dim=facts.get("head_dim") or width // heads,
        hidden=facts["intermediate_size"],
        context=facts.get("max_position_embeddings", 2048),
        norm_eps=facts.get("rms_norm_eps", 1e-6),
        rope=_rope(facts),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=facts.get("mlp_bias", False),
        tied=facts.get("tie_word_embeddings", False),
    )


def _mistral(facts: Mapping[str, Any]) -> Config:
    config = _llama({**facts, "attention_bias": False, "mlp_bias": False})
    return replace(config, windows=(facts.get("sliding_window") or 0,) * config.layers)


def _qwen2(facts: Mapping[str, Any]) -> Config:
    config = _llama({**facts, "attention_bias": False, "mlp_bias": False})
    return replace(config, qkv_bias=True, windows=_qwen_windows(facts, config.layers))


def _qwen3(facts: Mapping[str, Any]) -> Config:
    config = _llama({"head_dim": 128, **facts, "mlp_bias": False})
    return replace(config, qk_norm=True, windows=_qwen_windows(facts, config.layers))


def _qwen_windows(facts: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Qwen's windows begin at a layer, where they are used at all."""
    window = (facts.get("sliding_window") or 0) if facts.get("use_sliding_window") else 0
    if not window:
        return ()
    kinds = facts.get("layer_types")
    first = facts.get("max_window_layers", 28)
    slides = [kind == "sliding_attention" for kind in kinds] if kinds else [i >= first for i in range(layers)]
    return tuple(window if each else 0 for each in slides)


def _rope(facts: Mapping[str, Any]) -> Rope:
    """Positions, of the present `rope_parameters` or the former `rope_theta` and `rope_scaling`."""
    given = facts.get("rope_parameters") or {"rope_theta": facts.get("rope_theta"), **(facts.get("rope_scaling") or {})}
    if given.get("partial_rotary_factor", facts.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("rotary embeddings of a part of the channels")
    kind = given.get("rope_type", given.get("type", "default"))
    rope = Rope(base=given.get("rope_theta") or facts.get("rope_theta") or 10_000.0)
    if kind == "default":
        return rope
    original = given.get("original_max_position_embeddings") or facts.get("max_position_embeddings", 2048)
    rope = replace(rope, scaling=kind, factor=given["factor"], original_context=original)
    match kind:
        case "linear":
            return rope
        case "llama3":
            return replace(rope, slow=given["low_freq_factor"], fast=given["high_freq_factor"])
        case "yarn":
            if given.get("mscale") and given.get("mscale_all_dim"):
                raise ValueError("yarn with mscale")
            return replace(
                rope,
                slow=given.get("beta_slow") or 1.0,
                fast=given.get("beta_fast") or 32.0,
                truncate=given.get("truncate", True),
                attention_factor=given.get("attention_factor"),
            )
    raise ValueError(f"rotary embeddings of type {kind}")


_CONFIGS: dict[str, Callable[[Mapping[str, Any]], Config]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}


def _from_gpt2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's weights under Llama's names: its matrices are transposed, and queries, keys and values are one."""
    found = {}
    for name, tensor in tensors.items():
        if re.search(r"\.attn\.(masked_)?bias$", name):  # the causal mask
            continue
        for pattern, replacement in _GPT2:
            name = re.sub(pattern, replacement, name)
        if ".layers." in name and tensor.dim() == 2:
            tensor = tensor.T
        if ".attn.c_attn." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace(".attn.c_attn.", f".self_attn.{part}_proj.")] = piece
        else:
            found[name] = tensor
    return found


def save(model: Transformer, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model as a folder of Hugging Face's: Llama's, Mistral's, Qwen2's or Qwen3's, whichever it is.

    Args:
        model: the model; not GPT-2.
        folder: made where it is not there.
        dtype: of the weights.

    Raises:
        UserError: it is none of these, or it could not be written.
    """
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tied:
        del tensors["lm_head.weight"]
    facts = json.dumps(facts_of(model.config, str(dtype).removeprefix("torch.")), indent=2).encode()
    blob = safetensors_bytes(tensors, {"format": "pt"})
    checkpoint.write_atomic(folder / "model.safetensors", lambda file: file.write(blob))
    checkpoint.write_atomic(folder / "config.json", lambda file: file.write(facts))


def facts_of(config: Config, dtype: str) -> dict[str, Any]:
    """The config.json of a shape.

    Raises:
        UserError: none of Hugging Face's architectures that we write has that shape.
    """
    if config.rope is None or not config.gated or config.norm != "rms":
        raise UserError("this model has learned positions or ungated layers", "only Llama's kin are written")
    kind, title = "llama", "Llama"
    if config.qk_norm:
        kind, title = "qwen3", "Qwen3"
    elif config.qkv_bias and not config.out_bias:
        kind, title = "qwen2", "Qwen2"
    elif any(config.windows):
        kind, title = "mistral", "Mistral"
    rope: dict[str, Any] = {"rope_theta": config.rope.base, "rope_type": config.rope.scaling}
    if config.rope.scaling != "default":
        rope |= {"factor": config.rope.factor, "original_max_position_embeddings": config.rope.original_context}
    if config.rope.scaling == "llama3":
        rope |= {"low_freq_factor": config.rope.slow, "high_freq_factor": config.rope.fast}
    if config.rope.scaling == "yarn":
        rope |= {"beta_slow": config.rope.slow, "beta_fast": config.rope.fast, "truncate": config.rope.truncate}
        rope["attention_factor"] = config.rope.magnitude
    window = max(config.windows, default=0)
    slides = ["sliding_attention" if each else "full_attention" for each in config.windows]
    return {
        "architectures": [f"{title}ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "rope_parameters": rope,
        "attention_bias": config.out_bias,
        "mlp_bias": config.mlp_bias,
        "sliding_window": window or None,
        "use_sliding_window": bool(window),
        **({"layer_types": slides} if window and kind != "mistral" else {}),
        "tie_word_embeddings": config.tied,
        "dtype": dtype,
    }


def _some(names: Iterable[str]) -> str:
    """A few of many names."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
