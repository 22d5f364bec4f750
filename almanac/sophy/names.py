"""Names of the built-in drivers."""

from collections.abc import Sequence

from almanac.sophy.opponents import Drivers

NAMES = (
    "Amber", "Basil", "Cedar", "Dahlia", "Elder", "Fern", "Gorse", "Hazel", "Iris", "Juniper", "Kelp", "Laurel", "Maple", "Nettle", "Olive",
    "Poppy", "Quince", "Rowan", "Sorrel", "Thyme",
)  # fmt: skip
"""As many as a race has cars."""


def named(drivers: Drivers, skills: Sequence[float]) -> list[tuple[str, Drivers]]:
    """Drivers as a race takes them: each by a name, with its skill behind.

    Args:
        drivers: all of them.
        skills: of each; at most 20.
    """
    return [(f"{name} {skill:.2f}", drivers) for name, skill in zip(NAMES, skills, strict=False)]
