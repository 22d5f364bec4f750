"""A model written as llama.cpp's file comes back as it was, or as near as its bits allow."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from almanac.chat import models
from almanac.chat.model import Config, Transformer
from almanac.nn.embeddings import Rope
from almanac.runtime.errors import UserError
from benchmarks import gguf_file
from tests.chat import made

CONFIGS = {
    "llama": Config(400, 64, 2, 4, 2, 16, 96, 256),
    "qwen2": Config(400, 64, 2, 4, 2, 16, 96, 256, qkv_bias=True, tied=True),
    "qwen3": Config(400, 64, 2, 4, 2, 32, 96, 256, qk_norm=True, rope=Rope(1e6)),
}


def write(path: Path, kind: str, network: Transformer, numbers: str) -> None:
    gguf_file.write(path, kind, network, made.tokenizer(), "<|im_end|>", numbers, "{{ messages[0].content }}")


@pytest.mark.parametrize(("numbers", "error"), [("F32", 0.0), ("F16", 1e-3), ("Q8_0", 5e-3)])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_holds_the_model(kind, numbers, error, tmp_path):
    network = made.network(CONFIGS[kind])
    write(tmp_path / "model.gguf", kind, network, numbers)
    again = models.load(str(tmp_path / "model.gguf"))
    assert again.name == "model"
    assert replace(again.config, norm_eps=0.0) == replace(network.config, norm_eps=0.0)
    tokens = torch.randint(0, 400, (2, 60), generator=torch.Generator().manual_seed(0))
    if numbers == "F32":
        assert torch.equal(again.network(tokens), network(tokens))
    for name, tensor in network.state_dict().items():
        assert (again.network.state_dict()[name] - tensor).abs().max() <= error * tensor.abs().max(), name
    folder = models.load(str(made.folder(tmp_path / "folder")))
    for text in (*made.TEXT, "<|im_end|> is text", " \n\n  x"):
        assert again.vocabulary.encode(text) == folder.vocabulary.encode(text)
        assert again.vocabulary.decode(again.vocabulary.encode(text)) == text
    assert again.vocabulary.ends == {folder.vocabulary.tokenizer.token_to_id("<|im_end|>")}
    assert again.template.render([{"role": "user", "content": "hi"}], None, True) == "hi"


def test_four_bits_are_read_as_llama_cpp_packs_them(tmp_path):
    """Q4_K: blocks of 256 by eight scales and minima of six bits each, unpacked here by hand."""
    draw = np.random.default_rng(0)
    block = draw.integers(0, 256, 144).astype(np.uint8)
    block[:4] = np.array([0.01, 0.02], np.float16).view(np.uint8)
    found = gguf.quants.dequantize(block[None], gguf.GGMLQuantizationType.Q4_K)[0]
    d, dmin = block[:4].view(np.float16).astype(np.float32)
    scales, low = block[4:16], block[16:]
    for part in range(8):
        if part < 4:
            scale, least = scales[part] & 63, scales[part + 4] & 63
        else:
            scale = (scales[part + 4] & 15) | (scales[part - 4] >> 6) << 4
            least = (scales[part + 4] >> 4) | (scales[part] >> 6) << 4
        packed = low[part // 2 * 32 : part // 2 * 32 + 32]
        numbers = packed & 15 if part % 2 == 0 else packed >> 4
        expected = d * scale * numbers.astype(np.float32) - dmin * least
        assert np.allclose(found[part * 32 : part * 32 + 32], expected, atol=1e-6)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(UserError, match="GGUF"):
        models.load(str(tmp_path / "a.gguf"))
    network = made.network(CONFIGS["llama"])
    write(tmp_path / "b.gguf", "llama", network, "F16")
    whole = (tmp_path / "b.gguf").read_bytes()
    for share in (0.1, 0.5, 0.95):
        (tmp_path / "c.gguf").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError):
            models.load(str(tmp_path / "c.gguf"))
    write(tmp_path / "d.gguf", "mamba", network, "F16")
    with pytest.raises(UserError, match="mamba"):
        models.load(str(tmp_path / "d.gguf"))
    with pytest.raises(UserError):
        models.load(str(tmp_path / "nothing.gguf"))
