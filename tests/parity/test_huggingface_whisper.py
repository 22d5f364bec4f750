"""Our Whisper through Hugging Face's layout, against transformers; and OpenAI's layout written and read."""

import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.whisper import published
from almanac.whisper.model import SIZES, Dims, Whisper
from tests.whisper import untrained

transformers = pytest.importorskip("transformers")

DIMS = Dims.of_width(128, 2, 3, 51_866, mels=128)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A random model of theirs, and the folder that holds it."""
    config = transformers.WhisperConfig(
        d_model=128, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=512, decoder_ffn_dim=512, num_mel_bins=128, vocab_size=51_866,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.generation_config.alignment_heads = [[1, 0], [2, 1]]
    folder = tmp_path_factory.mktemp("hugging") / "face"
    model.save_pretrained(folder, max_shard_size="2MB")
    return model, folder


def test_a_folder_of_shards_is_the_same_model(theirs):
    model, folder = theirs
    ours = published.load(folder).eval()
    assert ours.dims == DIMS
    assert ours.alignment_heads.nonzero().tolist() == [[1, 0], [2, 1]]
    mel, tokens = torch.randn(2, 128, 3000), torch.randint(0, 50_000, (2, 40))
    with torch.inference_mode():
        expected = model(input_features=mel, decoder_input_ids=tokens).logits
        assert (ours(mel, tokens) - expected).abs().max() <= 1e-3


def test_what_is_written_as_openais_is_read_as_it_was(theirs, tmp_path):
    ours = published.load(theirs[1])
    published.save_openai(ours, untrained.small().tokenizer, tmp_path / "model.pt", torch.float32)
    again = published.load(tmp_path / "model.pt")
    assert again.dims == ours.dims
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_openais_own_loader_reads_it(theirs, tmp_path):
    whisper = pytest.importorskip("whisper")
    ours = published.load(theirs[1]).eval()
    published.save_openai(ours, untrained.small().tokenizer, tmp_path / "model.pt", torch.float32)
    model = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    mel, tokens = torch.randn(1, 128, 3000), torch.randint(0, 50_000, (1, 10))
    with torch.inference_mode():
        assert (ours(mel, tokens) - model(mel, tokens)).abs().max() <= 1e-3


def test_a_published_size_has_its_parameters():
    millions = {"tiny": 37.184640, "base": 71.825920, "small": 240.582912, "medium": 762.321920}
    millions |= {"large-v2": 1541.384960, "large-v3": 1541.570560, "large-v3-turbo": 806.958080, "tiny.en": 37.184256}
    with torch.device("meta"):
        for name, expected in millions.items():
            model = Whisper(SIZES[name])
            assert sum(parameter.numel() for parameter in model.parameters()) == round(expected * 1e6)


def test_alignment_heads_are_openais():
    whisper = pytest.importorskip("whisper")
    for name, dump in whisper._ALIGNMENT_HEADS.items():
        if name in ("large", "turbo"):
            continue
        dims = SIZES["large-v2" if name == "large-v1" else name]
        narrow = {**vars(dims), "n_audio_layer": 1, "n_text_state": 2 * dims.n_text_head, "n_vocab": 8}
        model = whisper.model.Whisper(whisper.model.ModelDimensions(**narrow))
        model.set_alignment_heads(dump)
        assert torch.equal(published.alignment_heads(dims, name), model.alignment_heads.to_dense())


def test_a_damaged_checkpoint_is_refused(theirs, tmp_path):
    ours = published.load(theirs[1])
    state = {"dims": vars(ours.dims), "model_state_dict": dict(ours.state_dict())}
    del state["model_state_dict"]["decoder.ln.weight"]
    torch.save(state, tmp_path / "missing.pt")
    with pytest.raises(UserError, match=r"lacks decoder\.ln\.weight"):
        published.load(tmp_path / "missing.pt")
    state["model_state_dict"]["decoder.ln.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "shape.pt")
    with pytest.raises(UserError, match=r"decoder\.ln\.weight of other shapes"):
        published.load(tmp_path / "shape.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of OpenAI's Whisper"):
        published.load(tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no config\.json"):
        published.load(tmp_path / "empty")
