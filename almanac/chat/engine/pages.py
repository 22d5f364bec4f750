"""The pages that keys and values of tokens lie in: who uses them, and which can be used again because a text begins like an earlier one
(PagedAttention, Kwon et al. 2023; automatic prefix caching). It knows nothing of what is in them."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

PAGE = 32
"""Tokens in a page."""

Key = bytes
"""What a full page holds: a digest of its tokens, of all before them, and of whose they are."""


class PagePool:
    """Pages, counted by their users. A page that nobody uses any more keeps what it holds until it is needed, the longest unused first.

    Args:
        pages: how many there are.
    """

    def __init__(self, pages: int):
        self.pages = pages
        self._users = [0] * pages
        self._free = OrderedDict.fromkeys(range(pages))
        self._key_of: dict[int, Key] = {}
        self._page_of: dict[Key, int] = {}

    @property
    def free(self) -> int:
        """How many are not in use."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """How many full pages can be found again."""
        return len(self._page_of)

    def take(self) -> int:
        """A page for new tokens; there must be a free one."""
        page, _ = self._free.popitem(last=False)
        key = self._key_of.pop(page, None)
        if key is not None:
            del self._page_of[key]
        self._users[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more uses a page."""
        if self._users[page] == 0:
            del self._free[page]
        self._users[page] += 1

    def is_shared(self, page: int) -> bool:
        """Whether several use it, so that who writes to it must have a copy."""
        return self._users[page] > 1

    def release(self, pages: Iterable[int]) -> None:
        """One fewer uses pages, given in the order of their tokens: of those then free, the last are taken first."""
        for page in reversed(list(pages)):
            self._users[page] -= 1
            if self._users[page] == 0:
                self._free[page] = None
                if page not in self._key_of:
                    self._free.move_to_end(page, last=False)

    def find(self, keys: Sequence[Key]) -> list[int]:
        """The pages that hold the beginning of a text; nobody uses them more for it.

        Args:
            keys: of the text's full pages, in order.
        """
        found = []
        for key in keys:
            if key not in self._page_of:
                break
            found.append(self._page_of[key])
        return found

    def is_free(self, page: int) -> bool:
        """Whether nobody uses it."""
        return self._users[page] == 0

    def remember(self, page: int, key: Key) -> None:
        """A page that is in use is full and computed, and can be found from now on; if another holds the same, that one is."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key], self._key_of[page] = page, key

    def forget(self) -> None:
        """No page can be found any more: what they hold is no longer true, as when weights changed."""
        self._page_of.clear()
        self._key_of.clear()


def keys(tokens: Sequence[int], salt: bytes = b"", known: Sequence[Key] = ()) -> list[Key]:
    """The keys of a text's full pages.

    Args:
        tokens: the text.
        salt: whose it is: others' pages are not found, and so not guessed by how fast an answer comes.
        known: keys of its first pages, where they were made before.
    """
    found = list(known)
    for page in range(len(found), len(tokens) // PAGE):
        before = found[-1] if found else hashlib.blake2b(salt, digest_size=16).digest()
        here = np.asarray(tokens[page * PAGE : (page + 1) * PAGE], np.int64).tobytes()
        found.append(hashlib.blake2b(before + here, digest_size=16).digest())
    return found
