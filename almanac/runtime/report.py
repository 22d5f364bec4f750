"""A system's section of the tour: pictures, a table, one sentence. Systems fill it; `almanac.tour` lays it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Section:
    """What a system's tour shows."""

    sentence: str
    """What was done and what came of it, with the measured figure."""
    figures: Sequence[tuple[Path, str]] = field(default_factory=list)
    """Files (PNG, WAV, MP4) in the report's folder, with a caption each."""
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """A table."""
