"""The table of systems: strings only, so that `almanac --help` answers at once. The CLI, the tour and Studio read it and import a
system's rooms (`almanac.<name>.cli`, `.tour`, `.page`) when they need them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One of the systems."""

    name: str
    """Its package below `almanac`."""
    title: str
    """What its paper calls it."""
    line: str
    """What it does, in a line."""
    paper: str
    """Where it is described."""
    verbs: tuple[str, ...]
    """Its verbs, as `almanac SYSTEM VERB` takes them."""

    @property
    def command(self) -> str:
        """Its name on the command line."""
        return self.name.replace("_", "-")


SYSTEMS = (
    System(
        "cold_diffusion",
        "Cold Diffusion",
        "restore or generate images by inverting any degradation: blur, mask, pixels, snow, colour, animals, noise",
        "arXiv 2208.09392",
        ("degrade", "train", "restore", "generate", "evaluate", "features"),
    ),
    System(
        "whisper",
        "Whisper",
        "speech in many languages to text, English, timestamps and subtitles, from files or while it is spoken",
        "arXiv 2212.04356",
        ("transcribe", "stream", "convert", "clean", "train", "evaluate", "serve"),
    ),
    System(
        "chat",
        "ChatGPT",
        "open-weight language models, and a server that holds many conversations at once",
        "arXiv 2203.02155",
        ("serve", "complete", "repl"),
    ),
    System(
        "stable_diffusion",
        "Stable Diffusion",
        "pictures from words, from a picture and words, and into the holes of a picture; models of your own pictures",
        "arXiv 2112.10752",
        ("generate", "train-vae", "train", "lora", "recogniser", "evaluate", "upscale", "convert", "inspect"),
    ),
    System(
        "sophy",
        "Gran Turismo Sophy",
        "a racing simulator at the limit of grip, the fastest lap in it, an agent that learns to drive it, and races against it",
        "Nature 602, 223 (2022)",
        ("train", "drive", "race", "replay", "evaluate", "optimal-lap", "track", "validate"),
    ),
    System(
        "youchat",
        "YouChat",
        "a search box over pages that you crawl or give, whose every sentence has a reference that can be checked",
        "you.com, December 2022",
        ("crawl", "index", "search", "ask", "serve", "evaluate"),
    ),
    System(
        "multigame_dt",
        "Multi-Game Decision Transformers",
        "one agent for many Atari games, trained on logged play, good and bad; the play, too, and the released agent",
        "arXiv 2205.15241",
        ("collect", "replay-log", "train", "play", "evaluate", "score", "import", "export", "convert"),
    ),
    System(
        "block_nerf",
        "Block-NeRF",
        "a neighbourhood's photos in, a city to fly through out, in blocks that are each learnt alone; one can be replaced",
        "arXiv 2202.05263",
        ("capture-city", "train", "update-block", "render", "view", "export", "evaluate"),
    ),
)


def find(command: str) -> System | None:
    """The system of that name on the command line."""
    return next((system for system in SYSTEMS if command in (system.command, system.name)), None)
