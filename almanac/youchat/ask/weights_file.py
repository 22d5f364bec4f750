"""The small linear models behind selection, verification and refusal: their coefficients lie in `weights.json`, which `fit_answers`
writes with how they were fitted. Plain logistic regression: a handful of numbers that can be read."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("weights.json")
"""The coefficients that ship."""


@dataclass(frozen=True)
class Logistic:
    """P = 1 / (1 + exp(−(bias + w·x)))."""

    bias: float
    """Of the logit."""
    weights: Mapping[str, float]
    """Of each feature by its name; features that it doesn't name don't count."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers that were fitted with it (thresholds), and how."""

    def logit(self, features: Mapping[str, float]) -> float:
        """The log-odds."""
        return self.bias + sum(weight * features.get(name, 0.0) for name, weight in self.weights.items())

    def probability(self, features: Mapping[str, float]) -> float:
        """In (0, 1)."""
        return 0.5 * (1 + math.tanh(self.logit(features) / 2))


@lru_cache
def model(name: str) -> Logistic:
    """One of the models that ship: `verify`, `quotes` or `refuse`."""
    said = json.loads(PATH.read_text())[name]
    return Logistic(said["bias"], said["weights"], said.get("facts", {}))


def fitted(
    rows: Sequence[Mapping[str, float]],
    labels: Sequence[bool],
    strength: float = 1.0,
    signs: Mapping[str, int] | None = None,
    **facts: Any,
) -> Logistic:
    """Fit by maximum likelihood with an L2 penalty on standardised features; the coefficients are for the features as they are.

    Args:
        rows: features by name, the same names in each.
        labels: the truth of each.
        strength: the inverse of the penalty.
        signs: which way a feature may count, 1 or −1, for those of which it is known: with few examples and features that
            overlap, a fit would else let one make up for another.
        facts: what to keep beside it.
    """
    import numpy as np
    from scipy.optimize import minimize

    names = list(rows[0])
    table = np.array([[row[name] for name in names] for row in rows])
    middle, scale = table.mean(0), table.std(0)
    scale[scale == 0] = 1.0
    table = (table - middle) / scale
    sides = np.where(np.asarray(labels), 1.0, -1.0)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sides * (table @ values[1:] + values[0])
        pull = -sides * np.exp(-np.logaddexp(0, margin))
        penalty = float(values[1:] @ values[1:]) / (2 * strength)
        return float(np.logaddexp(0, -margin).sum()) + penalty, np.append(
            pull.sum(), pull @ table + values[1:] / strength
        )

    limits = {0: (None, None), 1: (0.0, None), -1: (None, 0.0)}
    bounds = [(None, None), *(limits[(signs or {}).get(name, 0)] for name in names)]
    values = minimize(
        loss, np.zeros(len(names) + 1), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000}
    ).x
    weights = values[1:] / scale
    bias = float(values[0] - weights @ middle)
    return Logistic(bias, dict(zip(names, map(float, weights), strict=True)), facts)


def write(models: Mapping[str, Logistic], path: Path = PATH) -> None:
    """Write models, rounded to what matters; those in the file that aren't given stay."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    for name, each in models.items():
        weights = {key: round(value, 4) for key, value in each.weights.items()}
        known[name] = {"bias": round(each.bias, 4), "weights": weights, "facts": dict(each.facts)}
    path.write_text(json.dumps(known, indent=1) + "\n")
    model.cache_clear()
