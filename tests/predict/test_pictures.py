"""Pictures of digits as people make them: drawn, photographed, scanned, on screen."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from predict.model import Model
from stages.datasets.drawings import EmptyPictureError
from tests.predict.drawings import DRAWINGS, draw
from tests.samples import read_drawing


@pytest.fixture(scope="session")
def model(model_file: Path) -> Model:
    return Model(model_file)


def read(image: Image.Image, form: str = "PNG", **options: object) -> np.ndarray:
    """Save a picture in a format and read it as the network's input, uint8 [28, 28]."""
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return read_drawing(buffer)


def from_array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def coloured(image: Image.Image, paper: str, ink: str) -> Image.Image:
    return ImageOps.colorize(image, black=ink, white=paper)


def grey16(image: Image.Image, factor: int) -> Image.Image:
    return Image.fromarray(np.asarray(image).astype(np.uint16) * factor)


def on_transparent(image: Image.Image, ink: str) -> Image.Image:
    picture = Image.new("RGBA", image.size, ink)
    picture.putalpha(ImageOps.invert(image))
    return picture


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 12, (image.height, image.width))
    return from_array(np.asarray(image) * 0.7 + 40 + noise)


def unevenly_lit(image: Image.Image) -> Image.Image:
    light = np.linspace(0.5, 1, image.width) * np.linspace(1, 0.8, image.height)[:, None]
    return from_array((np.asarray(image) * 0.7 + 40) * light)


def half_in_shadow(image: Image.Image) -> Image.Image:
    width, height = image.size
    light = Image.new("L", image.size, 255)
    ImageDraw.Draw(light).polygon(
        ((0, 0), (0.55 * width, 0), (0.3 * width, height), (0, height)), fill=150
    )
    light = light.filter(ImageFilter.GaussianBlur(width / 40))
    return from_array((np.asarray(image) * 0.8 + 30) * (np.asarray(light) / 255))


def specked(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).copy()
    for row, column in np.random.default_rng(0).integers(0, min(image.size), (40, 2)):
        pixels[row : row + 4, column : column + 4] = 0
    return Image.fromarray(pixels)


def framed(image: Image.Image, inset: int) -> Image.Image:
    picture = image.copy()
    box = (inset, inset, image.width - 1 - inset, image.height - 1 - inset)
    ImageDraw.Draw(picture).rectangle(box, outline=60, width=4)
    return picture


def dark_at_the_edge(image: Image.Image) -> Image.Image:
    picture = image.copy()
    corners = ((0, 0), (image.width // 8, 0), (0, image.height))
    ImageDraw.Draw(picture).polygon(corners, fill=30)
    return picture


def off_centre(image: Image.Image) -> Image.Image:
    wide = Image.new("L", (900, 600), 255)
    wide.paste(image.resize((330, 330)), (550, 30))
    return wide


VARIANTS: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "light on dark": lambda image: read(ImageOps.invert(image)),
    "jpeg": lambda image: read(image, "JPEG", quality=30),
    "webp": lambda image: read(image, "WEBP", quality=50),
    "bmp": lambda image: read(image, "BMP"),
    "gif": lambda image: read(image, "GIF"),
    "two colours": lambda image: read(image.convert("1")),
    "palette": lambda image: read(coloured(image, "ivory", "navy").quantize(8)),
    "yellow on white": lambda image: read(coloured(image, "white", "gold")),
    "red on green of equal grey": lambda image: read(coloured(image, "#3c963c", "#c84646")),
    "16 bits of grey": lambda image: read(grey16(image, 257)),
    "12 of 16 bits of grey": lambda image: read(grey16(image, 16)),
    "black on transparent": lambda image: read(on_transparent(image, "black")),
    "white on transparent": lambda image: read(on_transparent(image, "white")),
    "small": lambda image: read(image.resize((40, 40))),
    "off-centre": lambda image: read(off_centre(image)),
    "noise": lambda image: read(noisy(image)),
    "uneven light": lambda image: read(unevenly_lit(image), "JPEG", quality=70),
    "small, in uneven light": lambda image: read(unevenly_lit(image.resize((56, 56)))),
    "half in shadow": lambda image: read(half_in_shadow(image), "JPEG", quality=80),
    "faint": lambda image: read(image.point(lambda level: 200 + level * 40 // 255)),
    "specks": lambda image: read(specked(image)),
    "a frame at the edge": lambda image: read(framed(image, 0)),
    "a frame": lambda image: read(framed(image, 15)),
    "dark at the edge": lambda image: read(dark_at_the_edge(image), "JPEG", quality=70),
    "cropped": lambda image: read(image.crop(ImageOps.invert(image).getbbox())),
}


@pytest.mark.parametrize("pen", [0.01, 0.04, 0.07])
def test_any_pen_is_recognised(model: Model, pen: float):
    images = np.stack([read(draw(digit, pen=pen)) for digit in DRAWINGS])
    assert model(images[:, None]).argmax(axis=1).tolist() == list(DRAWINGS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_kind_of_picture_is_recognised(model: Model, variant: str):
    images = np.stack([VARIANTS[variant](draw(digit)) for digit in DRAWINGS])
    assert model(images[:, None]).argmax(axis=1).tolist() == list(DRAWINGS)


def test_separate_strokes_and_cropped_strokes_are_recognised(model: Model):
    zero = draw(0)
    ImageDraw.Draw(zero).ellipse((178, 178, 222, 222), fill=0)
    five = np.asarray(draw(5)).copy()
    five[60:110, 175:195] = 255  # separates the flag from the body
    images = np.stack([read(zero), read(Image.fromarray(five).crop((100, 0, 300, 310)))])
    assert model(images[:, None]).argmax(axis=1).tolist() == [0, 5]
    assert images[0, 13:15, 13:15].min() > 0


def test_the_layout_is_that_of_mnist():
    image = read(draw(3))
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    centre = (image.sum(axis=1) @ np.arange(28)) / image.sum()
    assert centre == pytest.approx(14, abs=0.5)
    assert 0.02 < ((image > 20) & (image < 235)).mean() < 0.2  # grey edges


@pytest.mark.parametrize("invert", [False, True])
def test_an_image_of_mnist_is_unchanged(invert: bool):
    image = read(draw(2))
    assert np.array_equal(read(Image.fromarray(255 - image if invert else image)), image)


def test_an_image_that_only_resembles_mnist_is_laid_out():
    image = read(draw(2))
    for moved in (np.roll(image, 3, axis=0), np.roll(image, -3, axis=1)):
        assert abs(read(Image.fromarray(moved)).astype(int) - image).mean() < 3
    small = Image.fromarray(image).resize((21, 21), Image.Resampling.BICUBIC)
    field = Image.new("L", (28, 28))
    field.paste(small, (4, 4))  # centred, and 15 pixels high
    rows = np.flatnonzero((read(field) > 64).any(axis=1))
    assert np.ptp(rows) + 1 >= 19


def test_a_thin_stroke_does_not_fade():
    assert (read(draw(1, pen=0.005)) > 200).sum() >= 20


def test_a_thin_stroke_outweighs_the_texture_of_the_paper():
    """The texture's mean is not its median: in sum, it differs from it more than the stroke."""
    texture = np.where(np.random.default_rng(0).random((250, 250)) < 0.4, 20, 0)
    pixels = np.minimum(np.asarray(draw(1, side=250, pen=0.02)), 230) + texture
    assert (read(from_array(pixels)) > 127).mean() < 0.15


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photograph_is_turned_by_its_exif_orientation(orientation: int):
    turn_back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = draw(2).transpose(Image.Transpose(turn_back[orientation]))
    image = read(stored, "JPEG", quality=95, exif=exif).astype(int)
    assert abs(image - read(draw(2))).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (300, 200)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_blank_picture_is_empty(mode: str, size: tuple[int, int]):
    with pytest.raises(EmptyPictureError):
        read(Image.new(mode, size))


def test_noise_is_empty():
    with pytest.raises(EmptyPictureError):
        read(from_array(np.random.default_rng(0).normal(200, 12, (300, 300))))
