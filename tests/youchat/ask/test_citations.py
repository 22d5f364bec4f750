"""Marks of citation, whole and in pieces."""

import random

import pytest

from almanac.youchat.ask.citations import numbers, sentences, stream

TEXT = (
    "Paris is the capital [1]. It is big, e.g. so.[2][3] It has [[4]](http://x.example) 2 million people 【1, 2】. Then it grew. [5]\n"
    "```\na[1] = 2. B\n```\nThe end came late [7]. "
) * 3


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("[1]", (1,)),
        ("[1,2]", (1, 2)),
        ("[1, 2 and 4]", (1, 2, 4)),
        ("[[3]]", (3,)),
        ("【2】", (2,)),
        ("[^4]", (4,)),
        ("[1-3]", (1, 2, 3)),
    ],
)
def test_marks_of_all_kinds_are_read(mark: str, expected: tuple[int, ...]):
    assert numbers(mark) == expected
    (said,) = sentences(f"It is so {mark}.")
    assert said.text == "It is so." and said.marks == expected


def test_a_mark_after_the_stop_belongs_to_the_sentence_before():
    assert [(each.text, each.marks) for each in sentences("It is so. [1] It is not.[2][3]")] == [
        ("It is so.", (1,)),
        ("It is not.", (2, 3)),
    ]


def test_code_keeps_its_indices():
    first, code, last = sentences("Do `a[1]` so [2].\n```\nx[1] = y[2]\n```\nDone now [3].")
    assert first.text == "Do `a[1]` so." and first.marks == (2,)
    assert code.code and code.marks == () and "x[1] = y[2]" in code.text and last.marks == (3,)


def test_a_stream_in_any_pieces_gives_the_same_sentences():
    for seed in range(100):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(1, len(TEXT)), chance.randint(1, 80)))
        pieces = [TEXT[start:end] for start, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True)]
        assert list(stream(pieces)) == sentences(TEXT)


def test_a_sentence_is_given_as_soon_as_the_next_has_begun():
    taken: list[int] = []

    def pieces():
        for at in range(0, len(TEXT), 5):
            taken.append(at)
            yield TEXT[at : at + 5]

    assert next(iter(stream(pieces()))).marks == (1,) and taken[-1] < len(TEXT) / 3
