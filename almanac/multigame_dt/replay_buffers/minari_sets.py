"""Minari's data sets (Farama Foundation), read and written by its library; ours in its Parquet form, without loss. They hold what the agent
saw, 84×84 greys, and actions of the full set; and for each episode its score, who played it and how well that one plays."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from almanac.multigame_dt import logs
from almanac.multigame_dt.emulator import FRAMES, SIZE, TIME_LIMIT
from almanac.multigame_dt.games import ACTIONS, Game, named
from almanac.multigame_dt.replay_buffers.recorded import Recorded, in_the_full_set
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError


def read(path: Path, game: Game | None = None) -> Iterator[Recorded]:
    """The episodes of a data set. Its frames may be 84×84, with a stack of them the last one is taken, or the console's picture.

    Args:
        path: its folder, or that of its data.
        game: which; None: the one of its environment.

    Raises:
        UserError: the folder holds no data set, or one of another kind; Minari isn't installed.
    """
    minari = _minari()
    folder = path / "data" if (path / "data").is_dir() else path
    try:
        dataset = minari.MinariDataset(folder)
    except Exception as error:  # whatever a damaged or foreign folder leads to
        raise _unreadable(path, error) from None
    if game is None and dataset.env_spec is None:
        raise UserError(f"{path} doesn't say which game it is of", "name the game")
    game = game or named(dataset.env_spec.id)
    whole = getattr(dataset.action_space, "n", None) == ACTIONS
    shape = tuple(dataset.observation_space.shape or ())
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    try:
        for episode, about in zip(dataset.iterate_episodes(), metadata, strict=True):
            steps = len(episode.rewards)
            frames = np.stack([_frame(each, shape, path) for each in episode.observations[:steps]])
            actions = np.asarray(episode.actions)
            full = actions.astype(np.uint8) if whole else in_the_full_set(game, actions, path)
            rewards = np.asarray(episode.rewards, np.float32)
            over = bool(episode.terminations[-1])
            score = float(about.get("score", rewards.sum()))
            agent, quality = str(about.get("agent", "")), float(about.get("quality", 0.0))
            yield Recorded(game, frames, full, rewards, over, score, agent, quality)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None


def write(episodes: Iterable[Recorded], path: Path, name: str) -> None:
    """Write a data set, of one game.

    Args:
        episodes: of it.
        path: folder to write; it must not be there.
        name: of the data set, as Minari has them: `atari/breakout/mixed-v0`.

    Raises:
        UserError: the folder is there, there are no episodes or of several games, or the name can't be; Minari isn't installed.
    """
    minari = _minari()
    try:
        minari.dataset.minari_dataset.parse_dataset_id(name)
    except (ValueError, TypeError):
        raise UserError(f"no data set can be called '{name}'", "give a name such as atari/breakout/mixed-v0") from None
    if path.exists():
        raise UserError(f"{path} is there already", "choose another folder")
    coming = iter(episodes)
    first = next(coming, None)
    if first is None:
        raise UserError("there are no episodes to write", "give logs or recordings that hold some")
    partial = path.with_name(path.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        storage = _storage(partial / "data", first.game)
        storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__, "description": _ABOUT})
        for number, each in enumerate(chain([first], coming)):
            if each.game != first.game:
                raise UserError(
                    f"episodes of {first.game.name} and {each.game.name} are no one data set", "write one for each"
                )
            storage.update_episodes([_buffer(each)])
            score = {} if each.score is None else {"score": each.score}
            storage.update_episode_metadata([{**score, "agent": each.agent, "quality": each.quality}], [number])
        partial.rename(path)
    except OSError as error:
        raise checkpoint.cannot_write(path, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replayed(paths: Iterable[Path]) -> Iterator[Recorded]:
    """The episodes of logs of actions, with their frames.

    Args:
        paths: of the logs.

    Raises:
        UserError: as `logs.read` and `logs.replay` do.
    """
    for path in paths:
        for episode in logs.read(path):
            again = logs.replay(episode)
            yield Recorded(
                episode.game,
                again.frames,
                again.actions,
                again.rewards,
                again.over,
                again.score,
                episode.agent,
                episode.quality,
            )


_ABOUT = f"Play of an agent that acts every {FRAMES} frames; the observation after the last action is the one before it once more."


def _storage(folder: Path, game: Game) -> Any:
    """An empty one, for what our emulator shows and takes."""
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.spaces import Box, Discrete
    from minari.dataset.minari_storage import MinariStorage

    how = {
        "game": game.rom,
        "repeat_action_probability": 0.0,
        "full_action_space": True,
        "frameskip": FRAMES,
        "max_num_frames_per_episode": FRAMES * TIME_LIMIT,
    }
    spec = EnvSpec(f"ALE/{game.name}-v5", "ale_py.env:AtariEnv", kwargs=how)
    folder.mkdir(parents=True)
    seen = Box(0, 255, (SIZE, SIZE), np.uint8)
    return MinariStorage.new(folder, seen, Discrete(ACTIONS), spec, "parquet", jpeg_encoding=False)


def _buffer(each: Recorded) -> Any:
    from minari.data_collector import EpisodeBuffer

    ended = np.arange(1, len(each.actions) + 1) == len(each.actions)
    return EpisodeBuffer(
        observations=[*each.frames, each.frames[-1]],
        actions=each.actions.tolist(),
        rewards=each.rewards.tolist(),
        terminations=(ended & each.over).tolist(),
        truncations=(ended & (not each.over)).tolist(),
    )


def _frame(observation: Any, shape: tuple[int, ...], path: Path) -> UInt8[np.ndarray, "84 84"]:
    """What an observation shows last, as the agent sees it."""
    import cv2

    if shape == (SIZE, SIZE):
        return observation
    if len(shape) == 3 and SIZE in (shape[0], shape[2]) and shape[1] == SIZE:  # frames come first, or last
        return observation[-1] if shape[2] == SIZE else observation[..., -1]
    if shape[:2] == (210, 160) and shape[2:] in ((), (3,)):
        grey = cv2.cvtColor(observation, cv2.COLOR_RGB2GRAY) if len(shape) == 3 else observation
        return cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.uint8)
    what = f"the observations of {path} are of shape {shape}"
    raise UserError(
        what, f"give a data set of {SIZE}×{SIZE} frames, stacked or not, or of the console's 210×160 pictures"
    )


def _minari() -> Any:
    try:
        import minari
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} isn't installed", "pip install 'almanac[atari]'") from None
    return minari


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{path} is no Minari data set that can be read: {reason}", "give the folder of one, which has `data` in it"
    )
