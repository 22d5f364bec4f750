"""The page of Whisper in Studio: record or upload speech and read it as it plays, or read captions while speaking. It lays out controls
and results; what is heard in sound is `transcribe`'s and `stream`'s to find, how a transcript looks is `player`'s and `captions`'."""

import base64
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import Float
from scipy.io import wavfile

from almanac.runtime.errors import UserError
from almanac.runtime.services import Services, tells_errors
from almanac.runtime.serving import Job, Turns
from almanac.whisper import audio, languages, player, recogniser, stream, transcribe
from almanac.whisper.captions import Captions, samples_of
from almanac.whisper.decoding import Options, detect_language
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.speak import Voice, speak
from almanac.whisper.tokenizer import Task
from almanac.whisper.transcript import Segment

LONGEST = 1800.0
"""s; a longer recording would keep other visitors waiting."""
BEAMS = 5
"""Texts that are followed side by side, as on the command line."""
FORGOTTEN = 3600
"""s after which captions are forgotten that nobody goes on with."""

_AUTO = "auto"
_TASKS = {"Transcribe": "transcribe", "Translate to English": "translate"}
_SPOKEN = (
    ("A drink in German", "Ich möchte einen großen Kaffee mit Milch.", Voice("de+f4", 160)),
    ("A date in French", "Samedi, le quatorze juillet mille neuf cent quatre vingt quinze.", Voice("fr+m6", 160)),
    ("Digits in English", "three five one nine two seven", Voice("en-us+f4", 150)),
)
"""What the examples say, in voices that training never hears (`data.HELD_OUT_VARIANTS`)."""
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden"}
_COMPUTES: Any = {**_QUIET, "concurrency_limit": None}
"""Events that compute take turns at the models (`Turns`), so that a long recording leaves room for live captions."""
_MICROPHONE = Path(__file__).with_name("microphone.js").read_text(encoding="utf-8")
_ICON = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><rect x="9" y="3" width="6" height="11" rx="3"/>'
    '<path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3.2"/></svg>'
)
_BEGIN = "Choose a recording, then press <b>Transcribe</b>."
_SPEAK = "Press <b>Start listening</b> and speak. Black text stays as it is; grey text may still change."
_NOTHING = "Nothing is said in this recording."


@dataclass(frozen=True)
class _Recording:
    """What is to be transcribed, as WAV in Gradio's cache, from where the browser plays it."""

    title: str
    path: str
    seconds: float

    @property
    def html(self) -> str:
        return player.recording(self.title, self.seconds, f"gradio_api/file={self.path}")


@dataclass(frozen=True)
class _Wish:
    """What a visitor wants to be done."""

    model: str
    language: str
    task: Task
    words: bool = True

    def options(self, found: Recogniser, beams: int | None = None) -> Options:
        """How to decode.

        Raises:
            UserError: the model can't.
        """
        language = None if self.language == _AUTO else self.language
        options = Options(task=self.task, language=language, beam_size=beams)
        return transcribe.checked(found, transcribe.Settings(options)).options


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: where to compute.

    Raises:
        UserError: there is no trained model to show.
    """
    models = recogniser.shipped()
    if not models:
        raise UserError(
            "no trained model of Whisper is on this machine",
            "train one with `almanac whisper train`, or set ALMANAC_WEIGHTS to a folder that holds some",
        )
    models.sort(key=lambda name: name != recogniser.DEFAULT)
    turns = Turns()
    with gr.Blocks(title="Whisper · Almanac") as page, gr.Tabs():
        with gr.Tab("Recording"):
            _recording_tab(page, services, models, turns)
        with gr.Tab("Live"):
            _live_tab(services, models, turns)
    return page


def _recording_tab(page: gr.Blocks, services: Services, models: list[str], turns: Turns) -> None:
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            chosen, written = gr.State(), gr.State("")
            with gr.Column(elem_classes="field"):
                gr.HTML('<p class="heading">Recording</p>', apply_default_css=False)
                with gr.Row(elem_classes="source"):
                    _microphone("Record")
                    upload = gr.File(label="A recording", show_label=False, type="filepath", elem_classes="drop sound")
            with gr.Column(elem_classes="field"):
                gr.HTML('<p class="heading">Examples</p>', apply_default_css=False)
                with gr.Row(elem_classes="examples-of-sound"):
                    examples = [gr.Button(title, size="sm", elem_classes="example") for title, _ in _examples()]
            language, task, model = _wishes(services, models)
            words = gr.Checkbox(True, label="Time every word")
            button = gr.Button("Transcribe", variant="primary", size="lg")
        with gr.Column(elem_classes="results", min_width=320):
            results = gr.HTML(player.hint(_BEGIN), js_on_load=player.SCRIPT, apply_default_css=False)

    def kept(title: str, samples: audio.Pcm) -> tuple[_Recording, str]:
        path = Path(results.GRADIO_CACHE) / f"{secrets.token_hex(16)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        results.temp_files.add(str(path))  # Gradio deletes it in a day, or when Studio stops
        wavfile.write(path, audio.SAMPLE_RATE, samples)
        recording = _Recording(title, str(path), len(samples) / audio.SAMPLE_RATE)
        return recording, recording.html + player.hint(_BEGIN)

    @tells_errors
    def read(path: str) -> tuple[_Recording, str, None]:
        return *kept(Path(path).name, _read(Path(path))), None

    def pick(number: int) -> tuple[_Recording, str]:
        return kept(*_examples()[number])

    @tells_errors
    async def run(
        recording: _Recording, language: str, task: Task, name: str, words: bool
    ) -> AsyncGenerator[tuple[str, str], None]:
        yield recording.html + player.progress(0.0, recording.seconds, None), ""
        wish = _Wish(name, language, task, words)
        work = partial(_transcribed, services.device, recording, wish)
        async with aclosing(turns.follow(work)) as parts:
            async for progress, transcript in parts:
                yield recording.html + progress + transcript, transcript

    page.load(partial(pick, 0), None, [chosen, results], **_QUIET)
    uploaded = upload.upload(read, upload, [chosen, results, upload], **_QUIET)
    uploaded.failure(lambda: None, None, upload, **_QUIET)
    for number, example in enumerate(examples):
        example.click(partial(pick, number), None, [chosen, results], **_QUIET)

    def stop(recording: _Recording, transcript: str) -> str:
        return recording.html + (transcript or player.hint(_BEGIN))

    running = button.click(run, [chosen, language, task, model, words], [results, written], **_COMPUTES)
    results.stop(stop, [chosen, written], results, cancels=[running], **_QUIET)


def _live_tab(services: Services, models: list[str], turns: Turns) -> None:
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            captions = gr.State(time_to_live=FORGOTTEN)
            language, task, model = _wishes(services, models)
            ear = _microphone("Start listening", live=True)
        with gr.Column(elem_classes="results", min_width=320):
            shown = gr.HTML(player.hint(_SPEAK), apply_default_css=False)

    @tells_errors
    def hear(listening: Captions | None, language: str, task: Task, name: str, event: gr.EventData):
        wish, piece = _Wish(name, language, task), _Piece.of(event)
        with Job(turns):
            if piece.first:
                listening = _begin(wish, services.device, piece.rate)
            if listening is None:
                raise UserError("these captions were forgotten", "start listening again")
            listening.hear(piece.samples, piece.last)
        return listening, listening.html()

    heard = ear.hear(hear, [captions, language, task, model], [captions, shown], **_COMPUTES)
    for answered, well in ((heard.success, "true"), (heard.failure, "false")):
        tell = f"() => document.dispatchEvent(new CustomEvent('answered', {{detail: {well}}}))"
        answered(None, js=tell, **_QUIET)


def _wishes(services: Services, models: list[str]) -> tuple[gr.Dropdown, gr.Radio, gr.Radio]:
    """What is asked for on both tabs."""
    known = _languages(models[0], services.device)
    language = gr.Dropdown(known, value=_AUTO, label="Spoken language")
    task = gr.Radio(list(_TASKS.items()), value="transcribe", label="Task")
    titles = [(name.replace("-", " ").capitalize(), name) for name in models]
    model = gr.Radio(titles, value=models[0], label="Model", visible=len(models) > 1)

    def fitting(name: str, language: str) -> Any:
        known = _languages(name, services.device)
        return gr.update(choices=known, value=language if language in dict(known).values() else _AUTO)

    model.change(tells_errors(fitting), [model, language], language, **_QUIET)
    return language, task, model


def _microphone(title: str, live: bool = False) -> gr.HTML:
    """A button that listens, by `microphone.js`."""
    how = f'data-title="{title}" data-most="{LONGEST:g}"' + (" data-live" if live else "")
    button = f'<button type="button" {how}>{_ICON}<span>{title}</span></button><p role="alert"></p>'
    classes = ["microphone", "live"] if live else ["microphone"]
    return gr.HTML(html_template=button, js_on_load=_MICROPHONE, apply_default_css=False, elem_classes=classes)


def _transcribed(
    device: str, recording: _Recording, wish: _Wish, job: Job, tell: Callable[[tuple[str, str]], None]
) -> None:
    """Transcribe a recording and tell its page, again and again, what it should show below the player: progress, and what is written."""
    with job:
        found, started = _load(wish.model, device), time.monotonic()
        samples = _again(recording)
        options = wish.options(found, BEAMS)
        probabilities = {} if options.language else _spoken(found, samples)
        if probabilities:
            options = replace(options, language=max(probabilities, key=probabilities.__getitem__))
        written = "en" if wish.task == "translate" else options.language or "en"
        said: list[Segment] = []

        def on_progress(seconds: float, segments: Sequence[Segment]) -> None:
            said.extend(segments)
            left = (time.monotonic() - started) / max(seconds, 0.1) * (recording.seconds - seconds)
            tell((player.progress(seconds, recording.seconds, left), player.segments(said, written)))
            job.give_way()

        settings = transcribe.Settings(options, best_of=BEAMS, words=wish.words)
        transcript = transcribe.transcribe(found, samples, settings, on_progress)
    if not transcript.text.strip():
        tell(("", player.hint(_NOTHING)))
        return
    words = [word for segment in transcript.segments for word in segment.words or ()]
    took = time.monotonic() - started
    parts = (
        player.summary(probabilities, transcript.language, wish.task, took),
        player.segments(transcript.segments, written),
        player.downloads(transcript, Path(recording.title).stem),
        player.spectrogram(samples, found.model.dims.n_mels, words),
    )
    tell(("", "".join(parts)))


def _spoken(found: Recogniser, samples: audio.Pcm) -> dict[str, float]:
    """How likely each language is by the first window; empty where a model knows but one."""
    if not found.tokenizer.multilingual:
        return {}
    dims = found.model.dims
    mel = audio.LogMel(samples, dims.n_mels, found.model.decoder.positional_embedding.device)
    return detect_language(found.model, found.tokenizer, found.encode(mel(0, dims.frames)))[0]


def _read(path: Path) -> audio.Pcm:
    """The sound of an upload.

    Raises:
        UserError: it is none, or too long.
    """
    pieces, length = [], 0
    try:
        for piece in audio.read_blocks(path):
            length += len(piece)
            if length > LONGEST * audio.SAMPLE_RATE:
                raise UserError(f"{path.name} is longer than {LONGEST / 60:g} minutes", "give it in parts")
            pieces.append((32_768 * piece).astype(np.int16))
    except UserError as error:
        raise UserError(error.what.replace(str(path), path.name), error.hint) from None
    if not length:
        raise UserError(f"{path.name} holds no sound (0 seconds)", "check that the recording is not empty or cut short")
    return np.concatenate(pieces)


def _again(recording: _Recording) -> audio.Pcm:
    """The sound of a recording that was chosen.

    Raises:
        UserError: it was deleted since.
    """
    if not Path(recording.path).is_file():
        raise UserError(f"the recording '{recording.title}' is no longer here", "choose it again")
    return audio.read_pcm(recording.path)


@dataclass(frozen=True)
class _Piece:
    """Sound from a visitor's microphone."""

    samples: audio.Samples
    rate: int
    first: bool
    last: bool

    @classmethod
    def of(cls, event: gr.EventData) -> "_Piece":
        """What `microphone.js` sent.

        Raises:
            UserError: it was not that.
        """
        try:
            data = base64.b64decode(event.sound, validate=True)
            return cls(samples_of(data), int(event.rate), bool(event.first), bool(event.last))
        except (AttributeError, TypeError, ValueError):
            raise UserError("the microphone's sound could not be read", "reload the page") from None


def _begin(wish: _Wish, device: str, rate: int) -> Captions:
    found = _load(wish.model, device)
    return Captions(found, stream.Settings(wish.options(found)), rate)


def _languages(name: str, device: str) -> list[tuple[str, str]]:
    """What can be chosen as spoken, by title."""
    tokens = _load(name, device).tokenizer
    known = tokens.languages if tokens.multilingual else ("en",)
    return [("Detect it", _AUTO), *sorted((languages.title(code), code) for code in known)]


@lru_cache(maxsize=1)
def _examples() -> list[tuple[str, audio.Pcm]]:
    """Sounds that are here without a network: speech where espeak-ng is installed, and a noise."""
    found = []
    for title, text, voice in _SPOKEN:
        try:
            found.append((title, _pcm(speak(text, voice).samples)))
        except UserError:
            break
    draw = np.random.default_rng(0)
    swell = np.sin(np.linspace(0, 9, 4 * audio.SAMPLE_RATE)) ** 2 + 0.2
    return [*found, ("Noise", _pcm(0.1 * swell * draw.standard_normal(len(swell)).clip(-3, 3)))]


def _pcm(samples: Float[np.ndarray, " samples"]) -> audio.Pcm:
    return (samples.clip(-1, 1) * 32_767).astype(np.int16)


@lru_cache(maxsize=4)
def _load(name: str, device: str) -> Recogniser:
    return recogniser.load(name, device, "auto")
