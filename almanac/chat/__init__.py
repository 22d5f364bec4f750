"""ChatGPT: open-weight language models, and an engine and a server that hold many conversations at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from almanac.chat.client import ChatClient
    from almanac.chat.engine.engine import Engine
    from almanac.chat.models import load

__all__ = ["ChatClient", "Engine", "load"]

_ROOMS = {"ChatClient": "client", "Engine": "engine.engine", "load": "models"}


def __getattr__(name: str) -> Any:
    """These three, when they are asked for: the client needs no torch."""
    if name not in _ROOMS:
        raise AttributeError(f"almanac.chat has no {name}")
    import importlib

    return getattr(importlib.import_module(f"almanac.chat.{_ROOMS[name]}"), name)
