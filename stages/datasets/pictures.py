"""Any picture, brought to 28 x 28 grey pixels: photographs, scans, drawings, screenshots."""

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFilter, UnidentifiedImageError
from scipy import ndimage

from stages.common.errors import UserError, printable
from stages.common.params import Layout
from stages.datasets.layout import to_mnist_form

# The formats that people have, by decoders that are fuzzed a lot; Pillow knows some forty more.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})

# A small file may hold a huge picture. Pillow warns above its limit, and raises above twice that.
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Of what else Pillow warns, the picture can be read all the same, or an error follows.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)

# What keeps the time and the memory for any picture within those for a plain one of `MAX_PIXELS`.
MAX_BYTES = 250_000_000  # of a file
MAX_SIDE = 1_000_000  # pixels: the decoders hold a few rows besides the picture
MAX_WEBP_PIXELS = 12_500_000  # its decoder and Pillow hold four copies, of 4 bytes for each pixel
MAX_RLE_PIXELS = 4_000_000  # of a BMP with run lengths, which Pillow decodes in Python
MAX_HELD = 240_000_000  # bytes: a JPEG of several scans is held as coefficients
MAX_SCANS = 20  # of a JPEG of `MAX_PIXELS`, more of a smaller one; the usual progressive one has 10

SIDE = 256  # pixels: larger pictures are averaged down to it, which also takes noise away
SMALL = 32  # pixels: below it, what varies along the border is a drawing cut out, not uneven light
MIN_CONTRAST = 24  # of 255, between ink and paper; noise and JPEG's blocks stay below
SAME = 0.1  # of 255: levels so near to each other are not parted
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
MOST_PARTS = 100  # more are a texture, in which nothing is looked for
STROKE = 2.0  # pixels in MNIST's box of 20 x 20: thinner strokes would fade when scaled down
STRIP = 250_000  # pixels that are converted at a time

# How a photograph is turned upright, by what its EXIF data say.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(UserError):
    """A picture that cannot be read. The message does not name the file."""


class EmptyPictureError(PictureError):
    """A picture without anything that differs from the paper."""


class NoMemoryError(PictureError):
    """A picture that the machine has no memory for, though it may be read another time."""


def read_picture(source: Path | BinaryIO, layout: Layout) -> np.ndarray:
    """Read a picture and lay it out, uint8 [28, 28].

    Any size, colour, depth and polarity; what is transparent shows white paper.

    Raises:
        EmptyPictureError: there is nothing on it; with the layout "mnist" only.
        NoMemoryError: there is not enough memory.
        PictureError: not a picture of `FORMATS`, damaged, or larger than `MAX_PIXELS`.
        OSError: the file cannot be opened.
    """
    colours = _decode(source)
    return to_drawing(colours) if layout == "mnist" else to_whole(colours)


def to_whole(colours: np.ndarray) -> np.ndarray:
    """Scale a picture, float32 [height, width, 1 or 3] in [0, 255], to grey uint8 [28, 28].

    It is centred in a square of its border's grey. Where that is light, light and dark change places:
    0 is background.
    """
    grey = colours @ np.float32(LUMA if colours.shape[2] == 3 else [1])
    height, width = grey.shape
    border = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    square = np.full((max(height, width),) * 2, border, np.float32)
    top, left = (square.shape[0] - height) // 2, (square.shape[0] - width) // 2
    square[top : top + height, left : left + width] = grey
    scaled = Image.fromarray(np.rint(square).astype(np.uint8)).resize(
        (28, 28), Image.Resampling.BICUBIC
    )
    found = np.asarray(scaled)
    return 255 - found if border > 127 else found


def to_drawing(colours: np.ndarray) -> np.ndarray:
    """Lay out what is drawn on a picture, float32 [height, width, channels] in [0, 255], as MNIST does.

    Returns uint8 [28, 28], 0 is paper, 255 is ink.

    Raises:
        EmptyPictureError: there is no contrast.
    """
    ink = _ink(colours)
    if ink.shape == (28, 28) and _is_mnist_form(ink):
        return np.clip(ink, 0, 255).round().astype(np.uint8)
    return to_mnist_form(_thicken(_crop(_only_drawing(_separate(ink)))))


class _Source:
    """A file as Pillow reads it, that ends where reading would take much longer than decoding.

    Pillow goes through what is around the pixels in Python, byte by byte where a file is damaged, and
    joins the pieces of a JPEG's EXIF data anew for each.
    """

    MAX_HEADER = 32_000_000  # bytes, which Pillow keeps; of WebP, all

    def __init__(self, file: BinaryIO):
        self._file, self._reads, self._bytes, self._opening = file, 0, 0, True
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self._opening and not 0 <= size <= self.MAX_HEADER:
            size = self.MAX_HEADER + 1
        data = self._file.read(size)
        self._reads += 1
        self._bytes += len(data)
        if self._opening:
            allowed = self._bytes <= self.MAX_HEADER and self._reads * self._bytes <= 4e10
        else:
            allowed = self._reads <= 10_000 + self._bytes / 100
        if not allowed:
            raise PictureError("damaged picture (too much beside the pixels); save it again")
        return data

    def opened(self, image: Image.Image) -> None:
        """Allow what decoding a picture takes."""
        self._reads, self._bytes, self._opening = 0, 0, False
        if _is_rle(image):
            self.read = self._file.read  # a byte at a time

    def scans(self) -> int:
        """Count the scans of a JPEG."""
        place, count, end = self.tell(), 0, b""
        self.seek(0)
        while block := self._file.read(1_000_000):
            count += (end + block).count(b"\xff\xda\x00")
            end = block[-2:]
        self.seek(place)
        return count


def _decode(source: Path | BinaryIO) -> np.ndarray:
    """Return a picture upright, float32 [height, width, 1 or 3] in [0, 255], no side above `SIDE`."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        if file.seek(0, os.SEEK_END) > MAX_BYTES:
            raise PictureError(f"larger than {MAX_BYTES // 10**6} megabytes; scale it down")
        file.seek(0)
        try:
            return _decode_file(_Source(file))
        except PictureError:
            raise
        except UnidentifiedImageError:
            raise PictureError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _too_large(MAX_PIXELS) from None
        except MemoryError:
            raise NoMemoryError("not enough memory to read it") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the file's fault, not the picture's
            # On damaged data Pillow's decoders raise nearly anything: SyntaxError, struct.error, …
            reason = printable(" ".join(str(error).split()))
            raise PictureError(f"damaged picture ({reason})") from None


def _too_large(most: float, kind: str = "") -> PictureError:
    return PictureError(f"{kind}larger than {most / 1e6:.3g} megapixels; scale it down")


def _decode_file(source: _Source) -> np.ndarray:
    with Image.open(source, formats=FORMATS) as image:
        size = image.size
        # JPEG may skip the detail that is averaged away below.
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        _refuse_costly(image, size, source)
        source.opened(image)
        image.load()
        return _to_colours(image)


def _is_rle(image: Image.Image) -> bool:
    return any(tile.codec_name == "bmp_rle" for tile in image.tile)


def _refuse_costly(image: Image.Image, size: tuple[int, int], source: _Source) -> None:
    """Refuse a picture that would take far more time or memory than others of its size."""
    pixels = size[0] * size[1]
    if max(size) > MAX_SIDE:
        raise PictureError(f"a side longer than {MAX_SIDE:,} pixels; scale it down")
    if image.format == "WEBP" and pixels > MAX_WEBP_PIXELS:
        raise _too_large(MAX_WEBP_PIXELS, "a WebP ")
    if _is_rle(image) and pixels > MAX_RLE_PIXELS:
        raise _too_large(MAX_RLE_PIXELS, "a BMP with run lengths ")
    if image.format in ("JPEG", "MPO") and (scans := source.scans()) > 1:
        samples = [down * across for _, down, across, _ in image.layer]
        largest = max(down for _, down, _, _ in image.layer) * max(
            across for _, _, across, _ in image.layer
        )
        held = 2 * sum(samples) / largest + 4 * image.width * image.height / pixels
        most = min(MAX_HELD / held, MAX_PIXELS * MAX_SCANS / scans)
        if pixels > most:
            raise _too_large(most, f"a JPEG of {scans} scans ")


def _to_colours(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits of grey, of which scanners and cameras may use 12
        scale = 255 / max(255, image.getextrema()[1])
        colours = _reduce(
            image, lambda strip: strip.convert("F").point(lambda level: level * scale + 0)
        )
    elif image.has_transparency_data:
        pixels = Image.fromarray(_reduce(image, lambda strip: _convert(strip, "RGBA")))
        colours = np.asarray(_on_paper(pixels))
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
        colours = _reduce(image, lambda strip: _convert(strip, mode))
    return colours.astype(np.float32).reshape(*colours.shape[:2], -1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which would copy it


def _reduce(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Convert a picture, turn it upright, and average it down to `SIDE`.

    That is done in strips across the longer side, so that no large picture is held twice. They are cut
    where blocks of pixels are averaged: the result is that of the whole.
    """
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turn = TURNS.get(orientation)
    longer, shorter = max(image.size), min(image.size)
    wide = image.width == longer
    factor = -(-longer // SIDE)
    step = factor * max(1, STRIP // (factor * shorter))
    backwards = turn is not None and orientation in ((2, 3, 7, 8) if wide else (3, 4, 6, 7))
    parts = []
    for first in range(0, longer, step):
        low, high = first, min(first + step, longer)
        if backwards:
            low, high = longer - high, longer - low
        box = (low, 0, high, shorter) if wide else (0, low, shorter, high)
        part = convert(image.crop(box) if longer > step else image)
        part = part if turn is None else part.transpose(turn)
        parts.append(np.asarray(part.reduce(factor) if factor > 1 else part))
    sideways = turn is not None and orientation >= 5
    return np.concatenate(parts, axis=1 if wide != sideways else 0)


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white paper, or on black where all that is visible is light."""
    *_, alpha = image.split()
    visible = np.asarray(image.convert("L"))[np.asarray(alpha) > 127]
    light = visible.size > 0 and np.percentile(visible, 5) > 127
    paper = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(paper, image).convert("RGB")


def _ink(colours: np.ndarray) -> np.ndarray:
    """Return how far each pixel is from the paper towards the ink's colour, float32 [height, width].

    The paper is what most of the border shows. The ink is where the pixels that differ from it lie, so
    that dark on light, light on dark and one colour on another are all the same.

    Raises:
        EmptyPictureError: nothing differs from the paper.
    """
    difference = colours - _paper(colours)
    square = (difference**2).sum(axis=2)
    # Cubed, so that noise on both sides of the paper cancels out and the ink decides.
    direction = (square[..., None] * difference).sum(axis=(0, 1))
    length = np.linalg.norm(direction)
    if not square.any():
        raise EmptyPictureError("nothing on it: all of it is one colour")
    if length == 0:
        raise EmptyPictureError("nothing on it: ink and paper cannot be told apart")
    # A difference of 255 in all channels is to be 255.
    return difference @ (direction / length) / np.sqrt(difference.shape[2])


def _paper(colours: np.ndarray) -> np.ndarray:
    """Return the paper's colour: of each channel, or of each pixel where the light is uneven."""
    height, width = colours.shape[:2]
    ring = max(1, min(height, width) // 20)
    border = np.ones((height, width), bool)
    border[ring : height - ring, ring : width - ring] = False
    edge = colours[border]
    if (edge == edge[0]).all():
        return edge[0]
    paper = np.median(edge, axis=0)
    low, high = np.percentile(edge - paper, (10, 90))
    if max(height, width) < SMALL or high - low <= 0.1 * np.abs(colours - paper).max():
        return paper
    # A quadratic surface, by least absolute deviations: what touches the border does not bend it. First
    # through the border, then through all that turns out to be paper; of a sample of pixels.
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    sample = np.s_[:: max(1, height // 48), :: max(1, width // 48)]
    chosen = border[sample]
    for _ in range(3):
        basis, levels = terms[sample][chosen], colours[sample][chosen]
        weights = np.ones((len(basis), 1), np.float32)
        for _ in range(3):  # reweighted least squares
            squares = basis.T @ (weights * basis) + 1e-3 * np.eye(6, dtype=np.float32)
            surface = np.linalg.solve(squares, basis.T @ (weights * levels))
            weights = 1 / (1 + np.abs(basis @ surface - levels).mean(axis=1, keepdims=True))
        distance = np.abs(colours[sample] - terms[sample] @ surface).mean(axis=2)
        chosen = distance < _otsu(distance)
    # The border of a drawing cut out may be dark too: then one colour explains more of the picture.
    near = 0.1 * np.abs(colours - paper).max()
    lit = np.abs(colours - terms @ surface).mean(axis=2) < near
    plain = np.abs(colours - paper).mean(axis=2) < near
    return terms @ surface if lit.sum() > plain.sum() else paper


def _otsu(levels: np.ndarray) -> float:
    """Return the level that best parts the levels into two classes.

    Above all of them, if they are all about the same.

    N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979.
    """
    if np.ptp(levels) < SAME:
        return float(levels.max()) + 1
    counts, edges = np.histogram(levels, 128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * centres).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1 + np.nanargmax(between)])


def _is_mnist_form(ink: np.ndarray) -> bool:
    """Say whether 28 x 28 pixels are laid out as MNIST's: scaling them again would only blur them."""
    if ink.max() < 192:
        return False
    dark = ink > 64
    size = max(ink[_extent(dark)].shape)
    mass = np.where(dark, ink, 0)
    centre = np.array([mass.sum(axis=1) @ np.arange(28), mass.sum(axis=0) @ np.arange(28)])
    return 17 <= size <= 20 and bool((abs(centre / mass.sum() - 14) < 1).all())


def _separate(ink: np.ndarray) -> np.ndarray:
    """Part ink from paper, grey in between: uint8 [height, width], 0 is paper."""
    threshold = _otsu(ink)
    inked = ink[ink >= threshold]
    full = float(np.median(inked)) if inked.size else 0
    if full < MIN_CONTRAST:
        raise EmptyPictureError("nothing on it: hardly any contrast")
    paper = ink[ink < threshold]
    noise = 1.5 * float(np.median(np.abs(paper)))  # about one standard deviation
    zero = min(max(3 * noise, 0.05 * full), threshold)
    depth = max(full - zero, SAME)  # they may be equal where the paper is as rough as the ink
    return (np.clip((ink - zero) / depth, 0, 1) * 255).astype(np.uint8)


def _only_drawing(ink: np.ndarray) -> np.ndarray:
    """Take away what is beside a drawing, uint8 [height, width]: specks, a frame, dark edges."""
    parts, count = ndimage.label(ink > 64, np.ones((3, 3)))
    if count == 1:
        return ink
    mass = np.bincount(parts.ravel(), ink.ravel())
    # Of each part, the first row and column, and those after the last; the 0 in `parts` is paper.
    boxes = ndimage.find_objects(parts)
    low = np.array([(0, 0), *([side.start for side in box] for box in boxes)])
    high = np.array([(0, 0), *([side.stop for side in box] for box in boxes)])
    drawing = np.arange(1, count + 1)
    # What touches the picture's edge, or surrounds another part, is drawn only where that other part is
    # no more than the flag of a 5, or a dot in a 0.
    at_edge = (low == 0).any(axis=1) | (high == ink.shape).any(axis=1)
    inside = drawing[~at_edge[1:]]
    if mass[inside].max(initial=0) > 0.3 * mass[1:].max():
        drawing = inside
    drawing = drawing[mass[drawing] > 0.05 * mass[drawing].max()]
    if len(drawing) <= MOST_PARTS:
        outer, inner = drawing[:, None], drawing[None]
        surrounds = (low[outer] < low[inner]) & (high[inner] < high[outer])
        framed = surrounds.all(axis=-1) & (mass[inner] > 0.3 * mass[outer])
        drawing = drawing[framed.any(axis=0)] if framed.any() else drawing
    kept = np.zeros(count + 1, bool)
    kept[drawing] = True
    return np.where(kept[parts], ink, 0)


def _crop(ink: np.ndarray) -> np.ndarray:
    rows, columns = _extent(ink > 64)
    return ink[rows, columns]


def _extent(dark: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and the columns that hold something."""
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _thicken(ink: np.ndarray) -> np.ndarray:
    """Widen strokes, uint8 [height, width], that would be thinner than `STROKE` in MNIST's form."""
    ink = np.pad(ink, 1)
    dark = ink > 127
    inside = dark[1:-1, :-2] & dark[1:-1, 2:] & dark[:-2, 1:-1] & dark[2:, 1:-1]
    edge = dark.sum() - (dark[1:-1, 1:-1] & inside).sum()
    width = 2 * dark.sum() / max(1, edge)  # of a long stroke, which has two edges
    missing = round((STROKE * max(ink.shape) / 20 - width) / 2)  # pixels on each side
    if missing < 1:
        return ink
    widest = ImageFilter.MaxFilter(2 * missing + 1)
    return np.asarray(Image.fromarray(np.pad(ink, missing)).filter(widest))
