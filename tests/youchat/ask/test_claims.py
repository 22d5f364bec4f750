"""What can be checked in a sentence."""

import pytest

from almanac.youchat.ask.claims import Date, claims


def agree(claim: str, source: str) -> bool:
    (mine,) = claims(claim).quantities
    return any(mine.agrees(other) for other in claims(source).quantities)


@pytest.mark.parametrize(
    ("claim", "source", "same"),
    [
        ("12 per cent of it", "twelve percent of it", True),
        ("12 % of it", "13 % of it", False),
        ("It runs 5 km.", "It runs 5,000 metres.", True),
        ("It runs 5 km.", "It runs 5 miles.", False),
        ("It takes 2 hours.", "It takes 120 minutes.", True),
        ("It takes 2 hours.", "It takes 2 days.", False),
        ("some two thousand men", "2,000 men", True),
        ("3.1 million people", "3,098,765 people", True),
        ("3.2 million people", "3,098,765 people", False),
        ("about 3 million people", "2,984,312 people", True),
        ("3 people", "2.9 people", False),
        ("twenty-one pages", "21 pages", True),
        ("It cost $2,500.", "It cost €2,500.", False),
        ("two hundred and five thousand", "205,000", True),
        ("version 3.11.2 of it", "version 3.11.4 of it", False),
        ("the 19th century", "the nineteenth century", True),
    ],
)
def test_quantities_agree_across_words_units_and_rounding(claim: str, source: str, same: bool):
    assert agree(claim, source) is same


def test_dates_agree_with_what_says_at_least_as_much():
    (day,) = claims("It broke out on 25 August 1830.").dates
    (american,) = claims("On August 25, 1830 it broke out.").dates
    (year,) = claims("It broke out in 1830.").dates
    assert day == american == Date(1830, 8, 25) and claims("On 1830-08-25.").dates == (day,)
    assert year.agrees(day) and not day.agrees(year) and not Date(1831).agrees(day)


def test_numbers_in_dates_are_no_quantities():
    assert claims("On 25 August 1830 it began.").quantities == ()


def test_names_are_found_but_not_the_capital_of_a_sentence():
    said = claims("However, Ada Lovelace used NumPy and os.path in London.")
    assert said.names == (("ada", "lovelac"), ("numpi",), ("london",)) or ("ada", "lovelac") in said.names
    assert claims("Apples fall.").names == () and claims("Apples fall.").subject == "appl"


def test_a_negation_says_what_it_negates():
    assert any("tour" in scope for scope in claims("The band did not tour Europe.").negated)
    assert any("tour" in scope for scope in claims("The band never toured.").negated)
    assert claims("Not only the band toured.").negated == () and claims("See No. 5.").negated == ()


def test_comparisons_point_one_way():
    assert ("amount", 1) in claims("Sales increased.").directions and ("amount", -1) in claims(
        "Fewer people came."
    ).directions
