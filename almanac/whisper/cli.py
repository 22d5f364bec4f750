"""`almanac whisper VERB`: parse, call, print."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError
from almanac.whisper.clean.limits import Limits

TaskName = Literal["transcribe", "translate"]
Format = Literal["txt", "srt", "vtt", "tsv", "json", "all"]
Published = Literal["openai", "hf"]
Preset = Literal["cpu", "gpu", "paper"]
Precision = Literal["auto", "fp32", "bf16", "int8"]
_LIMITS = Limits()


def transcribe(
    files: tyro.conf.Positional[tuple[Path, ...]],
    *,
    model: str | None = None,
    language: str = "auto",
    task: TaskName = "transcribe",
    format: Format | None = None,
    out: Path | None = None,
    word_timestamps: bool = False,
    max_line_width: int | None = None,
    max_line_count: int | None = None,
    max_words_per_line: int | None = None,
    highlight_words: bool = False,
    vad: bool = False,
    batch_size: int | None = None,
    clips: tuple[float, ...] = (),
    prompt: str = "",
    keep_prompt: bool = False,
    previous_text: bool = True,
    beam_size: int = 5,
    patience: float = 1.0,
    length_penalty: float | None = None,
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    best_of: int = 5,
    compression_ratio_limit: float = 2.4,
    logprob_limit: float = -1.0,
    no_speech_limit: float = 0.6,
    silence_limit: float | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Transcribe recordings, or translate them into English: audio or video files of any kind and length.

    What is said is shown with its times as it is found; with --format or --out it goes into files instead, FILE's name with the
    format's ending. Several files: one that can't be read does not stop the others, and the exit code is 2 at the end.

    Args:
        files: audio or video files.
        model: a shipped model, a published size (tiny, base, small, medium, large-v3, turbo, with .en where there is one), a path, or
            hf://owner/repo; default: the shipped model.
        language: what is spoken, as a code (en) or a name (english); auto: told from the first window.
        task: transcribe (as spoken) or translate (into English).
        format: txt, srt, vtt, tsv, json, or all of them; default: txt where --out is given.
        out: folder for the files; default: the current one.
        word_timestamps: time every word, for json, for the options of subtitles below, and for --silence-limit, which imply it.
        max_line_width: srt and vtt: characters of a line.
        max_line_count: srt and vtt: lines of a cue.
        max_words_per_line: srt and vtt: words of a cue.
        highlight_words: srt and vtt: underline each word as it is said.
        vad: transcribe only where somebody speaks, as a small network hears it: faster, and nothing is invented in long silences.
        batch_size: decode so many clips of the recording at once, cut at quiet moments; the words are the same for any number, but a clip
            is not told what was said before it. Default: one window after another, each told what was said before.
        clips: START END START END …, s: transcribe only these parts; the last END may be left out.
        prompt: names and words that may come up, or a text in the style that is wanted.
        keep_prompt: tell every window the prompt, not only the first ones.
        previous_text: with --no-previous-text a window is not told what was said before it: loops can't spread.
        beam_size: texts that are followed side by side; 1: greedy, which is faster.
        patience: the search ends after --beam-size × --patience finished texts.
        length_penalty: α by which texts of different lengths are compared, 0 to 1; default: by mean log-probability.
        temperatures: tried one after another until a window's text is good enough by the limits below.
        best_of: at temperatures above 0, texts that are drawn; the likeliest is taken.
        compression_ratio_limit: a text that compresses better than this is a loop.
        logprob_limit: a text whose tokens' mean log-probability is below this is a guess.
        no_speech_limit: a window that is a guess, and more likely than this without speech, is silence.
        silence_limit: leave out what was likely invented between silences longer than this, s.
        precision: of the network's numbers: fp32 is the published arithmetic; int8 (for CPUs) and bf16 are faster, and hardly a word
            differs; auto: int8 on a CPU, bf16 on a GPU.
        seed: of what is drawn.
        device: auto, cpu or cuda.
        json: print one JSON object: text, segments, language; of several files, {"recordings": […]}.
    """
    from almanac.whisper import recogniser, subtitles, transcribe_file
    from almanac.whisper import transcribe as verb
    from almanac.whisper.decoding import Options

    layout = subtitles.Layout(max_line_width, max_line_count, max_words_per_line, highlight_words)
    words = word_timestamps or silence_limit is not None or layout != subtitles.Layout()
    chosen = format or ("txt" if out else None)
    formats = subtitles.FORMATS if chosen == "all" else (chosen,) if chosen else ()
    output = transcribe_file.Output(formats, out or Path(), layout, quiet=json)
    transcribe_file.check(files, output)
    options = Options(
        task=task,
        language=None if language == "auto" else language,
        beam_size=beam_size if beam_size > 1 else None,
        patience=patience,
        length_penalty=length_penalty,
        seed=seed,
    )
    listener = recogniser.load(model or recogniser.DEFAULT, device, precision)
    settings = verb.Settings(
        options, temperatures, best_of, compression_ratio_limit, logprob_limit, no_speech_limit, previous_text, prompt,
        keep_prompt, words, clips or (0.0,), silence_limit, vad, batch_size,
    )  # fmt: skip
    settings = verb.checked(listener, settings)
    found, failed = [], False
    for file in files:
        if len(files) > 1 and not (formats or json):
            console.result({}, False, f"{file}:")
        try:
            found.append(transcribe_file.run(listener, file, settings, output))
        except UserError as error:
            if len(files) == 1:
                raise
            console.log(str(error))
            failed = True
            found.append({"file": str(file), "error": error.what, "hint": error.hint})
    written = [path for one in found for path in one.get("written", ())]
    if json or written:
        console.result(found[0] if len(files) == 1 else {"recordings": found}, json, "\n".join(written))
    if failed:
        raise SystemExit(2)


def convert(
    model: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    to: Published,
    dtype: Literal["float16", "float32"] | None = None,
    json: bool = False,
) -> None:
    """Write a model in a published layout, so that other programs run the same weights.

    openai: a .pt file, which openai-whisper and whisper.cpp's converter read. hf: a folder, which transformers reads, and ctranslate2's
    converter for faster-whisper. All but transformers are made for windows of 30 s and OpenAI's vocabularies only.

    Args:
        model: a shipped model, a published size, a path, or hf://owner/repo.
        out: the file (.pt) or folder to write.
        to: openai or hf.
        dtype: of the numbers; default: float16 for openai, as published, float32 for hf. float32 is exact.
        json: print one JSON object.
    """
    import torch

    from almanac.whisper import published, recogniser

    found = recogniser.load(model, "cpu")
    save = published.save_openai if to == "openai" else published.save_hugging_face
    save(found.model, found.tokenizer, out, getattr(torch, dtype or ("float16" if to == "openai" else "float32")))
    if remark := published.who_can_run(found.model.dims):
        console.log(remark)
    console.result({"out": str(out), "layout": to, "dims": vars(found.model.dims)}, json, str(out))


def clean(
    recordings: tyro.conf.Positional[Path],
    *,
    out: Path,
    model: str | None = None,
    against: tuple[Path, ...] = (),
    cut: bool = False,
    skip: tuple[str, ...] = (),
    limits: Limits = _LIMITS,
    report: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    json: bool = False,
) -> None:
    """Clean a list of recordings with their texts before training on it: transcripts that machines wrote, texts that belong to
    other speech or another language, what is there twice, names of speakers, damaged and silent files.

    What is kept goes to --out, what is dropped beside it into NAME.dropped.tsv, with the reasons. Shown is how many recordings each
    heuristic dropped (`alone`: no other did) and changed, and what each source has lost. With a model, sources are sorted by error
    rate × hours, as they should be looked at.

    Heuristics, in their order: damaged, silent, long, untold (no text); markup, sounds, speakers (taken out of texts); captions; case,
    punctuation, capitals, spacing, numbers (transcript-ese); language; pace; with a model misheard, partial, untrusted (sources);
    tested (with --against), repeated, no-speech (one of ten is kept).

    Args:
        recordings: the list, tab-separated, with the columns id, path (relative to the list), lang, text, and where they are there task,
            speaker and source.
        out: where the list of what is kept goes.
        model: a first model that hears the recordings, and tells languages and texts that do not fit: a shipped name, a published
            size, a path or hf://owner/repo; default: none.
        against: lists to test on; what has their texts is dropped.
        cut: cut long recordings that have subtitles beside them (NAME.srt, .vtt, .json or .ass, or NAME.LANG.srt …) into
            windows first; these go beside --out, into NAME.windows.
        skip: heuristics to leave out.
        limits: where the heuristics draw their lines.
        report: where all that is counted goes as JSON, with examples of what each heuristic objected to.
        seed: of which recordings without speech are kept.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local, to spread the recordings over.
        json: print one JSON object.
    """
    from almanac.whisper.clean import pipeline

    found = pipeline.run(
        recordings, out, limits, against=against, skip=skip, cut_first=cut, model=model, device_name=device, address=cluster,
        seed=seed, report=report,
    )  # fmt: skip
    console.result(found, json)
    if not json:
        console.result({"rows": found["sources"]}, json)
        console.result({key: found[key] for key in ("kept", "dropped", "changed", "out", "dropped_out")}, json)


def stream(
    file: tyro.conf.Positional[Path | None] = None,
    *,
    model: str | None = None,
    language: str = "auto",
    task: TaskName = "transcribe",
    chunk_seconds: float = 1.0,
    pause_seconds: float = 0.8,
    prompt: str = "",
    previous_text: bool = True,
    fast: bool = False,
    events: bool = False,
    precision: Precision = "auto",
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Transcribe speech while it is spoken: committed text appears on stdout, and never changes once it is there.

    What seems to follow stands behind it, dim, where stderr is a terminal. Ctrl-C ends the input.

    Args:
        file: a recording, which is played in its own time; - for raw 16-bit mono sound of 16 kHz on stdin; default: a microphone.
        model: a shipped model, a published size (tiny, base, small, medium, large-v3, turbo, with .en where there is one), a path, or
            hf://owner/repo; default: the shipped model.
        language: what is spoken, as a code (en) or a name (english); auto: told from the first words.
        task: transcribe (as spoken) or translate (into English).
        chunk_seconds: sound from one decoding to the next, s; a word is committed 1 to 2 chunks after it was said.
        pause_seconds: silence after which all that was said is committed, s.
        prompt: names and words that may come up, or a text in the style that is wanted.
        previous_text: with --no-previous-text the model is not told what was said before the sound that it hears.
        fast: the sound can wait: take FILE, or a pipe, as fast as it can be listened to, chunk by chunk.
        events: print each chunk's news as a line of JSON, instead of the text: heard (s), committed (words), tentative, pause.
        precision: of the network's numbers; see `almanac whisper transcribe --help`.
        seed: of what is drawn.
        device: auto, cpu or cuda.
        json: print one JSON object at the end, instead of the text: text, language, words, latency.
    """
    import sys

    from almanac.whisper import listen, recogniser, transcribe
    from almanac.whisper import stream as verb
    from almanac.whisper.decoding import Options

    if events and json:
        raise UserError("--events and --json both want stdout", "leave one out")
    sound = listen.source(file, fast)
    listener = recogniser.load(model or recogniser.DEFAULT, device, precision)
    options = Options(task=task, language=None if language == "auto" else language, seed=seed)
    options = transcribe.checked(listener, transcribe.Settings(options)).options
    listening = verb.begin(listener, verb.Settings(options, chunk_seconds, pause_seconds, prompt, previous_text))
    if file is None:
        console.log("listening to the microphone (Ctrl-C ends it)")
    show = listen.print_event if events else (lambda update: None) if json else listen.Screen(sys.stdout, sys.stderr)
    found = listen.run(listening, sound, fast, show)
    if json:
        console.result(found, json)
    if found["interrupted"] and file is not None:
        raise SystemExit(130)


def serve(
    *,
    model: tuple[str, ...] = tuple(filter(None, os.environ.get("ALMANAC_MODEL", "").split(","))),
    host: str = os.environ.get("ALMANAC_HOST", "127.0.0.1"),
    port: int = int(os.environ.get("ALMANAC_PORT", "8000")),
    max_megabytes: float = 25.0,
    max_minutes: float = 120.0,
    precision: Precision = "auto",
    seed: int = 0,
    device: str = os.environ.get("ALMANAC_DEVICE", "auto"),
) -> None:
    """Serve OpenAI's audio API: /v1/audio/transcriptions, /v1/audio/translations, /v1/models, and the WebSocket /v1/audio/stream.

    Args:
        model: a shipped model, a published size, a path, or hf://owner/repo; or several, of which the first is the default
            ($ALMANAC_MODEL, with commas); default: the shipped model.
        host: address to listen on ($ALMANAC_HOST); 0.0.0.0 lets other machines in.
        port: port to listen on ($ALMANAC_PORT); 0 takes a free one.
        max_megabytes: of an upload.
        max_minutes: of a recording.
        precision: of the network's numbers; see `almanac whisper transcribe --help`.
        seed: of what is drawn.
        device: auto, cpu or cuda ($ALMANAC_DEVICE).
    """
    try:
        from almanac.runtime import serving
        from almanac.whisper import api
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs {error.name}, which is not installed", "pip install 'almanac[studio]'"
        ) from None
    from almanac.whisper import recogniser

    names = model or (recogniser.DEFAULT,)
    with serving.listen(host, port) as listener:
        recognisers = {api.short_name(name): recogniser.load(name, device, precision) for name in names}
        address = f"http://{host}:{listener.getsockname()[1]}"
        limits = api.Limits(round(max_megabytes * 2**20), max_minutes * 60)
        console.log(f"{', '.join(recognisers)} at {address}/v1 (Ctrl-C stops it)")
        console.log(f"curl {address}/v1/audio/transcriptions -F file=@speech.wav")
        serving.serve(api.application(recognisers, limits, seed), listener)


def train(
    *,
    preset: Preset = "cpu",
    data: tuple[str, ...] = (),
    made: bool = True,
    out: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    width: int | None = None,
    encoder: int | None = None,
    decoder: int | None = None,
    seconds: float | None = None,
    vocabulary: int | None = None,
    learning_rate: float | None = None,
    start: str | None = None,
    compile: bool = False,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Train a recogniser, from scratch or from another (--start); writes OUT/model.safetensors, which the other verbs take as --model.

    It learns from recordings that are listed (`almanac whisper clean` makes such lists tidy) and from speech that machines make of
    phrases in six languages. The first run makes that speech, which takes minutes, and keeps it. A run that is stopped (Ctrl-C, SIGTERM,
    kill -9) goes on with --resume.

    Args:
        preset: size of machine: cpu (two cores, an hour), gpu (one large GPU, 25 minutes), paper (the published recipe of the smallest
            model, for lists of many thousand hours).
        data: lists of recordings (tab-separated: id, path, lang, text, and task where it is translate), or fsdd, nathalie_nl, kerstin_de
            of the development data; default: those three.
        made: learn from speech made by machines too (--no-made: from --data alone).
        out: the run's folder; default: runs/whisper-PRESET.
        steps: optimiser steps, instead of the preset's.
        batch_size: windows a batch, instead of the preset's.
        width: channels of the network, a multiple of 64, instead of the preset's.
        encoder: blocks of the encoder, instead of the preset's.
        decoder: blocks of the decoder, instead of the preset's.
        seconds: length of a window, instead of the preset's.
        vocabulary: tokens to learn, instead of the preset's; 51865: the published ones, which with --seconds 30 give a model that other
            programs run too (`almanac whisper convert`).
        learning_rate: at its peak; default: the preset's, or a tenth of it with --start.
        start: begin with this model's weights (a shipped name, a published size, a path or hf://owner/repo) instead of random ones: what it
            knows, it need not learn. Its sizes, window and vocabulary stay, but for --seconds, --vocabulary and fewer blocks.
        compile: run the network through torch.compile.
        resume: go on with the run in --out.
        seed: of weights, windows and what happens to them.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local to start one here; then --workers processes train together.
        workers: processes on the cluster.
        json: print one JSON object.
    """
    from almanac.runtime import cluster as ray
    from almanac.whisper import recogniser
    from almanac.whisper import train as recipe

    begun = recogniser.load(start, "cpu") if start else None
    sizes = {"width": width, "encoder": encoder, "decoder": decoder, "seconds": seconds, "vocabulary": vocabulary}
    chosen = recipe.with_overrides(
        recipe.PRESETS[preset],
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lists=data,
        made=made,
        compile=compile,
        start=begun,
        **sizes,
    )
    folder = (out or Path("runs") / f"whisper-{preset}").absolute()

    def run() -> dict[str, Any]:
        return recipe.train(folder, chosen, start=begun, seed=seed, device_name=device, resume=resume)

    gpus = 0 if device == "cpu" else 1
    facts = run() if cluster is None else ray.train(run, address=cluster, workers=workers, gpus=gpus)
    shown = {key: facts[key] for key in ("steps", "loss", "seconds", "windows_per_second")}
    console.result({**facts, "out": str(folder)}, json, f"{folder}/model.safetensors  {shown}")


def evaluate(
    *,
    model: tuple[str, ...] = (),
    manifest: Path | None = None,
    n: int = 200,
    beam_size: int = 5,
    families: Path | None = None,
    cleaning: bool = False,
    out: Path | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Measure how well models hear.

    With --manifest: errors in words (wer) and letters (cer) on your own recordings, normalised as the paper does, and how often their
    language was told right; of recordings without speech (lang zxx), how often text was made of them. Without: the whole table on
    sets that training did not hear, into results/whisper/evaluate.json; or one of two experiments, --families or --cleaning.

    Args:
        model: models to measure (shipped names, published sizes or paths); default: the shipped model.
        manifest: a tab-separated list with the columns id, path (relative to the list), lang and text; others are ignored, but that
            figures are given by `source` where there is one, else by folder.
        n: without --manifest: at most so many clips a set.
        beam_size: beams; 1: greedy.
        families: the review's figure of robustness: train models of narrow and of diverse data in this folder (those that are there are
            kept), measure them on familiar and on shifted recordings, and draw robustness.png.
        cleaning: dirty a part of the real sets, and measure how much of it each heuristic of `clean` finds: cleaning.json.
        out: without --manifest: folder for the table; default: results/whisper.
        precision: of the network's numbers; see `almanac whisper transcribe --help`.
        seed: of what is drawn.
        device: auto, cpu or cuda.
        json: print one JSON object.
    """
    from almanac.runtime import results
    from almanac.whisper import evaluate as verb
    from almanac.whisper import recogniser
    from almanac.whisper.decoding import Options

    names = list(model) or [recogniser.DEFAULT]
    options = Options(beam_size=beam_size if beam_size > 1 else None, seed=seed)
    if manifest is not None:
        if len(names) > 1:
            raise UserError(f"--manifest measures one model, not {len(names)}", "give one --model")
        clips = verb.of_list(manifest)
        with console.progress("listening", len(clips), "clips") as advance:
            found = recogniser.load(names[0], device, precision)
            heard = [(one, advance())[0] for one in verb.listen(found, clips, options)]
        figures = verb.summary(heard)
        rows = [{"set": name, **scores} for name, scores in figures["by_set"].items()]
        console.result(figures if json else {"rows": rows}, json)
        return
    folder = out or results.default_folder("whisper")
    if cleaning:
        _evaluate_cleaning(folder, seed, json)
        return
    if families is not None:
        _evaluate_families(families, folder, n, seed, device, json)
        return
    models = {name: recogniser.load(name, device, precision) for name in names}
    rows = []
    with console.progress("listening", sum(verb.clips_in_table(found, n) for found in models.values())) as advance:
        for name, found in models.items():
            rows += verb.table(found, name, n, options, advance)
    results.write("whisper", "evaluate", rows, seed, folder, by="model")
    console.result({"rows": rows}, json)


def _evaluate_cleaning(folder: Path, seed: int, json: bool) -> None:
    from almanac.runtime import results
    from almanac.whisper.clean import experiment, pipeline

    rows = experiment.measure(pipeline.gather(experiment.entries(), _LIMITS), _LIMITS, seed)
    results.write("whisper", "cleaning", rows, seed, folder)
    console.result({"rows": rows}, json)


def _evaluate_families(runs: Path, folder: Path, limit: int, seed: int, device: str, json: bool) -> None:
    from almanac.runtime import results
    from almanac.whisper import robustness

    total = sum(len(family.members) for family in robustness.FAMILIES.values())
    with console.progress("training and measuring", total, "models") as advance:
        rows = robustness.run(runs, limit, seed, device, advance)
    figure = robustness.draw_figure(rows, folder / "robustness.png")
    rows += robustness.at_equal_reference(rows)
    results.write("whisper", "robustness", rows, seed, folder)
    console.result({"rows": rows, "figure": str(figure)} if json else {"rows": rows}, json)


COMMANDS: dict[str, Callable[..., None]] = {
    "transcribe": transcribe,
    "convert": convert,
    "clean": clean,
    "train": train,
    "evaluate": evaluate,
    "stream": stream,
    "serve": serve,
}
