"""The chat engine beside transformers, llama.cpp and vLLM on a CPU: the same random weights in the shape of SmolLM2-135M, the same
requests, the engines in turn, each in a process of its own and the peers in environments of their own, which are made on the first run.
What less precise weights cost in answers stands beside the speed."""

import json
import os
import statistics
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from almanac.chat import models, published
from almanac.chat.engine.engine import Ask, Engine, Options
from almanac.chat.engine.request import Sampling
from almanac.chat.model import Config, Transformer
from almanac.runtime import console, hub, results
from almanac.runtime.errors import UserError
from benchmarks import chat_serving, gguf_file, peers

SHAPE = Config(49_152, 576, 30, 9, 3, 64, 1536, 2048, tied=True)
"""SmolLM2-135M's."""
_END = "<|end|>"


@dataclass(frozen=True)
class Contender:
    """An engine with a precision."""

    engine: str
    precision: str

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.engine} {self.precision}"


CONTENDERS = (
    Contender("almanac", "int8"),
    Contender("almanac", "bf16"),
    Contender("transformers", "bf16"),
    Contender("llama.cpp", "q8_0"),
    Contender("vllm", "bf16"),
)


def run(
    *,
    requests: tuple[int, ...] = (1, 8, 32),
    prompt: int = 64,
    tokens: int = 96,
    rounds: int = 3,
    engines: tuple[str, ...] = (),
    threads: int = 0,
    device: str = "cpu",
    serving: bool = False,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure the chat engine beside transformers, llama.cpp (q8_0) and vLLM (bf16, compiled) on this machine's CPU; or what its server
    promises to whoever is served beside others.

    Args:
        requests: how many are asked at once.
        prompt: tokens of each.
        tokens: of each answer.
        rounds: times that each engine does each task, in turn, or each promise is tried; the median counts.
        engines: only these: almanac, transformers, llama.cpp, vllm; default: all.
        threads: of each engine; 0: one for each core.
        device: cpu or cuda; on a GPU only ours and transformers are measured.
        serving: measure the server's promises and nothing else.
        write: whether to write results/chat/bench.json; with --serving, results/chat/serving.json.
        seed: of weights and prompts.
        json: print one JSON object.
    """
    threads = threads or len(os.sched_getaffinity(0))
    if serving:
        rows = chat_serving.measure(_weights(seed), threads, rounds, seed)
        if write:
            results.write("chat", "serving", rows, seed, threads=threads)
        console.result({"rows": rows}, json)
        return
    able = [each for each in CONTENDERS if device == "cpu" or each.engine in ("almanac", "transformers")]
    chosen = [each for each in able if not engines or each.engine in engines]
    if not chosen:
        known = ", ".join(dict.fromkeys(each.engine for each in CONTENDERS))
        raise UserError(f"no engine is called {', '.join(engines)}", f"known: {known}")
    folder = _weights(seed)
    rows = []
    with ExitStack() as stack:
        running = {each: stack.enter_context(_Process(each, folder, threads, device)) for each in chosen}
        with console.progress("measuring", len(requests) * rounds * len(chosen), "runs") as advance:
            for count in requests:
                done: dict[Contender, list[dict[str, Any]]] = {each: [] for each in chosen}
                for each in chosen:  # compiles, and fills caches
                    running[each].do(count, prompt, 8, seed + 10_000)
                for turn in range(rounds):
                    for each in chosen:
                        done[each].append(running[each].do(count, prompt, tokens, seed + turn))
                        advance()
                rows += [{"requests": count, **_figures(each, done[each], count, prompt)} for each in chosen]
    for row in rows:
        ours = next(
            (each for each in rows if each["requests"] == row["requests"] and each["engine"] == "almanac int8"), row
        )
        row["ours_over_it"] = round(ours["decode_tokens_per_second"] / row["decode_tokens_per_second"], 3)
    rows += _quality(folder, device, seed)
    if write:
        results.write("chat", "bench" if device == "cpu" else "bench_gpu", rows, seed, threads=threads)
    console.result({"rows": rows}, json)


class _Process:
    """An engine that is running.

    Args:
        contender: which.
        folder: holds the weights, in all layouts.
        threads: that it computes with.
        device: where it computes.
    """

    def __init__(self, contender: Contender, folder: Path, threads: int, device: str):
        python = peers.python_of(contender.engine)
        model = folder / "model-q8_0.gguf" if contender.engine == "llama.cpp" else folder
        script = Path(__file__).with_name("chat_engines.py")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if contender.engine in ("almanac", "transformers"):
            environment["PYTHONPATH"] = str(hub.PROJECT)
        self._log = (folder / f"{contender.engine}.log").open("w")
        command = [str(python), str(script), contender.engine, str(model), str(threads), contender.precision, device]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        self.name = contender.name

    def do(self, requests: int, prompt: int, tokens: int, seed: int) -> dict[str, Any]:
        """A piece of work."""
        assert self._process.stdin and self._process.stdout
        work = {"requests": requests, "prompt": prompt, "tokens": tokens, "seed": seed}
        try:
            self._process.stdin.write(json.dumps(work) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"{self.name} ended", f"see {self._log.name}")
        done = json.loads(line)
        short = [len(times) for times in done["times"] if len(times) < tokens]
        assert not short, f"{self.name} wrote {short} tokens, not {tokens}: it was not the same work"
        return done

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def _figures(contender: Contender, runs: Sequence[dict[str, Any]], requests: int, prompt: int) -> dict[str, Any]:
    """A row of the table."""
    decode, prefill, first, between, cpu = [], [], [], [], []
    for run in runs:
        times = [np.array(each) for each in run["times"]]
        began = max(each[0] for each in times)  # from here on nothing but answers is computed
        ended = max(each[-1] for each in times)
        decode.append(sum(int((each > began).sum()) for each in times) / (ended - began))
        prefill.append(requests * prompt / began)
        first += [each[0] for each in times]
        between += [gap for each in times for gap in np.diff(each)]
        cpu.append(sum(map(len, times)) / run["cpu"])
    return {
        "engine": contender.name,
        "decode_tokens_per_second": round(statistics.median(decode), 1),
        "prefill_tokens_per_second": round(statistics.median(prefill), 1),
        "tokens_per_cpu_second": round(statistics.median(cpu), 1),
        "first_ms_p50": round(1000 * float(np.percentile(first, 50)), 1),
        "first_ms_p99": round(1000 * float(np.percentile(first, 99)), 1),
        "between_ms_p50": round(1000 * float(np.percentile(between, 50)), 2),
        "between_ms_p99": round(1000 * float(np.percentile(between, 99)), 2),
    }


def _quality(folder: Path, device: str, seed: int) -> list[dict[str, Any]]:
    """How our precisions agree with float32: greedy tokens, one at a time after the same text, and perplexity of what float32 wrote."""
    model = models.load(str(folder))
    draw = np.random.default_rng(seed)
    exact = Engine(model, Options("fp32", device, guess=False))
    texts = []
    for _ in range(8):
        prompt = draw.integers(3, SHAPE.vocabulary, 32).tolist()
        (answer,) = exact.answer(Ask(prompt, Sampling(96, temperature=0.7, seed=seed, ignore_end=True)))
        texts.append(prompt + answer.tokens)
    exact.close()
    reference, rows = [], []
    for precision in ("fp32", "bf16", "int8"):
        engine = Engine(model, Options(precision, device, guess=False))
        likeliest, logprobs = [], []
        for text in texts:
            done = threading.Event()
            ask = Ask(text, Sampling(1, temperature=0.0, logprobs=1, prompt_logprobs=True))
            ticket = engine.submit(ask, lambda _, part, done=done: done.set() if part.reason else None)
            done.wait()
            likeliest += [each.top[0][0] for each in ticket.prompt_logprobs[31:]]
            logprobs += [each.logprob for each in ticket.prompt_logprobs[31:]]
        engine.close()
        reference = reference or likeliest
        same = float(np.mean(np.array(likeliest) == np.array(reference)))
        perplexity = float(np.exp(-np.mean(logprobs)))
        rows.append(
            {"engine": f"almanac {precision}", "same_tokens": round(same, 4), "perplexity": round(perplexity, 2)}
        )
    return rows


def _weights(seed: int) -> Path:
    """The model, as Hugging Face's folder and as llama.cpp's file; kept in the cache."""
    folder = hub.cache() / "bench" / f"chat-{seed}"
    if not (folder / "model-q8_0.gguf").is_file():
        torch.manual_seed(seed)
        model = Transformer(SHAPE).requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.05)
        published.save(model, folder, torch.bfloat16)
        tokenizer = _tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.token_to_id(_END)}))
        gguf_file.write(folder / "model-q8_0.gguf", "llama", model, tokenizer, _END, "Q8_0")
    return folder


def _tokenizer() -> Tokenizer:
    """Words that are numbers: nobody reads them, and each is whole by itself, so that no engine holds one back."""
    tokens = ["w", "1", *(f"w{number}" for number in range(1, SHAPE.vocabulary - 2))]
    made = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, [("w", "1")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(_END, special=True)])
    return made
