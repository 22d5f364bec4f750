"""Pages with made-up words, of which some are common and some rare, as in language."""

import random

from almanac.youchat.documents import Heading, Page


def made(count: int, seed: int = 0, host: str = "http://host", vocabulary: int = 400) -> list[Page]:
    """Pages of one to five sections; word n is about 1/n as frequent as the first."""
    draw = random.Random(seed)
    words = [f"word{at}" for at in range(vocabulary)]
    weights = [1 / (at + 1) for at in range(vocabulary)]
    pages = []
    for number in range(count):
        text, headings = "", []
        for section in range(draw.randint(1, 5)):
            heading = " ".join(draw.choices(words, weights, k=2))
            headings.append(Heading(2, heading, len(text), f"s{section}"))
            text += heading + "\n\n" + " ".join(draw.choices(words, weights, k=draw.randint(30, 250))) + ".\n\n"
        pages.append(
            Page(f"{host}/{seed}-{number}", " ".join(draw.choices(words, weights, k=3)), text.strip(), tuple(headings))
        )
    return pages


def questions(count: int, seed: int = 0, vocabulary: int = 400) -> list[str]:
    """Of one to six words, rare ones among them."""
    draw = random.Random(seed)
    return [
        " ".join(f"word{draw.randrange(draw.choice([5, 50, vocabulary]))}" for _ in range(draw.randint(1, 6)))
        for _ in range(count)
    ]
