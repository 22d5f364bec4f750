"""The chat server as lm-eval sees it: the harness asks our server for likelihoods and texts, and computes them itself with transformers,
on the same random weights and the same local documents; what differs is told. `python -m benchmarks.chat_lm_eval`. The harness has an
environment of its own, which is made on the first run."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from almanac.chat import published, templates
from almanac.chat.model import Config, Transformer
from almanac.runtime import console, hub, results
from almanac.runtime.errors import UserError
from benchmarks import chat_serving, peers

SHAPE = Config(512, 64, 2, 4, 2, 16, 128, 256)
DOCUMENTS = 48
"""Of each task."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Übergröße, naïve café: 12 °C in São Paulo!",
    "日本語の文章は、とても短いです。",
    "👩‍👧 and 👍🏽 are more than one code point each.",
    "def add(a, b):\n    return a + b",
    "Москва слезам не верит,   но   дождь   идёт.",
    "مرحبا بالعالم، كيف حالك؟",
    '{"name": "order", "size": 3.14e-2}',
    "Tabs\tand\r\nlines\u00a0apart",
    "नमस्ते दुनिया",
    "e\u0301 is not \u00e9",
)
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
BLANKS = ("", "", " ", "\n", "  \n", "\t")
TASKS: dict[str, dict[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n", "k", "日"], "max_gen_toks": 40, "do_sample": False, "temperature": 0},
        "metric_list": [{"metric": "chrf"}],
    },
}
"""Strings that end a text are in no special token's name: where the harness computes itself, it would find them there too."""
TASKS["perplexity_by_windows"] = TASKS["perplexity"]


@dataclass(frozen=True)
class Way:
    """A way in which the harness asks: in tokens, text or messages. A window of a long text may begin within a character, which text can't
    say."""

    name: str
    model: str
    path: str
    arguments: str
    batch: int
    tasks: tuple[str, ...]
    chat: bool = False


WAYS = (
    Way("tokens", "local-completions", "completions", "tokenized_requests=True", 8, tuple(TASKS)),
    Way("text", "local-completions", "completions", "tokenized_requests=False", 1, tuple(TASKS)[:3]),
    Way("messages", "local-chat-completions", "chat/completions", "tokenized_requests=False", 1, ("writing",), True),
)


def run(*, threads: int = 1, write: bool = False, seed: int = 0, json: bool = False) -> None:
    """Compare what lm-eval gets from our server, in float32, with what it gets from transformers.

    Args:
        threads: of each.
        write: whether to write results/chat/lm_eval.json.
        seed: of weights and documents.
        json: print one JSON object.
    """
    folder = hub.cache() / "bench" / f"lm-eval-{seed}"
    _prepare(folder, seed)
    harness = _Harness(peers.python_of("lm-eval"), folder, threads)
    shared = (
        f"dtype=float32,max_length={SHAPE.context - 2}"  # the server must have room for a token, and lm-eval leaves one
    )
    rows: list[dict[str, Any]] = []
    with (
        console.progress("evaluating", len(WAYS) + 2, "runs") as advance,
        chat_serving.served(folder / "model", threads, "--dtype", "fp32") as address,
    ):
        expected = {}
        for chatting, tasks in ((False, tuple(TASKS)), (True, ("writing",))):
            expected[chatting] = harness.run("hf", f"pretrained={folder / 'model'},{shared}", 1, tasks, chatting)
            advance()
        for way in WAYS:
            known = f"model=model,tokenizer={folder / 'model'},tokenizer_backend=huggingface,max_length={SHAPE.context}"
            arguments = f"base_url=http://{address}/v1/{way.path},{known},num_concurrent=4,{way.arguments}"
            found = harness.run(way.model, arguments, way.batch, way.tasks, way.chat)
            rows += _rows(way, found, expected[way.chat])
            advance()
    if write:
        command = "python -m benchmarks.chat_lm_eval --write"
        results.write("chat", "lm_eval", rows, seed, threads=threads, command=command)
    console.result({"rows": rows}, json)


@dataclass(frozen=True)
class _Evaluation:
    """What the harness found."""

    metrics: dict[str, dict[str, float]]
    """Of each task."""
    answers: dict[str, dict[int, list[list[str]]]]
    """Of each task's documents: logarithms of likelihood, and whether it is what greedy decoding writes; or a text."""


@dataclass(frozen=True)
class _Harness:
    """lm-eval.

    Args:
        python: of its environment.
        folder: holds the tasks.
        threads: that it computes with.
    """

    python: Path
    folder: Path
    threads: int

    def run(self, model: str, arguments: str, batch: int, tasks: Sequence[str], chatting: bool) -> _Evaluation:
        """Evaluate a model on tasks."""
        out, log = self.folder / "out", self.folder / "out.log"
        shutil.rmtree(out, ignore_errors=True)
        command = [str(self.python), "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks"]
        command += [*tasks, "--include_path", str(self.folder), "--output_path", str(out), "--log_samples"]
        command += ["--batch_size", str(batch), "--device", "cpu", *(["--apply_chat_template"] if chatting else [])]
        offline = {"HF_HOME": str(self.folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self.threads)}
        with log.open("w") as stream:
            ended = subprocess.run(
                command, stdout=stream, stderr=stream, env={**os.environ, **offline}, cwd=self.folder
            )
        if ended.returncode:
            raise UserError("lm-eval ended with an error", f"see {log}")
        (found,) = out.glob("**/results_*.json")
        answers = {}
        for task in tasks:
            (file,) = out.glob(f"**/samples_{task}_2*.jsonl")
            lines = map(json.loads, file.read_text().splitlines())
            answers[task] = {line["doc_id"]: [_flat(each) for each in line["resps"]] for line in lines}
        return _Evaluation(json.loads(found.read_text())["results"], answers)


def _flat(answer: Any) -> list[str]:
    """An answer without the lists that it stands in."""
    while isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return [str(part) for part in answer] if isinstance(answer, list) else [str(answer)]


def _rows(way: Way, found: _Evaluation, expected: _Evaluation) -> list[dict[str, Any]]:
    """Each metric of both, how far any document's likelihood is from what it should be, and how many texts, or flags that say what greedy
    decoding writes, are the same."""
    rows = []
    for task in way.tasks:
        pairs = [
            pair
            for number, answers in expected.answers[task].items()
            for pair in zip(found.answers[task][number], answers, strict=True)
        ]
        kind = TASKS[task]["output_type"]
        far = None if kind == "generate_until" else max(abs(float(own[0]) - float(other[0])) for own, other in pairs)
        same = None if kind == "loglikelihood_rolling" else sum(own[-1] == other[-1] for own, other in pairs)
        for metric in TASKS[task]["metric_list"]:
            name = f"{metric['metric']},none"
            rows.append(
                {
                    "task": task,
                    "asked_by": way.name,
                    "metric": metric["metric"],
                    "server": round(found.metrics[task][name], 6),
                    "hf": round(expected.metrics[task][name], 6),
                    "documents": len(expected.answers[task]),
                    "largest_difference": far if far is None else float(f"{far:.1e}"),
                    "same": same if same is None else round(same / len(pairs), 4),
                }
            )
    return rows


def _prepare(folder: Path, seed: int) -> None:
    """The model, and the tasks with their documents."""
    tokenizer, model = _tokenizer(), _model(seed)
    published.save(model, folder / "model", torch.float32)
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIALS[-1], "chat_template": templates.CHATML}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(facts))
    (folder / "model" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": tokenizer.token_to_id(SPECIALS[-1])})
    )
    draw = random.Random(seed)
    documents = {
        "choice": [_choice(tokenizer, model, draw, number) for number in range(DOCUMENTS)],
        "perplexity": [{"text": _text(draw, number % 6 + 1)} for number in range(DOCUMENTS)],
        "writing": [{"context": _text(draw, 2), "text": _text(draw, 1)} for _ in range(DOCUMENTS)],
        "perplexity_by_windows": [{"text": _text(draw, 40 + number % 20)} for number in range(DOCUMENTS)],
    }
    for task, lines in documents.items():
        data = folder / f"{task}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{task}.yaml").write_text(json.dumps({"task": task, **where, **TASKS[task]}))


def _choice(tokenizer: Tokenizer, model: Transformer, draw: random.Random, number: int) -> dict[str, Any]:
    """A context, which may be empty, with four choices: what the model itself goes on with, a word, a letter and a text."""
    context = _text(draw, draw.randint(1, 3)) if number % 16 else ""
    given = tokenizer.encode(context.rstrip() or SPECIALS[-1]).ids
    likely = list(given)
    for _ in range(draw.randint(1, 4)):
        likely.append(int(model(torch.tensor([likely]))[0, -1].argmax()))
    own = tokenizer.decode(likely[len(given) :])
    if tokenizer.encode((context.rstrip() or SPECIALS[-1]) + own).ids != likely:  # it is no text
        own = " " + draw.choice(WORDS)
    others = [" " + draw.choice(WORDS), draw.choice([" a", "\n", " x"]), " " + _text(draw, 1)]
    return {"context": context.rstrip() if number % 2 else context, "choices": [own, *others], "answer": number % 4}


def _text(draw: random.Random, parts: int) -> str:
    """Sentences and words of several scripts, at whose end there may be blanks."""
    found = [draw.choice([draw.choice(SENTENCES), " ".join(draw.choices(WORDS, k=4))]) for _ in range(parts)]
    return " ".join(found) + draw.choice(BLANKS)


def _model(seed: int) -> Transformer:
    """Random weights that have preferences."""
    torch.manual_seed(seed)
    model = Transformer(SHAPE).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.3 if "embed" in name or "lm_head" in name else 1.5 * parameter.shape[1] ** -0.5)
    return model


def _tokenizer() -> Tokenizer:
    """A byte-level vocabulary learnt from the sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=SHAPE.vocabulary - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES, learner)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return made


if __name__ == "__main__":
    tyro.cli(run)
