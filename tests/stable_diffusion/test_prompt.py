"""Prompts are read as AUTOMATIC1111's web UI reads them."""

import pytest

from almanac.stable_diffusion.prompt import scheduled, together, weighted


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("[less]", [("less", 0.9091)]),
        ("(worse:-0.5) [", [("worse", -0.5), (" ", 1.0)]),
        ("(a BREAK b)", [("a", 1.1), ("BREAK", 1.0), ("b", 1.1)]),
        ("a) b] c:2)", [("a) b] c:2)", 1.0)]),
        ("", [("", 1.0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_brackets_weigh(prompt, expected):
    assert [(part.text, round(part.weight, 4)) for part in weighted(prompt)] == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b::0.5] c", [(5, "a b c"), (10, "a  c")]),
        ("a [{b|d{:.5] c", [(10, "a [{b|d{:.5] c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(number, ("a", "(b:1.1)")[(number - 1) % 2]) for number in range(1, 11)]),
        ("[fe|||]male", [(1, "female"), (4, "male"), (5, "female"), (8, "male"), (9, "female"), (10, "male")]),
        (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    ],
)
def test_brackets_change_on_the_way(prompt, expected):
    found = []
    for step, text in enumerate(scheduled(prompt, 10), 1):
        if found and found[-1][1] == text:
            found.pop()
        found.append((step, text))
    assert found == expected


def test_prompts_count_together():
    found = together("a cat AND a dog :1.2 AND grass:0.5 AND BRANDY")
    assert [(part.text, part.weight) for part in found] == [
        ("a cat", 1.0),
        (" a dog", 1.2),
        (" grass", 0.5),
        (" BRANDY", 1.0),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 5000 + ")" * 5000,
        "[" * 5000 + "a:3" + "]" * 5000,
        "[a|b]" * 2000,
        "\\" * 9999,
        "((:" * 3000,
        "(a" * 3000 + ")" * 3000,
    ],
)
def test_hostile_prompts_are_read(prompt):
    assert weighted(prompt) and len(scheduled(prompt, 3)) == 3
