"""RL Unplugged's Atari episodes (Gulcehre et al. 2020), which are DQN's replay with unclipped rewards: as TensorFlow Datasets prepares them
(`rlu_atari`, `rlu_atari_checkpoints`, `rlu_atari_checkpoints_ordered`), or as they lie in the bucket `rl_unplugged/atari_episodes_ordered`.
Both are TFRecord files of `tf.train.Example`, an episode each, read here without TensorFlow. The last step of a game that ended is the
screen after it, with no action (`atari_utils.py` of TensorFlow Datasets)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from almanac.multigame_dt.emulator import SIZE
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.replay_buffers.recorded import Recorded, game_of, in_the_full_set
from almanac.runtime import tfrecords
from almanac.runtime.errors import UserError

AGENT = "dqn"
CHECKPOINTS = 50  # of a run

_KEYS = {
    "frames": ("steps/observation", "observations"),
    "actions": ("steps/action", "actions"),
    "rewards": ("steps/reward", "unclipped_rewards"),
    "discounts": ("steps/discount", "discounts"),
    "score": ("episode_return", "episode_return"),
    "checkpoint": ("checkpoint_id", "checkpoint_idx"),
}
"""What each is called by TensorFlow Datasets, and in the bucket."""


def read(path: Path, game: Game | None = None) -> Iterator[Recorded]:
    """The episodes of a file, or of all files of a folder in the order of their names.

    Args:
        path: TFRecord files, gzipped or not, or their folder.
        game: which; None: the one that the path names.

    Raises:
        UserError: there are none, or one is cut off, damaged, of other things or of another game.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*-of-*") if each.is_file())
    if not paths:
        raise UserError(f"{path} holds no TFRecord files", "give a folder of files that are called …-00000-of-00050")
    for file in paths:
        here = game or game_of(file)
        try:
            for features in tfrecords.examples(file):
                episode = _episode(features, here, file)
                if len(episode.actions):
                    yield episode
        except tfrecords.NoExample as error:
            raise _foreign(file, str(error)) from None


def _episode(features: Mapping[str, Any], game: Game, path: Path) -> Recorded:
    kind = next((kind for kind in (0, 1) if _KEYS["frames"][kind] in features), None)
    if kind is None:
        known = ", ".join(sorted(features)[:8])
        raise _foreign(path, f"an example has no {' or '.join(_KEYS['frames'])}, but {known or 'nothing'}")

    def values(name: str, of: str) -> Any:
        key = _KEYS[name][kind]
        found = getattr(features[key], of).value if key in features else []
        if not len(found):
            raise _foreign(path, f"an example has no {key}")
        return found

    pictures = values("frames", "bytes_list")
    actions = np.array(values("actions", "int64_list"), np.int64)
    rewards = np.array(values("rewards", "float_list"), np.float32)
    discounts = np.array(values("discounts", "float_list"), np.float32)
    if not len(pictures) == len(actions) == len(rewards) == len(discounts):
        raise _foreign(path, f"an episode has {len(pictures)} frames, {len(actions)} actions, {len(rewards)} rewards")
    over = bool(discounts[-1] == 0)
    steps = slice(0, -1 if over and rewards[-1] == 0 else None)
    quality = values("checkpoint", "int64_list")[0] / (CHECKPOINTS - 1)
    frames = np.empty((len(actions[steps]), SIZE, SIZE), np.uint8)
    for number in range(len(frames)):
        frames[number] = _frame(pictures[number], path)
    score = float(values("score", "float_list")[0])
    full = in_the_full_set(game, actions[steps], path)
    return Recorded(game, frames, full, rewards[steps], over, score, AGENT, min(1.0, quality))


def _frame(picture: bytes, path: Path) -> UInt8[np.ndarray, "84 84"]:
    import cv2

    try:
        frame = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # of no bytes at all
        frame = None
    if frame is None or frame.shape != (SIZE, SIZE):
        what = "a frame is no picture" if frame is None else f"a frame is of {frame.shape[1]}×{frame.shape[0]} pixels"
        raise _foreign(path, what)
    return frame


def _foreign(path: Path, reason: str) -> UserError:
    hint = "give files of rlu_atari_checkpoints_ordered, rlu_atari_checkpoints or rlu_atari, or of rl_unplugged/atari_episodes_ordered"
    return UserError(f"{path} holds no Atari episodes: {reason}", hint)
