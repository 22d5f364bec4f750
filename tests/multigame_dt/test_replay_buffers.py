"""Recordings of others: written here with all their quirks, by other code than reads them, they come back as the episodes they were."""

import gzip
import json
import pickle
import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest

from almanac.multigame_dt import logs
from almanac.multigame_dt.emulator import TIME_LIMIT, Emulator
from almanac.multigame_dt.games import Game, named
from almanac.multigame_dt.logs import Episode
from almanac.multigame_dt.replay_buffers import dqn_replay, minari_sets, recorded, rlds
from almanac.multigame_dt.replay_buffers.recorded import Recorded, imported
from almanac.runtime.errors import UserError

GAME = named("Breakout")
OWN = (0, 1, 3, 4)  # Breakout's actions, of the full set


def episode(generator: np.random.Generator, steps: int, over: bool = True) -> Recorded:
    return Recorded(
        GAME,
        generator.integers(1, 256, (steps, 84, 84), dtype=np.uint8),
        np.array(OWN, np.uint8)[generator.integers(4, size=steps)],
        generator.integers(-1, 2, size=steps).astype(np.float32),
        over,
        float(generator.integers(100)),
        "dqn",
        0.5,
    )


def own(actions: np.ndarray) -> np.ndarray:
    return np.array([OWN.index(each) for each in actions])


def assert_same(found: Recorded, meant: Recorded) -> None:
    assert found.game == meant.game
    assert found.over == meant.over
    for name in ("frames", "actions", "rewards"):
        assert np.array_equal(getattr(found, name), getattr(meant, name)), name


class Dopamine:
    """A replay buffer as Dopamine's was and batch_rl logged it: steps go round and round, and are written when all but one are new."""

    def __init__(self, folder: Path, capacity: int):
        self.folder, self.capacity, self.added, self.written = folder, capacity, 0, 0
        self.missed = False  # whether a file was not written, because it was due within the padding
        folder.mkdir(parents=True)
        self.frames = np.full((capacity, 84, 84), 99, np.uint8)  # what was in the memory before
        self.actions, self.rewards = np.full(capacity, 2, np.int32), np.full(capacity, 0.5, np.float32)
        self.terminal = np.zeros(capacity, np.uint8)

    def add(self, frame: np.ndarray | int, action: int, reward: float, terminal: bool) -> None:
        place = self.added % self.capacity
        self.frames[place], self.actions[place], self.rewards[place] = frame, action, reward
        self.terminal[place] = terminal
        self.added += 1

    def play(self, played: Recorded) -> None:
        for step, action in enumerate(own(played.actions)):
            if step == 0:
                for _ in range(dqn_replay.PADDING):
                    self.add(0, 0, 0.0, False)
                    self.missed |= self.added % self.capacity == self.capacity - 1
            ends = played.over and step == len(played.actions) - 1
            self.add(played.frames[step], int(action), float(played.rewards[step]), ends)
            if self.added % self.capacity == self.capacity - 1:
                self.write(self.added)

    def write(self, added: int) -> None:
        arrays = {"observation": self.frames, "action": self.actions, "reward": self.rewards, "terminal": self.terminal}
        for name, array in [
            *((f"$store$_{name}", each) for name, each in arrays.items()),
            ("add_count", np.array(added)),
        ]:
            with gzip.open(self.folder / f"{name}_ckpt.{self.written}.gz", "wb", compresslevel=1) as file:
                np.save(file, array, allow_pickle=False)
        self.written += 1


def written_whole(folder: Path, capacity: int, count: int, longest: int) -> tuple[Dopamine, list[Recorded]]:
    """A run with games of random lengths, of which no end or padding falls where a file is due."""
    generator, run, games = np.random.default_rng(capacity), Dopamine(folder, capacity), []
    for _ in range(count):
        steps = int(generator.integers(2, longest))
        while any((run.added + 3 + steps + pad) % capacity == capacity - 1 for pad in (0, 1, 2, 3)):
            steps += 1
        games.append(episode(generator, steps))
        run.play(games[-1])
    assert not run.missed
    return run, games


def key(each: Recorded) -> int:
    return int.from_bytes(each.frames[0, 0, :8].tobytes())


def ordered(episodes: list[Recorded]) -> list[Recorded]:
    return sorted(episodes, key=key)


@pytest.mark.parametrize("capacity", [23, 37, 64, 1000])
def test_all_games_of_a_run_come_back_over_all_files(tmp_path: Path, capacity: int) -> None:
    run, games = written_whole(tmp_path / "dqn" / "Breakout" / "1" / "replay_logs", capacity, 12, 40)
    run.write(run.added % capacity)  # the short one at the end of the training
    found = list(dqn_replay.read(tmp_path / "dqn" / "Breakout" / "1"))
    assert len(found) == len(games)
    for one, other in zip(ordered(found), ordered(games), strict=True):
        assert_same(one, other)
    assert all(each.score is None and each.agent == "dqn" for each in found)
    assert [each.quality for each in found] == sorted(each.quality for each in found)


def test_the_time_for_a_game_may_be_over_without_a_sign(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    games = [episode(generator, 9), episode(generator, 11, over=False), episode(generator, 8)]
    run = Dopamine(tmp_path / "Breakout", 200)
    for game in games:
        run.play(game)
    run.write(run.added)
    for one, other in zip(dqn_replay.read(run.folder), games, strict=True):
        assert_same(one, other)


def test_a_dark_screen_is_no_padding(tmp_path: Path) -> None:
    game = episode(np.random.default_rng(1), 30)
    for dark in (slice(0, 5), slice(10, 15), slice(20, 23)):
        game.frames[dark], game.actions[dark], game.rewards[dark] = 0, 0, 0.0
    game.rewards[21] = 1.0
    run = Dopamine(tmp_path / "Breakout", 100)
    run.play(game)
    run.write(run.added)
    (found,) = dqn_replay.read(run.folder)
    assert_same(found, game)


def test_a_game_that_lasted_as_long_as_it_may_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dqn_replay, "TIME_LIMIT", 12)
    generator = np.random.default_rng(2)
    run = Dopamine(tmp_path / "Breakout", 100)
    for steps in (11, 12):
        run.play(episode(generator, steps))
    run.write(run.added)
    assert [each.over for each in dqn_replay.read(run.folder)] == [True, False]
    assert TIME_LIMIT == 27_000


def test_some_files_of_a_run_hold_whole_games_only(tmp_path: Path) -> None:
    run, games = written_whole(tmp_path / "Breakout", 90, 24, 25)
    whole = {key(each): each for each in games}
    assert run.written >= 4
    for files in ([0], [1], [0, 2], [1, 2]):
        found = list(dqn_replay.read(run.folder, files=files))
        assert found
        for each in found:
            assert_same(each, whole[key(each)])


@pytest.mark.parametrize("second", [20, 19, 18])
def test_games_are_not_joined_over_a_file_that_was_never_written(tmp_path: Path, second: int) -> None:
    generator = np.random.default_rng(3)
    run = Dopamine(tmp_path / "Breakout", 24)
    games = [episode(generator, steps) for steps in (25, second - 4, 4, 12, 30, 25, 4)]
    for game in games:
        run.play(game)
    run.write(run.added % 24)
    assert run.missed
    assert run.written >= 3
    whole = {key(each): each for each in games}
    found = list(dqn_replay.read(run.folder))
    assert found
    for each in found:
        assert_same(each, whole[key(each)])


def test_damaged_and_foreign_files_are_said(tmp_path: Path) -> None:
    run = Dopamine(tmp_path / "Breakout", 50)
    for _ in range(5):
        run.play(episode(np.random.default_rng(4), 20))

    def told(name: str, data: bytes, match: str, folder: Path = run.folder, game: Game | None = None) -> None:
        path = run.folder / name
        before = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(UserError, match=match):
            list(dqn_replay.read(folder, game))
        path.write_bytes(before)

    def zipped(array: object) -> bytes:
        file = BytesIO()
        np.save(file, np.asarray(array))
        return gzip.compress(file.getvalue())

    frames = "$store$_observation_ckpt.0.gz"
    told(frames, (run.folder / frames).read_bytes()[:-4_000], "can't be read")
    told(frames, b"not zipped", "can't be read")
    told(frames, gzip.compress(b"no array"), "can't be read")
    told(frames, zipped(np.zeros((50, 80, 80), np.uint8)), "not 50 frames of 84×84")
    told("$store$_action_ckpt.0.gz", zipped(np.zeros(49, np.int32)), "don't belong together")
    told("$store$_action_ckpt.0.gz", zipped(np.full(50, 7, np.int32)), "action 7; Breakout has 4")
    told("$store$_reward_ckpt.0.gz", gzip.compress(pickle.dumps([1, 2])), "can't be read")
    with pytest.raises(UserError, match=r"ckpt\.9"):
        list(dqn_replay.read(run.folder, files=[9]))
    with pytest.raises(UserError, match="holds no"):
        list(dqn_replay.read(tmp_path, GAME))
    run.folder.rename(tmp_path / "somewhere")
    with pytest.raises(UserError, match="which game"):
        list(dqn_replay.read(tmp_path / "somewhere"))


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features: list) -> bytes:
    """A `tf.train.Example`, byte by byte."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            feature = field(1, b"".join(field(1, each) for each in values))
        elif isinstance(values[0], float):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = field(3, field(1, b"".join(varint(int(each)) for each in values)))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, feature))
    return field(1, entries)


def write_records(path: Path, records: list[bytes]) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)


def pictures(frames: np.ndarray) -> list[bytes]:
    return [cv2.imencode(".png", each)[1].tobytes() for each in frames]


def rlds_episode(played: Recorded, prepared: bool) -> bytes:
    """As TensorFlow Datasets has it, or the bucket. Of a game that ended there is one step more: the screen after it."""
    frames, actions, rewards = played.frames, own(played.actions), played.rewards
    if played.over:
        frames = np.concatenate([frames, np.full((1, 84, 84), 7, np.uint8)])
        actions, rewards = np.append(actions, 0), np.append(rewards, 0.0)
    discounts = [1.0] * len(frames)
    if played.over:
        discounts[-1] = 0.0
        if prepared:
            discounts[-2] = 0.0
    common = {"episode_return": [played.score], "clipped_episode_return": [1.0]}
    if not prepared:
        return example(
            **common, checkpoint_idx=[10], episode_idx=[3], observations=pictures(frames), actions=list(actions),
            unclipped_rewards=[float(each) for each in rewards], clipped_rewards=[float(each) for each in np.sign(rewards)],
            discounts=discounts,
        )  # fmt: skip
    last = [False] * (len(frames) - 1) + [True]
    return example(
        **common, checkpoint_id=[10], episode_id=[3], steps__observation=pictures(frames), steps__action=list(actions),
        steps__reward=[float(each) for each in rewards], steps__discount=discounts, steps__is_last=last,
        steps__is_terminal=[each and played.over for each in last], steps__is_first=[True, *last[1:]],
    )  # fmt: skip


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_rlds_episodes_come_back(tmp_path: Path, prepared: bool, zipped: bool) -> None:
    generator = np.random.default_rng(5)
    games = [episode(generator, steps, over) for steps, over in ((5, True), (7, False), (3, True))]
    games = [replace(each, rewards=each.rewards * 300) for each in games]
    folder = tmp_path / ("Breakout_run_2/1.1.0" if prepared else "Breakout")
    name = "rlu_atari-checkpoint_00.tfrecord" if prepared else "run_2"
    for number, some in enumerate((games[:2], games[2:])):
        path = folder / f"{name}-0000{number}-of-00002"
        write_records(path, [rlds_episode(each, prepared) for each in some])
        if zipped:
            path.write_bytes(gzip.compress(path.read_bytes()))
    found = list(rlds.read(tmp_path if prepared else folder))
    for one, other in zip(found, games, strict=True):
        assert_same(one, other)
        assert (one.score, one.quality) == (other.score, 10 / 49)


def test_damaged_and_foreign_records_are_said(tmp_path: Path) -> None:
    path = tmp_path / "Breakout-00000-of-00001"
    good = rlds_episode(episode(np.random.default_rng(6), 4), True)
    write_records(path, [good])
    whole = path.read_bytes()
    for data, match in (
        (whole[:-7], "cut off"),
        (whole[:5], "cut off"),
        (gzip.compress(whole)[:-20], "can't be read"),
        (b"\xff" + whole[1:], "length has a wrong checksum"),
        (whole[:400] + bytes([whole[400] ^ 1]) + whole[401:], "record has a wrong checksum"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=match):
            list(rlds.read(path))
    for record, match in (
        (b"\x0a\xff", "no tf.train.Example"),
        (example(o_t=[b"x"]), "but o_t"),
        (good.replace(b"\x89PNG", b"\x89GNP"), "no picture"),
        (good.replace(b"steps/reward", b"steps/reworm"), "no steps/reward"),
        (
            rlds_episode(episode(np.random.default_rng(6), 4), False).replace(b"unclipped", b"unclapped"),
            "no unclipped",
        ),
    ):
        write_records(path, [record])
        with pytest.raises(UserError, match=match):
            list(rlds.read(path))
    with pytest.raises(UserError, match="No such file"):
        list(rlds.read(tmp_path / "Pong"))
    (tmp_path / "Pong").mkdir()
    with pytest.raises(UserError, match="holds no TFRecord"):
        list(rlds.read(tmp_path / "Pong"))


def test_minari_data_sets_come_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    games = [episode(generator, 6), episode(generator, 4, over=False)]
    minari_sets.write(games, tmp_path / "set", "atari/breakout/made-v0")
    for one, other in zip(minari_sets.read(tmp_path / "set"), games, strict=True):
        assert_same(one, other)
        assert (one.score, one.agent, one.quality) == (other.score, other.agent, other.quality)
    import minari

    again = minari.MinariDataset(tmp_path / "set" / "data")
    assert (again.total_episodes, again.total_steps) == (2, 10)
    assert again.env_spec is not None
    assert again.env_spec.id == "ALE/Breakout-v5"


def test_minari_data_sets_of_others_are_read(tmp_path: Path) -> None:
    from gymnasium.spaces import Box, Discrete
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    console = Emulator(GAME)
    console.start(20)
    for name, shape, observed in (
        ("stack", (4, 84, 84), np.stack([np.full((84, 84), each, np.uint8) for each in range(4)])),
        ("grey", (84, 84, 1), np.full((84, 84, 1), 3, np.uint8)),
        ("screen", (210, 160, 3), console.screen()),
    ):
        (tmp_path / name / "data").mkdir(parents=True)
        spaces = (Box(0, 255, shape, np.uint8), Discrete(4))
        storage = MinariStorage.new(tmp_path / name / "data", *spaces, data_format="parquet", jpeg_encoding=False)
        storage.update_metadata({"dataset_id": "some-v0", "minari_version": "0.5.4"})
        buffer = EpisodeBuffer(
            observations=[observed] * 3, actions=[3, 1], rewards=[0.0, 4.0], terminations=[False, True], truncations=[False, False]
        )  # fmt: skip
        storage.update_episodes([buffer])
        with pytest.raises(UserError, match="which game"):
            list(minari_sets.read(tmp_path / name))
        (found,) = minari_sets.read(tmp_path / name, GAME)
        assert found.actions.tolist() == [4, 1]
        assert (found.score, found.over, found.rewards.tolist()) == (4.0, True, [0.0, 4.0])
        if name == "screen":
            assert np.abs(found.frames[0].astype(int) - console.frame()).mean() < 4
        else:
            assert (found.frames == 3).all()


def test_what_is_no_minari_data_set_is_said(tmp_path: Path) -> None:
    game = episode(np.random.default_rng(8), 3)
    with pytest.raises(UserError, match="no Minari data set"):
        list(minari_sets.read(tmp_path))
    with pytest.raises(UserError, match="can be called"):
        minari_sets.write([game], tmp_path / "set", "two words")
    with pytest.raises(UserError, match="no episodes"):
        minari_sets.write([], tmp_path / "set", "some-v0")
    with pytest.raises(UserError, match="Breakout and Pong"):
        minari_sets.write([game, replace(game, game=named("Pong"))], tmp_path / "set", "some-v0")
    assert not list(tmp_path.iterdir())
    minari_sets.write([game], tmp_path / "set", "some-v0")
    with pytest.raises(UserError, match="there already"):
        minari_sets.write([game], tmp_path / "set", "some-v0")
    metadata = tmp_path / "set" / "data" / "metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "minari_version": "9.9"}))
    with pytest.raises(UserError, match="does not support"):
        list(minari_sets.read(tmp_path / "set"))


def test_logs_become_recordings(tmp_path: Path) -> None:
    log = Episode(GAME, bytes([1, 0, 3, 4, 0]), 0.0, 3, "someone", 0.25)
    logs.append(tmp_path / "some.jsonl.gz", log)
    (found,) = minari_sets.replayed([tmp_path / "some.jsonl.gz"])
    again = logs.replay(log)
    assert np.array_equal(found.frames, again.frames)
    assert (found.actions.tolist(), found.agent, found.quality, found.over) == ([1, 0, 3, 4, 0], "someone", 0.25, False)


def test_imported_play_is_what_was_recorded(tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    games = [
        episode(generator, 6),
        replace(episode(generator, 4, over=False), game=named("Pong"), score=None),
        episode(generator, 5),
    ]
    for episodes in (games, []):  # the second time they are there already
        play = imported(episodes, tmp_path / "play")
        assert [each.name for each in play.games] == ["Breakout", "Pong"]
        for number, each in enumerate(games):
            here = slice(play.starts[number], play.starts[number] + play.lengths[number])
            assert play.games[play.game[number]] == each.game
            for name in ("frames", "actions", "rewards"):
                assert np.array_equal(getattr(play, name)[here], getattr(each, name))
        assert play.over.tolist() == [True, False, True]
        assert np.isnan(play.scores[1])
        assert play.scores[2] == games[2].score
    with pytest.raises(UserError, match="no episodes"):
        imported([], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("dqn/Breakout/1/replay_logs", "Breakout"),
        ("rlu_atari_checkpoints_ordered/MsPacman_run_3/1.1.0", "MsPacman"),
        ("atari_episodes_ordered/Pong/run_1-00000-of-00050", "Pong"),
        ("ms_pacman/data", "MsPacman"),
    ],
)
def test_a_path_says_which_game_it_is_of(path: str, name: str) -> None:
    assert recorded.game_of(Path("/somewhere") / path) == named(name)
