"""Search and answers in the browser, as a person uses them: by address, by typing, by keys alone, and to the very sentence."""

import socket
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn

from tests.e2e.conftest import SCREENS
from tests.youchat.api.served import HOSTILE, PAGES, QUESTION, UNANSWERED, index, running

ENOUGH = 60_000
"""ms for what takes a second on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of a server of a small index."""
    with running(index(tmp_path_factory.mktemp("index"), (*PAGES, HOSTILE))) as address:
        yield address


@pytest.fixture
def tab(chromium):
    """Opens tabs. In none an error may be said, and none may ask anybody but its server for anything."""
    contexts, errors, elsewhere = [], [], []

    def open_tab(address: str, screen: str = "desktop", **more):
        contexts.append(chromium.new_context(**SCREENS[screen], **more))
        page = contexts[-1].new_page()
        page.set_default_timeout(ENOUGH)
        ours = "/".join(address.split("/")[:3]) + "/"
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith((ours, "data:")) else elsewhere.append(sent.url))
        page.goto(address)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert errors == [] and elsewhere == []


def answered(page, outcome: str = "answer", turn: int = 1):
    """The turn, once it has its outcome."""
    page.locator(f".turn:nth-of-type({turn})[data-outcome='{outcome}'][aria-busy='false']").wait_for()
    return page.locator(".turn").nth(turn - 1)


def cited(page):
    """The marked sentence of the stored page that is shown; it must be on the screen."""
    mark = page.frame_locator("#reader iframe").locator("#cited")
    mark.wait_for()
    box, screen = mark.bounding_box(), page.viewport_size
    assert box and box["y"] > 0 and box["y"] + box["height"] < screen["height"]
    return mark


def test_a_question_in_the_address_is_answered_beside_its_links(address, tab):
    page = tab(f"{address}/?q={QUESTION}")
    turn = answered(page)
    assert page.get_by_role("searchbox").input_value() == QUESTION
    assert turn.locator(".said").count() >= 2 and "1913" in turn.locator(".prose").inner_text()
    cards = turn.locator("ol .card")
    assert cards.count() >= 2
    first = cards.filter(has_text="a.example")
    assert first.locator("mark").count() >= 1
    assert "fetched 12 Nov 2026 · published 3 May 2021" in first.inner_text()
    title = first.locator("a.title")
    assert "#:~:text=" in title.get_attribute("href") and title.get_attribute("target") == "_blank"
    assert set(title.get_attribute("rel").split()) == {"noopener", "noreferrer", "nofollow"}


def test_click_on_2_lands_on_the_highlighted_sentence(address, tab):
    page = tab(f"{address}/?q={QUESTION}")
    turn = answered(page)
    mark = turn.locator(".cite", has_text="2").first
    leads = parse_qs(urlsplit(mark.get_attribute("href")).query)
    start, end = map(int, leads["at"][0].split("-"))
    text = next(each.text for each in PAGES if each.url == leads["url"][0])
    mark.hover()
    assert "lit" in turn.locator("ol .card").nth(1).get_attribute("class")
    mark.click()
    assert cited(page).inner_text() == text[start:end] and "1913" in text[start:end]
    page.get_by_role("button", name="Close").click()
    page.locator("#reader").wait_for(state="hidden")


def test_a_citation_far_down_a_long_page_is_scrolled_to(address, tab):
    page = tab(f"{address}/?q=In year 1999 the fog lay over the lake of Canberra for how many days?")
    turn = answered(page)
    turn.locator(".cite", has_text="1").first.click()
    assert "fog lay over the lake" in cited(page).inner_text()
    page.keyboard.press("Escape")
    page.locator("#reader").wait_for(state="hidden")


def test_typing_and_following_up_keeps_the_conversation(address, tab):
    page = tab(f"{address}/")
    page.get_by_text("35 pages").wait_for()
    page.get_by_role("searchbox").fill(QUESTION)
    page.keyboard.press("Enter")
    answered(page)
    assert "q=When+was+Canberra" in page.url
    page.get_by_label("Ask a follow-up").fill("Who designed it?")
    page.keyboard.press("Enter")
    second = answered(page, turn=2)
    assert "Walter Burley Griffin" in second.locator(".prose").inner_text()
    assert "Canberra" in second.locator(".meant").inner_text() and page.locator(".turn").count() == 2
    page.get_by_role("searchbox").fill("What is the largest city of Australia?")
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator(".turn").count() == 1
    page.go_back()
    page.get_by_role("heading", name=QUESTION).wait_for()
    answered(page)


def test_a_conversation_is_there_again_after_a_reload_and_on_the_way_back(address, tab):
    page = tab(f"{address}/?q={QUESTION}")
    answered(page)
    page.get_by_label("Ask a follow-up").fill("Who designed it?")
    page.keyboard.press("Enter")
    answered(page, turn=2)
    page.reload()
    assert "Walter Burley Griffin" in answered(page, turn=2).locator(".prose").inner_text()
    page.get_by_role("searchbox").fill("What is the largest city of Australia?")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="largest city").wait_for()
    page.go_back()
    answered(page, turn=2)
    assert page.locator(".turn").count() == 2


def test_a_mode_that_is_not_served_is_the_servers(address, tab):
    page = tab(f"{address}/?q={QUESTION}&mode=abstractive")
    assert "1913" in answered(page).locator(".prose").inner_text()


def test_keys_are_the_pages_again_after_a_source_was_closed(address, tab):
    page = tab(f"{address}/?q={QUESTION}")
    answered(page)
    for key in ("1", "2"):
        page.keyboard.press(key)
        cited(page)
        page.keyboard.press("Escape")
        page.locator("#reader").wait_for(state="hidden")
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "q"


def test_a_refusal_looks_different_and_says_what_is_missing(address, tab):
    page = tab(f"{address}/?q={UNANSWERED} Canberra")
    turn = answered(page, "refused")
    box = turn.locator(".none")
    assert box.locator("svg").is_visible() and "enzyme" in box.inner_text()
    assert box.evaluate("element => getComputedStyle(element).borderStyle") == "dashed"
    assert turn.locator(".cite").count() == 0 and turn.locator("ol").count() == 0
    assert turn.get_by_role("heading", name="Closest pages").is_visible() and turn.locator("ul .card").count() >= 1
    assert page.get_by_text("No answer in the index.").count() == 1


def test_keys_alone_ask_open_close_and_ask_again(address, tab):
    page = tab(f"{address}/")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    turn = answered(page)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.classList.contains('cite')"):
            break
    assert turn.locator(".card.lit").count() == 1
    page.keyboard.press("Enter")
    cited(page)
    page.keyboard.press("Escape")
    page.locator("#reader").wait_for(state="hidden")
    assert page.evaluate("() => document.activeElement.classList.contains('cite')")
    page.keyboard.press("2")
    cited(page)
    page.keyboard.press("Escape")
    page.locator("#reader").wait_for(state="hidden")
    page.keyboard.press("/")
    page.keyboard.type("What is the largest city of Australia?")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="largest city").wait_for()
    assert "Sydney" in answered(page).locator(".prose").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_without_scrolling_sideways(address, tab, scheme):
    page = tab(f"{address}/?q={QUESTION}", "phone", color_scheme=scheme)
    answered(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(250, 248, 244)"
    assert light == (scheme == "light")
    page.locator(".cite").first.tap()
    cited(page)


def test_html_of_pages_is_shown_as_text(address, tab):
    page = tab(f"{address}/?q=Which rock does the lighthouse of Foo stand on?")
    turn = answered(page)
    assert turn.get_by_text("<script>alert(1)</script>").first.is_visible()
    assert turn.locator("img, script").count() == 0
    turn.locator(".cite").first.click()
    cited(page)
    inside = page.frame_locator("#reader iframe")
    assert inside.locator("img, script").count() == 0 and inside.get_by_text("<script>alert(2)</script>").count() >= 1


def test_an_empty_index_and_a_server_that_went_are_told(tmp_path, chromium):
    with running(index(tmp_path, ())) as address:
        page = chromium.new_context().new_page()
        page.set_default_timeout(ENOUGH)
        page.goto(address)
        page.get_by_text("The index is empty").wait_for()
    page.get_by_role("searchbox").fill(QUESTION)
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("can’t be reached").wait_for()
    assert page.get_by_role("button", name="Ask again").is_visible()
    page.context.close()


def test_studio_shows_it_and_hands_its_question_on(tmp_path, tab, monkeypatch):
    from almanac.studio.app import create_app
    from almanac.systems import System
    from almanac.youchat import page as studio_page

    index(tmp_path)
    monkeypatch.setenv("ALMANAC_YOUCHAT_INDEX", str(tmp_path))
    studio_page._index.cache_clear()
    row = System("youchat", "YouChat", "answers from a search index", "2022", ())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(systems=(row,)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            page = tab(f"http://127.0.0.1:{listener.getsockname()[1]}/youchat/?q={QUESTION}")
            frame = page.frame_locator("iframe.youchat")
            frame.locator(".turn[data-outcome='answer'] .said").first.wait_for()
        finally:
            server.should_exit = True
            thread.join(20)
            studio_page._index.cache_clear()
