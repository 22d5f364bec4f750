"""The one supervised training loop. A recipe gives a model, a loss and batches; `fit` gives precision, warm-up and
cosine, clipping, averaging, accumulation, several processes, progress, metrics, and checkpoints from which a killed run
goes on to the same losses.

It owes that to one rule: everything random about batch n is a function of (seed, n), and step k of P processes takes the
same batches wherever they are computed. Batches are asked for by number, the loss draws from a generator that is seeded
anew for each of them, and so is torch's own generator, from which dropout draws."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import recursively_apply, send_to_device
from torch import Tensor, nn

from almanac.nn.ema import EMA
from almanac.runtime import checkpoint, console, device, replay
from almanac.runtime.errors import Interrupted, RunFailed, UserError
from almanac.runtime.lamb import Lamb
from almanac.runtime.run_log import RunLog
from almanac.runtime.stopping import stop_signals

Loss = Callable[[nn.Module, Any, torch.Generator], Tensor]
"""loss(model, batch, generator) → a scalar; whatever it draws, it draws from the generator. It runs under autocast."""
Batches = Callable[[int], Any]
"""batches(n) → the n-th batch, the same one whenever and wherever it is asked for."""
Validate = Callable[[nn.Module], float]
"""validate(model) → a figure of which less is better."""


@dataclass(frozen=True)
class FitConfig:
    """How to optimise."""

    steps: int
    """Optimiser steps."""
    learning_rate: float = 2e-4
    """Peak learning rate of AdamW."""
    final_ratio: float = 0.0
    """Learning rate at the end of the cosine, as a part of the peak (1: constant after the warm-up)."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's two decay rates."""
    eps: float = 1e-8
    """Keeps AdamW's quotient finite."""
    lamb: bool = False
    """Whether LAMB (You et al. 2020) takes AdamW's place: for batches of thousands."""
    weight_decay: float = 0.0
    """Weight decay."""
    muon: float = 0.0
    """Peak learning rate of Muon (Jordan et al. 2024) for the matrices of a network's `blocks`, in AdamW's measure of a step; 0: AdamW
    trains them too. Short trainings learn faster by it (docs/log.md)."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """By how a parameter's name begins: its AdamW's learning rate as a multiple of the others'."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    accumulate: int = 1
    """Batches per optimiser step and process."""
    ema_decay: float = 0.995
    """Decay of the averaged weights, the ones that are evaluated."""
    ema_every: int = 1
    """Optimiser steps between two updates of the average."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast, or fp32; auto: bf16 where it is faster."""
    compile: bool = False
    """Whether to run the model through torch.compile."""
    replay: bool = False
    """Whether a GPU replays the model's kernels (`replay.capture` says of which models; none that is compiled). It does not where several
    processes share the work, or `accumulate` is above 1."""
    save_every: int = 500
    """Steps between two checkpoints (and validations)."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""

    def __post_init__(self):
        for name in ("steps", "accumulate", "ema_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number from 1 on")


@dataclass(frozen=True)
class Fitted:
    """What came of a run."""

    step: int
    """Optimiser steps done."""
    batches: int
    """Batches that they took, of all processes."""
    loss: float
    """Mean training loss over the last steps that were logged together."""
    weights: dict[str, Tensor]
    """The averaged weights."""
    seconds: float
    """Time spent, over all parts of a resumed run."""


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    config: FitConfig,
    out: Path,
    *,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
    validate: Validate | None = None,
) -> Fitted:
    """Train a model. Under `torchrun`, or in a worker of `cluster.train`, the processes share the work: P of them with
    `accumulate` a take the same steps as one with `accumulate` P·a.

    Args:
        model: what is trained, in place; on the CPU or where it will run.
        loss: see `Loss`.
        batches: see `Batches`.
        config: how to optimise.
        out: the run's folder: `last.pt`, `best.pt`, `metrics.jsonl`, TensorBoard events.
        seed: of everything random.
        device_name: as `device.resolve` takes it.
        resume: go on from `last.pt` in `out`.
        validate: is given the model with averaged weights; its smallest figure marks `best.pt`. None: the training
            loss does.

    Raises:
        UserError: `out` holds a run and `resume` is off, or the other way round; the run there has another seed or
            network; nothing can be written there.
        RunFailed: the loss or its gradient is not finite; the last checkpoint is from before.
        Interrupted: SIGTERM or Ctrl-C; the run was saved first.
    """
    out = Path(out)
    if not resume and any((out / name).exists() for name in ("last.pt", "best.pt")):
        raise UserError(f"{out} already holds a run", "go on with --resume, or choose another --out")
    return _Run(model, loss, batches, config, out, seed, device_name, resume, validate).run()


def learning_rate(step: int, config: FitConfig) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, then cosine (Loshchilov & Hutter 2017, eq. 5)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    done = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * warmup * cosine


class _Run:
    """One run: its parts, and the steps from them to a trained model."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batches,
        config: FitConfig,
        out: Path,
        seed: int,
        device_name: str,
        resume: bool,
        validate: Validate | None,
    ):
        self.loss, self.batches, self.config, self.seed, self.validate = loss, batches, config, seed, validate
        self.out = out
        self.accelerator = _accelerator(device_name)
        self.plain = model.to(self.accelerator.device)
        compiled = torch.compile(model) if config.compile else model
        alone = self.accelerator.num_processes == config.accumulate == 1
        if config.replay and alone and _is_cuda(self.accelerator):
            replay.capture(model)
        self.model, *self.optimizers = self.accelerator.prepare(compiled, *_optimizers(model, config))
        self.ema = EMA(self.plain, config.ema_decay)
        self.step, self.best, self.best_step, self.seconds = 0, math.inf, 0, 0.0
        self.losses: list[float] = []  # of the steps since the last line of metrics.jsonl, all finite
        self.pending: list[Tensor] = []  # loss and gradient norm of the steps since then that nobody has looked at
        self.last_loss = math.nan
        self.metrics: RunLog | None = None
        if resume:
            self._restore(_read(out / "last.pt", seed))

    def run(self) -> Fitted:
        """All the steps that are left."""
        config, main = self.config, self.accelerator.is_main_process
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([self.accelerator.device] if _is_cuda(self.accelerator) else []))
            stopped = stack.enter_context(stop_signals())
            self.metrics = stack.enter_context(RunLog(self.out, self.step)) if main else None
            bar = console.progress("training", config.steps, "steps", self.step)
            advance = stack.enter_context(bar) if main else lambda *_, **__: None
            fetch = stack.enter_context(self._prefetching())
            started, before, resumed = time.monotonic(), self.seconds, self.step
            self.model.train()
            while self.step < config.steps:
                self._optimise(fetch)
                self.seconds = before + time.monotonic() - started
                saving = self.step % config.save_every == 0 or self.step == config.steps
                logging = self.step % config.log_every == 0 or saving
                stopping = bool(stopped) if self.accelerator.num_processes == 1 else logging and self._anyone(stopped)
                if logging or stopping:
                    self._settle()
                if logging:
                    rate = (self.step - resumed) / (self.seconds - before)
                    self._log(advance, rate, durable=saving)
                if saving or stopping:
                    self._save(validated=saving)
                if stopping:
                    raise Interrupted(f"stopped at step {self.step} and saved", f"go on with --resume --out {self.out}")
                advance()
        batches = self.step * config.accumulate * self.accelerator.num_processes
        return Fitted(self.step, batches, self.last_loss, self.ema.weights, self.seconds)

    def _optimise(self, fetch: Batches) -> None:
        config, accelerator = self.config, self.accelerator
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * learning_rate(self.step, config)
        total = torch.zeros((), device=accelerator.device)
        for part in range(config.accumulate):
            number = (self.step * config.accumulate + part) * accelerator.num_processes + accelerator.process_index
            batch = send_to_device(fetch(number), accelerator.device, non_blocking=True)
            generator = torch.Generator().manual_seed(_seed_of(self.seed, number))
            torch.manual_seed(_seed_of(generator.initial_seed(), 0))  # another stream than the generator's
            last = part == config.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with device.autocast(accelerator.device, config.precision):
                    loss = self.loss(self.model, batch, generator) / config.accumulate
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.pending.append(torch.stack([total, torch.as_tensor(norm, device=total.device).to(total.dtype)]))
        if self.step % config.ema_every == 0:
            self.ema.update(self.plain)

    def _settle(self) -> None:
        """Look at the steps since the last time, all processes together.

        Raises:
            RunFailed: one of them was not finite.
        """
        pairs: list[list[float]] = self.accelerator.reduce(torch.stack(self.pending), "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        first = self.step - len(pairs) + 1
        self.pending.clear()
        for step, (loss, norm) in enumerate(pairs, first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                figure = f"the loss of step {step} is {loss}"
                if math.isfinite(loss):
                    figure = f"the gradient of step {step} has the norm {norm}"
                saved = (self.out / "last.pt").exists()
                kept = f"the checkpoint in {self.out} is from before" if saved else "no checkpoint had been saved yet"
                raise RunFailed(figure, f"{kept}; lower the learning rate, or look at that batch")
        self.losses += [loss for loss, _ in pairs]

    def _log(self, advance: Callable[..., None], rate: float, durable: bool) -> None:
        self.last_loss = sum(self.losses) / len(self.losses)
        advance(0, note=f"loss {self.last_loss:.4f}  {rate:.2f} steps/s")
        if self.metrics:
            figures = {"losses": self.losses, "learning_rate": learning_rate(self.step - 1, self.config)}
            self.metrics.add(self.step, figures, self.seconds, {"loss": self.last_loss}, durable)
        self.losses = []

    def _save(self, validated: bool) -> None:
        """Write `last.pt`, and `best.pt` when this is the best so far."""
        if not self.accelerator.is_main_process:
            return
        figure = self._figure() if validated else math.inf
        if figure < self.best:
            self.best, self.best_step = figure, self.step
        state = {
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "loss": self.last_loss,
            "losses": self.losses,
            "model": self.plain.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.state_dict(),
            "seed": self.seed,
        }
        checkpoint.save_state(self.out / "last.pt", state)
        if self.best_step == self.step:
            checkpoint.save_state(self.out / "best.pt", state)

    def _figure(self) -> float:
        if self.validate is None:
            return self.last_loss
        kept = {name: tensor.clone() for name, tensor in self.plain.state_dict().items()}
        self.plain.load_state_dict(self.ema.weights)
        self.plain.eval()
        try:
            with torch.no_grad(), device.autocast(self.accelerator.device, self.config.precision):
                return float(self.validate(self.plain))
        finally:
            self.plain.load_state_dict(kept)
            self.plain.train()

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from what `_save` saved."""
        try:
            self.plain.load_state_dict(state["model"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self.ema.load_state_dict(state["ema"])
        except (RuntimeError, ValueError, KeyError):
            what = f"the run in {self.out} trains a network of another shape"
            raise UserError(what, "choose another --out") from None
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.best_step = state.get("best_step", 0)
        self.losses, self.last_loss = state.get("losses", []), state.get("loss", math.nan)
        if self.best_step == self.step and self.accelerator.is_main_process:
            checkpoint.save_state(self.out / "best.pt", state)  # a run may be killed between its two files

    def _anyone(self, stopped: list[float]) -> bool:
        """Whether any process was asked to stop, so that all stop at the same step."""
        flag = torch.tensor(float(bool(stopped)), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)  # pyright: ignore[reportOperatorIssue]

    @contextmanager
    def _prefetching(self) -> Iterator[Batches]:
        """fetch(n) → batch n, made one ahead in a thread while the model computes."""
        ahead, pins = self.accelerator.num_processes, _is_cuda(self.accelerator)
        with ThreadPoolExecutor(1) as pool:
            waiting = {}

            def made(number: int) -> Any:
                batch = self.batches(number)
                return recursively_apply(Tensor.pin_memory, batch) if pins else batch

            def fetch(number: int) -> Any:
                batch = waiting.pop(number, None) or pool.submit(made, number)
                waiting[number + ahead] = pool.submit(made, number + ahead)
                return batch.result()

            yield fetch


def _read(last: Path, seed: int) -> dict[str, Any]:
    """The state that a run goes on from."""
    state = checkpoint.load_state(last)
    missing = {"step", "best", "seconds", "model", "optimizers", "ema", "seed"} - state.keys()
    if missing:
        raise UserError(f"{last} is not the checkpoint of a run: it has no {', '.join(sorted(missing))}", "check --out")
    if state["seed"] != seed:
        raise UserError(f"the run in {last.parent} has seed {state['seed']}, not {seed}", "give the same --seed")
    return state


def _optimizers(model: nn.Module, config: FitConfig) -> list[torch.optim.Optimizer]:
    """AdamW or LAMB, and Muon before it where it is wanted. A group's `share` is its learning rate over the schedule's."""
    matrices: list[nn.Parameter] = []
    others: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if config.muon and parameter.ndim == 2 and "blocks" in name.split("."):
            matrices.append(parameter)
            continue
        share = next((share for begin, share in config.shares.items() if name.startswith(begin)), 1.0)
        others.setdefault(share, []).append(parameter)
    groups: list[dict[str, Any]] = [{"params": some, "share": share} for share, some in others.items()]
    kind = Lamb if config.lamb else partial(torch.optim.AdamW, fused=True)
    found: list[torch.optim.Optimizer] = [
        kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)
    ]
    if matrices:
        groups = [{"params": matrices, "share": config.muon / config.learning_rate}]
        found.insert(0, torch.optim.Muon(groups, config.muon, config.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return found


def _accelerator(device_name: str) -> Accelerator:
    where = device.resolve(device_name)
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)  # accelerate takes the current one; several processes set their own after this
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may fit more than once, in other places
    return Accelerator(
        cpu=where.type == "cpu", mixed_precision="no"
    )  # autocast is ours: accelerate's stays on the model


def _is_cuda(accelerator: Accelerator) -> bool:
    return accelerator.device.type == "cuda"


def _seed_of(seed: int, number: int) -> int:
    """A well mixed seed for batch `number` (splitmix64's finaliser)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * factor & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1
