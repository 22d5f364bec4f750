"""The data sets that we know but that are not ours: where each lies below $ALMANAC_DATA, its licence, and where it is downloaded from.
`hub.data` finds and fetches them; a system's `data.py` reads them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One file of a data set."""

    url: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A data set that is not ours."""

    folder: str
    """Its folder below $ALMANAC_DATA."""
    licence: str
    layouts: tuple[tuple[str, ...], ...]
    """Lists of files; a folder that has all of one of them has the set."""
    sources: tuple[Source, ...] = ()
    """Where to download it; empty where it can't be had as plain files."""
    how: str = ""
    """How to get it where there are no sources."""


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_WHISPER = "https://raw.githubusercontent.com/openai/whisper/c0d2f624c09dc18e709e37c2ad90c039a4eb72a2/whisper/assets"

DATA: dict[str, DataSet] = {
    "mnist": DataSet(
        "images/mnist",
        "CC BY-SA 3.0 (LeCun, Cortes, Burges)",
        (tuple(f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")),),
        (
            Source(
                f"{_MNIST}/train-images-idx3-ubyte.gz",
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Source(
                f"{_MNIST}/train-labels-idx1-ubyte.gz",
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Source(
                f"{_MNIST}/t10k-images-idx3-ubyte.gz",
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Source(
                f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "cifar10": DataSet(
        "images/cifar10",
        "none stated (Krizhevsky 2009)",
        (("cifar-10-binary.tar.gz",), ("cifar10_train_subset_jpg.zip", "cifar10_test_subset_jpg.zip")),
        (
            Source(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
    "clip_bpe": DataSet(
        "images/clip_bpe",
        "MIT (OpenAI)",
        (("bpe_simple_vocab_16e6.txt.gz",),),
        (
            Source(
                "https://raw.githubusercontent.com/openai/CLIP/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/bpe_simple_vocab_16e6.txt.gz",
                "bpe_simple_vocab_16e6.txt.gz",
                1_356_917,
                "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
            ),
        ),
    ),
    "emoji": DataSet(
        "images/emoji",
        "Apache-2.0 (Noto), MIT (Fluent)",
        (("noto_64_webp.zip",),),
        how="install the font Noto Color Emoji (Debian: fonts-noto-color-emoji), or put pictures as noto_64_webp.zip",
    ),
    "pages": DataSet(
        "pages",
        "of each part its own, from MIT to CC BY-SA 4.0 and GPL-2.0; see its PROVENANCE.md",
        (("scifact/corpus.jsonl.gz", "miniweb/miniweb.tar.xz"),),
        how="put SciFact, ClapNQ, WiCE, CANARD and the mini web",
    ),
    "block_nerf": DataSet(
        "block_nerf",
        "ODbL 1.0 (OpenStreetMap contributors) and PDDL (City of San Francisco) for San Francisco; BSD 2-clause (Mapillary) for Lund",
        (("sf_alamo_square.json", "sf_mission_bay_third_street.json"),),
        how="put sf_alamo_square.json and sf_mission_bay_third_street.json",
    ),
    "racing": DataSet(
        "racing",
        "MIT (fastest-lap), LGPL-3.0 (TUMFTM; centre lines © OpenStreetMap contributors, ODbL)",
        (("fastest_lap/tracks/catalunya.xml", "tumftm_racetrack_database/tracks/Norisring.csv"),),
        how="put fastest-lap's database as fastest_lap and TUMFTM's racetrack-database as tumftm_racetrack_database",
    ),
    "speech": DataSet(
        "speech",
        "CC BY-SA 4.0 (Free Spoken Digit Dataset), CC0 (rhasspy's Nathalie and Kerstin); see its PROVENANCE.md for the clips",
        (("manifest.tsv",),),
        how="put recordings and their list, manifest.tsv,",
    ),
    "whisper-vocabulary": DataSet(
        "speech/assets",
        "MIT (OpenAI)",
        (("gpt2.tiktoken", "multilingual.tiktoken"),),
        (
            Source(
                f"{_WHISPER}/gpt2.tiktoken",
                "gpt2.tiktoken",
                835_554,
                "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
            ),
            Source(
                f"{_WHISPER}/multilingual.tiktoken",
                "multilingual.tiktoken",
                816_730,
                "b34b360dbb493e781e479794586d661700670d65564001f23024971d1f2fa126",
            ),
            Source(
                f"{_WHISPER.removesuffix('assets')}normalizers/english.json",
                "english.json",
                56_128,
                "6607f948be9824d2e1b2fa2223cd94c06c45afa4e05ea0e3d5e1f2bdffde2465",
            ),
        ),
    ),
}
