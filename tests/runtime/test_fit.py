"""`fit` is AdamW with warm-up, cosine, clipping, accumulation and averaging, and refuses what would harm a run. What
befalls a run from outside is in tests/faults, several processes in test_processes."""

import dataclasses
import json
import math
import pickle
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from almanac.nn.ema import EMA
from almanac.runtime import checkpoint
from almanac.runtime.errors import RunFailed, UserError
from almanac.runtime.fit import FitConfig, Fitted, fit, learning_rate
from tests.runtime import training


def regression(width: int = 3) -> nn.Linear:
    """A linear model, the same weights every time."""
    model = nn.Linear(5, width)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 5 * width).view(width, 5))
        model.bias.fill_(0.5)
    return model


def pairs(number: int, size: int = 6) -> Tensor:
    """Batch `number` of the regression's inputs, of which the target is a function."""
    return torch.randn(size, 5, generator=torch.Generator().manual_seed(number))


def squared_error(model: nn.Module, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    return F.mse_loss(model(inputs).float(), inputs[:, :3].sin())


def fit_regression(
    out: Path,
    model: nn.Module | None = None,
    loss: Callable[..., Tensor] = squared_error,
    batches: Callable[[int], Any] = pairs,
    resume: bool = False,
    validate: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
    **config: Any,
) -> Fitted:
    options = {"steps": 20, "warmup_steps": 4, "learning_rate": 0.05, "precision": "fp32", **config}
    model = regression() if model is None else model
    return fit(
        model, loss, batches, FitConfig(**options), out,
        seed=seed, device_name="cpu", resume=resume, validate=validate,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fit_is_adamw_with_warmup_cosine_and_average(tmp_path: Path):
    reference, average = regression(), EMA(regression(), 0.9)
    optimizer = torch.optim.AdamW(reference.parameters(), 1.0, (0.8, 0.95), weight_decay=0.1, fused=True)
    expected = []
    for step in range(20):
        warm = min(1.0, (step + 1) / 4)
        optimizer.param_groups[0]["lr"] = 0.05 * warm * 0.5 * (1 + math.cos(math.pi * max(0, step - 4) / 16))
        loss = squared_error(reference, pairs(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
        if (step + 1) % 3 == 0:
            average.update(reference)
    model = regression()
    fitted = fit_regression(
        tmp_path, model, betas=(0.8, 0.95), weight_decay=0.1, clip_norm=math.inf, ema_decay=0.9, ema_every=3
    )
    assert training.losses(tmp_path) == expected  # bit-equal: an infinite clip_norm changes nothing
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fitted.weights, average.weights, rtol=1e-6, atol=1e-7)
    assert fitted.step == fitted.batches == 20
    assert fitted.loss == pytest.approx(sum(expected[-10:]) / 10)


class Deep(nn.Module):
    """A linear model in blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([regression(5), regression(3)])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](inputs))


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest(tmp_path: Path):
    reference, model = Deep(), Deep()
    rest = [parameter for parameter in reference.parameters() if parameter.ndim < 2]
    matrices = [parameter for parameter in reference.parameters() if parameter.ndim == 2]
    optimizers = (
        torch.optim.AdamW(rest, 0.05, (0.9, 0.99), weight_decay=0.1, fused=True),
        torch.optim.Muon(matrices, 0.02, 0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(20):
        for optimizer, peak in zip(optimizers, (0.05, 0.02), strict=True):
            optimizer.param_groups[0]["lr"] = peak / 0.05 * learning_rate(step, FitConfig(20, 0.05, warmup_steps=4))
        squared_error(reference, pairs(step)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    fit_regression(tmp_path / "whole", model, muon=0.02, weight_decay=0.1, clip_norm=math.inf)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-6, atol=1e-7)

    constant = {"muon": 0.02, "final_ratio": 1.0}
    fit_regression(tmp_path / "once", once := Deep(), **constant)
    fit_regression(tmp_path / "parts", Deep(), steps=7, **constant)
    fit_regression(tmp_path / "parts", parts := Deep(), resume=True, **constant)
    torch.testing.assert_close(parts.state_dict(), once.state_dict(), rtol=0, atol=0)


def test_parameters_learn_at_their_share_of_the_rate(tmp_path: Path):
    reference, model = Deep(), Deep()
    first, second = (list(each.parameters()) for each in reference.blocks)
    optimizer = torch.optim.AdamW(
        [{"params": second, "share": 1.0}, {"params": first, "share": 0.1}],
        0.05,
        (0.9, 0.99),
        weight_decay=0,
        fused=True,
    )
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(step, FitConfig(20, 0.05, warmup_steps=4))
        squared_error(reference, pairs(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    fit_regression(tmp_path, model, shares={"blocks.0": 0.1}, clip_norm=math.inf)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-6, atol=1e-7)


def test_learning_rate_rises_to_the_peak_and_falls_to_the_final_ratio():
    config = FitConfig(steps=100, learning_rate=0.4, warmup_steps=10, final_ratio=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == rates[10] == max(rates) == pytest.approx(0.4)
    assert all(early > late for early, late in pairwise(rates[10:]))
    assert rates[55] == pytest.approx((0.4 + 0.04) / 2)
    assert rates[100] == pytest.approx(0.04)


def test_without_warmup_and_decay_the_learning_rate_is_constant():
    config = FitConfig(steps=10, learning_rate=0.3, warmup_steps=0, final_ratio=1.0)
    assert {learning_rate(step, config) for step in range(10)} == {0.3}


def test_clipping_scales_the_gradient_to_the_norm(tmp_path: Path):
    def steep(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return 1000 * squared_error(model, inputs)

    fit_regression(tmp_path, loss=steep, steps=1, warmup_steps=0, clip_norm=0.5, betas=(0.0, 0.0))
    moments = checkpoint.load_state(tmp_path / "last.pt")["optimizers"][0]["state"]
    gradient = torch.cat([moments[index]["exp_avg"].flatten() for index in moments])  # with β₁ = 0 it is the gradient
    assert gradient.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_two_batches_accumulated_are_one_of_twice_the_size(tmp_path: Path):
    def doubled(number: int) -> Tensor:
        return torch.cat([pairs(2 * number), pairs(2 * number + 1)])

    one, two = regression(), regression()
    fit_regression(tmp_path / "one", one, batches=doubled)
    fit_regression(tmp_path / "two", two, accumulate=2)
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=1e-6)
    assert training.losses(tmp_path / "one") == pytest.approx(training.losses(tmp_path / "two"), abs=1e-6)


def test_the_smallest_validation_figure_marks_the_best_checkpoint(tmp_path: Path):
    figures, seen = iter([3.0, 1.0, math.nan, 2.0]), []

    def validate(model: nn.Module) -> float:
        assert not model.training
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(figures)

    model = regression()
    fitted = fit_regression(tmp_path, model, validate=validate, save_every=5)
    best, last = (checkpoint.load_state(tmp_path / f"{name}.pt") for name in ("best", "last"))
    assert (best["step"], best["best"]) == (10, 1.0)
    assert (last["step"], last["best"]) == (20, 1.0)
    assert training.same_weights(seen[1], best["ema"]["weights"])  # it is the average that is validated
    assert not training.same_weights(seen[1], best["model"])
    assert training.same_weights(seen[3], fitted.weights)
    assert training.same_weights(model.state_dict(), last["model"])
    assert model.training


def test_without_validation_the_training_loss_marks_the_best_checkpoint(tmp_path: Path):
    def worse_later(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return squared_error(model, inputs) + next(added)

    added = iter([5.0] * 5 + [1.0] * 5 + [9.0] * 10)
    fit_regression(tmp_path, loss=worse_later, save_every=5)
    assert checkpoint.load_state(tmp_path / "best.pt")["step"] == 10


def test_validation_does_not_change_the_training(tmp_path: Path):
    torch.set_num_threads(1)
    model = training.model()
    config = FitConfig(**training.CONFIG)
    fit(model, training.loss, training.batches, config, tmp_path / "without", device_name="cpu")
    training.run(tmp_path / "with")
    assert training.losses(tmp_path / "with") == training.losses(tmp_path / "without")


def test_dropout_and_draws_are_functions_of_the_seed_alone(tmp_path: Path):
    def draws_of(out: Path, seed: int) -> list[list[float]]:
        drawn = []

        def loss(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
            drawn.append([*torch.rand(4, generator=generator).tolist(), *torch.rand(4).tolist()])
            return squared_error(model, inputs)

        model = regression()
        before = torch.get_rng_state()
        fit_regression(out, model, loss, steps=5, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)  # fit leaves the caller's generator alone
        return drawn

    one = draws_of(tmp_path / "one", 1)
    torch.manual_seed(6)
    again, other = draws_of(tmp_path / "again", 1), draws_of(tmp_path / "other", 2)
    assert one == again
    everything = [number for drawn in (one, other) for step in drawn for number in step]
    assert len(set(everything)) == len(everything)  # no two batches, seeds or streams alike


@pytest.mark.parametrize("log_every", [1, 4, 50])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(tmp_path: Path, log_every: int):
    def broken_at_12(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return squared_error(model, inputs) * (math.nan if torch.equal(inputs, pairs(11)) else 1.0)

    with pytest.raises(RunFailed, match="the loss of step 12 is nan") as caught:
        fit_regression(tmp_path, loss=broken_at_12, save_every=3, log_every=log_every)
    assert "is from before" in caught.value.hint
    assert caught.value.exit_code == 1
    state = checkpoint.load_state(tmp_path / "last.pt")
    assert state["step"] == 9
    assert all(tensor.isfinite().all() for tensor in (*state["model"].values(), *state["ema"]["weights"].values()))
    assert all(math.isfinite(loss) for loss in training.losses(tmp_path))


def test_a_gradient_that_is_not_finite_stops_the_run_though_its_loss_is(tmp_path: Path):
    def root_of_nothing(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        extra = (model(inputs) * 0).square().sum().sqrt() if torch.equal(inputs, pairs(5)) else 0
        return squared_error(model, inputs) + extra

    with pytest.raises(RunFailed, match="the gradient of step 6 has the norm nan"):
        fit_regression(tmp_path, loss=root_of_nothing, save_every=3)
    state = checkpoint.load_state(tmp_path / "last.pt")
    assert state["step"] == 3
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_run_that_fails_before_its_first_checkpoint_does_not_promise_one(tmp_path: Path):
    def broken(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return squared_error(model, inputs) * math.inf

    with pytest.raises(RunFailed) as caught:
        fit_regression(tmp_path, loss=broken)
    assert "no checkpoint had been saved yet" in caught.value.hint


@pytest.mark.parametrize("kept", ["last.pt", "best.pt"])
def test_a_folder_that_holds_a_run_is_refused_untouched(tmp_path: Path, kept: str):
    fit_regression(tmp_path, steps=3)
    (tmp_path / ({"last.pt", "best.pt"} - {kept}).pop()).unlink()
    before = contents(tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        fit_regression(tmp_path, steps=3)
    assert contents(tmp_path) == before


def test_resuming_without_a_checkpoint_is_refused_and_makes_no_folder(tmp_path: Path):
    with pytest.raises(UserError, match="there is no checkpoint at"):
        fit_regression(tmp_path / "nothing", resume=True)
    assert training.names(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "has seed 0, not 1"),
        ({"model": regression(width=4)}, "trains a network of another shape"),
        ({"model": nn.Sequential(regression())}, "trains a network of another shape"),
    ],
)
def test_resuming_another_run_is_refused_untouched(tmp_path: Path, changes: dict[str, Any], said: str):
    fit_regression(tmp_path, steps=3)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=said):
        fit_regression(tmp_path, steps=6, resume=True, **changes)
    assert contents(tmp_path) == before


def test_resuming_from_what_is_not_a_run_is_refused(tmp_path: Path):
    checkpoint.save_state(tmp_path / "last.pt", regression().state_dict())
    with pytest.raises(UserError, match="is not the checkpoint of a run"):
        fit_regression(tmp_path, resume=True)
    (tmp_path / "last.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        fit_regression(tmp_path, resume=True)


def test_resuming_a_finished_run_gives_its_result(tmp_path: Path):
    done = fit_regression(tmp_path)
    again = fit_regression(tmp_path, resume=True)
    assert (again.step, again.loss) == (done.step, done.loss)
    assert training.same_weights(again.weights, done.weights)


def test_a_run_that_never_saved_is_started_afresh(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "losses": [0.5, 0.25]}\n')
    fit_regression(tmp_path, steps=4)
    assert len(training.losses(tmp_path)) == 4


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path: Path):
    fit_regression(tmp_path, steps=5)
    assert fit_regression(tmp_path, steps=9, resume=True).step == 9
    assert len(training.losses(tmp_path)) == 9


def test_fit_works_in_a_thread(tmp_path: Path):
    results: list[Fitted] = []
    thread = threading.Thread(target=lambda: results.append(fit_regression(tmp_path / "thread")))
    thread.start()
    thread.join()
    here = fit_regression(tmp_path / "here")
    assert training.same_weights(results[0].weights, here.weights)


def test_a_precision_is_of_its_run_only(tmp_path: Path):
    kinds: list[torch.dtype] = []

    def loss(model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        kinds.append(model(inputs).dtype)
        return squared_error(model, inputs)

    model = regression()
    for precision in ("bf16", "fp32"):
        fit_regression(tmp_path / precision, model, loss=loss, precision=precision, steps=2)
    assert kinds == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert model(pairs(0)).dtype == torch.float32
    assert pickle.loads(pickle.dumps(model)).weight.equal(model.weight)  # nothing of the loop stays on it


def test_validation_runs_in_the_precision_of_the_run(tmp_path: Path):
    kinds: list[torch.dtype] = []

    def validate(model: nn.Module) -> float:
        kinds.append(model(pairs(0)).dtype)
        return 0.0

    fit_regression(tmp_path, validate=validate, precision="bf16", steps=2)
    assert kinds == [torch.bfloat16]


@pytest.mark.slow
def test_a_compiled_model_takes_the_same_steps(tmp_path: Path):
    fit_regression(tmp_path / "eager", steps=5)
    fit_regression(tmp_path / "compiled", steps=5, compile=True)
    assert training.losses(tmp_path / "compiled") == pytest.approx(training.losses(tmp_path / "eager"), abs=1e-6)
    resumed = fit_regression(tmp_path / "compiled", steps=8, compile=True, resume=True)
    assert resumed.weights.keys() == regression().state_dict().keys()


def test_an_error_of_the_batches_arrives_as_it_is(tmp_path: Path):
    def batches(number: int) -> Tensor:
        if number == 3:
            raise UserError("image 3 is damaged", "remove it")
        return pairs(number)

    with pytest.raises(UserError, match="image 3 is damaged"):
        fit_regression(tmp_path, batches=batches)


def test_batches_past_the_end_are_not_missed(tmp_path: Path):
    fit_regression(tmp_path, batches=[pairs(number) for number in range(20)].__getitem__)


@pytest.mark.parametrize("name", ["steps", "accumulate", "ema_every", "save_every", "log_every"])
def test_a_count_below_one_is_a_user_error(name: str):
    with pytest.raises(UserError, match=f"{name} is 0"):
        dataclasses.replace(FitConfig(steps=1), **{name: 0})


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="could not write"):
        fit_regression(tmp_path / "file" / "run")


def test_metrics_tell_step_rate_and_time(tmp_path: Path):
    fit_regression(tmp_path, steps=7, log_every=5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 7]
    rates = [learning_rate(step, FitConfig(7, learning_rate=0.05, warmup_steps=4)) for step in (4, 6)]
    assert [line["learning_rate"] for line in lines] == rates
    assert all(line["seconds"] >= 0 for line in lines)
