"""Studio's own HTML: the header that every page has, the home page, and what stands in place of a page that can't be shown. What a
system's page holds is its own (`almanac.<system>.page`)."""

from collections.abc import Container, Sequence
from html import escape

from almanac.runtime.errors import UserError
from almanac.systems import System

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" role="presentation"><rect width="32" height="32" rx="7" '
    'fill="#b3402a"/><circle cx="16" cy="16" r="6" fill="none" stroke="#fff" stroke-width="2.4"/><g stroke="#fff" '
    'stroke-width="2.4" stroke-linecap="round"><path d="M16 3.8v3M16 25.2v3M3.8 16h3M25.2 16h3M7.4 7.4l2.1 2.1M22.5 22.5l2.1 '
    '2.1M7.4 24.6l2.1-2.1M22.5 9.5l2.1-2.1"/></g></svg>'
)
"""Almanac's sign, a sun."""

HEAD = '<link rel="icon" type="image/svg+xml" href="/favicon.ico"><link rel="stylesheet" href="/studio.css">'
"""What the head of every page holds."""

_CLOSES = 'onfocusout="if (!this.contains(event.relatedTarget)) this.open = false"'


def path(system: System) -> str:
    """Where a system's page is."""
    return f"/{system.command}/"


def home(systems: Sequence[System], troubled: Container[str]) -> str:
    """The home page.

    Args:
        systems: what it lists.
        troubled: names of those whose page can't be shown.
    """
    rows = "".join(_row(number, system, system.name in troubled) for number, system in enumerate(systems, 1))
    return _document(
        "Almanac",
        f"""{header(systems)}
<main class="page">
  <section class="masthead home">
    <h1>The deep learning of 2022, runnable.</h1>
    <p class="lede">Landmark systems of one year, rebuilt from their papers in one readable PyTorch codebase. Everything
    runs on the machine that serves this page; nothing you upload goes further.</p>
  </section>
  <ol class="contents" aria-label="Systems">{rows}</ol>
</main>""",
    )


def header(systems: Sequence[System], current: System | None = None) -> str:
    """The bar on top of every page: the way home, and to every system."""

    def link(system: System) -> str:
        here = ' aria-current="page"' if system is current else ""
        return f'<li><a href="{path(system)}"{here}>{escape(system.title)}</a></li>'

    return f"""<header class="topbar"><div class="topbar-inner">
  <a class="brand" href="/" aria-label="Almanac, home">{ICON}<span>Almanac</span></a>
  <nav aria-label="Systems"><details class="menu" {_CLOSES}><summary>Systems</summary>
    <ul>{"".join(map(link, systems))}</ul></details></nav>
</div></header>"""


def masthead(system: System) -> str:
    """What a system's page begins with: what it is, and where it is described."""
    return f"""<section class="masthead">
  <h1>{escape(system.title)}</h1>
  <p class="lede">{escape(_sentence(system.line))} {_paper(system.paper)}</p>
</section>"""


def trouble(systems: Sequence[System], system: System, error: Exception) -> str:
    """A system's page where it can't be built: what is wrong and what to do; a defect of ours without its traceback."""
    known = isinstance(error, UserError)
    what = error.what if known else f"This page could not be built ({type(error).__name__}: {error})"
    hint = error.hint if known else "The other systems work. The whole error stands in the server's log."
    return _document(
        f"{system.title} · Almanac",
        f"""{header(systems, system)}
<main class="page">{masthead(system)}
  <section class="trouble" role="alert"><h2>{escape(_sentence(what))}</h2><p>{escape(_sentence(hint))}</p>
  <p><a href="/">All systems</a></p></section>
</main>""",
    )


def not_found(systems: Sequence[System]) -> str:
    """What is shown where nothing is."""
    return _document(
        "Not found · Almanac",
        f"""{header(systems)}
<main class="page"><section class="masthead"><h1>There is no such page</h1>
<p class="lede">The address may be mistyped. <a href="/">All systems</a> are listed on the home page.</p></section></main>""",
    )


def _row(number: int, system: System, troubled: bool) -> str:
    note = '<span class="badge">not available here</span>' if troubled else ""
    return f"""<li><a class="entry" href="{path(system)}">
  <span class="number" aria-hidden="true">{number:02}</span>
  <span class="about"><span class="title">{escape(system.title)}{note}</span>
  <span class="line">{escape(_sentence(system.line))}</span><span class="paper">{escape(system.paper)}</span></span>
  <span class="arrow" aria-hidden="true">→</span></a></li>"""


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv ")
    if number == paper:
        return f'<span class="paper">{escape(paper)}</span>'
    return f'<a class="paper" href="https://arxiv.org/abs/{escape(number)}" rel="noreferrer">{escape(paper)}</a>'


def _sentence(text: str) -> str:
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    return ended[:1].upper() + ended[1:]


def _document(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>{HEAD}</head>
<body class="plain">{body}</body></html>"""
