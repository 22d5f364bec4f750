"""Where the heuristics draw their lines. What could be measured on clean sentences and on windows of them (`experiment`) was; what needs a
trained model is a choice, and says so."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of the heuristics."""

    seconds: float = 30.0
    """Longest recording, s: the model's window (paper §2.1)."""
    silence: float = -60.0
    """A recording whose loudest sample is below this is silent, dB of full scale."""
    words: int = 3
    """Texts of fewer words are not judged by their case."""
    pieces: float = 0.1
    """A source where so large a part of the texts that begin in lower case has capitals later on is cut in the middle of sentences."""
    unpunctuated_words: int = 5
    """Texts of at least so many words have some punctuation."""
    complex_words: int = 80
    """Texts of at least so many words have more than full stops. Of real windows of 60 to 80 words, 4 in 166 had not."""
    source_words: int = 500
    """Sources of at least so many words in sentences have more than full stops somewhere."""
    source_rows: int = 20
    """Texts of a source from which on it is judged as a whole, and its pace is known."""
    source_share: float = 0.9
    """A source of whose texts so large a part is lower or upper case, or begins in lower case, is so as a whole."""
    loop_ratio: float = 2.4
    """A text that compresses better than this repeats itself (official limit for decoding)."""
    language_bytes: int = 24
    """The language of texts with fewer bytes is not told: two dozen Latin letters, eight Chinese ones."""
    language_probability: float = 0.7
    """How sure a model must be of a language to be believed. A choice."""
    slow: float = 0.33
    """Slowest speech, as a part of its source's median pace; the slowest of 1,360 real recordings had 0.34."""
    fast: float = 1.8
    """Fastest speech, as a multiple of it; the fastest had 1.71."""
    letter_errors: float = 0.7
    """Letters of a text that a model hears differently, as a part of all, up to which they belong together. A choice."""
    partial: float = 1.7
    """A model that hears more than so many times the letters of a text hears what is not written down. A choice."""
    source_errors: float = 0.8
    """Word error rate of a source up to which it is trusted. A choice: the sources are listed to be looked at."""
    duplicate_words: int = 5
    """Texts of fewer words may recur."""
    similarity: float = 0.6
    """Texts that share so large a part of their runs of five letters are the same; of 1,388 real sentences, one pair did ("Eind goed, al
    goed")."""
    no_speech: float = 0.1
    """The part of recordings without speech that is kept (paper §2.1: one of ten) …"""
    no_speech_least: int = 100
    """… where there are more than so many, which are kept in any case. A choice."""
