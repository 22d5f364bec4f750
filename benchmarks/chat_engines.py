"""One engine of the chat benchmark, in a process (and for a peer in an environment) of its own: `python chat_engines.py ENGINE MODEL
THREADS PRECISION DEVICE`. It reads a line of JSON for each piece of work, `{"requests", "prompt", "tokens", "seed"}`, does it, and writes
a line: when each token of each request came, and the CPU time that it took. Only the standard library is imported before the engine's
own."""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Work = dict[str, Any]
Times = list[list[float]]
"""Of each request, when each of its tokens came, s after the beginning."""


def prompts(work: Work, vocabulary: int) -> list[list[int]]:
    """Random tokens, others for each request and round."""
    draw = random.Random(work["seed"])
    return [[draw.randrange(3, vocabulary) for _ in range(work["prompt"])] for _ in range(work["requests"])]


def almanac(folder: str, threads: int, precision: str, device: str) -> Callable[[Work], Times]:
    """Ours."""
    from almanac.chat.engine.engine import Ask, Engine, Options
    from almanac.chat.engine.request import Sampling
    from almanac.chat.engine.scheduler import Limits
    from almanac.chat.models import load

    model = load(folder)
    rows = 512 if device == "cpu" else 4096
    engine = Engine(model, Options(precision, device, threads, guess=False, limits=Limits(rows=rows, chunk=rows)))

    def run(work: Work) -> Times:
        told: Times = [[] for _ in range(work["requests"])]
        left = threading.Semaphore(0)
        start = time.perf_counter()
        for number, prompt in enumerate(prompts(work, model.config.vocabulary)):

            def tell(ticket: object, part: Any, number: int = number) -> None:
                told[number] += [time.perf_counter() - start] * len(part.tokens)
                if part.reason:
                    left.release()

            engine.submit(Ask(prompt, Sampling(work["tokens"], temperature=0.0, ignore_end=True)), tell)
        for _ in told:
            left.acquire()
        return told

    return run


def transformers(folder: str, threads: int, precision: str, device: str) -> Callable[[Work], Times]:
    """Hugging Face's, as a static batch."""
    import torch
    from transformers import AutoModelForCausalLM, LogitsProcessor

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)

    class Clock(LogitsProcessor):
        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, tokens: Any, scores: Any) -> Any:
            self.times.append(time.perf_counter())
            return scores

    def run(work: Work) -> Times:
        given = torch.tensor(prompts(work, model.config.vocab_size), device=device)
        clock, start = Clock(), time.perf_counter()
        with torch.inference_mode():
            model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=work["tokens"], min_new_tokens=work["tokens"],
                do_sample=False, eos_token_id=None, pad_token_id=0, logits_processor=[clock],
            )  # fmt: skip
        return [[each - start for each in clock.times]] * work["requests"]

    return run


def llama_cpp(file: str, threads: int, precision: str, device: str) -> Callable[[Work], Times]:
    """llama.cpp's server, within this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = 32 * 512, 32, 512, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.endpoint_metrics, params.cache_ram_mib = True, False, 0
    server = xllamacpp.Server(params)

    def run(work: Work) -> Times:
        told: Times = [[] for _ in range(work["requests"])]
        start = time.perf_counter()

        def ask(number: int, prompt: list[int]) -> None:
            body = {
                "prompt": prompt,
                "n_predict": work["tokens"],
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "cache_prompt": False,
            }

            def tell(chunk: Any) -> None:  # one for each token, and one for the end
                if chunk["choices"][0]["finish_reason"] is None:
                    told[number].append(time.perf_counter() - start)

            server.handle_completions(body, tell)

        asking = [threading.Thread(target=ask, args=pair) for pair in enumerate(prompts(work, 49_000))]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        return told

    return run


def vllm(folder: str, threads: int, precision: str, device: str) -> Callable[[Work], Times]:
    """vLLM on a CPU, compiled."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(threads),
    }
    import torch

    torch.set_num_threads(threads)
    from vllm import EngineArgs, LLMEngine, SamplingParams

    arguments = EngineArgs(
        model=folder, dtype="bfloat16", skip_tokenizer_init=True, max_model_len=2048, max_num_seqs=32, enable_prefix_caching=False,
        max_num_batched_tokens=2048,
    )  # fmt: skip
    engine = LLMEngine.from_engine_args(arguments)
    numbers = iter(range(10**9))

    def run(work: Work) -> Times:
        told: dict[str, list[float]] = {}
        counts: dict[str, int] = {}
        params = SamplingParams(
            temperature=0, max_tokens=work["tokens"], min_tokens=work["tokens"], ignore_eos=True, detokenize=False
        )
        start = time.perf_counter()
        for prompt in prompts(work, 49_000):
            name = str(next(numbers))
            told[name], counts[name] = [], 0
            engine.add_request(name, {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                known = len(output.outputs[0].token_ids)
                told[output.request_id] += [time.perf_counter() - start] * (known - counts[output.request_id])
                counts[output.request_id] = known
        return list(told.values())

    return run


ENGINES = {"almanac": almanac, "transformers": transformers, "llama.cpp": llama_cpp, "vllm": vllm}


def main() -> None:
    """Serve work from stdin."""
    engine, model, threads, precision, device = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # engines chatter
    run = ENGINES[engine](model, int(threads), precision, device)
    for line in sys.stdin:
        work = json.loads(line)
        before = time.process_time()
        times = run(work)
        cpu = time.process_time() - before
        answers.write(json.dumps({"times": times, "cpu": cpu}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
