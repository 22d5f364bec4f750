"""A closed domain in six languages: digits, numbers, dates, times of day, orders of drinks and commands to a house. Each phrase is made
from a meaning, so that it is known in all languages at once: speech in one of them can be translated into English. Numbers are
written as words everywhere. `open_sentence` strings common words together, for ears that should know more than the domain."""

import csv
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

Parallel = dict[str, str]
"""A phrase by language."""

LANGUAGES = ("en", "de", "nl", "es", "fr", "it")


def phrase(draw: random.Random) -> Parallel:
    """A phrase of the domain."""
    return draw.choice(DOMAINS)(draw)


def _digits(draw: random.Random) -> Parallel:
    """Digits one by one, as in a telephone number."""
    return _spelled([draw.randrange(10) for _ in range(draw.choice((1, 1, 2, 3, 4, 5, 6)))])


def _spelled(numbers: list[int]) -> Parallel:
    return {language: " ".join(number(value, language) for value in numbers) for language in LANGUAGES}


def _number(draw: random.Random) -> Parallel:
    """A number below ten thousand, small ones as often as large ones."""
    return _spelled([draw.randrange(10 ** draw.randint(1, 4))])


@cache
def number(value: int, language: str) -> str:
    """A number in words."""
    from num2words import num2words

    return str(num2words(value, lang=language)).replace("-", " ").replace(",", "")


def _date(draw: random.Random) -> Parallel:
    """A day of the year, with its weekday or its year or neither."""
    day, month, weekday = draw.randint(1, 31), draw.randrange(12), draw.randrange(7)
    year = draw.randint(1900, 2030) if draw.random() < 0.4 else None
    with_weekday = draw.random() < 0.5
    found = {}
    for language in LANGUAGES:
        months, weekdays, pattern = _CALENDAR[language]
        text = pattern.format(day=_day(day, language), month=months.split()[month])
        if with_weekday:
            text = f"{weekdays.split()[weekday]}, {text}"
        if year is not None:
            text = f"{text} {_OF_YEAR[language]}{_year(year, language)}"
        found[language] = _sentence(text)
    return found


def _day(day: int, language: str) -> str:
    from num2words import num2words

    if language in ("en", "de") or (day == 1 and language in ("fr", "it")):
        ordinal = str(num2words(day, lang=language, to="ordinal")).replace("-", " ")
        return ordinal + "n" if language == "de" and not ordinal.endswith("n") else ordinal
    return "uno" if day == 1 and language == "es" else number(day, language)


def _year(year: int, language: str) -> str:
    from num2words import num2words

    if language not in ("en", "de"):
        return number(year, language)
    return str(num2words(year, lang=language, to="year")).replace("-", " ")


_OF_YEAR = {"en": "", "de": "", "nl": "", "es": "de ", "fr": "", "it": ""}
_CALENDAR = {
    "en": (
        "January February March April May June July August September October November December",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "the {day} of {month}",
    ),
    "de": (
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
        "den {day} {month}",
    ),
    "nl": (
        "januari februari maart april mei juni juli augustus september oktober november december",
        "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag",
        "{day} {month}",
    ),
    "es": (
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "lunes martes miércoles jueves viernes sábado domingo",
        "el {day} de {month}",
    ),
    "fr": (
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "lundi mardi mercredi jeudi vendredi samedi dimanche",
        "le {day} {month}",
    ),
    "it": (
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "lunedì martedì mercoledì giovedì venerdì sabato domenica",
        "il {day} {month}",
    ),
}


def _time(draw: random.Random) -> Parallel:
    """A time of day: a full hour, half past, a quarter past, or so many minutes."""
    hour = draw.randint(2, 12)
    minutes = draw.choice((0, 15, 30, draw.randint(5, 55)))
    found = {}
    for language in LANGUAGES:
        full, quarter, half, other = _CLOCK[language]
        pattern = {0: full, 15: quarter, 30: half}.get(minutes, other)
        values = {"hour": number(hour, language), "next": number(hour % 12 + 1, language)}
        if language == "de":
            values["next"] = "eins" if hour == 12 else values["next"]
        text = pattern.format(**values, minutes=number(minutes, language))
        found[language] = _sentence(text)
    return found


_CLOCK = {
    "en": (
        "it is {hour} o'clock",
        "it is a quarter past {hour}",
        "it is half past {hour}",
        "it is {minutes} minutes past {hour}",
    ),
    "de": (
        "es ist {hour} Uhr",
        "es ist Viertel nach {hour}",
        "es ist halb {next}",
        "es ist {minutes} Minuten nach {hour}",
    ),
    "nl": (
        "het is {hour} uur",
        "het is kwart over {hour}",
        "het is half {next}",
        "het is {minutes} minuten over {hour}",
    ),
    "es": (
        "son las {hour}",
        "son las {hour} y cuarto",
        "son las {hour} y media",
        "son las {hour} y {minutes} minutos",
    ),
    "fr": (
        "il est {hour} heures",
        "il est {hour} heures et quart",
        "il est {hour} heures et demie",
        "il est {hour} heures et {minutes} minutes",
    ),
    "it": (
        "sono le {hour}",
        "sono le {hour} e un quarto",
        "sono le {hour} e mezza",
        "sono le {hour} e {minutes} minuti",
    ),
}


def _order(draw: random.Random) -> Parallel:
    """An order of a drink."""
    rows = [draw.choice(_parts(kind)) for kind in ("opening", "drink", "extra")]
    return {language: _sentence(" ".join(row[language] for row in rows)) for language in LANGUAGES}


def _command(draw: random.Random) -> Parallel:
    """A command to a house."""
    frame, device, room = (draw.choice(_parts(kind)) for kind in ("command", "device", "room"))
    return {
        language: _sentence(frame[language].format(device=device[language], room=room[language]))
        for language in LANGUAGES
    }


@cache
def _parts(kind: str) -> list[Parallel]:
    """The rows of a kind in `phrases.tsv`, by language."""
    with (Path(__file__).parent / "phrases.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{language: row[language] for language in LANGUAGES} for row in rows if row["kind"] == kind]


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[0].upper() + text[1:] + "."


DOMAINS: tuple[Callable[[random.Random], Parallel], ...] = (_digits, _number, _date, _time, _order, _command)


def open_sentence(draw: random.Random, language: str, words: int = 30_000) -> str:
    """Words at the frequency they have in a language, without grammar, written as a sentence.

    Args:
        draw: what draws.
        language: its code.
        words: how many of the commonest words there are.
    """
    known, weights = _vocabulary(language, words)
    chosen = draw.choices(known, weights, k=draw.randint(2, 9))
    if draw.random() < 0.3 and len(chosen) > 4:
        chosen[len(chosen) // 2] += ","
    text = " ".join(chosen)
    return text[0].upper() + text[1:] + draw.choice(".......?!")


@cache
def _vocabulary(language: str, words: int) -> tuple[list[str], list[float]]:
    from wordfreq import get_frequency_dict

    frequencies: Mapping[str, float] = get_frequency_dict(language)
    known = [word for word in frequencies if word.replace("'", "").isalpha()][:words]
    return known, [frequencies[word] ** 0.7 for word in known]  # flatter, so that rare words are heard too
