"""Whether what is written is in the language that is spoken (paper §2.1). A text's language is told by CLD2; what is spoken, by a trained
model if there is one, else by the list. English text for other speech is a translation, but only if a model heard that the speech
is other: the paper's own Welsh "translations" were mostly English speech under a wrong label (§3.4)."""

from dataclasses import replace
from functools import cache

import regex

from almanac.whisper import languages
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Row, Verdict

_AS_OURS = {"iw": "he", "zh-Hant": "zh", "sr-ME": "sr"}
"""Codes of CLD2 that are not Whisper's."""
_ALIKE = ({"bs", "hr", "sr"}, {"id", "ms"}, {"no", "nn", "da"}, {"zh", "yue"}, {"cs", "sk"}, {"nl", "af"}, {"gl", "pt"})
"""Languages that short texts do not tell apart."""


def language(row: Row, limits: Limits) -> Verdict | None:
    """What is written and what is spoken must agree, with each other and with the list; see `_judged`."""
    if not row.entry.text or row.entry.language == "mul":
        return None
    written = text_language(row.entry.text, row.written, limits)
    heard = row.heard.language if row.heard and row.heard.probability >= limits.language_probability else ""
    return _judged(row, written, heard)


def _judged(row: Row, written: str, heard: str) -> Verdict | None:
    """Args:
    row: the recording.
    written: its text's language; empty: it can't be told.
    heard: the language that a model is sure to have heard; empty: none.
    """
    entry, spoken = row.entry, heard or row.entry.language
    if not spoken:
        if not written:
            return Verdict("its language is neither named nor told by its text")
        return Verdict(f"no language is named; {_name(written)} is written", replace(entry, language=written))
    if entry.task == "translate":
        if written and not alike(written, "en"):
            return Verdict(f"its translation is in {_name(written)}, not in English")
        if heard == "en" and entry.language != "en":
            return Verdict("English is spoken: no translation", replace(entry, task="transcribe", language="en"))
    elif written and not alike(written, spoken):
        if written == "en" and heard:
            how = f"{_name(heard)} is spoken and English is written: a translation"
            return Verdict(how, replace(entry, task="translate", language=heard))
        return Verdict(f"{_name(spoken)} is {'spoken' if heard else 'named'}, {_name(written)} is written")
    named_wrong = not alike(spoken, entry.language) and (entry.task == "translate" or written)
    if named_wrong:
        was = _name(entry.language) if entry.language else "no language"
        return Verdict(f"{was} is named, {_name(spoken)} is spoken", replace(entry, language=spoken))
    return None


def text_language(text: str, likely: str, limits: Limits) -> str:
    """The code of a text's language, by CLD2; empty where that is not sure, or does not know the likely one.

    Args:
        text: the text.
        likely: which language it should be in; doubtful texts are taken for it. Empty: any.
        limits: how long it must be.
    """
    import pycld2

    if len(text.encode()) < limits.language_bytes or (likely and likely not in _known()):
        return ""
    hint = {"he": "iw"}.get(likely, likely) or None
    sure, _, found = pycld2.detect(regex.sub(r"\p{C}", " ", text), hintLanguage=hint)
    code = _AS_OURS.get(found[0][1], found[0][1])
    return code if sure and code in languages.LANGUAGES else ""


def alike(one: str, other: str) -> bool:
    """Whether two languages are the same, or too alike to be told apart by short texts."""
    return one == other or any({one, other} <= group for group in _ALIKE)


@cache
def _known() -> frozenset[str]:
    """The languages that CLD2 can tell."""
    import pycld2

    codes = {name.lower(): str(code) for name, code in pycld2.LANGUAGES}
    detected = [codes[name.lower()] for name in pycld2.DETECTED_LANGUAGES if name.lower() in codes]
    return frozenset(_AS_OURS.get(code, code) for code in detected)


def _name(code: str) -> str:
    return languages.title(code)
