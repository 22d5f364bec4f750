"""`almanac chat VERB`: parse, call, print."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

Dtype = Literal["auto", "int8", "bf16", "fp32"]
_MODEL = os.environ.get("ALMANAC_MODEL", "")


def serve(
    model: tyro.conf.Positional[str] = _MODEL,
    *,
    host: str = os.environ.get("ALMANAC_HOST", "127.0.0.1"),
    port: int = int(os.environ.get("ALMANAC_PORT", "8000")),
    dtype: Dtype = "auto",
    draft: str | None = None,
    guess: bool = True,
    moderation: str | None = None,
    max_queue: int = 256,
    max_running: int = 64,
    max_step_tokens: int = 512,
    kv_gigabytes: float = 0.0,
    threads: int = 0,
    drain_seconds: float = 30.0,
    cluster: str | None = None,
    replicas: int = 1,
    device: str = os.environ.get("ALMANAC_DEVICE", "auto"),
) -> None:
    """Serve a model by OpenAI's API: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /metrics.

    Many conversations are answered at a time, and what one is answered does not depend on the others. What begins like an earlier text
    is not computed again. More than --max-queue waiting texts are refused with 429.

    Args:
        model: the path of a folder of Hugging Face's (GPT-2, Llama, Mistral, Qwen2, Qwen3) or of a .gguf file, or hf://owner/repo
            ($ALMANAC_MODEL).
        host: address to listen on ($ALMANAC_HOST); 0.0.0.0 lets other machines in.
        port: port to listen on ($ALMANAC_PORT); 0 takes a free one.
        dtype: of weights: int8 (a CPU's fastest), bf16, or fp32, the exact one; auto: int8 on a CPU, bf16 on a GPU.
        draft: a smaller model of the same vocabulary, which guesses what the model says; answers stay the same.
        guess: guess that texts repeat themselves, while few are answered; answers stay the same.
        moderation: a classifier for /v1/moderations, as the path of a folder or hf://owner/repo.
        max_queue: texts that may wait.
        max_running: texts that are answered at a time.
        max_step_tokens: tokens that are computed at a time.
        kv_gigabytes: GiB for keys and values; 0: what 64 texts of full length need, but no more than a quarter of what is free.
        threads: that compute on a CPU; 0: one for each core.
        drain_seconds: after SIGTERM, how long what is being answered may take.
        cluster: the address of a Ray (auto, host:port), or local, for one on this machine for the time being: the model is served by
            --replicas processes, each with a part of its processors; what begins alike goes to the same, and what one that dies had
            accepted is asked of another.
        replicas: with --cluster, how many.
        device: auto, cpu or cuda ($ALMANAC_DEVICE).
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401

        from almanac.runtime import serving
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs {error.name}, which is not installed", "pip install 'almanac[studio]'"
        ) from None
    options = (model, dtype, device, draft, guess, max_queue, max_running, max_step_tokens, kv_gigabytes)
    with serving.listen(host, port) as listener:
        address = f"http://{host}:{listener.getsockname()[1]}"
        if cluster is not None:
            _serve_replicas(options, moderation, cluster, replicas, threads, listener, address, drain_seconds)
            return
        app, engine = _application(options, moderation, threads)
        console.log(f"{engine.model.name} ({engine.precision}) at {address}/v1 (Ctrl-C stops it)")
        body = '{"messages": [{"role": "user", "content": "Hello!"}]}'
        console.log(f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
        serving.serve(app, listener, drain_seconds)
        engine.close()


def complete(
    model: tyro.conf.Positional[str],
    text: tyro.conf.Positional[str],
    *,
    max_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    stop: tuple[str, ...] = (),
    chat: bool = False,
    ignore_eos: bool = False,
    seed: int | None = None,
    dtype: Dtype = "auto",
    draft: str | None = None,
    guess: bool = True,
    threads: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Continue a text.

    Args:
        model: the path of a folder of Hugging Face's or of a .gguf file, or hf://owner/repo.
        text: the text; -: what stdin has.
        max_tokens: at most.
        temperature: 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this probability.
        top_k: only so many of the likeliest; 0: all.
        min_p: only tokens at least so likely, of the likeliest's probability.
        stop: texts that end it, and are left out.
        chat: the text is a question, put as the model's chat template says.
        ignore_eos: go on after tokens that end a text.
        seed: of what is drawn; default: another each time.
        dtype: of weights: int8, bf16 or fp32; auto: int8 on a CPU, bf16 on a GPU.
        draft: a smaller model of the same vocabulary, which guesses what the model says.
        guess: guess that the text repeats itself.
        threads: that compute on a CPU; 0: one for each core.
        device: auto, cpu or cuda.
        json: print one JSON object: text, tokens and their logprobs.
    """
    from almanac.chat.engine.engine import Ask
    from almanac.chat.engine.request import Sampling

    _check(
        max_tokens=(max_tokens, 1, 2**20),
        temperature=(temperature, 0, 100),
        top_p=(top_p, 1e-9, 1),
        min_p=(min_p, 0, 1),
    )
    engine = _engine(model, dtype, device, draft, guess, threads=threads)
    said = sys.stdin.read() if text == "-" else text
    vocabulary = engine.model.vocabulary
    prompt = engine.model.template.encode([{"role": "user", "content": said}]) if chat else vocabulary.encode(said)
    sampling = Sampling(
        max_tokens,
        temperature,
        top_p,
        top_k,
        min_p,
        seed=seed,
        stop=stop,
        ignore_end=ignore_eos,
        logprobs=0 if json else None,
    )
    ask = Ask(prompt, sampling)
    if json:
        answer = engine.answer(ask)[0]
        logprobs = [each.logprob for each in answer.logprobs]
        console.result({"text": answer.text, "tokens": answer.tokens, "logprobs": logprobs}, json)
    else:
        for piece in engine.pieces(ask):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    engine.close()


def repl(
    model: tyro.conf.Positional[str] = "",
    *,
    server: str | None = None,
    system: str = "",
    max_tokens: int = 1024,
    temperature: float = 0.7,
    dtype: Dtype = "auto",
    device: str = "auto",
) -> None:
    """Talk with a model in the terminal.

    /new begins anew, /retry answers again, /undo takes the last question back, /system TEXT says how to be, /save FILE writes the
    conversation down, /quit or Ctrl-D ends. Ctrl-C stops an answer.

    Args:
        model: the path of a folder of Hugging Face's or of a .gguf file, or hf://owner/repo.
        server: talk with a server's model instead, e.g. http://127.0.0.1:8000/v1.
        system: what the model is told first.
        max_tokens: of an answer.
        temperature: 0 takes the likeliest token each time.
        dtype: of weights: int8, bf16 or fp32; auto: int8 on a CPU, bf16 on a GPU.
        device: auto, cpu or cuda.
    """
    from almanac.chat import repl as verb
    from almanac.chat.client import ChatClient

    if server is not None:
        with ChatClient(server, model) as client:
            verb.talk(lambda messages: client.stream(messages, max_tokens=max_tokens, temperature=temperature), system)
        return
    from almanac.chat.engine.engine import Ask
    from almanac.chat.engine.request import Sampling

    engine = _engine(model, dtype, device)

    def answer(messages: list[dict[str, str]]) -> Iterator[str]:
        return engine.pieces(Ask(engine.model.template.encode(messages), Sampling(max_tokens, temperature)))

    verb.talk(answer, system)
    engine.close()


def _serve_replicas(
    options: tuple,
    moderation: str | None,
    address: str,
    replicas: int,
    threads: int,
    listener: Any,
    url: str,
    drain: float,
) -> None:
    from almanac.chat import affinity
    from almanac.chat import replicas as front
    from almanac.runtime import cluster as ray
    from almanac.runtime import serving
    from almanac.runtime.device import resolve

    _check(replicas=(replicas, 1, 10_000))
    cores = threads or max((os.cpu_count() or 1) // replicas, 1)
    build = functools.partial(_replica, options, moderation, cores)
    gpus = float(resolve(options[2]).type == "cuda")
    with ray.fleet(build, affinity.choose, address=address, replicas=replicas, cpus=cores, gpus=gpus) as fleet:
        console.log(f"{options[0]}, {replicas} replicas, at {url}/v1 (Ctrl-C stops them)")
        serving.serve(front.application(fleet), listener, drain)


def _replica(options: tuple, moderation: str | None, threads: int) -> Any:
    """The application of one of several."""
    return _application(options, moderation, threads)[0]


def _application(options: tuple, moderation: str | None, threads: int) -> tuple[Any, Any]:
    """The API, and the engine behind it."""
    from almanac.chat import api
    from almanac.chat import moderation as moderating
    from almanac.chat.engine.engine import Options

    engine = _engine(*options, threads=threads)
    moderator = moderating.load(moderation, Options(options[1], options[2], threads)) if moderation else None
    return api.application(engine, moderator), engine


def _engine(
    model: str,
    dtype: str,
    device: str,
    draft: str | None = None,
    guess: bool = True,
    max_queue: int = 256,
    max_running: int = 64,
    max_step_tokens: int = 512,
    kv_gigabytes: float = 0.0,
    threads: int = 0,
) -> Any:
    from almanac.chat import models
    from almanac.chat.engine.engine import Engine, Options
    from almanac.chat.engine.scheduler import Limits

    if not model:
        raise UserError("no model is named", "give the path of a model's folder or .gguf file, or hf://owner/repo")
    _check(max_queue=(max_queue, 1, 10**6), max_running=(max_running, 1, 4096), threads=(threads, 0, 1024),
           max_step_tokens=(max_step_tokens, 16, 65_536), kv_gigabytes=(kv_gigabytes, 0, 10**5))  # fmt: skip
    limits = Limits(rows=max_step_tokens, running=max_running)
    options = Options(dtype, device, threads, kv_gigabytes, guess, limits, max_queue)
    return Engine(models.load(model), options, models.load(draft) if draft else None)


def _check(**given: tuple[float, float, float]) -> None:
    for name, (value, least, most) in given.items():
        if not least <= value <= most:
            raise UserError(f"--{name.replace('_', '-')} is {value:g}", f"give {least:g} to {most:g}")


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "complete": complete, "repl": repl}
