"""The tour of Multi-Game Decision Transformers: the agent that ships plays a few hundred steps of games that it was trained on, beside
random play, and one of its steps is drawn as the paper draws its interface."""

from pathlib import Path

import numpy as np

from almanac.multigame_dt import cells, evaluate, figures, games, play
from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.runtime.report import Section

GAMES, EPISODES, STEPS = 3, 2, 300
"""Of those that it was trained on; of each game; and of each episode, at most."""
_SEED = 1


def run(out: Path) -> Section:
    """Run once on real games.

    Args:
        out: folder for the picture.

    Raises:
        UserError: no agent ships, or there is no emulator.
    """
    found = cells.generalist([hub.weights(name) for name in hub.shipped_weights("multigame_dt")])
    if found is None:
        raise UserError("no decision transformer ships with this copy", "train one: almanac multigame-dt train")
    path, agent = found
    played = [games.named(name) for name in agent.trained_on[:GAMES]]
    lanes = len(played) * EPISODES
    ours = play.play_all(agent.make(lanes), played, EPISODES, cap=STEPS, seed=_SEED)
    random = play.play_all(play.Random(lanes), played, EPISODES, cap=STEPS, seed=_SEED)
    rows = []
    for game in played:
        score, blind = (float(np.mean([each.score for each in one[game.name]])) for one in (ours, random))
        rows.append(
            {
                "game": game.name,
                "score": score,
                "random play": blind,
                "steps": int(np.mean([each.steps for each in ours[game.name]])),
                "cut off": sum(each.capped for each in ours[game.name]),
                "a person, whole games": game.human,
            }
        )
    picture = figures.draw_step(evaluate.one_step(path, played[0], seed=_SEED), out / "step.png")
    better = sum(row["score"] > row["random play"] for row in rows)
    return Section(
        f"One agent of {agent.facts['parameters'] / 1e6:.3g} million parameters, trained on logged play of {len(agent.trained_on)} games, "
        f"played {len(rows)} of them, {EPISODES} episodes of at most {STEPS} steps each, and scored more than random play in {better}.",
        figures=[(picture, f"One step of it in {played[0].name}: what it saw, and what it made of it")],
        rows=rows,
    )
