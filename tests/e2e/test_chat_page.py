"""The chat page in the browser, as a person uses it: talk, stop, edit, ask again, turn between versions, vote, come back."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError

from almanac.chat.feedback import FeedbackStore
from tests.chat import made
from tests.e2e.conftest import serving

ENOUGH = 60_000
"""ms for what takes a second on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def studio(folder) -> Iterator[str]:
    """A Studio with a model that nobody trained, and of so many layers that an answer can be stopped before it has ended."""
    tiny = made.folder(folder / "tiny", replace(made.SMALL, context=4096, layers=24), ends=False)
    with serving(folder, ALMANAC_CHAT_MODEL=str(tiny), ALMANAC_FEEDBACK=str(folder / "votes.sqlite")) as address:
        yield address


@pytest.fixture
def chat(page):
    """Its page, by its link on the home page."""
    page.set_default_timeout(ENOUGH)
    page.get_by_role("main").get_by_role("link", name="ChatGPT").click()
    page.get_by_placeholder("Write a message").wait_for()
    return page


def say(page, text: str) -> None:
    before = page.locator(".talk .bot.message").count()
    page.get_by_placeholder("Write a message").fill(text)
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelectorAll('.talk .bot.message').length > before", arg=before)
    done(page)


def done(page) -> None:
    """Wait until the answer has ended, and the next can be sent."""
    page.locator("div.remark p.ended").wait_for()
    page.locator(".compose .submit-button").wait_for()


def change_the_first_question(page, to: str) -> None:
    """Open it, write another one, and send that. What is done to a message that is being drawn anew is lost, and whoever sees that nothing
    came of it does it again."""
    for _ in range(ENOUGH // 20_000):
        with suppress(TimeoutError):
            if not page.locator(".talk textarea").count():
                page.get_by_label("Edit").first.click(timeout=5_000)
            page.locator(".talk textarea").fill(to, timeout=5_000)
            page.get_by_label("Submit").click(timeout=5_000)
            page.get_by_text("Question 1: 2 of 2").wait_for(timeout=20_000)
            return
    raise AssertionError("the question does not change")


def answers(page) -> list[str]:
    return page.locator(".talk .bot.message").all_inner_texts()


def shows(page, said: list[str], who: str) -> bool:
    """Whether the questions (`user`) or answers (`bot`) that are shown become these."""
    for _ in range(100):
        if page.locator(f".talk .{who}.message").all_inner_texts() == said:
            return True
        page.wait_for_timeout(100)
    return False


def test_a_conversation_with_branches_and_votes(chat, folder):
    assert chat.evaluate("document.documentElement.scrollWidth") <= chat.viewport_size["width"]
    say(chat, "Hello, what is **that**?")
    assert shows(chat, ["Hello, what is that?"], "user")
    (first,) = answers(chat)
    assert first.strip()
    assert re.search(r"\d+ tokens, \d+ a second", chat.locator("div.remark p").inner_text())

    chat.get_by_label("Retry").click()
    chat.get_by_text("Answer 1: 2 of 2").wait_for()
    done(chat)
    (second,) = answers(chat)
    assert second != first
    chat.get_by_label("Previous version of Answer 1").click()
    chat.get_by_text("Answer 1: 1 of 2").wait_for()
    assert shows(chat, [first], "bot")

    change_the_first_question(chat, "Who are you?")
    done(chat)
    assert shows(chat, ["Who are you?"], "user")
    chat.get_by_label("Next version of Question 1").click()
    chat.get_by_text("Question 1: 1 of 2").wait_for()
    chat.get_by_text("Answer 1: 2 of 2").wait_for()  # what was said last after it
    assert shows(chat, ["Hello, what is that?"], "user")

    chat.get_by_label("Like", exact=True).first.click()
    chat.get_by_label("Correct").check()
    chat.get_by_label("Comment (optional)").fill("Naïve, but nice 👍")
    chat.get_by_label("This conversation may be used").check()
    chat.get_by_role("button", name="Send", exact=True).click()
    chat.get_by_text("Thank you.").wait_for()
    vote = list(FeedbackStore(folder / "votes.sqlite").votes())[-1]
    assert (vote.thumb, vote.comment, list(vote.tags)) == (1, "Naïve, but nice 👍", ["Correct"])
    assert vote.prompt and vote.answer and vote.sampling["temperature"] == 0.7 and vote.model.startswith("tiny ")
    assert vote.messages == [{"role": "user", "content": "Hello, what is **that**?"}]

    chat.get_by_role("button", name="New conversation").click()
    chat.get_by_text("Say something to").wait_for()
    say(chat, "Another one")
    chat.reload()
    chat.get_by_label("Hello, what is **that**?").check()  # the browser kept it
    chat.locator(".talk .user.message").first.wait_for()
    assert shows(chat, ["Hello, what is that?"], "user")
    with chat.expect_download() as download:
        chat.get_by_role("link", name="Markdown").click()
    assert "**You**\n\nHello, what is **that**?" in Path(download.value.path()).read_text("utf-8")


def test_an_answer_can_be_stopped(chat):
    chat.get_by_text("How it answers").click()
    chat.get_by_label("number input for Tokens of an answer, at most").fill("2048")
    chat.get_by_label("number input for Temperature").fill("2")
    chat.get_by_placeholder("Write a message").fill("Go on for ever")
    chat.keyboard.press("Enter")
    chat.wait_for_function("() => document.querySelector('.talk .bot.message')?.innerText.length > 5")
    chat.locator(".compose .stop-button").click()
    chat.locator(".compose .submit-button").wait_for()
    chat.wait_for_timeout(1000)
    (cut,) = answers(chat)
    chat.wait_for_timeout(1000)
    assert answers(chat) == [cut] and not chat.locator("div.remark p.ended").count()
    chat.get_by_label("number input for Tokens of an answer, at most").fill("16")
    say(chat, "And again")
    assert len(answers(chat)) == 2 and answers(chat)[0].startswith(cut)  # and what came while it was being stopped
