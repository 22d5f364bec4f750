"""`almanac multigame-dt VERB`: parse, call, print."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

if TYPE_CHECKING:
    from almanac.multigame_dt.data import Play
    from almanac.multigame_dt.play import Policy

OUT = Path("out/multigame_dt")
Preset = Literal["cpu", "gpu", "paper"]
Agent = Literal["random", "planner", "rollout-iw", "ppo", "multi-game-ppo"]
Precision = Literal["auto", "int8", "bf16", "fp32"]
Part = Literal["agents", "kappa", "held_out", "robustness"]
Games = tuple[str, ...]


def collect(
    games: tyro.conf.Positional[Games],
    *,
    agent: Agent = "ppo",
    steps: int = 100_000,
    out: Path = OUT / "logs",
    processes: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Make experience: play games and log every action, good play and bad.

    A log is less than a byte a step, and every frame of it can be drawn again. A run that was stopped goes on with --resume.

    Args:
        games: names, such as Breakout or ms_pacman, of the paper's 46.
        agent: who plays: random; a planner that tries on copies of the console (planner for games with many points, rollout-iw for
            others), at all qualities in turn; ppo, which learns the game from nothing and is logged from first to last; or
            multi-game-ppo, one that learns all the games at once, to compare agents with.
        steps: of each game, at least; of ppo those that it learns for.
        out: folder of the logs and their index.
        processes: that play at the same time; default: one a processor.
        cluster: a Ray whose machines play: local, auto or host:port.
        resume: go on with what is in the folder.
        seed: of no-ops, of what is tried, of weights.
        json: print one JSON object.
    """
    from almanac.multigame_dt import games as names
    from almanac.multigame_dt.collect import collect as collecting

    wanted = [names.named(each) for each in games]
    found = collecting.collect(
        wanted, agent, steps, out, seed=seed, processes=processes, cluster_address=cluster, resume=resume
    )
    console.result(found, json, _told(found))


def replay_log(files: tyro.conf.Positional[tuple[Path, ...]], *, json: bool = False) -> None:
    """Play logged episodes again, check their scores, and tell the SHA-256 of their frames.

    Args:
        files: logs of `collect` (.jsonl.gz), or JSON files with noops, frames_per_action and episodes.
        json: print one JSON object.
    """
    from almanac.multigame_dt import logs

    if not files:
        raise UserError("there is no file", "name a log: almanac multigame-dt replay-log FILE")
    episodes = [each for file in files for each in logs.read(file)]
    rows: list[dict[str, Any]] = []
    with console.progress("replaying", len(episodes), "episodes") as advance:
        for each in episodes:
            found = logs.replay(each)
            rows.append(
                {
                    "game": each.game.rom,
                    "score": _plain(found.score),
                    "steps": len(found.actions),
                    "frames_sha256": found.sha256,
                    "over": found.over,
                }
            )
            advance(1, f"{each.game.name}: {found.score:g}")
    lines = [f"{row['game']}: {row['score']} points in {row['steps']:,} steps  {row['frames_sha256']}" for row in rows]
    console.result({"episodes": rows}, json, "\n".join(lines) or "the log holds no whole episode")


def train(
    data: tyro.conf.Positional[tuple[Path, ...]],
    *,
    method: Literal["dt", "bc", "cql"] = "dt",
    preset: Preset = "cpu",
    size: str | None = None,
    model: Path | None = None,
    games: Games = (),
    part: float | None = None,
    best: float | None = None,
    most: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    out: Path = OUT / "dt",
    device: str = "auto",
    resume: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train one agent for all games that the data has, or fine-tune one on games that it has not seen.

    Frames are drawn from logs of actions once, and kept (7 kB a step). A run that was killed goes on with --resume.

    Args:
        data: logs of `collect`, folders of them, or folders that `import` made.
        method: dt learns returns, and is told to be good when it plays; bc clones what it sees; cql is conservative Q-learning.
        preset: cpu (one core, about an hour), gpu (one large GPU, 25 minutes at most) or paper.
        size: instead of the preset's: of a transformer 0.8m, 1.5m, 3m, 10m, 40m or 200m, of a cql network 0.13m, 0.4m, 1.3m, 5m, 30m, 60m
            or 120m.
        model: go on from this model, with the preset's recipe for fine-tuning.
        games: only these of the data; default: all.
        part: of the windows of each game that are seen; 0.01 is the paper's for fine-tuning. Default: all.
        best: only this part of each game's episodes, those of the highest scores.
        most: steps of each log at most: of one that has more, whole episodes, evenly from its first to its last.
        steps: of the optimiser, instead of the preset's.
        batch: windows in a step, instead of the preset's.
        learning_rate: its highest value, instead of the preset's.
        out: folder of the run; the model is OUT/model.safetensors.
        device: auto, cpu or cuda.
        resume: go on with the run in OUT.
        seed: of weights, order and augmentation.
        json: print one JSON object.
    """
    from almanac.multigame_dt import train as training

    if model and size:
        raise UserError(f"{model} keeps its size", "leave --size out, or train from the beginning, without --model")
    play = _play(data, games, most)
    if best is not None:
        if not 0 < best <= 1:
            raise UserError(f"the best {best:g} of the episodes can't be taken", "give a part above 0 and up to 1")
        play = play.best(best)
    changes = {"steps": steps, "batch": batch, "learning_rate": learning_rate}
    run = {"part": part or 1.0, "seed": seed, "device_name": device, "resume": resume}
    if method == "cql":
        from almanac.multigame_dt import cql

        start = cql.load(model, "cpu") if model else None
        recipe = training.with_overrides((cql.TUNING if model else cql.PRESETS)[preset], **changes)
        found = cql.train(play, out, cql.resized(recipe, size), start=start, **run)
    else:
        from almanac.multigame_dt import published

        start = published.load(model, "cpu") if model else None
        if start and start.dimensions.returns != (method == "dt"):
            raise UserError(
                f"{model} was trained by --method {'dt' if start.dimensions.returns else 'bc'}", "go on with that one"
            )
        recipe = training.with_overrides((training.TUNING if model else training.PRESETS)[preset], **changes)
        found = training.train(play, out, training.resized(recipe, size), returns=method == "dt", start=start, **run)
    facts = {"model": str(out / "model.safetensors"), **found}
    told = f"{facts['model']}: {', '.join(found['games'])}; loss {found['loss']:g} after {found['steps']:,} steps"
    console.result(facts, json, told)


def import_play(
    source: tyro.conf.Positional[Path],
    *,
    kind: Literal["dqn-replay", "rlds", "minari"],
    out: Path,
    game: str | None = None,
    json: bool = False,
) -> None:
    """Take play from elsewhere, to train on: DQN's replay buffers, TensorFlow Datasets, Minari.

    Args:
        source: the folder of one run of DQN's, such as dqn/Breakout/1/replay_logs; TFRecord files of rlu_atari or their folder; or the
            folder of a Minari data set.
        kind: which of the three.
        out: the folder to make; its frames take 7 kB a step.
        game: which, where the path doesn't say.
        json: print one JSON object.
    """
    from almanac.multigame_dt import games as names
    from almanac.multigame_dt.replay_buffers import dqn_replay, minari_sets, recorded, rlds

    read = {"dqn-replay": dqn_replay.read, "rlds": rlds.read, "minari": minari_sets.read}[kind]
    if out.exists():
        raise UserError(f"{out} is there already", "name a folder that is not")
    play = recorded.imported(read(source, names.named(game) if game else None), out)
    found = {"out": str(out), "episodes": len(play.starts), "steps": int(play.lengths.sum())}
    console.result(found, json, f"{out}: {found['episodes']:,} episodes, {found['steps']:,} steps")


def export(
    source: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path,
    steps: int | None = None,
    minari: str | None = None,
    json: bool = False,
) -> None:
    """Hand play on: smaller logs, evenly thinned, or a Minari data set of one game.

    Args:
        source: the folder of logs; for Minari, logs of one game.
        out: the folder to make.
        steps: of each log at most; whole episodes, evenly from the first to the last, each played again to see that it comes to its score.
        minari: the name of a Minari data set to make instead, such as atari/boxing/ppo-v0.
        json: print one JSON object.
    """
    if minari is not None:
        from almanac.multigame_dt.replay_buffers import minari_sets

        minari_sets.write(minari_sets.replayed(_files(source)), out, minari)
        console.result({"out": str(out), "name": minari}, json, f"{out}: {minari}")
        return
    from almanac.multigame_dt.collect import collect as collecting

    if steps is None or len(source) != 1:
        raise UserError("it isn't said how much to export", "name one folder and --steps, or --minari NAME")
    found = collecting.thin(source[0], out, steps)
    console.result(found, json, _told(found))


def play(
    *,
    model: str = "multigame_dt/dt",
    game: str,
    episodes: int = 16,
    noops: int = 30,
    kappa: float = 10.0,
    released_sampler: bool = False,
    sticky: float = 0.0,
    jpeg: bool = False,
    cap: int = 27_000,
    lanes: int = 16,
    log: Path | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Let an agent play a game, and tell its scores.

    Args:
        model: a .safetensors file of `train` or `convert`, the name of one that ships, or random.
        game: such as Breakout or ms_pacman.
        episodes: how many.
        noops: frames without an action before an episode, at most; each has its own number.
        kappa: how much good returns are preferred to likely ones; 0 plays as the data did.
        released_sampler: draw as the official notebook does: the highest of 128 returns, whatever kappa is.
        sticky: probability that a frame repeats the last action; 0.25 is Machado et al.'s, 0 the paper's.
        jpeg: let frames go through JPEG, as the official notebook does.
        cap: steps of four frames after which an episode is cut off.
        lanes: episodes at once.
        log: a .jsonl.gz to write what was played to.
        precision: of the network on a processor.
        device: auto, cpu or cuda.
        seed: of no-ops and draws.
        json: print one JSON object.
    """
    import numpy as np

    from almanac.multigame_dt import games as names
    from almanac.multigame_dt import logs, scores
    from almanac.multigame_dt import play as playing

    chosen = names.named(game)
    policy = _policy(model, kappa, released_sampler, max(1, min(lanes, episodes)), precision, device, seed)
    played = playing.play(policy, chosen, episodes, noops=noops, sticky=sticky, jpeg=jpeg, cap=cap, seed=seed)
    if log is not None:
        logs.write(log, [each.episode(Path(model).stem) for each in played])
    summary = scores.game_rows({chosen.name: np.array([each.score for each in played])})[0]
    found = {
        "game": chosen.rom,
        "scores": [_plain(each.score) for each in played],
        "steps": [each.steps for each in played],
        "capped": sum(each.capped for each in played),
        **{name: summary[name] for name in ("mean", "sem", "median", "human", "dqn")},
    }
    told = f"{chosen.name}: mean {summary['mean']:.6g} of {len(played)} episodes"
    if summary["human"] is not None:
        told += f", {summary['human']:.0%} of the way from random play to a person's"
    console.result(found, json, told)


def score(file: tyro.conf.Positional[Path], *, seed: int = 0, json: bool = False) -> None:
    """Sum scores of many games up: the human-normalised interquartile mean, with an interval.

    Args:
        file: a .csv with the columns game and score, a row an episode; with a column agent, agents are compared.
        seed: of the bootstrap.
        json: print one JSON object.
    """
    from almanac.multigame_dt import scores

    found = scores.score(file, seed)
    console.result(found, json, scores.told(found))


def convert(checkpoint: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], *, json: bool = False) -> None:
    """Make a .safetensors file of the checkpoint that was released with the paper, without running anything that is in it.

    Args:
        checkpoint: the pickle (checkpoint_38274228.pkl).
        out: the file to write, which `play --model` opens.
        json: print one JSON object.
    """
    from almanac.multigame_dt import published

    model = published.convert(checkpoint, out)
    count = sum(each.numel() for each in model.parameters())
    console.result({"model": str(out), "parameters": count}, json, f"{out}: {count:,} parameters")


def evaluate(
    models: tyro.conf.Positional[tuple[Path, ...]] = (),
    *,
    specialists: tuple[Path, ...] = (),
    tuned: tuple[Path, ...] = (),
    scratch: tuple[Path, ...] = (),
    logs: tuple[Path, ...] = (),
    games: Games = (),
    parts: tuple[Part, ...] = ("agents", "kappa", "held_out", "robustness"),
    episodes: int = 16,
    noops: int = 30,
    kappa: float = 10.0,
    lanes: int = 16,
    together: int = 1,
    precision: Precision = "auto",
    device: str = "auto",
    cells: Path = OUT / "cells",
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure agents over games, with intervals, beside the paper's numbers, and draw its figures.

    What was played is kept; an evaluation that was killed goes on when it is started again.

    Args:
        models: of `train`, all of the same games, of any method and size; default: those that ship.
        specialists: models of cql that learnt one of the games each.
        tuned: models that were fine-tuned, each on one game that those had not seen.
        scratch: models that learnt the same from nothing.
        logs: what the models learnt from, for the rows of the data and its specialists; logs of multi-game-ppo are a row of their own.
        games: that are played; default: those of the first model.
        parts: agents side by side; a sweep of kappa; held-out games; without no-ops and with sticky actions.
        episodes: of each game.
        noops: frames without an action before an episode, at most.
        kappa: how much good returns are preferred to likely ones.
        lanes: episodes at once.
        together: games at once.
        precision: of the networks on a processor.
        device: auto, cpu or cuda.
        cells: folder of what was played.
        write: whether to write results/multigame_dt and its figures.
        seed: of no-ops, draws and bootstrap.
        json: print one JSON object.
    """
    from dataclasses import asdict

    from almanac.multigame_dt import cells as cell
    from almanac.multigame_dt import evaluate as tables
    from almanac.multigame_dt import figures
    from almanac.multigame_dt import games as names
    from almanac.runtime import hub, results

    wanted = tuple(names.named(each) for each in games)
    asked = tables.Asked(
        models or tuple(hub.weights(name) for name in hub.shipped_weights("multigame_dt")),
        tuned,
        scratch,
        specialists,
        logs,
        wanted,
        kappa,
        parts,
    )
    protocol = cell.Protocol(episodes, noops, seed=seed)
    found = tables.evaluate(asked, protocol, cells, cell.Setting(device, precision, lanes, together))
    if write:
        for name, rows in found.items():
            results.write("multigame_dt", name, rows, seed, protocol=asdict(protocol))
        folder = results.default_folder("multigame_dt")
        tables.draw(found, protocol, folder)
        if best := cell.generalist(asked.models):
            path, agent = best
            step = tables.one_step(path, names.named(agent.trained_on[0]), kappa, seed=seed)
            figures.draw_step(step, folder / "step.png")
    text = "\n".join(f"{name}: {row}" for name, rows in found.items() for row in rows)
    console.result(found, json, text)


COMMANDS: dict[str, Callable[..., None]] = {
    "collect": collect,
    "replay-log": replay_log,
    "import": import_play,
    "export": export,
    "train": train,
    "play": play,
    "score": score,
    "convert": convert,
    "evaluate": evaluate,
}


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """Logs, and those in folders."""
    from almanac.multigame_dt import logs

    found = logs.files(paths)
    if not found:
        raise UserError(
            "there are no logs of actions", "name logs or their folder: almanac multigame-dt collect makes some"
        )
    return found


def _play(paths: tuple[Path, ...], games: Games, most: int | None) -> "Play":
    """What is learnt from."""
    from almanac.multigame_dt import data
    from almanac.multigame_dt import games as names
    from almanac.multigame_dt.replay_buffers import recorded

    made = [path for path in paths if recorded.is_imported(path)]
    plays = [recorded.imported((), path) for path in made]
    left = tuple(path for path in paths if path not in made)
    if left or not plays:
        plays.append(data.rendered(_files(left), most=most))
    play = data.joined(plays)
    return play.of([names.named(each) for each in games]) if games else play


def _policy(
    model: str, kappa: float, released_sampler: bool, lanes: int, precision: str, device: str, seed: int
) -> "Policy":
    from dataclasses import replace

    from almanac.multigame_dt import acting, cql, play, published
    from almanac.runtime import checkpoint, hub

    if model == "random":
        return play.Random(lanes, seed)
    path = hub.weights(model)
    if checkpoint.load_weights(path, "multigame_dt")[1].get("model") == "cql":
        return cql.QAgent(cql.load(path, "cpu"), lanes, device, precision)
    sampler = acting.COLAB if released_sampler else replace(acting.PAPER, kappa=kappa)
    return acting.Agent(published.load(path, "cpu"), lanes, sampler, device, precision, seed)


def _plain(score: float) -> float | int:
    """A whole number where it is one, as all points are."""
    return int(score) if score == int(score) else score


def _told(found: dict[str, Any]) -> str:
    """An index of logs, as a person reads it."""
    lines = []
    for name, each in found["games"].items():
        human = each["human_normalised"]
        lines.append(
            f"{name}: {each['episodes']:,} episodes, {each['steps']:,} steps, {each['bytes'] / max(1, each['steps']):.2f} bytes a step, "
            f"score {each['mean']:.6g} (best {each['best']:g})"
            + (f", {human:.0%} of a person's" if human is not None else "")
        )
    return "\n".join(lines)
