"""A classifier says of texts what transformers says of them."""

import json

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from almanac.chat import api, models, moderation
from almanac.chat.engine.engine import Engine, Options
from almanac.runtime.errors import UserError
from tests.chat import made

transformers = pytest.importorskip("transformers")
TEXTS = ["A coffee, please.", "I hate you", "x" * 50]


@pytest.mark.parametrize("several", [False, True])
def test_scores_are_transformers(several, tmp_path):
    folder = made.folder(tmp_path / "guard")
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"] = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    facts = json.loads((folder / "config.json").read_text())
    facts |= {
        "architectures": ["Qwen2ForSequenceClassification"],
        "id2label": {"0": "safe", "1": "hate", "2": "spam"},
        "pad_token_id": 0,
    }
    facts |= {"problem_type": "multi_label_classification"} if several else {}
    (folder / "config.json").write_text(json.dumps(facts))
    guard = moderation.load(str(folder), Options("fp32", threads=1))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = guard.scores(TEXTS)
    for text, scores in zip(TEXTS, found, strict=True):
        logits = theirs(torch.tensor([guard.engine.model.vocabulary.encode(text)])).logits[0]
        expected = logits.sigmoid() if several else logits.softmax(-1)
        assert list(scores) == ["hate", "spam"]
        assert list(scores.values()) == pytest.approx(expected[1:].tolist(), abs=1e-4)
    engine = Engine(models.load(str(made.folder(tmp_path / "tiny"))), Options(threads=1))
    client = TestClient(api.application(engine, guard))
    results = client.post("/v1/moderations", json={"input": TEXTS}).json()["results"]
    assert [each["flagged"] for each in results] == [max(scores.values()) > 0.5 for scores in found]
    assert client.post("/v1/moderations", json={"input": []}).status_code == 400
    assert TestClient(api.application(engine)).post("/v1/moderations", json={"input": "x"}).status_code == 404
    engine.close()
    guard.engine.close()


def test_a_model_without_a_head_is_refused(tmp_path):
    with pytest.raises(UserError, match="no head"):
        moderation.load(str(made.folder(tmp_path / "tiny")), Options(threads=1))
