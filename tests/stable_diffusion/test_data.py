"""Captioned pictures of one's own, in the three ways that people have them; hostile ones are refused."""

import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import data, scenes

COUNT = 20


def picture(number: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (side, side + 10, 3)).astype(np.uint8))


def coded(number: int) -> bytes:
    held = io.BytesIO()
    picture(number).save(held, "PNG")
    return held.getvalue()


def listed(folder: Path) -> Path:
    lines = []
    for number in range(COUNT):
        (folder / f"{number:02}.png").write_bytes(coded(number))
        lines.append(json.dumps({"file_name": f"{number:02}.png", "text": f"picture {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def beside(folder: Path) -> Path:
    for number in range(COUNT):
        (folder / f"{number:02}.png").write_bytes(coded(number))
        (folder / f"{number:02}.txt").write_text(f"picture {number}\n")
    (folder / "without.png").write_bytes(coded(99))  # has no caption, and is left out
    return folder


def archived(folder: Path) -> Path:
    with tarfile.open(folder / "all.tar", "w") as archive:
        for number in range(COUNT):
            for suffix, blob in (("png", coded(number)), ("txt", f"picture {number}".encode())):
                entry = tarfile.TarInfo(f"{number:02}.{suffix}")
                entry.size = len(blob)
                archive.addfile(entry, io.BytesIO(blob))
    return folder / "all.tar"


@pytest.mark.parametrize("layout", [listed, beside, archived])
def test_every_layout_gives_the_same_pictures_and_captions(layout, tmp_path):
    path = layout(tmp_path)
    parts = {split: data.load(str(path), split, 16) for split in ("train", "test")}
    captions = {split: found.captions(range(len(found))) for split, found in parts.items()}
    assert captions["test"] == ["picture 0", "picture 10"]
    assert len(data.load(str(path), "all", 16)) == COUNT
    assert captions["train"] == [f"picture {number}" for number in range(COUNT) if number % 10]
    pictures = parts["train"].pictures(range(18))
    assert pictures.shape == (18, 3, 16, 16) and pictures.min() >= -1 and pictures.max() <= 1
    cut = picture(1).crop((5, 0, 45, 40)).resize((16, 16), Image.Resampling.LANCZOS)
    expected = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 127.5 - 1
    assert (pictures[0] - expected)[:, 2:-2, 2:-2].abs().max() < 0.02  # cut first or scaled first differs at the edge


def test_parts_of_a_folder_are_its_own(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        beside(tmp_path / split)
    assert [len(data.load(str(tmp_path), split, 16)) for split in ("train", "test", "all")] == [COUNT, COUNT, 2 * COUNT]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "00.png"}', "line 21"),
        ("{", "line 21"),
        ("[]", "line 21"),
        ('{"file_name": "../../etc/passwd", "text": "x"}', "outside the folder"),
        ('{"file_name": "none.png", "text": "x"}', "none.png"),
    ],
)
def test_a_bad_list_is_refused(line, said, tmp_path):
    listed(tmp_path)
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=said):
        data.load(str(tmp_path), "train", 16)


def test_a_truncated_archive_and_an_empty_folder_are_refused(tmp_path):
    path = archived(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"all\.tar"):
        data.load(str(path), "train", 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no captioned pictures"):
        data.load(str(tmp_path / "empty"), "train", 16)
    with pytest.raises(UserError, match="no data set or folder"):
        data.load("nowhere", "train", 16)


def test_batches_go_through_a_set_once_an_epoch(tmp_path):
    found = data.load(str(beside(tmp_path)), "train", 16)
    batches = data.Batches(found, 6, seed=3)
    epochs = [[number for place in range(3) for number in batches(3 * epoch + place)] for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(18))] * 2 and epochs[0] != epochs[1]
    with pytest.raises(UserError, match="fewer than a batch of 19"):
        data.Batches(found, 19, 0)


def test_a_training_begins_with_one_digit_on_black():
    scenes_set = replace(data.load("scenes"), count=300)
    batches = data.Batches(scenes_set, 10, seed=1, plain=100)
    first, later = [batches(number) for number in range(10)], [batches(number) for number in range(30, 60)]
    plain = [number for batch in first for number in batch]
    assert {(scenes.draw(each).background, len(scenes.draw(each).digits)) for each in plain} == {("black", 1)}
    assert set(plain) == {number for number in range(300) if scenes_set.is_plain(number)}  # all of them, in turns
    assert sorted(number for batch in later for number in batch) == list(range(300))  # and all others, once an epoch
    pictures = replace(scenes_set, is_plain=None)
    assert data.Batches(pictures, 10, seed=1, plain=100)(0) == data.Batches(pictures, 10, seed=1)(0)


def test_scenes_that_are_made_ahead_are_the_same():
    """By several processes, too."""
    endless = data.load("scenes")
    ahead = data.made_ahead(endless, 1_020)
    some = [0, 499, 500, 1_019]
    assert len(ahead) == 1_020 and torch.equal(ahead.pictures(some), endless.pictures(some))
    assert ahead.captions(some, 2) == endless.captions(some, 2) and ahead.captions(some, 2) != ahead.captions(some, 3)
    assert [ahead.is_plain(each) for each in range(60)] == [endless.is_plain(each) for each in range(60)]
    assert data.made_ahead(ahead, 10) is ahead  # as folders are


def test_held_out_emoji_are_in_no_training(needs_data):
    needs_data("emoji")
    found = data.emoji()
    toned = [each for each in found if each.tones]
    held = [each for each in toned if each.is_held_out]
    assert {each.sequence for each in held}.isdisjoint(each.sequence for each in toned if not each.is_held_out)
    assert {each.style for each in held} == {"noto"} or len(held) > 200
    train, test = data.load("emoji", "train", 64), data.load("emoji", "test", 64)
    assert len(train) + len(test) == len(found)
    each = next(each for each in found if each.name == "woman firefighter: medium-dark skin tone")
    assert data.caption_of(each).endswith("emoji of woman firefighter: medium-dark skin tone")
    said = {data.caption_of(each, random.Random(number)) for number in range(50)}
    assert len(said) > 2 and all("medium-dark skin tone" in caption for caption in said)
