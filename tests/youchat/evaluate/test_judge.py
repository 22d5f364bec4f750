"""ALCE's algorithm, against its definition written out for a judge that is told everything."""

from itertools import product

from almanac.youchat.evaluate.judge import alce, entails


def test_alce_counts_as_its_paper_says():
    facts = {"a": {"p", "pq"}, "b": {"pq"}}  # claim → premises (joined) that entail it

    def told(premise: str, claim: str) -> bool:
        said = set(premise.replace("\n", ""))
        return any(said.issuperset(need) for need in facts.get(claim, ()))

    for claim, cited in product(("a", "b", "c"), ([], ["p"], ["q"], ["p", "q"], ["p", "x"], ["p", "q", "x"])):
        found = alce([(claim, cited)], told)
        holds = bool(cited) and told("".join(cited), claim)
        needed = [
            one for at, one in enumerate(cited)
            if holds and not (len(cited) > 1 and not told(one, claim) and told("".join(cited[:at] + cited[at + 1 :]), claim))
        ]  # fmt: skip
        assert found.recall == float(holds)
        assert found.precision == (len(needed) / len(cited) if cited else 0.0)


def test_the_judge_knows_what_is_said_and_what_is_not():
    premise = "Title: Frank Zappa\nIn late 1969, he broke up the band, which had 12 members. He did not tour Europe."
    assert entails(premise, "Zappa broke up the band in late 1969.") and entails(premise, "He did not tour Europe.")
    for false in (
        "Zappa broke up the band in 1971.",
        "The band had 13 members.",
        "He toured in Paris with an orchestra of bananas.",
    ):
        assert not entails(premise, false)
    assert not entails("He toured Europe.", "He did not tour Europe.") and not entails(
        "He did not tour Europe.", "He toured Europe."
    )
