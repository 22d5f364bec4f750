"""A network of ours as llama.cpp's file, for llama.cpp to run beside us, and for tests to read back."""

import json
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

from almanac.chat.model import Transformer

_PARTS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMAL, _CONTROL = 1, 3


def write(
    path: Path, kind: str, network: Transformer, tokenizer: Tokenizer, end: str, numbers: str, template: str = ""
) -> None:
    """Write a file, as llama.cpp's converter does it.

    Args:
        path: the file.
        kind: llama, qwen2 or qwen3.
        network: of that kind.
        tokenizer: byte-level BPE.
        end: the token that ends a text.
        numbers: of matrices: F32, F16, or a kind that `gguf` makes, as Q8_0.
        template: of chats.
    """
    config = network.config
    assert config.rope is not None
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.base)
    _write_vocabulary(writer, tokenizer, end, template)
    for name, tensor in network.state_dict().items():
        if config.tied and name == "lm_head.weight":
            continue
        part, ending = name.rsplit(".", 1)
        if part.startswith("model.layers."):
            _, _, layer, rest = part.split(".", 3)
            part = f"blk.{layer}.{_PARTS[rest]}"
        else:
            part = _PARTS[part]
        values = tensor.float().numpy()
        if kind == "llama" and part.endswith(("attn_q", "attn_k")):  # which it turns by neighbouring channels
            heads = config.heads if part.endswith("q") else config.kv_heads
            pairs = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        chosen = gguf.GGMLQuantizationType["F32" if values.ndim == 1 else numbers]
        writer.add_tensor(
            f"{part}.{ending}", gguf.quants.quantize(np.ascontiguousarray(values), chosen), raw_dtype=chosen
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, end: str, template: str) -> None:
    facts = json.loads(tokenizer.to_str())
    special = {token["content"] for token in facts["added_tokens"] if token["special"]}
    texts = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_types([_CONTROL if text in special else _NORMAL for text in texts])
    writer.add_token_merges([" ".join(pair) for pair in facts["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id(end))
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)
