"""The page of Block-NeRF in Studio: fly through a city of blocks. It lays out a frame around the page that `api` serves, which works by
itself, too; drawing is `live`'s."""

import gradio as gr
from fastapi import APIRouter

from almanac.block_nerf import api
from almanac.runtime.services import Services

_FLY = (
    '<iframe class="fly" src="live" title="Fly through a city" allow="fullscreen; clipboard-write" style="display: block; width: 100%; '
    'height: 900px; border: 0; background: transparent"></iframe>'
    '<p style="margin: 18px 0 0"><a href="live" target="_blank" rel="noopener">Open it in a tab of its own</a></p>'
)


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: not used: cities are drawn by the processor.
    """
    with gr.Blocks(title="Block-NeRF · Almanac") as page:
        gr.HTML(_FLY, apply_default_css=False)
    return page


def router() -> APIRouter:
    """What the page needs of the server: the cities that are flown through."""
    return api.router()
