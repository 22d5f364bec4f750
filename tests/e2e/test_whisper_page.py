"""Whisper in the browser, as a person uses it: speech by machines goes through the page and comes out as text."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from almanac import systems
from almanac.whisper import audio, recogniser
from almanac.whisper.speak import Voice, speak
from tests.e2e.conftest import CHROMIUM, QUIET
from tests.whisper import sounds

READY = systems.find("whisper") is not None and recogniser.DEFAULT in recogniser.shipped()
pytestmark = pytest.mark.skipif(not READY, reason="Whisper's trained weights do not ship yet")

DIGITS = "three five one nine two seven"
ORDER = "Ich möchte einen großen Kaffee mit Milch."
ENOUGH = 180_000
"""ms for what takes a second on a machine that has nothing else to do."""


@pytest.fixture
def whisper(page):
    """Its page, by its link on the home page."""
    page.set_default_timeout(ENOUGH)
    page.get_by_role("main").get_by_role("link", name="Whisper").click()
    page.get_by_role("heading", level=1, name="Whisper").wait_for()
    page.locator(".recording audio").wait_for()  # the first example is there
    return page


def spoken(path: Path, text: str, voice: str) -> Path:
    """A recording of a machine that says a text, in a quiet room."""
    quiet = np.random.default_rng(0).normal(0, 3e-4, audio.SAMPLE_RATE // 2).astype(np.float32)
    return sounds.write(path, np.concatenate((quiet, speak(text, Voice(voice, 150)).samples, quiet)))


def upload(page, path: Path) -> None:
    page.get_by_label("File upload").first.set_input_files(path)


def transcribe(page) -> None:
    page.get_by_role("button", name="Transcribe", exact=True).click()
    page.locator(".downloads").wait_for()


def words_right(page, text: str) -> float:
    """The share of a text's words that are in the transcript."""
    heard = {word.lower().strip(".,") for word in page.locator(".said p").all_inner_texts() for word in word.split()}
    wanted = text.lower().replace(".", "").split()
    return sum(word in heard for word in wanted) / len(wanted)


def assert_fits_the_screen(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_recording_is_read_as_it_plays_and_saved_as_subtitles(whisper, tmp_path):
    assert_fits_the_screen(whisper)
    path = spoken(tmp_path / "order.mp3", ORDER, "de+f4")
    upload(whisper, path)
    whisper.locator(".recording", has_text="order.mp3").wait_for()
    transcribe(whisper)
    assert_fits_the_screen(whisper)
    assert re.match(r"German \d+ %", whisper.locator(".language").inner_text())
    assert words_right(whisper, ORDER) > 0.7

    player = whisper.locator(".recording audio")
    assert abs(player.evaluate("audio => audio.duration") - len(audio.read(path)) / audio.SAMPLE_RATE) < 0.1
    words = whisper.locator(".said .word")
    times = words.evaluate_all("all => all.map(word => [+word.dataset.start, +word.dataset.end])")
    assert len(times) > 4 and all(start <= end for start, end in times) and times == sorted(times)
    third = next(i for i in range(2, len(times)) if times[i][1] > times[i][0])
    words.nth(third).click()
    whisper.wait_for_function("at => document.querySelector('audio').currentTime >= at", arg=times[third][0] - 0.01)
    player.evaluate("audio => audio.pause()")
    middle = sum(times[third]) / 2
    player.evaluate("(audio, at) => { audio.currentTime = at }", middle)
    whisper.locator(".said .word.now").wait_for()
    assert words.nth(third).evaluate("word => word.classList.contains('now')")
    assert whisper.locator(".marks .now").count() >= 1, "below the spectrogram, too"

    whisper.locator(".said").press("ArrowLeft")
    whisper.wait_for_function("at => document.querySelector('audio').currentTime <= at", arg=times[third][0])

    for form, told in (
        ("txt", "Kaffee"),
        ("srt", " --> "),
        ("vtt", "WEBVTT"),
        ("tsv", "start\tend"),
        ("json", '"words"'),
    ):
        link = whisper.get_by_role("link", name=form, exact=True)
        with whisper.expect_download() as saving:
            link.click()
        assert saving.value.suggested_filename == f"order.{form}"
        text = base64.b64decode(link.get_attribute("href").partition("base64,")[2]).decode()
        assert told in text
        if form == "srt":
            cues = re.findall(r"^(\d+)\n(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n(.+)\n\n", text, re.M)
            assert [int(number) for number, *_ in cues] == list(range(1, len(cues) + 1)) != []
            assert all(start <= end for _, start, end, _ in cues)


def test_digits_in_english_and_an_order_translated(whisper, tmp_path):
    upload(whisper, spoken(tmp_path / "digits.wav", DIGITS, "en-us+f4"))
    whisper.locator(".recording", has_text="digits.wav").wait_for()
    whisper.get_by_label("Time every word").uncheck()
    transcribe(whisper)
    assert words_right(whisper, DIGITS) > 0.6
    assert whisper.locator(".said li[data-start]").count() >= 1 and whisper.locator(".word").count() == 0

    whisper.get_by_role("button", name="A drink in German").click()
    whisper.locator(".recording", has_text="A drink in German").wait_for()
    whisper.get_by_role("radio", name="Translate to English").check()
    transcribe(whisper)
    assert "English" in whisper.locator(".language").inner_text()
    assert words_right(whisper, "coffee milk") > 0


def test_where_nothing_is_said_the_page_says_so(whisper):
    whisper.get_by_role("button", name="Noise").click()
    whisper.locator(".recording", has_text="Noise").wait_for()
    whisper.get_by_role("button", name="Transcribe", exact=True).click()
    whisper.get_by_text("Nothing is said in this recording.").wait_for()
    assert whisper.locator(".said").count() == 0


@pytest.mark.parametrize("kind, hint", [("a zip", "It may be damaged"), ("a film", "Give a file with audio")])
def test_a_file_without_sound_is_said_in_two_lines_and_the_page_goes_on_working(whisper, tmp_path, kind, hint):
    path, message = sounds.bad(tmp_path)[kind]
    upload(whisper, path)
    toast = whisper.get_by_test_id("toast-text")
    toast.wait_for()
    said = toast.inner_text().splitlines()
    assert len(said) == 2 and message in said[0] and said[0].lower().startswith(path.name) and said[1].startswith(hint)
    assert str(tmp_path) not in said[0] and "gradio" not in said[0]
    whisper.get_by_test_id("toast-close").click()
    transcribe(whisper)


def test_a_long_recording_can_be_stopped(whisper, tmp_path):
    upload(whisper, sounds.write(tmp_path / "long.ogg", np.tile(speak(DIGITS, Voice("en-us+f4")).samples, 100)))
    whisper.locator(".recording", has_text="long.ogg").wait_for()
    whisper.get_by_role("button", name="Transcribe", exact=True).click()
    whisper.locator(".said li").first.wait_for()
    assert " left" in whisper.locator(".work").inner_text()
    whisper.get_by_role("button", name="Stop").click()
    whisper.locator(".work").wait_for(state="detached")
    assert whisper.locator(".downloads").count() == 0 and whisper.locator(".said li").count() >= 1
    whisper.get_by_role("button", name="Digits in English").click()
    whisper.locator(".recording", has_text="Digits in English").wait_for()
    transcribe(whisper)


@pytest.fixture
def at_a_microphone(chromium, studio, tmp_path):
    """The page in a browser whose microphone hears digits once."""
    path = spoken(tmp_path / "microphone.wav", DIGITS, "en-us+f4")
    hears = [f"--use-file-for-fake-audio-capture={path}%noloop", "--use-fake-device-for-media-stream"]
    browser = chromium.browser_type.launch(
        executable_path=CHROMIUM, args=[*QUIET, *hears, "--use-fake-ui-for-media-stream"]
    )
    page = browser.new_page(base_url=studio)
    page.set_default_timeout(ENOUGH)
    page.goto("/whisper/")
    page.locator(".recording audio").wait_for()
    yield page
    browser.close()


def test_what_the_microphone_recorded_is_transcribed(at_a_microphone):
    page = at_a_microphone
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop · 0:04").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator(".recording", has_text="Recording.wav").wait_for()
    transcribe(page)
    assert words_right(page, DIGITS) > 0.6


def test_captions_are_read_while_somebody_speaks_and_what_is_certain_stays(at_a_microphone):
    page = at_a_microphone
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start listening").click()
    page.locator(".captions span").first.wait_for()
    before = page.locator(".captions span").first.inner_text()
    page.locator(".microphone.live button").first.click()
    page.get_by_role("button", name="Start listening").wait_for()
    page.wait_for_function("() => !document.querySelector('.captions em')")
    after = " ".join(page.locator(".captions span").all_inner_texts())
    assert after.startswith(before) and before
    assert set(after.split()) & set(DIGITS.split())
