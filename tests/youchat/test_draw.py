"""An answer as a picture."""

from pathlib import Path

import numpy as np
from PIL import Image

from almanac.youchat import draw
from almanac.youchat.ask.ask import ask
from almanac.youchat.documents import Page
from almanac.youchat.index.index import Index

TEXT = "Otters hold hands while they sleep on the water, so that they do not drift apart in the night."


def test_an_answer_and_a_refusal_are_drawn_within_their_pictures(tmp_path: Path):
    index = Index.open(tmp_path / "index")
    index.update([Page("http://host/otters", "Otters " * 40, TEXT)])
    heights = []
    for number, question in enumerate(
        ["Why do otters hold hands? " + "Really? " * 40, "Who won the football world cup in 1998?"]
    ):
        picture = np.asarray(Image.open(draw.card(ask(question, index), tmp_path / f"{number}.png")).convert("L"), int)
        assert (
            (picture[:30] < 40).all() and (picture[-30:] < 40).all() and (picture[:, -30:] < 40).all()
        )  # nothing beyond the card
        assert (picture > 150).any()
        heights.append(len(picture))
    assert heights[0] > heights[1]  # references below the answer
