"""Laws of the text normalisers: equal to the official ones, string for string, and no text stops them."""

import json
from pathlib import Path

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.whisper import normalise
from almanac.whisper.languages import WITHOUT_SPACES

ASIDES = [
    "[noise] hello <unk> (laughs) there", "(a (b) c) d", "() (x", "a [b> c", "<a] b", "[a [b] c]", "x ) y", "hm hmm, mm uh-huh um. umm",
]  # fmt: skip
CONTRACTIONS = [
    "Mr. Park visited Assoc. Prof. Kim Jr.", "Dr.Who, St.James Col.Mustard esq.", "mrs mr's sr.", "Let's see what y'all can't do",
    "she's been, he'd been; they'd gone, it's gone, we'd done, it's done, he's got it", "I'm you're we've they'll I'd don't it's 'tis",
    "I'dn't've won't've ain't i'ma'am i'ma imma", "wanna gotta gonna woulda coulda shoulda ma'am", "John 's book ' 's", "don’t can’t",
]  # fmt: skip
NUMBERS = [
    "zero", "one", "ones", "the one", "one one", "eleven", "ten five", "ten fifteen", "one twenty", "twenty twenty-one", "one oh one",
    "o o seven", "double oh seven", "triple nine", "double twelve", "double", "double fifty", "triple bed", "nineteen eighty four",
    "nineteen oh four", "twenty five thousand", "twenty five hundred", "two hundred and one", "two hundred and a few", "two and two",
    "one thousand and twenty four", "three million two hundred thousand five", "two thousand five thousand", "hundred thousand",
    "a hundred", "zero hundred", "0 million", "ten decillion", "five 6 seven", "5 6 7", "2 hundred", "2 0 5", "007", "1.0", "1.50",
    "0 oh 5", "zero point five", "0 point five", "point", "point five", "the point is", "one point million", "five point 6",
    "one point two point three", "one two seven point zero point zero point one", "3 point 1 4", "1.2.3 million", "1.5 two",
    "six point oh two", "1.23 million", "1.2345 thousand", "1.2345 thousandth", "twenty point twenty five", "three and a half",
    "three and a half million", "3 and a half", "and a half", "two and a half and a half", "they and a half of us and  a half", "10.5.",
]  # fmt: skip
ENDINGS = [
    "first second third fourth fifth eighth ninth nineth twelfth zeroth", "twenty first", "twenty-second", "one hundredth",
    "two hundredths", "one two third", "ten second", "the 1960s", "1960 s", "2nd", "2 nd", "the 3 rd one", "21 st", "nineteen sixties",
    "twenties", "twentieth", "twenty thirties", "one twenty ninth", "hundreds of thousands", "five thousands", "1.5 millions",
    "sixes sevens eights tens twelves", "two hundred first", "two hundred eleventh", "1 1s 1st 1.5 $1 1%", "101 1-1", "a1b2c3", "mp3 b4 4u",
    "5s", "100th", "fifty fifth",
]  # fmt: skip
SIGNS = [
    "minus five", "negative twenty point five", "plus 5", "positive ten", "minus", "positive thinking", "minus minus five", "plus $5",
    "minus and now", "minus five dollars", "minus dollars", "plus double", "two minus one", "minus per cent", "-5", "+5 - 3",
    "ninety-nine point nine percent", "50 percent", "fifty per cent", "five per person", "per cent", "percent", "5%", "% 5", "5 %", "a%",
    "5 per cent per year", "zero percent", "$20 million", "£20 million", "1.23 million dollars", "20 pounds", "one euro", "five cents",
    "two dollars and fifty cents", "two dollars fifty cents", "$2 and ¢7", "two euros seven cents", "$0.07", "$0.5", "zero dollars fifty",
    "$0 12", "£0.123", "$1.5 million", "$1,234,567.89", "1,2,3,4", "dollars", "the dollar", "$", "$$5", "a $ b", "¢", "5¢", "€5.50 each",
    "￡５ and ３½", "five dollars and five hundred cents", "point $5", "one point $5", "¢5 point 5",
]  # fmt: skip
OTHERS = [
    "", " ", "...", ". . .", "a.b.c", "end.\n", "Ph.D.", "e.g. this", "colour of the grey theatre, organised", "naïve façade Æsop ᴭ",
    "Øre Łódź", "Ⅷ ⑴ ™ ½ x² ٣ ٣.٥ million १२", "日本語 テスト。", "ภาษาไทย", "မြန်မာ", "नमस्ते", "Straße ẞ İstanbul", "👍🏽 👨‍👩‍👧",
    "\u00a0a\u2003b\u2028c", "\ud800", "A\u0301e\u0308", "مرحبا ١٢٣",
    "hyphen-ated two-thirds twenty-one-year-old", "“Quoted” ‘single’ it’s", "a_b*c^d=e~f`g", "it;s:this!?",
]  # fmt: skip
VECTORS = [*ASIDES, *CONTRACTIONS, *NUMBERS, *ENDINGS, *SIGNS, *OTHERS]

NUMBER_WORDS = [*sorted(normalise._VOCABULARY), "and a half", "and a half", "ninth", "and", "point", "hundred"]
DIGITS = [
    "0", "1", "2", "10", "15", "20", "100", "007", "1960", "1960s", "2nd", "1.5", "1.0", "0.25", "3.", ".5", "1,000", "1,2,3", "$5", "$0.5",
    "£20", "€1.50", "¢7", "5%", "$0", "$1", "1.2.3", "-4", "+4", "½", "٣", "５", "3rd", "5 s", "a1", "4x4", "1/2", "12:30", "$,",
    "%", "$", "¢",
]  # fmt: skip
WORDS = [
    *normalise._SHORT, *(f"it'{ending}" for ending in normalise._ENDINGS), "don't", "i'dn't", "she's been", "he'd gone", "we'd done",
    "it's got", "who's done", "John 's", "um", "uh", "hmm", "mm", "mhm", "mmm", "the", "A", "Kim", "colour", "grey", "organised", "theatre",
    "[noise]", "(laughs)", "<unk>", "(", ")", "[", "]", "<", ">", "café", "naïve", "Łódź", "ßen", "Æon", "œuvre", "ᴭ", "日本語", "ภาษา",
    "नमस्ते", "مرحبا", "привет", "e\u0301", "\u0301", "™", "ⅷ", "İ", "👍🏽", "“so”", "it’s", "…", "'", "\"", "&", "_", "\u200b",
    "\u00a0", "\n", "\t", "Ph.D.", "x",
]  # fmt: skip
GAPS = ["", " ", " ", " ", " ", " ", " ", " ", "-", ", ", ". ", ".", "  ", "'", " - ", "; ", "? "]


def sentences(count: int, seed: int) -> list[str]:
    """Random mixes of what the rules are about: a third of the words of each kind, and some sentences of number words only."""
    random = np.random.default_rng(seed)

    def one() -> str:
        kinds = random.choice(
            3, size=random.integers(1, 13), p=[(1 / 3, 1 / 3, 1 / 3), (0.9, 0.1, 0)][random.integers(2)]
        )
        pools = (NUMBER_WORDS, DIGITS, WORDS)
        words = [pools[kind][random.integers(len(pools[kind]))] for kind in kinds]
        gaps = [GAPS[index] for index in random.integers(len(GAPS), size=len(words))]
        text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
        return text.upper() if random.random() < 0.05 else text

    return [one() for _ in range(count)]


@pytest.fixture(scope="module")
def official():
    """The official normalisers, with our table of spellings, so that they can be compared where it is not at hand too."""
    pytest.importorskip("whisper")
    from whisper import normalizers

    official_english = normalizers.EnglishTextNormalizer()
    official_english.standardize_spellings.mapping = normalise._american()
    return official_english, normalizers.BasicTextNormalizer


def assert_english_as_official(texts: list[str], official_english) -> None:
    differing = [
        (text, ours, theirs)
        for text in texts
        if (ours := normalise.english(text)) != (theirs := official_english(text))
    ]
    assert not differing, (
        f"{len(differing)} of {len(texts)}, the shortest: {min(differing, key=lambda row: len(row[0]))}"
    )


@pytest.mark.parametrize("text", VECTORS)
def test_english_is_the_official_one(text, official):
    assert_english_as_official([text], official[0])


def test_english_is_the_official_one_on_random_sentences(official):
    assert_english_as_official(sentences(3000, seed=0), official[0])


@pytest.mark.parametrize("remove_diacritics", [False, True])
@pytest.mark.parametrize("split_letters", [False, True])
def test_basic_is_the_official_one(remove_diacritics, split_letters, official):
    theirs = official[1](remove_diacritics, split_letters)
    for text in [*VECTORS, *sentences(500, seed=1)]:
        ours = normalise.basic(text, remove_diacritics=remove_diacritics, split_letters=split_letters)
        assert ours == theirs(text), text


def test_characters_are_treated_as_officially(official):
    official_english, official_basic = official
    points = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10000)]  # all but ideographs, in the main plane
    every = "".join(chr(point) for point in points if chr(point) not in "()[]<>")
    assert normalise.basic(every) == official_basic()(every)
    assert normalise.basic(every, remove_diacritics=True) == official_basic(remove_diacritics=True)(every)
    assert normalise.english(every) == official_english(every)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Kim's 20%, um, [coughs] isn't enough", "mister kim is 20% is not enough"),
        ("Twenty twenty-one", "2021"),
        ("double oh seven", "007"),
        ("one hundred and one point five per cent", "101.5%"),
        ("three and a half million dollars", "$3500000"),
        ("two dollars and seven cents", "$2.07"),
        ("the nineteen sixties, on the twenty-first", "the 1960s on the 21st"),
        ("Cœur façade", "coeur facade"),
    ],
)
def test_english_says_the_same_in_one_way(text, expected):
    assert normalise.english(text).strip() == expected


def test_american_spellings_are_the_official_ones(needs_data):
    needs_data("whisper-vocabulary")
    if not normalise._american():
        pytest.skip("the table of spellings is not on this machine (ALMANAC_DATA)")
    assert normalise.english("grey colours") == "gray colors"
    whisper = pytest.importorskip("whisper")
    table = Path(whisper.__file__).parent / "normalizers" / "english.json"
    assert normalise._american() == json.loads(table.read_text())


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A folder of the vocabulary of our own, found instead of the real one."""
    monkeypatch.setenv("ALMANAC_DATA", str(tmp_path))
    folder = tmp_path / "speech" / "assets"
    folder.mkdir(parents=True)
    for name in ("gpt2.tiktoken", "multilingual.tiktoken"):
        (folder / name).touch()
    normalise._american.cache_clear()
    yield folder
    normalise._american.cache_clear()


def test_without_the_table_spellings_stay(assets):
    assert normalise.english("grey colours") == "grey colours"


def test_a_damaged_table_is_named(assets):
    (assets / "english.json").write_text("not a table")
    with pytest.raises(UserError, match=r"english\.json"):
        normalise.english("grey colours")


def test_numbers_too_long_for_python_stop_nothing():
    digits = "9" * 5000
    assert normalise.english(f"{digits} dollars") == f"{digits} dollars"
    assert normalise.english(f"3.{digits} million") == f"3.{digits} 1000000"
    assert normalise.english("nine " * 5000 + "million").endswith("9 1000000")
    assert len(normalise.english("nine " * 4190 + "decillion decillion")) == 4190 + 33


def test_each_language_has_its_normaliser():
    text = "Um, it's 五月 Thirty-One"
    assert normalise.for_language(text, "en") == normalise.for_language(text, "English") == normalise.english(text)
    assert normalise.for_language(text, "de") == normalise.basic(text)
    assert normalise.for_language(text, "an unknown one") == normalise.basic(text)
    for language in WITHOUT_SPACES:
        assert normalise.for_language(text, language) == normalise.basic(text, split_letters=True)
    assert normalise.for_language("五月天。", "zh").split() == ["五", "月", "天"]
