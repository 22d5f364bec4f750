"""More machines than this one, by Ray; the only file that imports it, and only when an address is given. `map` is for
independent work (blocks, sweep points, crawl shards), `train` runs `fit` in several processes as torchrun would, `fleet` serves a web
application by several processes, `workers` are objects that are asked for things. All are given what to do as a function: what it does,
and where its files are, is the caller's."""

import asyncio
import importlib
import logging
import os
import socket
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, cast

from almanac.runtime import console
from almanac.runtime.errors import RunFailed, UserError
from almanac.runtime.workers import Answer, WorkerDied, Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 2
"""How often an item is tried again whose worker died."""


def map(
    fn: Callable[[Item], Result], items: Iterable[Item], *, address: str | None, cpus: float = 1.0, gpus: float = 0.0
) -> Iterator[Result]:
    """fn(item) for each item, in their order, as soon as each is there.

    Args:
        fn: a function that can be pickled; where it runs, `almanac` must be installed.
        items: a finite number of them.
        address: None: here, one after the other, without Ray; `local`: a Ray on this machine for the time being;
            `auto` or `host:port`: a Ray that runs. One that the process is connected to already is used as it is.
        cpus: processors for one item.
        gpus: GPUs for one item.

    Raises:
        UserError: fn raised it (any other exception of fn arrives as it is, with the worker's traceback); there is no
            Ray at the address; this machine can't hold one item.
        RunFailed: an item's worker died, and died again when it was tried again.
    """
    if address is None:
        for item in items:
            yield fn(item)
        return
    with _connected(address, cpus, gpus) as ray:
        attempt = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_attempt)
        function = ray.put(fn)
        waiting = deque(attempt.remote(function, item) for item in items)
        number = 0
        try:
            while waiting:
                value, error = _result(ray, waiting.popleft(), number)
                if error is not None:
                    raise error
                yield value
                number += 1
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def train(fn: Callable[[], Any], *, address: str | None, workers: int, gpus: float = 0.0) -> Any:
    """Run `fn`, which calls `fit`, in several processes that train one model together.

    Args:
        fn: a function that can be pickled; every process calls it. Its files must be where all of them can reach them.
        address: as `map` takes it; None: fn runs here, alone.
        workers: processes.
        gpus: GPUs of each process.

    Returns:
        What fn returned in the main process; Ray takes no tensors there.

    Raises:
        UserError: fn raised it in a process (any other exception of fn arrives as Ray's, with the worker's traceback);
            there is no Ray at the address; this machine can't hold the workers.
        RunFailed: a process died. The run goes on from its last checkpoint when fn resumes it.
    """
    if address is None:
        return fn()
    with _connected(address, float(workers), workers * gpus), tempfile.TemporaryDirectory() as storage:
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.config import LoggingConfig

        trainer = TorchTrainer(
            fn,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(storage_path=storage, logging_config=LoggingConfig(log_level="CRITICAL")),
        )
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            raise _cause(error) from None


@contextmanager
def workers(address: str, cpus: float, gpus: float = 0.0) -> Iterator[Workers]:
    """Workers that are Ray's actors, ended on leaving.

    Args:
        address: as `map` takes it.
        cpus: processors of all workers together.
        gpus: their GPUs.

    Raises:
        UserError: there is no Ray at the address, or this machine can't hold the workers.
    """
    with _connected(address, cpus, gpus) as ray:
        made = _Actors(ray)
        try:
            yield made
        finally:
            made.end()


class _Actors:
    def __init__(self, ray: Any):
        self._ray, self._hired = ray, list[_Actor]()

    def hire(self, build: Callable[[], Any], threads: int = 1, gpus: float = 0.0) -> "_Actor":
        made = self._ray.remote(num_cpus=threads, num_gpus=gpus)(_Hired)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
        self._hired.append(_Actor(self._ray, made.options(runtime_env=environment).remote(build, threads)))
        return self._hired[-1]

    def ready(self, answers: Sequence[Answer], seconds: float | None) -> list[Answer]:
        by_reference = {each.reference: each for each in answers if isinstance(each, _Reference)}
        if not by_reference:
            return []
        there, others = self._ray.wait(list(by_reference), num_returns=1, timeout=seconds, fetch_local=False)
        there += self._ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0] if others else []
        return [by_reference[each] for each in there]

    def end(self) -> None:
        for each in self._hired:
            each.dismiss()


class _Actor:
    def __init__(self, ray: Any, handle: Any):
        self._ray, self._handle = ray, handle

    def ask(self, method: str, *arguments: Any) -> "_Reference":
        given = [each.reference if isinstance(each, _Reference) else each for each in arguments]
        return _Reference(self._ray, self._handle.ask.remote(method, *given))

    def dismiss(self) -> None:
        self._ray.kill(self._handle)


class _Reference:
    """An answer that Ray holds."""

    def __init__(self, ray: Any, reference: Any):
        self._ray, self.reference = ray, reference

    def value(self) -> Any:
        try:
            return self._ray.get(self.reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise RuntimeError(str(error)) from None
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(type(error).__name__) from None


class _Hired:
    """In an actor of Ray's: the object that works."""

    def __init__(self, build: Callable[[], Any], threads: int):
        import torch

        torch.set_num_threads(threads)
        self._held = build()

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self._held, method)(*arguments)


class ReplicaDied(Exception):
    """A replica ended in the middle of its work."""


class Fleet:
    """Replicas of a web application.

    Args:
        handle: Ray Serve's, of their deployment.
        died: what Ray raises where a replica did.
    """

    def __init__(self, handle: Any, died: tuple[type[Exception], ...]):
        self._ask, self._died = handle.options(stream=True).ask, died

    async def ask(
        self, key: bytes, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> AsyncGenerator[Any, None]:
        """A request's response by the replica that is chosen for its key: first its status and headers, then the pieces of its body.

        Raises:
            ReplicaDied: it did before the end.
        """
        response = self._ask.remote(key, method, path, headers, body)
        ended = False
        try:
            async for piece in response:
                yield piece
            ended = True
        except self._died as error:
            ended = True
            raise ReplicaDied(type(error).__name__) from None
        finally:
            if not ended:
                response.cancel()


@contextmanager
def fleet(
    build: Callable[[], Any],
    choose: Callable[[bytes, Mapping[str, int]], str],
    *,
    address: str,
    replicas: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
    at_once: int = 1000,
) -> Iterator[Fleet]:
    """Replicas of a web application on Ray Serve, started anew where they die.

    Args:
        build: makes the (ASGI) application, in each replica; a function that can be pickled.
        choose: a function of a module: a request's replica, by its key and how much each has to do; the others are asked where that one
            can't.
        address: as `map` takes it.
        replicas: how many.
        cpus: processors of each.
        gpus: GPUs of each.
        at_once: requests that a replica takes.

    Raises:
        UserError: there is no Ray at the address, or this machine can't hold the replicas.
        RunFailed: they did not start, as where `build` fails.
    """
    with _connected(address, replicas * cpus, replicas * gpus) as ray:
        from ray import serve
        from ray.serve.config import RequestRouterConfig
        from ray.serve.exceptions import RayServeException

        deployment = serve.deployment(
            _Replica,
            name="replica",
            num_replicas=replicas,
            max_ongoing_requests=at_once,
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            request_router_config=RequestRouterConfig(
                request_router_class=cast(Any, _affine_router()),
                request_router_kwargs={"choose": f"{choose.__module__}:{choose.__name__}"},
            ),
            health_check_period_s=2,
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        try:
            try:
                handle = serve.run(cast(Any, deployment).bind(build), name="almanac", route_prefix=None)
            except RuntimeError as error:
                reason = (str(error).splitlines() or [""])[-1].strip()
                raise RunFailed(f"the replicas did not start ({reason})", "try one alone, without a cluster") from None
            yield Fleet(handle, (ray.exceptions.RayError, RayServeException))
        finally:
            serve.shutdown()


@cache
def _affine_router() -> type:
    """Ray Serve's router that sends a request to the replica which is chosen for its key."""
    from ray.serve.request_router import RequestRouter

    class AffineRouter(RequestRouter):
        def initialize_state(self, **kwargs: str) -> None:
            module, _, name = kwargs["choose"].partition(":")
            self._choose = getattr(importlib.import_module(module), name)

        async def choose_replicas(self, candidate_replicas: list, pending_request: Any = None) -> list[list]:
            if pending_request is None or not candidate_replicas:
                return [candidate_replicas]
            loads = {
                each.replica_id.unique_id: self.replica_queue_len_cache.get(each.replica_id) or 0
                for each in candidate_replicas
            }
            chosen = self._choose(pending_request.args[0], loads)
            first = [each for each in candidate_replicas if each.replica_id.unique_id == chosen]
            return [first, [each for each in candidate_replicas if each not in first]]

    AffineRouter.__qualname__ = AffineRouter.__name__
    return AffineRouter


def __getattr__(name: str) -> Any:
    """Ray finds the router by its name in this module, which imports no Ray before."""
    if name == "AffineRouter":
        return _affine_router()
    raise AttributeError(f"almanac.runtime.cluster has no {name}")


class _Replica:
    """In a worker: an application, asked without a network.

    Args:
        build: makes it.
    """

    def __init__(self, build: Callable[[], Any]):
        self._application = build()

    async def ask(
        self, key: bytes, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> AsyncGenerator[Any, None]:
        """Status and headers, then the pieces of the body."""
        target, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": target, "raw_path": target.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "client": None, "server": None,
        }  # fmt: skip
        told: asyncio.Queue = asyncio.Queue()
        given = iter([{"type": "http.request", "body": body, "more_body": False}])
        gone = asyncio.Event()

        async def receive() -> Any:
            message = next(given, None)
            if message is None:
                await gone.wait()
                return {"type": "http.disconnect"}
            return message

        answering = asyncio.ensure_future(self._application(scope, receive, told.put))
        answering.add_done_callback(lambda _: told.put_nowait(None))
        try:
            while (message := await told.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]]
                elif message.get("body"):
                    yield message["body"]
            await answering
        finally:
            gone.set()
            answering.cancel()


@contextmanager
def _connected(address: str, cpus: float, gpus: float) -> Iterator[Any]:
    """The module `ray`, connected; left as it was found."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed here", "install it with `pip install almanac[cluster]`") from None
    if ray.is_initialized():
        yield ray
        return
    from ray._private import worker

    worker.print_to_stdstream = _tell
    try:
        _knock(address)
        # None: as the cluster has it; a Ray of ours needs no dashboard
        ray.init(address=address, logging_level=logging.ERROR, include_dashboard=False if address == "local" else None)
    except (OSError, ValueError, RuntimeError, SystemExit) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "start one with `ray start --head`, or give --cluster local"
        raise UserError(f"there is no Ray at '{address}': {reason}", hint) from None
    try:
        if address == "local":
            _check_room(ray.cluster_resources(), cpus, gpus)
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Whether anybody listens at host:port, as an OSError: Ray itself would try for five minutes, and exit."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _tell(lines: dict[str, Any], ignore_prefix: bool) -> None:
    """A worker's lines go to stderr, where progress and remarks go. Ray's own way is to copy some of them, and what it has
    to say itself, to stdout, which is the result's."""
    if isinstance(lines.get("pid"), int) and lines.get("actor_name") in (None, "RayTrainWorker"):
        for line in lines["lines"]:
            if line.strip():
                console.log(line)


def _check_room(here: Mapping[str, float], cpus: float, gpus: float) -> None:
    """On this machine what does not fit will never fit; a cluster may grow."""
    for wanted, kind, name in ((cpus, "CPU", "processors"), (gpus, "GPU", "GPUs")):
        if wanted > here.get(kind, 0):
            what = f"{wanted:g} {name} are asked for, and this machine has {here.get(kind, 0):g}"
            raise UserError(what, "ask for fewer, or give --cluster the address of a larger one")


def _attempt(fn: Callable[[Item], Result], item: Item) -> tuple[Result | None, UserError | None]:
    """In a worker: the result, or the error for the person, which Ray would wrap."""
    try:
        return fn(item), None
    except UserError as error:
        return None, error


def _result(ray: Any, reference: Any, number: int) -> tuple[Any, UserError | None]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # an exception of fn's own
    except ray.exceptions.RayError as error:
        what = f"the worker of item {number} died {RETRIES + 1} times ({type(error).__name__})"
        raise RunFailed(what, "it may need more memory: ask for more processors an item, so that fewer run") from None


def _cause(error: Any) -> Exception:
    """What a failed training means: the UserError of the first process that has one, or a defect, or that a process died."""
    failures = [failure for _, failure in sorted(getattr(error, "worker_failures", {}).items())]
    told = [failure for failure in failures if isinstance(failure, UserError)]
    raised = [failure for failure in failures if not type(failure).__module__.startswith("ray.exceptions")]
    if told or raised:
        return told[0] if told else error
    reason = type(failures[0] if failures else error).__name__
    return RunFailed(f"a worker died ({reason})", "go on with --resume from the last checkpoint")
