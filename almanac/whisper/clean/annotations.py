"""What stands in transcripts and is not said. Names of speakers, sounds in brackets and markup are taken out (paper §4.5 fine-tunes on
transcripts without speakers so that the model does not guess at names); lines that captions end with, and loops that machines fall
into, are no transcripts at all."""

import html
import re
from collections.abc import Callable
from dataclasses import replace

import regex

from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Row, Verdict, letters
from almanac.whisper.decoding import compression_ratio


def speakers(row: Row, limits: Limits) -> Verdict | None:
    """Who speaks ("JOHN:", "Speaker 2:", ">>", a dash before each line) is taken out. Names in capitals, and roles, at the start of a
    sentence count; "John:" may as well be a part of it."""
    return _rewritten(row, lambda text: _SPEAKER.sub(" ", text), "says who speaks")


def sounds(row: Row, limits: Limits) -> Verdict | None:
    """What is heard but not said ("[MUSIC]", "(laughs)", "*sighs*", ♪) is taken out. What else is in round brackets may be said."""

    def silenced(text: str) -> str:
        return _SOUND.sub(lambda found: "" if text[found.end() : found.end() + 1] in ",.!?;:" else " ", text)

    return _rewritten(row, silenced, "describes sounds")


def markup(row: Row, limits: Limits) -> Verdict | None:
    """Tags of subtitles and web pages are taken out; signs that they write as &amp; become signs."""
    return _rewritten(row, lambda text: html.unescape(_MARKUP.sub("", text)), "holds markup")


def captions(row: Row, limits: Limits) -> Verdict | None:
    """Credits and addresses, which nobody says; thanks for watching and nothing else, which recognisers hear in silence; and loops."""
    text = row.entry.text
    credit = _CREDIT.search(text)
    if credit is not None:
        return Verdict(f"'{credit[0].strip()}' belongs to captions")
    if _THANKS.fullmatch(text.strip(" .!…。！")):
        return Verdict("nothing but thanks for watching")
    if compression_ratio(text) > limits.loop_ratio:
        return Verdict("repeats itself")
    return None


def _rewritten(row: Row, rewrite: Callable[[str], str], fault: str) -> Verdict | None:
    text = rewrite(row.entry.text)
    if text == row.entry.text:
        return None
    text = " ".join(text.split())
    if not letters(text):
        return Verdict(f"{fault}, and nothing else")
    return Verdict(fault, replace(row.entry, text=text))


_ROLES = (
    "speaker|interviewer|interviewee|moderator|narrator|host|guest|presenter|reporter|man|woman|boy|girl|male|female|caller|audience|"
    "sprecher|sprecherin|mann|frau|erzähler|spreker|spreekster|verteller|vrouw|narrateur|homme|femme|journaliste|locutor|locutora|"
    "hombre|mujer|entrevistador|narrador|intervistatore|uomo|donna|homem|mulher|диктор|ведущий|ведущая"
)
_NAME = rf"(?:\p{{Lu}}[\p{{Lu}}.'’-]+(?:\s\p{{Lu}}[\p{{Lu}}.'’-]*){{0,2}}|(?i:{_ROLES})|[QA])(?:\s\d+)?"
_SENTENCE = r"(?:^|(?<=[.!?…\"”»)\]]\s))"
_SPEAKER = regex.compile(
    rf"(?:^|\s)>{{1,3}}\s*(?:{_NAME}\s?:\s)?|{_SENTENCE}[-–—]\s*(?:{_NAME}\s?:\s)?|{_SENTENCE}{_NAME}\s?:\s"
)
_NOISES = (
    r"laugh\w*|chuckl\w*|giggl\w*|applau\w*|cheer\w*|music|cough\w*|sigh\w*|gasp\w*|sob\w*|cries|crying|whisper\w*|inaudible|unintelligible|"
    r"indistinct|crosstalk|silence|pause|noise|clears throat|beep\w*|lach\w*|gelächter|applaus|musik|husten|hustet|seufz\w*|unverständlich|"
    r"stille|gelach|muziek|hoest\w*|zucht\w*|onverstaanbaar|stilte|rires?|rit|applaudissements|musique|inaudible|soupir\w*|risas?|ríe|"
    r"aplausos|música|inaudible|suspir\w*|risate|ride|applausi|musica|incomprensibile|sospir\w*|risos|смех|смеётся|смеется|"
    r"аплодисменты|музыка|неразборчиво|笑い?|笑声|掌声|音[楽乐]|拍手|웃음|박수|음악"
)
_SOUND = regex.compile(
    rf"\s*(?:\[[^\]]{{1,40}}\]|\*[^*]{{1,40}}\*|[♩♪♫♬]+|[(（][^()（）]{{0,20}}\b(?:{_NOISES})\b[^()（）]{{0,20}}[)）])",
    regex.IGNORECASE,
)
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^}]*\}")
_CREDIT = regex.compile(
    r"https?://\S+|\bwww\.\S+|\b\w+\.(?:com|org|net)\b"
    rf"|{_SENTENCE}(?:(?:subtitl|caption|transcri|translat)\w+ (?:provided )?by\b"
    r"|untertitel(?:ung)? (?:im auftrag|von|der amara|(?:des )?(?:ard|br|ndr|orf|srf|swr|wdr|zdf))\b|ondertitel(?:d|ing) (?:door|:)"
    r"|sous-titr\w+ |sottotitoli |subtítulos (?:por|de|realizados)\b|legendas (?:por|pela|de)\b|napisy stworzone |субтитры \w"
    r"|字幕.*(?:by|製作|制作|提供)).*",
    regex.IGNORECASE,
)
_THANKS = regex.compile(
    r"(?:thanks?|thank you)(?: (?:so|very) much)? for (?:watching|listening)(?: (?:this|the|my) video)?(?:,? .{0,40}subscribe.*)?"
    r"|(?:please )?(?:like and )?subscribe(?: to (?:my|our|the) channel)?"
    r"|(?:vielen dank|danke) fürs? zuschauen|(?:vielen dank|danke) für (?:die aufmerksamkeit|ihre aufmerksamkeit)"
    r"|bedankt voor het kijken|merci d['’]avoir regardé.*|gracias por ver.*|grazie per (?:la visione|aver guardato).*"
    r"|obrigad[oa] por assistir.*|спасибо за просмотр|продолжение следует|ご視聴ありがとうございました|感谢观看|謝謝觀看|"
    r"시청해\s?주셔서 감사합니다|MBC 뉴스.*",
    regex.IGNORECASE,
)
