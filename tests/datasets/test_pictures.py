"""Pictures of any kind are read, or refused in one line."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stages.datasets.drawings import EmptyPictureError
from stages.datasets.layout import read_picture
from stages.datasets.pictures import (
    FORMATS,
    MAX_BYTES,
    SUFFIXES,
    PictureError,
)
from tests.datasets.hostile import dots, encoded, png_chunk
from tests.project import ROOT
from tests.samples import SHAPE, read_drawing

# By how many megabytes the process grows.
MEASURE = """
import sys
from pathlib import Path
from PIL import Image
from stages.datasets.layout import read_picture

def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1000

Image.preinit()
before = megabytes("VmRSS")
with open(sys.argv[1], "rb") as file:
    read_picture(file, "drawing", (1, 28, 28))
print(megabytes("VmHWM") - before)
"""


def python(*arguments: object) -> str:
    """Run Python with warnings shown; it must write nothing to stderr."""
    command = [sys.executable, "-W", "default", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def read(content: bytes, layout: str = "drawing") -> np.ndarray:
    return read_picture(io.BytesIO(content), layout, SHAPE)[0]


def square(mode: str = "RGB") -> Image.Image:
    """A black square on white, 40 x 40 pixels."""
    image = Image.new("L", (40, 40), 255)
    image.paste(0, (10, 10, 30, 30))
    return image.convert(mode)


def test_any_of_2100_random_pictures_is_read_or_refused_in_one_line():
    lines = python("-m", "tests.datasets.hostile", 0, 2100).splitlines()
    counts = {result: int(count) for count, result in (line.split(maxsplit=1) for line in lines)}
    assert sum(counts.values()) == 2 * 2100  # in both layouts
    assert counts["read"] > 1000
    assert counts["damaged picture"] > 500


def test_the_suffixes_are_those_that_pillow_knows_for_the_formats():
    extensions = Image.registered_extensions()
    assert {suffix for suffix, form in extensions.items() if form in FORMATS} == SUFFIXES


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("PNG", mode) for mode in ("L", "RGB", "RGBA", "P", "1", "LA", "I;16")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        *(("TIFF", mode) for mode in ("L", "RGB", "CMYK", "I;16")),
        *((form, "RGB") for form in ("WEBP", "GIF", "BMP")),
    ],
)
def test_every_format_and_mode_gives_the_same(form: str, mode: str):
    image = square("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image = image if mode == "I;16" else image.convert(mode)
    content = encoded(image, form, quality=100, lossless=form == "WEBP")
    for layout in ("drawing", "photo"):
        difference = read(content, layout).astype(int) - read(encoded(square("L")), layout)
        assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("orientation", range(9))
def test_a_turned_photograph_is_read_upright(orientation: int):
    pixels = np.random.default_rng(0).integers(0, 256, (533, 700, 3), np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    # Each turns an upright picture into one that is stored with this orientation.
    stored = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[::-1],
        7: pixels.swapaxes(0, 1)[::-1, ::-1],
        8: pixels.swapaxes(0, 1)[:, ::-1],
    }.get(orientation, pixels)
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif.tobytes())
    upright = encoded(Image.fromarray(pixels))
    assert np.array_equal(read(content, "photo"), read(upright, "photo"))


def with_much_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "text " * 400_000, zip=True)
    return encoded(square(), pnginfo=text)


def with_broken_raw_profile() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n      10\nno hexadecimal digits", zip=True)
    return encoded(square(), pnginfo=text)


def with_a_large_colour_profile() -> bytes:
    content = encoded(square())
    profile = png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_500_000)))
    return content[:33] + profile + content[33:]  # after the signature and IHDR


def jpeg_with_a_thumbnail() -> bytes:
    """EXIF holds a whole JPEG."""
    thumbnail = encoded(square().resize((16, 16)), "JPEG")
    exif = Image.Exif()
    exif[0x112] = 1
    ifd = exif.tobytes()[:-4] + struct.pack("<I", 26)  # where the IFD of the thumbnail follows
    entries = [(0x201, 56), (0x202, len(thumbnail))]  # its place and its length
    ifd += struct.pack("<H", 2) + b"".join(struct.pack("<HHII", tag, 4, 1, x) for tag, x in entries)
    return encoded(square(), "JPEG", exif=ifd + bytes(4) + thumbnail, quality=100)


def bmp_with_unused_alpha() -> bytes:
    image = square("RGBA")
    image.putalpha(0)
    return encoded(image, "BMP")


@pytest.mark.parametrize(
    "make",
    [
        with_much_text,
        with_broken_raw_profile,
        with_a_large_colour_profile,
        jpeg_with_a_thumbnail,
        bmp_with_unused_alpha,
        lambda: encoded(square(), exif=bytes(100)),
        lambda: encoded(square(), "WEBP", exif=b"hello", lossless=True),
        lambda: encoded(square(), "JPEG", exif=b"Exif\0\0hello", quality=100),
        lambda: encoded(square(), "JPEG", progressive=True, quality=100) + b"\xff\xd8garbage",
        lambda: encoded(square()) + b"garbage",
    ],
)
def test_odd_metadata_around_intact_pixels_is_ignored(make: Callable[[], bytes]):
    difference = read(make()).astype(int) - read(encoded(square()))
    assert np.abs(difference).max() < 4


def test_a_transparent_picture_lies_on_the_paper_that_shows_it():
    for ink in (0, 255):
        image = Image.merge(
            "LA", [Image.new("L", (40, 40), ink), Image.eval(square("L"), lambda x: 255 - x)]
        )
        assert np.array_equal(read(encoded(image)), read(encoded(square("L"))))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("apart", [2, 3, 4, 5, 8, 16])
def test_dots_of_any_spacing_are_read_or_are_nothing(apart: int, size: int):
    """Dots five apart were all that a sample of the pixels saw; single pixels are many regions."""
    try:
        image = read(encoded(Image.fromarray(dots(256, apart, size))))
    except EmptyPictureError:
        return
    assert image.any()


def test_a_pattern_without_paper_is_empty():
    """The median of three stripes is black, and all are as far from it: they gave a traceback."""
    stripes = np.zeros((30, 30, 3), np.uint8)
    for channel in range(3):
        stripes[channel::3, :, channel] = 255
    with pytest.raises(EmptyPictureError, match="nothing on it: hardly any contrast"):
        read(encoded(Image.fromarray(stripes)))
    with pytest.raises(EmptyPictureError, match="ink and paper cannot be told apart"):
        read(encoded(Image.fromarray(np.uint8([[0, 255]]))))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pictures_of_32_bits_are_refused(mode: str):
    """Their range is not known: values from 0 to 1 would be black."""
    with pytest.raises(PictureError, match=r"^32 bits for each pixel; save it"):
        read(encoded(square("L").convert(mode), "TIFF"))


def test_large_pictures_and_files_are_refused(tmp_path: Path):
    with pytest.raises(PictureError, match=r"^larger than 50 megapixels; scale it down$"):
        read(encoded(Image.new("1", (10_000, 6_000))))
    path = tmp_path / "long.png"
    path.write_bytes(encoded(square()))
    os.truncate(path, MAX_BYTES + 1)
    with (
        path.open("rb") as file,
        pytest.raises(PictureError, match=r"^larger than 250 megabytes; scale it down$"),
    ):
        read_drawing(file)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize(("mode", "megabytes"), [("I;16", 350), ("RGBA", 450), ("P", 500)])
def test_memory_for_49_megapixels_is_bounded(tmp_path: Path, mode: str, megabytes: int):
    image = Image.fromarray(dots(7000, 112, 56))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "RGBA":
        image = Image.merge("RGBA", [image] * 4)
    exif = Image.Exif()
    exif[0x112] = 6
    options = {"transparency": 3} if mode == "P" else {}
    path = tmp_path / "large.png"
    (image.convert("P") if mode == "P" else image).save(
        path, compress_level=1, exif=exif, **options
    )
    assert float(python("-c", MEASURE, path)) < megabytes
