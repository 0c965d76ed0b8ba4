"""Any picture ends in 28 x 28 pixels or in one line, within bounds of time and memory."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.datasets import pictures
from stages.datasets.pictures import MAX_BYTES, EmptyPictureError, PictureError, read_picture
from tests.datasets.hostile import bombs, dots, encoded, many_scans, run_length_bmp
from tests.project import ROOT

# How much longer each file takes to read than Pillow takes to decode the first of them to grey, and by
# how many megabytes the process grew.
MEASURE = """
import sys, time
from pathlib import Path
from statistics import median
from PIL import Image
from stages.datasets.pictures import PictureError, read_picture

def grey(path):
    with Image.open(path) as image:
        image.convert("L")

def read(path):
    try:
        read_picture(path, "mnist")
    except PictureError:
        pass

def seconds(function, path):
    started = time.perf_counter()
    function(path)
    return time.perf_counter() - started

def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1000

plain, *hostile = map(Path, sys.argv[1:])
Image.preinit()
before = megabytes("VmRSS")
times = [[seconds(read, path) for path in hostile] for _ in range(3)]
grown = megabytes("VmHWM") - before
usual = median(seconds(grey, plain) for _ in range(3))
print(grown, *(median(of_one) / usual for of_one in zip(*times)))
"""


def module(*arguments: object) -> subprocess.CompletedProcess:
    """Run Python with warnings shown; it must write nothing to stderr."""
    result = subprocess.run(
        [sys.executable, "-W", "default", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result


linux = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc of Linux")


def test_any_of_2100_pictures_ends_in_an_image_or_in_one_line():
    lines = module("-m", "tests.datasets.hostile", 0, 2100).stdout.splitlines()
    counts = {what: int(count) for count, what in (line.split(maxsplit=1) for line in lines)}
    assert sum(counts.values()) == 2 * 2100  # in both layouts
    assert counts["read"] > 1000
    assert counts["damaged picture"] > 500


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("apart", [2, 3, 4, 5, 8, 16])
def test_dots_of_any_spacing_are_read_or_are_nothing(apart: int, size: int):
    """Those five apart were all that a sample of the pixels saw; those of one pixel are many parts."""
    try:
        seen = read_picture(io.BytesIO(encoded(Image.fromarray(dots(256, apart, size)))), "mnist")
    except EmptyPictureError:
        return
    assert seen.any()


def test_what_cannot_be_told_apart_is_nothing(explained: Callable[[str], None]):
    """Of three stripes the median is black, and all are as far from it: they gave a traceback."""
    stripes = np.zeros((30, 30, 3), np.uint8)
    for channel in range(3):
        stripes[channel::3, :, channel] = 255
    lines = []
    for pixels in (stripes, np.uint8([[0, 255]])):
        with pytest.raises(EmptyPictureError, match="nothing on it") as caught:
            read_picture(io.BytesIO(encoded(Image.fromarray(pixels))), "mnist")
        lines.append(str(caught.value))
    explained("\n".join(lines))


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("size", [(700, 533), (257, 1030), (20, 3000), (50, 40)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_strips_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, orientation: int, size: tuple[int, int], mode: str
):
    """All blocks of pixels that are averaged are those of the upright picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    content = encoded(Image.fromarray(pixels).convert(mode), exif=exif.tobytes())
    monkeypatch.setattr(pictures, "STRIP", 10_000)
    form = "RGB" if mode == "P" else mode
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        found = pictures._reduce(image, lambda strip: strip.convert(form))
        whole = ImageOps.exif_transpose(image).convert(form)
    factor = -(-max(size) // pictures.SIDE)
    assert np.array_equal(found, np.asarray(whole.reduce(factor)))


def crowd(mode: str, side: int = 7000) -> Image.Image:
    """Return 49 megapixels of which thousands of parts are left when they are averaged down."""
    image = Image.fromarray(dots(side, 112, 56))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    return Image.merge("RGBA", [image] * 4) if mode == "RGBA" else image.convert(mode)


def measure(*paths: Path) -> tuple[float, list[float]]:
    grown, *ratios = map(float, module("-c", MEASURE, *paths).stdout.split())
    return grown, ratios


@linux
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["I;16", "RGBA", "P"])
def test_time_and_memory_for_49_megapixels_are_bounded(tmp_path: Path, mode: str):
    """The one of 16 bits took 540 MB."""
    plain, crowded = tmp_path / "plain.png", tmp_path / "crowded.png"
    exif = Image.Exif()
    exif[0x112] = 6
    options = {"transparency": 3} if mode == "P" else {}
    crowd(mode).save(crowded, compress_level=1, exif=exif, **options)
    Image.new(mode, (7000, 7000), 200).save(plain, compress_level=1)
    grown, [ratio] = measure(plain, crowded)
    assert grown < 300
    assert ratio < 4


@linux
def test_what_promises_much_is_refused_or_soon_read(
    tmp_path: Path, explained: Callable[[str], None]
):
    """Some took seconds to minutes, one of 410 bytes 79 seconds, others hundreds of megabytes."""
    Image.new("RGB", (7000, 7000)).save(tmp_path / "plain.png", compress_level=1)
    many = encoded(Image.fromarray(dots(256, 3)), optimize=True)
    paths = []
    for number, content in enumerate([many, *bombs()]):
        paths.append(tmp_path / f"{number}.bomb")
        paths[-1].write_bytes(content)
    grown, ratios = measure(tmp_path / "plain.png", *paths)
    assert grown < 300
    assert max(ratios) < 4, ratios
    lines = []
    for path in paths[1:]:
        with pytest.raises(PictureError) as caught:
            read_picture(path, "resize")
        lines.append(str(caught.value))
    explained("\n".join(lines))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            encoded(Image.new("L", (4_000, 4_000)), "WEBP"),
            "a WebP larger than 12.5 megapixels; scale it down",
        ),
        (
            run_length_bmp(2_100, b"\x01\x01\0\0"),
            "a BMP with run lengths larger than 4 megapixels; scale it down",
        ),
        (
            many_scans(1_000, 2_000),
            "a JPEG of 2006 scans larger than 0.499 megapixels; scale it down",
        ),
        (
            encoded(Image.new("L", (1_000_001, 1))),
            "a side longer than 1,000,000 pixels; scale it down",
        ),
    ],
)
def test_what_takes_much_more_than_others_of_its_size_is_refused(content: bytes, line: str):
    with pytest.raises(PictureError) as caught:
        read_picture(io.BytesIO(content), "mnist")
    assert str(caught.value) == line


def test_a_file_is_bounded(tmp_path: Path):
    path = tmp_path / "long.png"
    path.write_bytes(encoded(Image.fromarray(dots(64, 40, 20))))
    assert read_picture(path, "mnist").any()
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(PictureError, match="larger than 250 megabytes"):
        read_picture(path, "mnist")


def test_a_usual_jpeg_of_several_scans_or_much_exif_data_is_read():
    image = Image.fromarray(dots(3000, 2000, 1000)).convert("RGB")
    exif = Image.Exif()
    exif[0x10E] = "x" * 60_000
    for options in ({"progressive": True}, {"exif": exif}, {"icc_profile": bytes(3_000_000)}):
        assert read_picture(io.BytesIO(encoded(image, "JPEG", **options)), "mnist").any()
