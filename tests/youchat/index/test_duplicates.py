"""Pages that say the same."""

import random

import pytest

from almanac.youchat.documents import Page
from almanac.youchat.index.duplicates import bands, fingerprint, preference, similarity


def words(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(count)]


def jaccard(one: list[str], other: list[str]) -> float:
    a, b = ({tuple(each[at : at + 5]) for at in range(len(each) - 4)} for each in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("changed", [0, 2, 5, 10, 20, 50, 100])
def test_the_estimate_is_the_jaccard_similarity_of_five_word_runs(changed: int):
    one = words(1000)
    other = list(one)
    for at in random.Random(1).sample(range(1000), changed):
        other[at] = f"x{at}"
    told = similarity(fingerprint(" ".join(one)).signature, fingerprint(" ".join(other)).signature)
    exact = jaccard(one, other)
    assert abs(told - exact) <= 4 * (exact * (1 - exact) / 128) ** 0.5 + 1e-9


def test_pairs_at_the_threshold_share_a_band_and_strangers_do_not():
    found = 0
    for seed in range(40):
        one = words(1000, seed)
        other = list(one)
        for at in range(10, 1000, 62):  # 16 words: a similarity of 0.85
            other[at] = f"x{at}"
        assert abs(jaccard(one, other) - 0.85) < 0.01
        signatures = [fingerprint(" ".join(each)).signature for each in (one, other, words(1000, seed + 1000))]
        found += bool({*bands(signatures[0])} & {*bands(signatures[1])})
        assert not {*bands(signatures[0])} & {*bands(signatures[2])}
    assert found >= 38


def test_case_and_spaces_do_not_count_and_any_text_has_a_fingerprint():
    assert fingerprint("A  b\nC").exact == fingerprint("a B c").exact != fingerprint("a b d").exact
    for text in ("", "one", "one two", "\ud800 broken"):
        assert fingerprint(text).signature.shape == (128,)


def test_the_page_that_names_its_address_is_kept_else_that_of_the_shortest():
    pages = [
        Page(f"http://h/{name}", "", "", is_canonical=name == "very-long") for name in ("long", "b", "a", "very-long")
    ]
    assert [each.url[9:] for each in sorted(pages, key=preference)] == ["very-long", "a", "b", "long"]
