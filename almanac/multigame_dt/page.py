"""The page of Multi-Game Decision Transformers in Studio: watch one agent play any of the games, and take over. It lays out a frame around
the page that `api` serves, which works by itself, too; playing is `live`'s."""

import gradio as gr
from fastapi import APIRouter

from almanac.multigame_dt import api
from almanac.runtime.services import Services

_WATCH = (
    '<iframe class="watch" src="live" title="Watch and play" allow="fullscreen" style="display: block; width: 100%; height: 900px; '
    'border: 0; background: transparent"></iframe>'
    '<p style="margin: 18px 0 0"><a href="live" target="_blank" rel="noopener">Open it in a tab of its own</a></p>'
)
_given = Services()
"""What the page was built with, for its router, which Studio asks for next."""


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: where models compute.
    """
    global _given
    _given = services
    with gr.Blocks(title="Multi-Game Decision Transformers · Almanac") as page:
        gr.HTML(_WATCH, apply_default_css=False)
    return page


def router() -> APIRouter:
    """What the page needs of the server: the games that are watched."""
    return api.router(_given.device)
