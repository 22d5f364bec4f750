"""Whatever a person gives as a picture is read right, or is a UserError of two lines."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from almanac.runtime.errors import UserError
from almanac.runtime.pictures import MAX_PIXELS, grid, read_picture, spread, strip, to_picture, to_tensor

GRADIENT = np.linspace(0, 255, 12 * 8).astype(np.uint8).reshape(8, 12)
COLOURS = np.stack([GRADIENT, GRADIENT[::-1], np.full_like(GRADIENT, 90)], -1)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes) -> Image.Image:
    return read_picture(io.BytesIO(content))


def pixels_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


def refusal(content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(content)
    assert len(str(caught.value).splitlines()) == 2
    return caught.value.what


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by its specification, so that what Pillow can't write can be read."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_rows(pixels: np.ndarray) -> bytes:
    """Rows of bytes, each behind the filter type 0."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def test_grey_and_colour_come_back_as_they_are(tmp_path: Path):
    for pixels, mode in ((GRADIENT, "L"), (COLOURS, "RGB")):
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})):
            path = tmp_path / f"picture.{kind.lower()}"
            path.write_bytes(encoded(Image.fromarray(pixels), kind, **options))
            for source in (path, str(path), path.open("rb")):
                found = read_picture(source)
                expected = pixels if found.mode == mode else np.stack([pixels] * 3, -1)  # WebP has no grey
                assert np.array_equal(pixels_of(found), expected)
                assert found.mode == mode or kind == "WEBP"


def test_a_jpeg_comes_back_about_as_it_is():
    for pixels, mode in ((GRADIENT, "L"), (COLOURS, "RGB")):
        found = read(encoded(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0))
        assert found.mode == mode
        assert np.abs(pixels_of(found).astype(int) - pixels).mean() < 4


def test_a_cmyk_jpeg_has_the_colours_it_was_made_of():
    flat = Image.new("RGB", (16, 16), (200, 60, 30))
    found = read(encoded(flat.convert("CMYK"), "JPEG", quality=95))
    assert found.mode == "RGB"
    assert np.abs(pixels_of(found).astype(int) - (200, 60, 30)).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright_however_the_camera_was_held(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = GRADIENT if orientation < 5 else GRADIENT[:, :8]
    found = pixels_of(read(encoded(Image.fromarray(stored), "PNG", exif=exif)))
    turned = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: np.rot90(stored, -1), 7: np.rot90(stored, 2).T, 8: np.rot90(stored),
    }  # fmt: skip
    assert np.array_equal(found, turned[orientation])


def test_of_a_photograph_with_damaged_exif_only_the_exif_is_lost():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    whole = encoded(Image.fromarray(COLOURS), "JPEG", exif=exif)
    expected = pixels_of(read(whole))
    assert expected.shape == (12, 8, 3)
    start = whole.index(b"Exif")
    lost = 0
    for place in range(start, start + 50):
        for value in (0, 1, 255):
            damaged = pixels_of(read(whole[:place] + bytes([value]) + whole[place + 1 :]))
            turned = damaged.shape == expected.shape
            assert np.array_equal(damaged if turned else np.rot90(damaged, -1), expected)
            lost += not turned
    assert 0 < lost < 100


def test_transparency_is_laid_on_white():
    alpha = np.zeros_like(GRADIENT)
    alpha[:, 6:] = 255
    for pixels, mode in ((GRADIENT, "L"), (COLOURS, "RGB")):
        layers = np.dstack([pixels, alpha])
        found = read(encoded(Image.fromarray(layers), "PNG"))
        assert found.mode == mode
        assert np.array_equal(pixels_of(found)[:, 6:], pixels[:, 6:])
        assert (pixels_of(found)[:, :6] == 255).all()


def test_half_transparency_is_half_white():
    found = read(encoded(Image.new("RGBA", (4, 4), (0, 100, 200, 128)), "PNG"))
    assert np.abs(pixels_of(found).astype(int) - (127, 177, 227)).max() <= 1


def test_a_palette_gives_its_colours_and_its_transparency():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    picture.paste(2, (0, 0, 4, 8))
    plain, holed = read(encoded(picture, "PNG")), read(encoded(picture, "PNG", transparency=2))
    assert (plain.mode, plain.getpixel((0, 0)), plain.getpixel((7, 7))) == ("RGB", (0, 0, 0), (200, 100, 50))
    assert (holed.mode, holed.getpixel((0, 0)), holed.getpixel((7, 7))) == ("RGB", (255, 255, 255), (200, 100, 50))


def test_a_colour_that_stands_for_transparency_is_white():
    grey = read(encoded(Image.fromarray(GRADIENT), "PNG", transparency=int(GRADIENT[3, 3])))
    assert (grey.mode, grey.getpixel((3, 3)), grey.getpixel((5, 5))) == ("L", 255, int(GRADIENT[5, 5]))
    colour = read(encoded(Image.fromarray(COLOURS), "PNG", transparency=tuple(int(value) for value in COLOURS[3, 3])))
    assert (colour.mode, colour.getpixel((3, 3))) == ("RGB", (255, 255, 255))


def test_16_bits_are_scaled_to_8():
    wide = np.linspace(0, 65535, 8 * 12).astype(np.uint16).reshape(8, 12)
    found = read(png(12, 8, 16, 0, png_rows(wide.astype(">u2"))))
    assert found.mode == "L"
    assert np.array_equal(pixels_of(found), (wide / 257).round().astype(np.uint8))
    assert found.getextrema() == (0, 255)


def test_16_bits_of_grey_may_have_a_transparent_value():
    wide = np.array([[0, 300, 65535, 20_000]] * 4, dtype=">u2")
    found = pixels_of(read(png(4, 4, 16, 0, png_rows(wide), (b"tRNS", struct.pack(">H", 300)))))
    assert found[0].tolist() == [0, 255, 255, 78]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bits_of_colour_or_with_transparency_are_scaled_to_8(colour: int, channels: int):
    pixels = np.full((4, 4, channels), 65535, dtype=">u2")
    pixels[..., 0] = 32_768
    found = read(png(4, 4, 16, colour, png_rows(pixels)))
    assert pixels_of(found).reshape(16, -1)[0, 0] in (127, 128)


def test_one_bit_is_black_and_white():
    picture = Image.new("1", (8, 8), 1)
    picture.putpixel((2, 2), 0)
    found = read(encoded(picture, "PNG"))
    assert (found.mode, found.getpixel((2, 2)), found.getpixel((0, 0))) == ("L", 0, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:], "duration": 100}
    found = read(encoded(frames[0], kind, **options, **({"lossless": True} if kind == "WEBP" else {})))
    assert (found.mode, found.getpixel((4, 4))) == ("RGB", (255, 0, 0))


def test_a_transparent_gif_is_laid_on_white():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    picture.paste(0, (0, 0, 4, 8))
    found = read(encoded(picture, "GIF", transparency=0))
    assert (found.getpixel((0, 0)), found.getpixel((7, 7))) == ((255, 255, 255), (200, 100, 50))


def test_an_animation_leaves_no_file_open(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    path = tmp_path / "animation.gif"
    Image.new("L", (8, 8)).save(path, save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [read_picture(path) for _ in range(5)]
    assert len(kept) == 5
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not an image"),
        (b"a,b\n1,2\n" * 50, "is not an image"),
        (bytes(1000), "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image"),  # no Ghostscript
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (b"GIF89a", "is not an image"),
    ],
)
def test_what_is_not_a_picture_is_a_user_error(content: bytes, said: str):
    assert said in refusal(content)


def test_a_missing_file_and_a_folder_are_user_errors(tmp_path: Path):
    with pytest.raises(UserError, match="there is no file"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(UserError, match="is a folder, not an image"):
        read_picture(tmp_path)
    for name in ("a\0b.png", "x" * 5000):
        with pytest.raises(UserError) as caught:
            read_picture(name)
        assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 100), (100, 3)])
def test_too_small_a_picture_is_a_user_error_with_its_size(width: int, height: int):
    assert f"is {width}×{height} pixels" in refusal(encoded(Image.new("L", (width, height)), "PNG"))


@pytest.mark.parametrize("size", [(20_000, 20_000), (8000, 5001), (65_500, 65_500)])
def test_too_large_a_picture_is_a_user_error_before_it_is_decoded(size: tuple[int, int]):
    width, height = size
    header_only = png(width, height, 1, 0, b"")  # its pixels aren't there: decoding would fail in another way
    assert f"more than {MAX_PIXELS:,}" in refusal(header_only)


def test_the_largest_picture_is_read():
    content = encoded(Image.new("1", (8000, MAX_PIXELS // 8000)), "PNG")
    assert read(content).size == (8000, MAX_PIXELS // 8000)


def test_compressed_text_in_a_picture_cannot_fill_the_memory():
    bomb = b"comment\0\0" + zlib.compress(bytes(300_000_000), 9)
    pixels = png_rows(GRADIENT)
    assert "too large" in refusal(png(12, 8, 8, 0, pixels, (b"zTXt", bomb)))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
WHOLE = {
    "PNG": encoded(NOISE, "PNG"),
    "JPEG": encoded(NOISE, "JPEG"),
    "WEBP": encoded(NOISE, "WEBP", lossless=True),
    "GIF": encoded(NOISE, "GIF"),
    "BMP": encoded(NOISE, "BMP"),
}
kinds = pytest.mark.parametrize("kind", WHOLE)


@kinds
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_truncated_picture_is_whole_or_a_user_error(kind: str, data: st.DataObject):
    whole = WHOLE[kind]
    try:
        found = read(whole[: data.draw(st.integers(0, len(whole) - 1))])
    except UserError as error:
        assert len(str(error).splitlines()) == 2
        return
    assert np.array_equal(pixels_of(found), pixels_of(read(whole)))  # what was missing was no pixel


@kinds
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_a_picture_with_changed_bytes_is_read_or_a_user_error(kind: str, data: st.DataObject):
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged), 700) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(damaged))
    except UserError as error:
        assert len(str(error).splitlines()) == 2
        return
    assert found.mode in ("L", "RGB")


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM"]),
    st.binary(),
)
def test_random_bytes_are_a_user_error(magic: bytes, content: bytes):
    refusal(magic + content)


@pytest.mark.parametrize("pixels", [GRADIENT, COLOURS])
def test_a_picture_survives_the_way_to_a_tensor_and_back(pixels: np.ndarray):
    picture = Image.fromarray(pixels)
    tensor = to_tensor(picture, 1 if pixels.ndim == 2 else 3)
    assert tensor.shape == (1 if pixels.ndim == 2 else 3, 8, 12)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert np.array_equal(pixels_of(to_picture(tensor)), pixels)


def test_a_tensor_outside_its_range_is_clipped():
    assert pixels_of(to_picture(torch.tensor([[[-9.0, -1.0], [1.0, 9.0]]]))).tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize(
    ("show", "size"), [(lambda: strip([NOISE] * 3, 2, 4), (200, 48)), (lambda: grid(torch.zeros(5, 1, 6, 7)), (29, 16))]
)
def test_sheets_are_as_large_as_their_pictures_and_gaps(show: Callable[[], Image.Image], size: tuple[int, int]):
    assert show().size == size


@given(st.integers(1, 200), st.integers(2, 20))
def test_spread_keeps_the_first_and_the_last_in_order(length: int, count: int):
    chosen = spread(range(length), count)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, length - 1, min(length, count))
    assert chosen == sorted(set(chosen))
