"""Which pages say the same. Exactly: the SHA-256 of their words without regard to case and spaces. Nearly: MinHash over runs of five words
(Broder 1997) with 128 permutations, from a Jaccard similarity of 0.85 on; pages that share one of sixteen bands of eight values are
compared at all, which finds a pair at 0.85 with a probability of 0.994. Such a pair counts if titles and numbers are the same too. Of pages
that say the same, one is kept and the others are its aliases; the index does that, this module says who is alike and who is kept."""

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from datasketch import MinHash
from jaxtyping import UInt32

from almanac.youchat.documents import Page

PERMUTATIONS = 128
SHINGLE = 5
"""Words."""
ALIKE = 0.85
"""The least Jaccard similarity of near duplicates (specification 1.2)."""
_BANDS = 16
_DIGIT, _MARKS = re.compile(r"\d"), ".,:;!?()[]{}\"'«»“”‘’"
"""What makes a word a number, and what may stand about it."""
_MOST_SHINGLES = 50_000
"""Of a page that are hashed: those of the first 50,000 places; a longer page is told by its beginning."""

Signature = UInt32[np.ndarray, "128"]


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of a page."""

    exact: str
    """SHA-256 of its words, hexadecimal."""
    signature: Signature
    """The least hash by each permutation."""


def fingerprint(text: str) -> Fingerprint:
    """The fingerprint of a page's text."""
    exact = hashlib.sha256(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")).hexdigest()
    made = _empty().copy()
    made.update_batch(np.unique(_shingles(_hashes(text))).tolist())
    return Fingerprint(exact, made.hashvalues.astype(np.uint32))


def numbers(text: str) -> frozenset[str]:
    """The words of a text that hold digits. Two texts that differ in these speak of two things (models, prices, releases), however much
    else they share."""
    return frozenset(word.strip(_MARKS) for word in text.lower().split() if _DIGIT.search(word))


def least_hash(text: str) -> int:
    """The least hash of a text's runs of words by one more permutation: two texts share it with the probability of their similarity."""
    return int(_shingles(_hashes(text)).min())


def similarity(one: Signature, other: Signature) -> float:
    """The estimate of two texts' Jaccard similarity, in [0, 1]; its standard error at 0.85 is 0.03."""
    return float((one == other).mean())


def bands(signature: Signature) -> list[int]:
    """Names of the signature's bands: pages that share one are worth comparing."""
    rows = PERMUTATIONS // _BANDS
    held = [
        hashlib.blake2b(bytes([at]) + signature[at * rows : (at + 1) * rows].tobytes(), digest_size=8)
        for at in range(_BANDS)
    ]
    return [int.from_bytes(each.digest(), "big", signed=True) for each in held]


def preference(page: Page) -> tuple[bool, int, str]:
    """Which of the pages that say the same is kept: the least. One that names its own address, else that of the shortest."""
    return not page.is_canonical, len(page.url), page.url


@lru_cache(1)
def _empty() -> MinHash:
    """Of no text; it takes longer to make than to use."""
    return MinHash(PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")


@lru_cache(1 << 16)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _hashes(text: str) -> np.ndarray:
    words = text.lower().split()[:_MOST_SHINGLES]
    return np.fromiter(map(_hash, words), np.uint64, len(words))


def _shingles(hashes: np.ndarray) -> np.ndarray:
    """A hash of each run of five words, from the words' own; of a text with fewer words, one of it all."""
    count = max(1, len(hashes) - SHINGLE + 1)
    mixed = np.zeros(count, np.uint64)
    for at in range(min(SHINGLE, len(hashes))):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[at : at + count]
        mixed ^= mixed >> np.uint64(29)
    return (mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(32)
