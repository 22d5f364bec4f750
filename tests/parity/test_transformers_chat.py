"""Language models are transformers', on random weights and in all layouts; so are their tokenizers and chat templates."""

from pathlib import Path

import pytest
import torch

from almanac.chat import models, published
from almanac.chat.engine.core import Core
from almanac.chat.engine.cpu import CpuRunner
from almanac.chat.engine.request import Sampling, Sequence
from almanac.chat.engine.scheduler import Limits
from tests.chat import made

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 60,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=300, n_positions=256, n_embd=60, n_layer=3, n_head=4),
    "gpt2 with odd heads": lambda: transformers.GPT2Config(
        vocab_size=300, n_positions=256, n_embd=63, n_layer=2, n_head=9
    ),
    "llama": lambda: transformers.LlamaConfig(**SIZES, head_dim=22),
    "llama with biases": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama 3": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "linear": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, tie_word_embeddings=True
    ),
    "yarn": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=YARN),
    "mistral": lambda: transformers.MistralConfig(**SIZES, head_dim=14, sliding_window=24),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 with windows": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=24, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=26),
}


@pytest.fixture(scope="module", params=CONFIGS)
def theirs(request):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.15)
        else:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=["whole", "sharded"])
def folder(request, theirs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(path, max_shard_size="60KB" if request.param == "sharded" else "1GB")
    assert (path / "model.safetensors.index.json").is_file() == (request.param == "sharded")
    return path


def test_logits_are_the_same(theirs, folder):
    own = published.load(folder)
    tokens = torch.randint(0, 300, (3, 100), generator=torch.Generator().manual_seed(1))
    assert (own(tokens) - theirs(tokens).logits).abs().max() < 1e-4
    real = torch.ones_like(tokens)
    real[0, :30], real[1, :7] = 0, 0  # filled up on the left
    positions = (real.cumsum(1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=real, position_ids=positions).logits
    found = own(tokens, real.bool())
    for row, start in enumerate((30, 7, 0)):
        assert (found[row, start:] - expected[row, start:]).abs().max() < 1e-4
        assert (own(tokens[row : row + 1, start:]) - expected[row, start:]).abs().max() < 1e-4


def test_the_engine_says_the_same(theirs, folder):
    """64 greedy tokens of prompts of several lengths, all at once and in parts."""
    own = published.load(folder)
    draw = torch.Generator().manual_seed(2)
    prompts = [torch.randint(0, 300, (length,), generator=draw).tolist() for length in (1, 5, 31, 32, 33, 90)]
    limits = Limits(rows=48, chunk=11)
    core = Core(CpuRunner(own, "fp32", 100, threads=2, most_rows=48), 100, frozenset(), own.config.context, limits)
    texts = [Sequence(prompt, Sampling(64, temperature=0.0)) for prompt in prompts]
    for text in texts:
        core.add(text)
    list(core.run())
    for prompt, text in zip(prompts, texts, strict=True):
        given = torch.tensor([prompt])
        expected = theirs.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert text.tokens == expected[0].tolist()


def test_what_we_write_they_read(theirs, folder, tmp_path):
    own = published.load(folder)
    if own.config.rope is None:
        with pytest.raises(Exception, match="learned positions"):
            published.save(own, tmp_path)
        return
    published.save(own, tmp_path, torch.float32)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(0, 300, (2, 90), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)


TEMPLATE = (
    "{%- if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif -%}"
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}{% generation %}{{ message.content | trim }}{{ '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_conversations_become_the_same_tokens(template, tmp_path):
    own = models.load(str(made.folder(tmp_path / "tiny", template=template)))
    file = str(tmp_path / "tiny" / "tokenizer.json")
    other = transformers.PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|im_end|>")
    other.chat_template = own.template.source
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": 'Naïve café? 日本語 \n 1 < 2 & "3"'},
        {"role": "assistant", "content": " Yes. "},
        {"role": "user", "content": "And 👩‍👧?"},
    ]
    tools = [{"type": "function", "function": {"name": "x", "parameters": {"type": "object", "properties": {"ä": {}}}}}]
    for given in (None, tools):
        for answer in (True, False):
            expected = other.apply_chat_template(
                messages, tools=given, add_generation_prompt=answer, tokenize=True, return_dict=False
            )
            assert own.template.encode(messages, given, answer) == expected
