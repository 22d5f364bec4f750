"""The review's figure (paper §3.2, figure 2): models trained on narrow data read the kind of recording that they know well, and others
badly; models of diverse, multitask data lose far less. Both families are small models of ours that read digits. The reference is
new recordings of the speakers whom both know; shifted sets change the speaker, the room, the line, the noise, the codec, or the
speaker for a machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from almanac.runtime import hub
from almanac.runtime.fit import FitConfig
from almanac.whisper import audio, augment, data, recogniser
from almanac.whisper import phrases as grammar
from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.data import Recipe
from almanac.whisper.decoding import Options
from almanac.whisper.evaluate import Clip, Heard, held_out, listen, score
from almanac.whisper.sampler import Mix
from almanac.whisper.speak import Voice, has_flite, speak
from almanac.whisper.train import HELD_OUT_ROOM, Preset, train

REFERENCE = "familiar speakers"
_FIT = FitConfig(
    1_000, learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.1, warmup_steps=100, ema_decay=0.99, save_every=200
)
_NARROW = Preset(
    64, 2, 1, 3.0, 280, 16, _FIT, spelling=2.0, guidance=1.0, context=96,
    recipe=Recipe(("fsdd",), 0, 0, 0, 0),
    mix=Mix(no_speech=0.0, times=0.0, previous_text=0.0, single=0.7),
    augmentation=augment.NONE,
)  # fmt: skip
_DIVERSE = replace(
    _NARROW,
    seconds=5.0,
    vocabulary=512,
    context=160,
    recipe=Recipe(phrases=1500, open=750, digits=200, spliced=0),
    mix=Mix(
        {"fsdd": 4.0, "digits": 2.0, "nathalie_nl": 1.0, "kerstin_de": 1.0, "phrases": 2.0, "words": 1.0},
        single=0.5,
    ),
    augmentation=augment.Augmentation(),
)


@dataclass(frozen=True)
class Member:
    """A model of a family."""

    preset: Preset
    start: str | None = None
    """The member that it goes on from, which was trained for a shorter time."""


@dataclass(frozen=True)
class Family:
    """Models that differ in size and length of training."""

    line: str
    """What they are trained on."""
    members: dict[str, Member]


def _sized(base: Preset, width: int, steps: int) -> Preset:
    rate = {64: 3e-3, 128: 2e-3, 192: 1.5e-3}[width]
    return replace(base, width=width, fit=replace(base.fit, steps=steps, learning_rate=rate, muon=2 * rate))


def _longer(family: str, base: Preset, width: int, parts: Sequence[int]) -> dict[str, Member]:
    """Models of a width that go on from each other, after so many steps more each."""
    found: dict[str, Member] = {}
    total, last = 0, None
    for steps in parts:
        preset = _sized(base, width, steps)
        preset = replace(preset, mix=replace(preset.mix, easy=0 if last else steps // 2))
        total += steps
        name = f"{family}-{width}-{total}"
        found[name] = Member(preset, last)
        last = name
    return found


FAMILIES = {
    "narrow": Family(
        "digits by three speakers, as they were recorded",
        {
            f"narrow-{width}-{steps}": Member(_sized(_NARROW, width, steps))
            for width, steps in ((64, 600), (64, 1000), (128, 300), (128, 500), (192, 600))
        },
    ),
    "diverse": Family(
        "those digits, two readers' sentences and machines in six languages, disturbed; all tasks",
        {
            **_longer("diverse", _DIVERSE, 64, (2000, 1000, 1000)),
            **_longer("diverse", _DIVERSE, 128, (2000, 1000)),
            **_longer("diverse", _DIVERSE, 192, (2000,)),
        },
    ),
}


def sets(limit: int) -> dict[str, list[Clip]]:
    """The reference and the shifted sets, each of at most `limit` clips."""
    draw = np.random.default_rng(0)
    known = [
        Clip(partial(audio.read, entry.path), entry.language, entry.text, REFERENCE)
        for entry in data.familiar_entries()[:: max(1, len(data.familiar_entries()) // limit)]
    ][:limit]
    speech = hub.data("speech")
    kitchen = audio.read(speech / "noise" / "kitchen.opus")
    room = audio.read(next((speech / "rir").glob(f"{HELD_OUT_ROOM}.*")))
    strangers = held_out("fsdd")
    found = {REFERENCE: known, "new speaker": strangers[:: max(1, len(strangers) // limit)][:limit]}

    def noisy(samples: Samples) -> Samples:
        start = int(draw.integers(len(kitchen) - len(samples)))
        return augment.with_noise(samples, kitchen[start : start + len(samples)], 5.0)

    changes: dict[str, Callable[[Samples], Samples]] = {
        "kitchen noise, 5 dB": noisy,
        "telephone": augment.telephone,
        "Opus, 8 kbit/s": lambda samples: augment.through_codec(samples, "libopus", "ogg", 48_000, 8_000),
        "room": lambda samples: augment.in_room(samples, room),
    }
    for name, change in changes.items():
        found[name] = [replace(clip, read=partial(_same, change(_padded(clip.read()))), set=name) for clip in known]
    found["machine"] = _machine_digits(limit)
    return found


def _padded(samples: Samples) -> Samples:
    """With 0.2 s of silence before and after, into which a room or a codec may ring."""
    return np.pad(samples, SAMPLE_RATE // 5)


def _same(samples: Samples) -> Samples:
    return samples


def _machine_digits(limit: int) -> list[Clip]:
    """Digits by flite's voice that no training hears, or where flite is not installed by espeak-ng's."""
    found = []
    for index in range(min(limit, 50)):
        voice = Voice(f"flite:{data.HELD_OUT_FLITE}")
        if not has_flite():
            voice = Voice(f"en-us+{data.HELD_OUT_VARIANTS[index % len(data.HELD_OUT_VARIANTS)]}")
        text = " ".join(grammar.number((index * 7 + k) % 10, "en") for k in range(index % 3 + 1))
        found.append(Clip(partial(_same, speak(text, voice).samples), "en", text, "machine"))
    return found


def run(out: Path, limit: int, seed: int, device_name: str, advance: Callable[..., None]) -> list[dict[str, Any]]:
    """Train every model of both families (those that are there already are kept, those that were stopped go on) and measure them.

    Args:
        out: a folder for their runs.
        limit: at most so many clips a set.
        seed: of the trainings.
        device_name: where to run.
        advance: told of each model.

    Returns:
        A row a model: `model, family, parameters, reference, shifted` (WER; the mean over the shifted sets), their 95 % intervals by
        bootstrap over clips, and the WER of each shifted set.
    """
    clips = sets(limit)
    rows = []
    for family, found in FAMILIES.items():
        for name, member in found.members.items():
            folder = out / name
            if not (folder / "model.safetensors").is_file():
                resume = (folder / "last.pt").is_file()
                start = recogniser.load(str(out / member.start / "model.safetensors"), "cpu") if member.start else None
                train(folder, member.preset, start=start, seed=seed, device_name=device_name, resume=resume)
            rows.append({"model": name, "family": family, **measure(folder / "model.safetensors", clips, device_name)})
            advance(note=f"{name}: {rows[-1]['reference']:.3f}, {rows[-1]['shifted']:.3f}")
    return rows


def measure(weights: Path, clips: dict[str, list[Clip]], device_name: str) -> dict[str, Any]:
    """The row of one model."""
    found = recogniser.load(str(weights), device_name)
    heard = {name: list(listen(found, group, Options(timestamps=False))) for name, group in clips.items()}
    errors = {name: score(group)["wer"] for name, group in heard.items()}
    shifted = [name for name in heard if name != REFERENCE]
    return {
        "parameters": sum(parameter.numel() for parameter in found.model.parameters()),
        "reference": errors[REFERENCE],
        "reference_interval": interval([heard[REFERENCE]]),
        "shifted": round(float(np.mean([errors[name] for name in shifted])), 4),
        "shifted_interval": interval([heard[name] for name in shifted]),
        "sets": {name: errors[name] for name in shifted},
    }


def interval(groups: Sequence[Sequence[Heard]], times: int = 500) -> tuple[float, float]:
    """The middle 95 % of the mean WER of sets of clips, each drawn anew with replacement."""
    import jiwer

    from almanac.whisper import normalise

    counts = []
    for group in groups:
        pairs = [(normalise.english(one.clip.text).strip(), normalise.english(one.text).strip()) for one in group]
        measured = [jiwer.process_words(truth, said) for truth, said in pairs]
        wrong = [m.substitutions + m.deletions + m.insertions for m in measured]
        counts.append(np.array([wrong, [m.substitutions + m.deletions + m.hits for m in measured]]))
    draw = np.random.default_rng(0)
    means = []
    for _ in range(times):
        drawn = [count[:, draw.integers(count.shape[1], size=count.shape[1])].sum(1) for count in counts]
        means.append(np.mean([wrong / words for wrong, words in drawn]))
    low, high = np.percentile(means, (2.5, 97.5))
    return round(float(low), 4), round(float(high), 4)


def at_equal_reference(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both families where their reference WER is the same, in the middle of what both span, on the lines that are fitted to them.

    Args:
        rows: of the models, as `run` makes them.

    Returns:
        A row a family: `model` ("fitted line"), `family, reference, shifted`, and its 95 % interval by bootstrap over models.
    """
    spans = [_places([row for row in rows if row["family"] == family])[0] for family in FAMILIES]
    middle = (max(x.min() for x in spans) + min(x.max() for x in spans)) / 2
    found = []
    for family in FAMILIES:
        x, y = _places([row for row in rows if row["family"] == family])
        low, high = _bands(x, y, middle[None])
        shifted = np.polyval(np.polyfit(x, y, 1), middle)
        found.append(
            {
                "model": "fitted line",
                "family": family,
                "reference": round(float(middle), 4),
                "shifted": round(float(shifted), 4),
                "shifted_interval": (round(float(low[0]), 4), round(float(high[0]), 4)),
            }
        )
    return found


def draw_figure(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Reference WER against shifted WER, a dot a model with its intervals, a fitted line with its band a family, and y = x.

    Args:
        rows: of the models, as `run` makes them.
        path: the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5.2), layout="constrained")
    right = 100 * max(row["reference_interval"][1] for row in rows) * 1.05
    for family, colour in (("narrow", "#2f6fb0"), ("diverse", "#8a4fbf")):
        own = [row for row in rows if row["family"] == family]
        x, y = _places(own)
        spread = {
            name: 100 * np.maximum(0, np.abs(np.array([row[f"{name}_interval"] for row in own]).T - values))
            for name, values in (("reference", x), ("shifted", y))
        }
        axes.errorbar(
            100 * x, 100 * y, spread["shifted"], spread["reference"], fmt="none", ecolor=colour, alpha=0.35, lw=1
        )
        axes.scatter(100 * x, 100 * y, s=42, color=colour, zorder=3, label=f"{family}: {FAMILIES[family].line}")
        line = np.linspace(x.min(), x.max(), 50)
        low, high = _bands(x, y, line)
        axes.plot(100 * line, 100 * np.polyval(np.polyfit(x, y, 1), line), color=colour, lw=1.5)
        axes.fill_between(100 * line, 100 * low, 100 * high, color=colour, alpha=0.12, lw=0)
    axes.plot((0, right), (0, right), "k--", lw=1, label="ideal robustness (y = x)")
    axes.set(
        xlim=(0, right),
        ylim=(0, 100),
        xlabel="WER on new recordings of familiar speakers, %",
        ylabel="mean WER on shifted sets, %",
    )
    axes.set_title(_in_words(at_equal_reference(rows)), fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _in_words(lines: Sequence[dict[str, Any]]) -> str:
    """The fitted lines' values where both families are as good on what they know."""
    percent = [[100 * value for value in (line["shifted"], *line["shifted_interval"])] for line in lines]
    values = [
        f"{line['family']} {y:.0f} % [{low:.0f}, {high:.0f}]"
        for line, (y, low, high) in zip(lines, percent, strict=True)
    ]
    return f"At {100 * lines[0]['reference']:.1f} % on familiar speakers, on shifted sets: {', '.join(values)}"


def _places(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Reference and shifted WER of models."""
    x, y = np.array([(row["reference"], row["shifted"]) for row in rows]).T
    return x, y


def _bands(x: np.ndarray, y: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle 95 % of lines fitted to models drawn anew with replacement."""
    draw = np.random.default_rng(0)
    fits = []
    while len(fits) < 300:
        chosen = draw.integers(len(x), size=len(x))
        if len(set(x[chosen].tolist())) > 1:
            fits.append(np.polyval(np.polyfit(x[chosen], y[chosen], 1), line))
    low, high = np.percentile(fits, (2.5, 97.5), axis=0)
    return low, high
