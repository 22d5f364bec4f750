"""The page of YouChat in Studio: the search page, in a frame, over the index in $ALMANAC_YOUCHAT_INDEX or else that of this machine's own
documentation. A language model writes where $ALMANAC_YOUCHAT_LLM names its server. What the page asks is answered by `api`."""

import os
from functools import cache
from pathlib import Path

import gradio as gr
from fastapi import APIRouter

from almanac.runtime.services import Services
from almanac.youchat import own_pages
from almanac.youchat.api import api
from almanac.youchat.api.asking import Asking
from almanac.youchat.ask.ask import Settings
from almanac.youchat.ask.language_model import Endpoint
from almanac.youchat.index.index import Index

_FRAME = (
    '<iframe class="youchat" src="ask" title="Search and ask" allow="clipboard-write" style="display: block; width: 100%; '
    'height: min(900px, 86vh); border: 1px solid var(--rule, #e4dfd5); border-radius: 10px"></iframe>'
    '<p style="margin: 10px 0 0"><a href="ask" target="_blank" rel="noopener">Open it in a tab of its own</a></p>'
)


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: not used: the processor searches, and a language model has its own server.
    """
    with gr.Blocks(title="YouChat · Almanac") as page:
        gr.HTML(_FRAME, apply_default_css=False)
    return page


def router() -> APIRouter:
    """What the page needs of the server."""
    address = os.environ.get("ALMANAC_YOUCHAT_LLM", "")
    return api.router(Asking(_index, Settings(endpoint=Endpoint(address) if address else None)))


@cache
def _index() -> Index:
    """The index, opened at the first question; that of this machine's documentation is made then, in some ten seconds."""
    given = os.environ.get("ALMANAC_YOUCHAT_INDEX", "")
    return Index.open(Path(given) if given else own_pages.ready())
