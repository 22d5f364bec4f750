"""RL Unplugged's Atari episodes (Gulcehre et al. 2020), which are DQN's replay with unclipped rewards: as TensorFlow Datasets prepares them
(`rlu_atari`, `rlu_atari_checkpoints`, `rlu_atari_checkpoints_ordered`), or as they lie in the bucket `rl_unplugged/atari_episodes_ordered`.
Both are TFRecord files of `tf.train.Example`, an episode each, read here without TensorFlow. The last step of a game that ended is the
screen after it, with no action (`atari_utils.py` of TensorFlow Datasets)."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from almanac.multigame_dt.emulator import SIZE
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.replay_buffers.recorded import Recorded, game_of, in_the_full_set
from almanac.runtime.errors import UserError

AGENT = "dqn"
CHECKPOINTS = 50  # of a run

_LONGEST = 1 << 31  # bytes of a record: an episode of 27,000 frames has less than 0.2 GB
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
        for record in records(file):
            episode = _episode(record, here, file)
            if len(episode.actions):
                yield episode


def records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, each checked by its checksum (TensorFlow's `record_writer.h`).

    Raises:
        UserError: the file can't be read, is cut off or damaged.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield from _records(gzip.GzipFile(fileobj=plain) if zipped else plain, path)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from None


def _records(file: Any, path: Path) -> Iterator[bytes]:
    while head := file.read(12):
        if len(head) < 12:
            raise _damaged(path, "it is cut off")
        length, sum_of_length = struct.unpack("<QI", head)
        if _masked(head[:8]) != sum_of_length or length > _LONGEST:
            raise _damaged(path, "a record's length has a wrong checksum")
        data, tail = file.read(length), file.read(4)
        if len(data) < length or len(tail) < 4:
            raise _damaged(path, "it is cut off")
        if _masked(data) != struct.unpack("<I", tail)[0]:
            raise _damaged(path, "a record has a wrong checksum")
        yield data


def _episode(record: bytes, game: Game, path: Path) -> Recorded:
    from google.protobuf.message import DecodeError

    try:
        features = _example_class().FromString(record).features.feature
    except DecodeError:
        raise _foreign(path, "a record is no tf.train.Example") from None
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


@cache
def _example_class() -> Any:
    """`tf.train.Example` (TensorFlow's `example.proto` and `feature.proto`)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="almanac", syntax="proto3")

    def add(message: Any, name: str, number: int, kind: Any, of: str = "", repeated: bool = False) -> Any:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        named = {"type_name": f".almanac.{of}"} if of else {}
        return message.field.add(name=name, number=number, type=kind, label=label, **named)

    lists = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    for name, kind in lists:
        add(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(lists, 1):
        called = name.replace("List", "_list").lower()
        add(feature, called, number, field.TYPE_MESSAGE, name).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, field.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("almanac.Example"))


def _masked(data: bytes) -> int:
    """CRC-32C, rotated and shifted so that checksums of checksums are no trouble."""
    crc = int(_compiled()(np.frombuffer(data, np.uint8), _table()))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _compiled() -> Any:
    from almanac.nn.compiled import compiled_exactly

    return compiled_exactly(_crc32c)


def _crc32c(data: Any, table: Any) -> Any:
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)  # Castagnoli's polynomial, reversed
    return table.astype(np.uint32)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} can't be read: {reason}", "it was cut off or damaged, or is no TFRecord file: download it again"
    )


def _foreign(path: Path, reason: str) -> UserError:
    hint = "give files of rlu_atari_checkpoints_ordered, rlu_atari_checkpoints or rlu_atari, or of rl_unplugged/atari_episodes_ordered"
    return UserError(f"{path} holds no Atari episodes: {reason}", hint)
