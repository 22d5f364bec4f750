"""The one supervised training loop. A recipe gives a model, a loss and batches; `fit` gives precision, warm-up and cosine, clipping,
averaging, accumulation, several processes, progress, metrics, and checkpoints from which a killed run goes on to the same losses.

It owes that to one rule: everything random about step k is a function of (seed, k). Batches are asked for by number, and the loss
draws from a generator that is seeded anew for each of them."""

import json
import math
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from almanac.nn.ema import EMA
from almanac.runtime import checkpoint, console, device
from almanac.runtime.errors import Interrupted, RunFailed, UserError

Loss = Callable[[nn.Module, Any, torch.Generator], Tensor]
"""loss(model, batch, generator) → a scalar; whatever it draws, it draws from the generator."""


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
    weight_decay: float = 0.0
    """AdamW's weight decay."""
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
    save_every: int = 500
    """Steps between two checkpoints (and validations)."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""


@dataclass(frozen=True)
class Fitted:
    """What came of a run."""

    step: int
    """Optimiser steps done."""
    loss: float
    """Mean training loss over the last steps that were logged together."""
    weights: dict[str, Tensor]
    """The averaged weights."""
    seconds: float
    """Time spent, over all parts of a resumed run."""


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Callable[[int], Any],
    config: FitConfig,
    out: Path,
    *,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
    validate: Callable[[nn.Module], float] | None = None,
) -> Fitted:
    """Train a model.

    Args:
        model: what is trained, in place; on the CPU or where it will run.
        loss: see `Loss`.
        batches: batches(n) → the n-th batch, the same one whenever it is asked for.
        config: how to optimise.
        out: the run's folder: `last.pt`, `best.pt`, `metrics.jsonl`, TensorBoard events.
        seed: of everything random.
        device_name: as `device.resolve` takes it.
        resume: go on from `last.pt` in `out`.
        validate: validate(model with averaged weights) → a figure whose smallest value marks `best.pt`; None: the
            training loss does.

    Raises:
        UserError: `out` holds a run and `resume` is off, or the other way round; a checkpoint can't be written.
        RunFailed: the loss is not finite; the last checkpoint is from before.
        Interrupted: SIGTERM or Ctrl-C; the run was saved first.
    """
    return _Run(model, loss, batches, config, out, seed, device_name, resume, validate).run()


def learning_rate(step: int, config: FitConfig) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, then cosine (Loshchilov & Hutter 2017, eq. 5)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    done = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * warmup * cosine


class _Run:
    """One run: its parts, and the steps from them to a trained model."""

    def __init__(self, model, loss, batches, config, out, seed, device_name, resume, validate):
        self.loss, self.batches, self.config, self.seed, self.validate = loss, batches, config, seed, validate
        self.out = Path(out)
        where = device.resolve(device_name)
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may fit more than once, in other precisions
        self.accelerator = Accelerator(
            cpu=where.type == "cpu",
            mixed_precision="bf16" if device.uses_bfloat16(where, config.precision) else "no",
        )
        self.plain = model.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, config.betas, weight_decay=config.weight_decay, fused=True
        )
        compiled = torch.compile(model) if config.compile else model
        self.model, self.optimizer = self.accelerator.prepare(compiled, optimizer)
        self.ema = EMA(self.plain, config.ema_decay)
        self.step, self.best, self.seconds, self.last_loss = 0, math.inf, 0.0, math.nan
        self.pending: list[Tensor] = []
        self._open(resume)

    def run(self) -> Fitted:
        """All the steps that are left."""
        config, main = self.config, self.accelerator.is_main_process
        bar = console.progress("training", config.steps, "steps") if main else nullcontext(lambda *_, **__: None)
        writer = SummaryWriter(self.out) if main else None
        with self._prefetching() as fetch, _stop_signals() as stopped, bar as advance:
            advance(self.step)
            started, before = time.monotonic(), self.seconds
            self.model.train()
            while self.step < config.steps:
                self._optimise(fetch)
                self.seconds = before + time.monotonic() - started
                due = self.step % config.log_every == 0 or self.step == config.steps
                saving = self.step % config.save_every == 0 or self.step == config.steps
                stopping = bool(stopped) if self.accelerator.num_processes == 1 else due and self._anyone(stopped)
                if due or saving or stopping:
                    self._log(writer, advance)
                if saving or stopping:
                    self._save(validated=saving)
                if stopping:
                    raise Interrupted(f"stopped at step {self.step} and saved", f"go on with --resume --out {self.out}")
                advance()
        if writer:
            writer.close()
        return Fitted(self.step, self.last_loss, self.ema.weights, self.seconds)

    def _optimise(self, fetch: Callable[[int], Any]) -> None:
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        total = torch.zeros((), device=accelerator.device)
        for part in range(config.accumulate):
            number = (self.step * config.accumulate + part) * accelerator.num_processes + accelerator.process_index
            batch = send_to_device(fetch(number), accelerator.device)
            generator = torch.Generator().manual_seed(_seed_of(self.seed, number))
            last = part == config.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self.loss(self.model, batch, generator) / config.accumulate
                accelerator.backward(loss)
            total += loss.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.pending.append(total)
        if self.step % config.ema_every == 0:
            self.ema.update(self.plain)

    def _log(self, writer: SummaryWriter | None, advance: Callable[..., None]) -> None:
        losses = self.accelerator.reduce(torch.stack(self.pending), "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        first = self.step - len(losses) + 1
        self.pending.clear()
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise RunFailed(
                    f"the loss of step {first + offset} is {loss}",
                    f"the checkpoint in {self.out} is from before; lower the learning rate, or look at that batch",
                )
        self.last_loss = sum(losses) / len(losses)
        rate = self.step / self.seconds
        advance(0, note=f"loss {self.last_loss:.4f}  {rate:.2f} steps/s")
        if writer:
            with (self.out / "metrics.jsonl").open("a") as file:
                line = {"step": self.step, "losses": losses, "learning_rate": learning_rate(self.step - 1, self.config),
                        "seconds": round(self.seconds, 3)}
                file.write(json.dumps(line) + "\n")
            writer.add_scalar("loss", self.last_loss, self.step)

    def _save(self, validated: bool) -> None:
        """Write `last.pt`, and `best.pt` when this is the best so far."""
        if not self.accelerator.is_main_process:
            return
        figure = self._figure() if validated else math.inf
        better = figure < self.best
        self.best = min(self.best, figure)
        state = {
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "model": self.plain.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "rng": torch.get_rng_state(),
            "seed": self.seed,
        }
        checkpoint.save_state(self.out / "last.pt", state)
        if better:
            checkpoint.save_state(self.out / "best.pt", state)

    def _figure(self) -> float:
        if self.validate is None:
            return self.last_loss
        kept = {name: tensor.clone() for name, tensor in self.plain.state_dict().items()}
        self.plain.load_state_dict(self.ema.weights)
        self.plain.eval()
        try:
            with torch.no_grad():
                return self.validate(self.plain)
        finally:
            self.plain.load_state_dict(kept)
            self.plain.train()

    def _open(self, resume: bool) -> None:
        last = self.out / "last.pt"
        if last.exists() and not resume:
            raise UserError(f"{self.out} already holds a run", "go on with --resume, or choose another --out")
        if not resume:
            torch.manual_seed(self.seed)
            return
        state = checkpoint.load_state(last)
        if state["seed"] != self.seed:
            raise UserError(f"the run in {self.out} has seed {state['seed']}, not {self.seed}", "give the same --seed")
        try:
            self.plain.load_state_dict(state["model"])
        except RuntimeError:
            raise UserError(f"the run in {self.out} trains a network of another shape", "choose another --out") from None
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        torch.set_rng_state(state["rng"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.last_loss = self._cut_metrics()

    def _cut_metrics(self) -> float:
        """Drop the lines that a killed run wrote after its last checkpoint; the loss of the last line that stays."""
        path = self.out / "metrics.jsonl"
        if not (path.exists() and self.accelerator.is_main_process):
            return math.nan
        lines = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= self.step]
        text = "".join(line + "\n" for line in lines)
        checkpoint.write_atomic(path, lambda file: file.write(text.encode()))
        losses = json.loads(lines[-1])["losses"] if lines else [math.nan]
        return sum(losses) / len(losses)

    def _anyone(self, stopped: list) -> bool:
        """Whether any process was asked to stop, so that all stop at the same step."""
        flag = torch.tensor(float(bool(stopped)), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)  # pyright: ignore[reportOperatorIssue]

    @contextmanager
    def _prefetching(self):
        """fetch(n) → batch n, made one ahead in a thread while the model computes."""
        ahead = self.accelerator.num_processes
        with ThreadPoolExecutor(1) as pool:
            waiting = {}

            def fetch(number: int) -> Any:
                batch = waiting.pop(number, None) or pool.submit(self.batches, number)
                waiting[number + ahead] = pool.submit(self.batches, number + ahead)
                return batch.result()

            yield fetch


@contextmanager
def _stop_signals():
    """A list that is filled when the process is asked to stop; a second request stops at once."""
    stopped: list[int] = []

    def ask(number, frame):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever runs it there handles signals
        old = {}
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _seed_of(seed: int, number: int) -> int:
    """A well mixed seed for batch `number` (splitmix64's finaliser)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * factor & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1
