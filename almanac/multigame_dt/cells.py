"""Cells of an evaluation: an agent on a game, played once and kept, so that an evaluation that was killed goes on, and one that has more
agents than the last plays those alone. Here files become agents, and agents scores; what is made of scores is `evaluate`'s affair."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from almanac.multigame_dt import emulator, figures, games, play
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.play import Policy
from almanac.runtime import checkpoint, console, hub
from almanac.runtime.errors import UserError

KAPPA = 10.0
"""The paper's tilt towards high returns (footnote 4)."""
DECISION, CLONING, CQL = figures.METHODS
RANDOM = "random play"


@dataclass(frozen=True)
class Protocol:
    """How games are played to be measured."""

    episodes: int = 16
    """Of each game (paper, section 4.1)."""
    noops: int = play.NOOPS
    """Before an episode, at most: without any, an agent that knows one sequence of actions by heart looks like an expert."""
    sticky: float = 0.0
    """Probability that a frame repeats the last action."""
    jpeg: bool = False
    """Whether frames go through JPEG, as in the official notebook."""
    cap: int = emulator.TIME_LIMIT
    """Steps after which an episode is cut off."""
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """How the work is done."""

    device: str = "auto"
    precision: str = "auto"
    lanes: int = 16
    """Episodes at once."""
    together: int = 1
    """Games at once; of those an evaluation loses what it has not finished when it is killed."""


@dataclass(frozen=True)
class Entrant:
    """An agent that is to be measured."""

    name: str
    """In tables; no two of a table have the same."""
    method: str
    """One of `figures.METHODS`, or `RANDOM`."""
    make: Callable[[int], Policy]
    """A player in so many lanes."""
    identity: str
    """What decides how it plays: a hash of its weights, and its settings."""
    facts: Mapping[str, Any]
    """Further columns."""
    trained_on: tuple[str, ...] = ()
    """Games."""


def measure(
    entrants: Sequence[Entrant],
    played: Sequence[Game],
    protocol: Protocol,
    folder: Path,
    setting: Setting | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Let agents play games, but for what was played before.

    Args:
        entrants: who.
        played: which games.
        protocol: how.
        folder: where cells are kept.
        setting: how the work is done.

    Returns:
        every episode's score, by the agent's name and the game's.

    Raises:
        UserError: two agents have one name, or a cell can't be written.
    """
    setting = setting or Setting()
    names = [each.name for each in entrants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two models are called {', '.join(twice)}", "give their files, or their folders, different names"
        )
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    done, total = 0, len(entrants) * len(played)
    for each in entrants:
        for start in range(0, len(played), setting.together):
            group = played[start : start + setting.together]
            missing = [game for game in group if _kept(_cell(folder, each, game, protocol)) is None]
            if missing:
                _play(each, missing, protocol, folder, setting.lanes)
            for game in group:
                kept = _kept(_cell(folder, each, game, protocol))
                assert kept is not None
                found[each.name][game.name] = kept
                done += 1
                if game in missing:
                    console.log(f"{done}/{total}  {each.name}, {game.name}: {_in_words(game, kept)}")
    return found


def _play(each: Entrant, missing: Sequence[Game], protocol: Protocol, folder: Path, lanes: int) -> None:
    how = asdict(protocol)
    policy = each.make(min(lanes, protocol.episodes * len(missing)))
    found = play.play_all(policy, missing, how.pop("episodes"), **how)
    for game in missing:
        ended = found[game.name]
        cell = {
            "agent": each.name,
            "game": game.name,
            "protocol": asdict(protocol),
            "scores": [one.score for one in ended],
            "steps": [one.steps for one in ended],
            "noops": [one.noops for one in ended],
            "capped": [one.capped for one in ended],
        }
        text = json.dumps(cell)
        checkpoint.write_atomic(_cell(folder, each, game, protocol), lambda file, text=text: file.write(text.encode()))


def _cell(folder: Path, each: Entrant, game: Game, protocol: Protocol) -> Path:
    """Where a cell is kept: elsewhere for whatever would be played otherwise."""
    facts = json.dumps([each.identity, asdict(protocol), emulator.version(), emulator.md5(game.rom)])
    return folder / f"{game.rom}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"


def _kept(path: Path) -> list[float] | None:
    """A cell's scores; None where it was not played, or its file is damaged."""
    try:
        cell = json.loads(path.read_text())
        found = [float(value) for value in cell["scores"]]
        return found if len(found) == cell["protocol"]["episodes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _in_words(game: Game, values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    human = games.human_normalised(game, mean)
    return f"{mean:,.1f} points" + ("" if human is None else f", {human:.0%} of a person's")


def entrant(path: Path, kappa: float = KAPPA, setting: Setting | None = None) -> Entrant:
    """A trained model as an agent. It is named after its file, or after its folder if the file is called `model`.

    Args:
        path: a `.safetensors` file of `train`'s.
        kappa: tilt towards high returns, of those that know them.
        setting: where it computes.

    Raises:
        UserError: it can't be read, or is no such model.
    """
    setting = setting or Setting()
    about = checkpoint.load_weights(path, "multigame_dt")[1]
    name = path.parent.name if path.stem == "model" and path.parent.name else path.stem
    return (_q_network if about.get("model") == "cql" else _transformer)(path, name, about, kappa, setting)


def generalist(paths: Sequence[Path]) -> tuple[Path, Entrant] | None:
    """Of models the largest decision transformer that says which games it was trained on.

    Args:
        paths: `.safetensors` files of `train`'s.

    Raises:
        UserError: one can't be read, or is no such model.
    """
    known = [(path, entrant(path)) for path in paths]
    able = [(path, each) for path, each in known if each.method == DECISION and each.trained_on]
    return max(able, key=lambda each: each[1].facts["parameters"]) if able else None


def _transformer(path: Path, name: str, about: Mapping[str, Any], kappa: float, setting: Setting) -> Entrant:
    from almanac.multigame_dt import acting, published

    model = published.load(path, "cpu")
    knows = model.dimensions.returns
    sampler = replace(acting.PAPER, kappa=kappa if knows else 0.0)

    def make(lanes: int) -> Policy:
        return acting.Agent(published.load(path, "cpu"), lanes, sampler, setting.device, setting.precision)

    identity = f"{hub.hash_of(path)} {sampler} {setting.precision}"
    return Entrant(
        name,
        DECISION if knows else CLONING,
        make,
        identity,
        _facts(model, about, kappa if knows else None),
        _games(about),
    )


def _q_network(path: Path, name: str, about: Mapping[str, Any], kappa: float, setting: Setting) -> Entrant:
    from almanac.multigame_dt import cql

    precision = "auto" if setting.precision == "int8" else setting.precision

    def make(lanes: int) -> Policy:
        return cql.QAgent(cql.load(path, "cpu"), lanes, setting.device, precision)

    return Entrant(
        name, CQL, make, f"{hub.hash_of(path)} {precision}", _facts(cql.load(path, "cpu"), about), _games(about)
    )


def at_random() -> Entrant:
    """Any of the 18 actions, each as often as the others."""
    return Entrant(RANDOM, RANDOM, play.Random, RANDOM, {})


def _facts(model: Any, about: Mapping[str, Any], kappa: float | None = None) -> dict[str, Any]:
    nll = (about.get("nll") or {}).get("actions")
    return {"parameters": sum(each.numel() for each in model.parameters()), "kappa": kappa, "action_nll": nll}


def _games(about: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(games.named(str(each)).name for each in about.get("games", ()))
