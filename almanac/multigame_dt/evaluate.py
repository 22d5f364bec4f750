"""What is measured of agents that play many games (paper, sections 4.3 to 4.8), as tables: how they do on the games that they know, beside
the logs that they learnt from and a specialist for each game; by κ; on held-out games, fine-tuned; without no-ops, and with sticky actions.
The paper's printed numbers stand beside ours. Playing is left to `cells`, figures over games to `scores`, pictures to `figures`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from almanac.multigame_dt import cells, emulator, figures, games, logs, scores, tokens
from almanac.multigame_dt.cells import (
    CLONING,
    CQL,
    DECISION,
    KAPPA,
    RANDOM,
    Entrant,
    Protocol,
    Setting,
    entrant,
    measure,
)
from almanac.multigame_dt.collect import collect
from almanac.multigame_dt.figures import Bar, Panel, Point, Step
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode
from almanac.multigame_dt.scores import Scores
from almanac.runtime.errors import UserError

KAPPAS = (0.0, 2.0, 5.0, KAPPA, 20.0)
"""Tilts that are swept."""
STICKY = 0.25
"""Probability with which a frame repeats the last action in Machado et al. (2018)."""
LAST = 0.05
"""Of a specialist's steps, which count as its best play."""
_BEFORE = 60
"""Steps of play before one that is shown."""

DATA, ONLINE = "the training data", "online, all games at once"
SPECIALIST, SPECIALIST_OFFLINE = "online, one agent a game", "offline, one agent a game"

PRINTED = {
    DECISION: 1.26,
    CLONING: 0.68,
    CQL: 0.38,
    DATA: 1.01,
    SPECIALIST: 1.44,
    SPECIALIST_OFFLINE: 1.35,
    ONLINE: 0.66,
}
"""The paper's human-normalised interquartile means over 41 games, of its largest models (figure 1). Its online agents are DQN's where ours
are PPO's, its offline specialists BCQ's where ours are CQL's."""
PRINTED_BY_SIZE = {
    DECISION: {10e6: 0.56, 40e6: 0.93, 200e6: 1.26},
    CLONING: {10e6: 0.46, 40e6: 0.54, 200e6: 0.68},
    CQL: {6e6: 0.23, 30e6: 0.38, 60e6: 0.38, 120e6: 0.35},
}
"""By parameters, from its figure 5 (a)."""
PRINTED_HELD_OUT = {
    DECISION: {10e6: 0.72, 200e6: 0.94},
    CQL: {6e6: 0.46, 30e6: 0.26, 60e6: 0.50, 120e6: 0.06},
}
"""On five held-out games after fine-tuning, from its figure 5 (b)."""

Row = dict[str, Any]
Part = Literal["agents", "kappa", "held_out", "robustness"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    models: tuple[Path, ...] = ()
    """Each trained on the games that are played; transformers with returns, without, and CQL's networks, of any sizes."""
    tuned: tuple[Path, ...] = ()
    """Models that were fine-tuned, each on one held-out game."""
    scratch: tuple[Path, ...] = ()
    """Models that learnt the same from nothing."""
    specialists: tuple[Path, ...] = ()
    """CQL's networks that learnt one of the games each, from the same logs."""
    logs: tuple[Path, ...] = ()
    """What the models learnt from: logs of actions, or folders of them; and those of who learned all games at once, to compare with."""
    games: tuple[Game, ...] = ()
    """That are played; none: those that the first model was trained on."""
    kappa: float = KAPPA
    """Tilt towards high returns."""
    parts: tuple[Part, ...] = PARTS
    """Agents side by side; a sweep of κ; held-out games; without no-ops, and with sticky actions."""


def evaluate(asked: Asked, protocol: Protocol, folder: Path, setting: Setting | None = None) -> dict[str, list[Row]]:
    """Play all that is asked for, but for what was played before, and make the tables.

    Args:
        asked: what.
        protocol: how.
        folder: where cells are kept, a JSON file each.
        setting: how the work is done.

    Returns:
        by name: `agents` (one row each, with the paper's numbers), `games` (one an agent and game), `pairs`, `logs`, `kappa`, `held_out`,
        `held_out_games`, `held_out_pairs` and `robustness`; those that were asked for.

    Raises:
        UserError: a model or a log can't be used, or there is nothing to measure.
    """
    setting = setting or Setting()
    entrants = [entrant(path, asked.kappa, setting) for path in asked.models]
    if not entrants and not asked.tuned:
        raise UserError("there is no model to be measured", "name models: almanac multigame-dt evaluate MODEL …")
    played = list(asked.games) or [games.named(name) for each in entrants[:1] for name in each.trained_on]
    if entrants and not played:
        raise UserError(
            f"{entrants[0].name} doesn't say which games it was trained on", "name them: --games Pong Boxing …"
        )
    for each in entrants:
        unknown = [game.name for game in played if each.trained_on and game.name not in each.trained_on]
        if unknown:
            what = f"{each.name} was not trained on {', '.join(unknown)}"
            raise UserError(what, "name games that all models know, and fine-tuned models apart from them")
    best = _largest(entrants)
    paths = {each.name: path for each, path in zip(entrants, asked.models, strict=True)}

    def measured(some: Sequence[Entrant], how: Protocol = protocol) -> Mapping[str, Scores]:
        return measure(some, played, how, folder, setting)

    tables: dict[str, list[Row]] = {}
    if "agents" in asked.parts and entrants:
        everyone = [*entrants, cells.at_random()]
        others = _of_logs(asked.logs, played) | _specialists(asked, played, protocol, folder, setting)
        tables |= _agent_tables(everyone, best, measured(everyone), others, protocol.seed)
        if asked.logs:
            tables["logs"] = _log_rows(asked.logs, played)
    if "kappa" in asked.parts and DECISION in best:
        tilted = [entrant(paths[best[DECISION].name], kappa, setting) for kappa in KAPPAS]
        tilted = [replace(each, name=f"{each.name}, κ = {each.facts['kappa']:g}") for each in tilted]
        tables["kappa"] = _rows(tilted, measured(tilted), protocol.seed)
    if "robustness" in asked.parts and best:
        tables["robustness"] = _robustness(list(best.values()), protocol, measured)
    if "held_out" in asked.parts and asked.tuned:
        tables |= _held_out(asked, protocol, folder, setting)
    return {name: [_tidy(row) for row in rows] for name, rows in tables.items()}


def of_logs(
    episodes: Iterable[Episode], played: Sequence[Game], agent: str | None = None, last: float = 1.0
) -> dict[str, list[float]]:
    """The scores of logged play.

    Args:
        episodes: from logs.
        played: the games that count.
        agent: whose; None: everybody's.
        last: part of each game's steps, from the end of the agent's training back; the episode that reaches that far is in it.
    """
    by_game: dict[str, list[Episode]] = {}
    for each in episodes:
        if each.game in played and agent in (None, each.agent):
            by_game.setdefault(each.game.name, []).append(each)
    return {name: [each.score for each in _last(some, last)] for name, some in sorted(by_game.items())}


def _last(episodes: Sequence[Episode], part: float) -> list[Episode]:
    ordered = sorted(episodes, key=lambda each: -each.quality)
    steps = np.array([each.steps for each in ordered])
    before = np.cumsum(steps) - steps
    return [each for each, start in zip(ordered, before, strict=True) if start < part * steps.sum()]


def _of_logs(paths: Sequence[Path], played: Sequence[Game]) -> dict[str, Scores]:
    """The training data, and the best of its specialists."""
    episodes = [each for file in logs.files(paths) for each in logs.read(file)]
    found = {
        DATA: of_logs([each for each in episodes if each.agent != collect.TOGETHER], played),
        SPECIALIST: of_logs(episodes, played, collect.LEARNER, LAST),
        ONLINE: of_logs(episodes, played, collect.TOGETHER, LAST),
    }
    return {name: some for name, some in found.items() if some}


def _specialists(
    asked: Asked, played: Sequence[Game], protocol: Protocol, folder: Path, setting: Setting
) -> dict[str, Scores]:
    """Models of one game each, together as one agent."""
    found: dict[str, list[float]] = {}
    for path in asked.specialists:
        each = entrant(path, asked.kappa, setting)
        game = _only_game(path, each)
        if game not in played or game.name in found or each.method != CQL:
            what = f"{path} plays {game.name} by {each.method}"
            raise UserError(what, "give specialists of CQL, one for each game that is played")
        found |= measure([each], [game], protocol, folder, setting)[each.name]
    return {SPECIALIST_OFFLINE: found} if found else {}


def _only_game(path: Path, each: Entrant) -> Game:
    if len(each.trained_on) != 1:
        what = f"{path} was trained on {len(each.trained_on)} games: {', '.join(each.trained_on) or 'it names none'}"
        raise UserError(what, "give models of one game each")
    return games.named(each.trained_on[0])


def _log_rows(paths: Sequence[Path], played: Sequence[Game]) -> list[Row]:
    """What each log holds of the games that are played."""
    rows = []
    for file in logs.files(paths):
        by_game: dict[Game, list[Episode]] = {}
        for each in logs.read(file):
            by_game.setdefault(each.game, []).append(each)
        whole = sum(len(each.actions) for episodes in by_game.values() for each in episodes)
        for game, episodes in by_game.items():
            if game in played:
                count = sum(each.steps for each in episodes)
                found = [each.score for each in episodes]
                rows.append(
                    {
                        "game": game.name,
                        "by": ", ".join(sorted({each.agent for each in episodes})),
                        "episodes": len(episodes),
                        "steps": count,
                        "bytes_per_step": file.stat().st_size
                        * sum(len(each.actions) for each in episodes)
                        / whole
                        / count,
                        "mean": float(np.mean(found)),
                        "best": max(found),
                        "at_the_end": float(np.mean([each.score for each in _last(episodes, LAST)])),
                        "human": games.human_normalised(game, float(np.mean(found))),
                    }
                )
    return rows


def _agent_tables(
    entrants: Sequence[Entrant],
    best: Mapping[str, Entrant],
    measured: Mapping[str, Scores],
    logged: Mapping[str, Scores],
    seed: int,
) -> dict[str, list[Row]]:
    largest = {each.name: method for method, each in best.items()}
    rows = _rows(entrants, measured, seed)
    for row in rows:
        row["paper"] = PRINTED.get(largest.get(row["agent"], ""))
    rows += [
        {"agent": name, "method": name, **_summary(each, seed), "paper": PRINTED[name]} for name, each in logged.items()
    ]
    here = {row["method"] for row in rows}
    printed = {name: value for name, value in PRINTED.items() if name not in here}
    rows += [{"agent": name, "method": name, "paper": value} for name, value in printed.items()]
    everyone = {**measured, **logged}
    by_game = [{"agent": name, **row} for name, each in everyone.items() for row in scores.game_rows(each)]
    pairs = []
    if DECISION in best:
        ours = best[DECISION].name
        others = [each.name for method, each in best.items() if method != DECISION] + [RANDOM, *logged]
        pairs = [
            {"agent": ours, "other": other, **scores.pair_row(measured[ours], everyone[other], seed)}
            for other in others
            if measured[ours].keys() & everyone[other].keys()
        ]
    return {"agents": rows, "games": by_game, "pairs": pairs}


def _rows(entrants: Sequence[Entrant], measured: Mapping[str, Scores], seed: int) -> list[Row]:
    return [
        {"agent": each.name, "method": each.method, **each.facts, **_summary(measured[each.name], seed)}
        for each in entrants
    ]


def _summary(each: Scores, seed: int) -> Row:
    """Its figures over games, and which games they leave out."""
    return {
        **scores.summary_row(each, seed),
        "excluded": ", ".join(row["game"] for row in scores.excluded(each)) or None,
    }


def _robustness(
    entrants: Sequence[Entrant],
    protocol: Protocol,
    measured: Callable[[Sequence[Entrant], Protocol], Mapping[str, Scores]],
) -> list[Row]:
    """Each agent as it is measured, without no-ops, and with sticky actions, and by how much that differs."""
    protocols = {
        "as measured": protocol,
        "no no-ops": replace(protocol, noops=0),
        "sticky actions": replace(protocol, sticky=STICKY),
    }
    found = {name: measured(entrants, how) for name, how in protocols.items()}
    rows = []
    for each in entrants:
        for name, how in protocols.items():
            usual, here = found["as measured"][each.name], found[name][each.name]
            pair = scores.pair_row(here, usual, protocol.seed)
            beside = {key: value for key, value in pair.items() if key.startswith("difference") and how != protocol}
            facts = {"agent": each.name, "method": each.method, "how": name, "noops": how.noops, "sticky": how.sticky}
            rows.append({**facts, **_summary(here, protocol.seed), **beside})
    return rows


def _held_out(asked: Asked, protocol: Protocol, folder: Path, setting: Setting) -> dict[str, list[Row]]:
    """Models of one game each, put together by method, size and where they began."""
    together: dict[tuple[str, int, str], dict[str, Sequence[float]]] = {}
    for began, paths in (("pre-trained", asked.tuned), ("scratch", asked.scratch)):
        for path in paths:
            each = entrant(path, asked.kappa, setting)
            game = _only_game(path, each)
            key = (each.method, each.facts["parameters"], began)
            if game.name in together.get(key, {}):
                what = f"{path} is the second {each.method} of {key[1]:,} parameters for {game.name} ({began})"
                raise UserError(what, "name one of each size and game")
            found = measure([each], [game], protocol, folder, setting)[each.name]
            together.setdefault(key, {})[game.name] = found[game.name]
    facts = {key: dict(zip(("method", "parameters", "from"), key, strict=True)) for key in sorted(together)}
    rows = [{**said, **_summary(together[key], protocol.seed)} for key, said in facts.items()]
    by_game = [{**said, **row} for key, said in facts.items() for row in scores.game_rows(together[key])]
    pairs = []
    for method, parameters, began in facts:
        other = (method, parameters, "scratch")
        if began == "pre-trained" and other in together:
            pair = scores.pair_row(together[method, parameters, began], together[other], protocol.seed)
            pairs.append({"method": method, "parameters": parameters, **pair})
    return {"held_out": rows, "held_out_games": by_game, "held_out_pairs": pairs}


def _largest(entrants: Sequence[Entrant]) -> dict[str, Entrant]:
    """Of each method the largest."""
    found: dict[str, Entrant] = {}
    for each in sorted(entrants, key=lambda each: each.facts["parameters"]):
        found[each.method] = each
    return found


def one_step(path: Path, game: Game, kappa: float = KAPPA, setting: Setting | None = None, seed: int = 0) -> Step:
    """Let a model play until something is won by a step of its, and say what it saw and expected there: for `figures.draw_step`.

    Args:
        path: a transformer that knows returns.
        game: what it plays.
        kappa: tilt towards high returns.
        setting: where it computes.
        seed: of its chances.

    Raises:
        UserError: the model can't be read, or knows no returns.
    """
    import torch

    from almanac.multigame_dt import acting, published

    setting = setting or Setting()
    model = published.load(path, "cpu")
    if not model.dimensions.returns:
        raise UserError(f"{path} knows no returns", "give a decision transformer")
    agent = acting.Agent(model, 1, replace(acting.PAPER, kappa=kappa), setting.device, setting.precision)
    agent.reset(0, seed)
    console = emulator.Emulator(game)
    console.start()
    frames, screens, actions, points = ([] for _ in range(4))
    while True:
        frames, screens = [*frames, console.frame()][-tokens.STEPS :], console.screen()
        decision = agent.act(frames[-1][None])
        actions = [*actions, int(decision.actions[0])][-tokens.STEPS :]
        points = [*points, console.step(actions[-1])][-tokens.STEPS :]
        if console.over or console.steps == emulator.TIME_LIMIT or (points[-1] and console.steps > _BEFORE):
            break
        agent.observe(np.array(points[-1:]))
    assert decision.returns is not None and decision.predicted is not None and decision.return_probabilities is not None
    target = int(decision.returns[0])
    window = [
        torch.from_numpy(np.asarray(each))[None]
        for each in (
            np.stack(frames),
            np.full(len(frames), target - tokens.LOWEST),
            actions,
            tokens.reward_tokens(np.array(points)),
        )
    ]
    with torch.inference_mode():
        likely = model(*window).rewards[0, -1].softmax(0).numpy()
    return Step(
        game,
        f"{sum(each.numel() for each in model.parameters()) / 1e6:.2g} M parameters",
        np.stack(frames),
        tuple(actions),
        tuple(points),
        screens,
        decision.predicted[0],
        decision.return_probabilities[0],
        kappa,
        target,
        decision.action_probabilities[0],
        likely[tokens.reward_tokens(np.array([-1, 0, 1]))],
    )


def draw(tables: Mapping[str, Sequence[Row]], protocol: Protocol, folder: Path) -> list[Path]:
    """The review's bars and plots of scaling, of tables.

    Args:
        tables: of `evaluate`, or read from its results.
        protocol: how they were measured.
        folder: where to.

    Returns:
        the pictures' paths: `agents.png` and `scaling.png`, of what was measured.
    """
    drawn, agents = [], tables.get("agents", [])
    cut = f", cut off after {protocol.cap:,} steps" if protocol.cap < emulator.TIME_LIMIT else ""
    own = f"{protocol.episodes} episodes a game after 0 to {protocol.noops} random no-ops{cut}; 95 % intervals, episodes drawn anew"
    ours = [row for row in agents if row["method"] in figures.METHODS and row.get("iqm") is not None]
    tuned = [row for row in tables.get("held_out", []) if row["from"] == "pre-trained" and row["iqm"] is not None]
    if ours:
        notes = [
            f"Ours: {_counted(ours, 'game')} that each was trained on{_left_out(ours)}, {own}.",
            f"The largest of each: {_sizes(ours)}. Grey: an agent for each game; blue: one for all.",
            "The paper: 41 games, up to 200 M parameters. They are not the same games: compare the order, not the heights.",
        ]
        data = {
            f"{DATA}'s own play": row["iqm"] for row in agents if row["agent"] == DATA and row.get("iqm") is not None
        }
        drawn.append(figures.draw_bars(_bars(agents), {"a person": 1.0, **data}, notes, folder / "agents.png"))
    if ours or tuned:
        notes = [
            f"Ours: {own}; one training of each size.",
            "The paper: 41 and 5 games, other than ours: compare shapes, not heights. Its 40 M model has no printed number in (b).",
        ]
        panels = [
            Panel(_counted(ours, "training game"), _curves(ours), _printed(PRINTED_BY_SIZE)),
            Panel(f"{_counted(tuned, 'held-out game')}, after fine-tuning", _curves(tuned), _printed(PRINTED_HELD_OUT)),
        ]
        drawn.append(figures.draw_scaling(panels, notes, folder / "scaling.png"))
    return drawn


def _bars(agents: Sequence[Row]) -> list[Bar]:
    """The paper's seven, in its order, with ours where we have them."""
    known = {row["method"]: row for row in agents if row.get("paper") is not None}
    labels = {
        SPECIALIST: ("PPO, one agent a game, online\n(the paper's: DQN)", False),
        SPECIALIST_OFFLINE: ("CQL, one agent a game, offline\n(the paper's: BCQ)", False),
        DECISION: ("multi-game decision transformer", True),
        CLONING: ("multi-game behaviour cloning", True),
        ONLINE: ("multi-game PPO, online\n(the paper's: DQN of IMPALA's network)", True),
        CQL: ("multi-game CQL of IMPALA's network", True),
    }
    bars = []
    for method, (label, multi_game) in labels.items():
        row = known.get(method, {})
        bars.append(Bar(label, multi_game, row.get("iqm"), row.get("low"), row.get("high"), PRINTED[method]))
    return bars


def _sizes(rows: Sequence[Row]) -> str:
    largest = [row for row in rows if row.get("paper") is not None]
    return ", ".join(f"{row['method']} {row['parameters'] / 1e6:.2g} M" for row in largest)


def _left_out(rows: Sequence[Row]) -> str:
    names = next((row["excluded"] for row in rows if row["excluded"]), None)
    return f" (without {names}, of which there is no person's score)" if names else ""


def _counted(rows: Sequence[Row], what: str) -> str:
    count = max((row["games"] for row in rows), default=0)
    return f"{count or 'the paper alone, no'} {what}{'s' * (count != 1)}{' of ours' * (not count)}"


def _curves(rows: Sequence[Row]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for row in rows:
        curves.setdefault(row["method"], []).append(
            Point(float(row["parameters"]), row["iqm"], row["low"], row["high"])
        )
    return curves


def _printed(by_size: Mapping[str, Mapping[float, float]]) -> dict[str, list[Point]]:
    return {method: [Point(size, iqm) for size, iqm in each.items()] for method, each in by_size.items()}


def _tidy(row: Row) -> Row:
    """Numbers to five significant digits."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
