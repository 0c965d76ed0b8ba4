"""Reads pictures of any kind and lays them out as 28 x 28 grey pixels."""

import logging
import os
import warnings
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from scipy import ndimage

from stages.datasets.layout import to_mnist_form
from stages.datasets.params import Layout
from stages.runtime.errors import UserError, printable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset(
    (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff")
)
MAX_BYTES = 250_000_000  # of a file

# A small file may hold a huge picture. Pillow warns above its limit, and raises above twice that.
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Otherwise the picture can be read, or an error follows.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.simplefilter("error", Image.DecompressionBombWarning)
# Pillow allows 1 MB for a text or a colour profile, which some programs exceed.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

SIDE = 256  # pixels: larger pictures are averaged down to it, which also removes noise
SMALL = 32  # pixels: below it, a varying border is a cropped drawing, not uneven light
MIN_CONTRAST = 24  # of 255, between ink and paper; noise and JPEG's blocks stay below
MIN_DIFFERENCE = 0.1  # of 255: levels closer than this are not separated
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
MAX_REGIONS = 100  # more are a texture, in which no frame is looked for
STROKE = 2.0  # pixels in MNIST's box of 20 x 20: thinner strokes would fade when scaled down


class PictureError(UserError):
    """A picture that cannot be read. The message does not name the file."""


class EmptyPictureError(PictureError):
    """A picture on which nothing differs from the paper."""


class NoMemoryError(PictureError):
    """There is not enough memory for a picture now; another time it may be read."""


def read_picture(source: BinaryIO, layout: Layout) -> np.ndarray:
    """Read a picture and lay it out, uint8 [28, 28].

    Any size, colour and polarity, up to 16 bits; transparent pixels show white paper.

    Raises:
        EmptyPictureError: there is nothing on it; with the layout "mnist" only.
        NoMemoryError: there is not enough memory.
        PictureError: not a picture of `FORMATS`, damaged, or larger than `MAX_PIXELS`.
        OSError: the file cannot be opened.
    """
    colours = _read(source)
    return to_drawing(colours) if layout == "mnist" else to_whole(colours)


def check_size(file: BinaryIO) -> None:
    """Refuse a file that is empty or has more than MAX_BYTES; raises PictureError."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise PictureError("an empty file; copy it again")
    if size > MAX_BYTES:
        raise PictureError(f"larger than {MAX_BYTES // 10**6} megabytes; scale it down")
    file.seek(0)


def _read(source: BinaryIO) -> np.ndarray:
    """Return an upright picture, float32 [height, width, 1 or 3] in [0, 255], no side above `SIDE`."""
    check_size(source)
    try:
        with Image.open(source, formats=FORMATS) as image:
            # JPEG may skip the detail that is averaged away below.
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            image.load()
            _turn_upright(image)
            return _to_colours(image)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"larger than {MAX_PIXELS // 10**6} megapixels; scale it down") from None
    except MemoryError:
        raise NoMemoryError("not enough memory to read it") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file's fault, not the picture's
        # On damaged data Pillow's decoders raise nearly anything: SyntaxError, struct.error, …
        reason = printable(" ".join(str(error).split()))
        raise PictureError(f"damaged picture ({reason})") from None


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data raise nearly anything; the pixels are intact
        pass


def _to_colours(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise PictureError("32 bits for each pixel; save it with 8 or 16")
    if image.mode.startswith("I;16"):  # of grey, of which scanners and cameras may use 12
        scale = 255 / max(255, cast("float", image.getextrema()[1]))
        reduced = _reduce(image, "F").point(lambda level: level * scale + 0)
    elif image.has_transparency_data and not _is_opaque_bmp(image):
        reduced = _on_paper(_reduce(image, "RGBA"))
    else:
        reduced = _reduce(image, "L" if image.mode in ("1", "L") else "RGB")
    colours = np.asarray(reduced, np.float32)
    return colours.reshape(*colours.shape[:2], -1)


def _is_opaque_bmp(image: Image.Image) -> bool:
    """Return whether it is a BMP with alpha 0 everywhere: its program does not use alpha."""
    return image.format == "BMP" and image.getchannel("A").getextrema() == (0, 0)


def _reduce(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image and average blocks of its pixels, so that no side is above `SIDE`."""
    if image.mode != mode:  # a conversion to the same mode would be a copy
        image = image.convert(mode)
    return image.reduce(-(-max(image.size) // SIDE))


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white paper, or on black where all that is visible is light."""
    visible = np.asarray(image.convert("L"))[np.asarray(image.getchannel("A")) > 127]
    light = visible.size > 0 and np.percentile(visible, 5) > 127
    paper = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(paper, image).convert("RGB")


def to_whole(colours: np.ndarray) -> np.ndarray:
    """Scale a picture, float32 [height, width, 1 or 3] in [0, 255], to grey uint8 [28, 28].

    It is centred in a square of its border's grey. If that is light, the picture is inverted, so that
    0 is background.
    """
    grey = colours @ np.array(LUMA if colours.shape[2] == 3 else [1], np.float32)
    height, width = grey.shape
    border = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    square = np.full((max(height, width),) * 2, border, np.float32)
    top, left = (square.shape[0] - height) // 2, (square.shape[0] - width) // 2
    square[top : top + height, left : left + width] = grey
    image = Image.fromarray(np.rint(square).astype(np.uint8))
    scaled = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC))
    return 255 - scaled if border > 127 else scaled


def to_drawing(colours: np.ndarray) -> np.ndarray:
    """Lay out a drawing, float32 [height, width, 1 or 3] in [0, 255], as MNIST does.

    Returns uint8 [28, 28], 0 is paper, 255 is ink.

    Raises:
        EmptyPictureError: there is no contrast.
    """
    ink = _ink(colours)
    if ink.shape == (28, 28) and _is_mnist_form(ink):
        return np.clip(ink, 0, 255).round().astype(np.uint8)
    drawing = _only_drawing(_separate(ink))
    return to_mnist_form(_thicken(drawing[_extent(drawing > 64)]))


def _ink(colours: np.ndarray) -> np.ndarray:
    """Return each pixel's distance from paper towards ink, float32 [height, width].

    Most of the border shows the paper. The ink's colour is that of the pixels that differ from it, so
    dark on light, light on dark and one colour on another give the same.

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
    """Return the paper's colour, [channels], or [height, width, channels] if the light is uneven."""
    height, width = colours.shape[:2]
    ring = max(1, min(height, width) // 20)
    border = np.ones((height, width), bool)
    border[ring : height - ring, ring : width - ring] = False
    edge = colours[border]
    if (edge == edge[0]).all():
        return edge[0]
    paper = np.median(edge, axis=0)
    near = 0.1 * np.abs(colours - paper).max()
    low, high = np.percentile(edge - paper, (10, 90))
    if max(height, width) < SMALL or high - low <= near:
        return paper
    lit = _lit_paper(colours, border)
    # The border of a cropped drawing may be dark too: then one colour explains more of the picture.
    explained = [(np.abs(colours - level).mean(axis=2) < near).sum() for level in (lit, paper)]
    return lit if explained[0] > explained[1] else paper


def _lit_paper(colours: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Return the paper under uneven light, a quadratic surface, float32 [height, width, channels].

    It is fitted to a sample of the border, bool [height, width]; then to all pixels of the sample that
    are near the surface, and so paper.
    """
    height, width = border.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    sample = np.s_[:: max(1, height // 48), :: max(1, width // 48)]
    chosen = border[sample]
    for _ in range(3):
        surface = _fit_absolute(terms[sample][chosen], colours[sample][chosen])
        distance = np.abs(colours[sample] - terms[sample] @ surface).mean(axis=2)
        chosen = distance < _otsu(distance)
    return terms @ surface


def _fit_absolute(terms: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Fit coefficients [6, channels] of terms [n, 6] to levels [n, channels].

    By least absolute deviations (reweighted least squares), so ink on the border does not bend them.
    """
    weights = np.ones((len(terms), 1), np.float32)
    for _ in range(3):
        squares = terms.T @ (weights * terms) + 1e-3 * np.eye(6, dtype=np.float32)
        fitted = np.linalg.solve(squares, terms.T @ (weights * levels))
        weights = 1 / (1 + np.abs(terms @ fitted - levels).mean(axis=1, keepdims=True))
    return fitted


def _otsu(levels: np.ndarray) -> float:
    """Return the level that best separates the levels into two classes.

    Above all of them, if they are all about the same.

    N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979.
    """
    if np.ptp(levels) < MIN_DIFFERENCE:
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
    """Return whether 28 x 28 pixels are laid out as MNIST's: scaling would only blur them."""
    if ink.max() < 192:
        return False
    dark = ink > 64
    size = max(ink[_extent(dark)].shape)
    centre = np.array(ndimage.center_of_mass(np.where(dark, ink, 0)))
    return 17 <= size <= 20 and bool((abs(centre - 14) < 1).all())


def _separate(ink: np.ndarray) -> np.ndarray:
    """Separate ink from paper, grey in between: uint8 [height, width], 0 is paper."""
    threshold = _otsu(ink)
    inked = ink[ink >= threshold]
    full = float(np.median(inked)) if inked.size else 0
    if full < MIN_CONTRAST:
        raise EmptyPictureError("nothing on it: hardly any contrast")
    paper = ink[ink < threshold]
    noise = 1.5 * float(np.median(np.abs(paper)))  # about one standard deviation
    zero = min(max(3 * noise, 0.05 * full), threshold)
    depth = max(full - zero, MIN_DIFFERENCE)  # equal where the paper is as rough as the ink
    return (np.clip((ink - zero) / depth, 0, 1) * 255).astype(np.uint8)


def _only_drawing(ink: np.ndarray) -> np.ndarray:
    """Remove specks, a frame and dark edges around a drawing, uint8 [height, width]."""
    regions, count = ndimage.label(ink > 64, np.ones((3, 3)))
    if count == 1:
        return ink
    mass = np.bincount(regions.ravel(), ink.ravel())
    # The first row and column of each region, and those after the last. Region 0 is paper.
    boxes = ndimage.find_objects(regions)
    low = np.array([(0, 0), *([side.start for side in box] for box in boxes)])
    high = np.array([(0, 0), *([side.stop for side in box] for box in boxes)])
    # A region at the picture's edge belongs to the drawing only if all others are light: the flag of
    # a 5. So does a region around another: a dot in a 0.
    at_edge = (low == 0).any(axis=1) | (high == ink.shape).any(axis=1)
    kept = np.arange(1, count + 1)
    inside = kept[~at_edge[1:]]
    if mass[inside].max(initial=0) > 0.3 * mass[1:].max():
        kept = inside
    kept = kept[mass[kept] > 0.05 * mass[kept].max()]
    if len(kept) <= MAX_REGIONS:
        outer, inner = kept[:, None], kept[None]
        surrounds = ((low[outer] < low[inner]) & (high[inner] < high[outer])).all(axis=-1)
        framed = (surrounds & (mass[inner] > 0.3 * mass[outer])).any(axis=0)
        kept = kept[framed] if framed.any() else kept
    is_kept = np.zeros(count + 1, bool)
    is_kept[kept] = True
    return np.where(is_kept[regions], ink, 0)


def _extent(dark: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and the columns between the first and the last dark pixel."""
    return ndimage.find_objects(dark.astype(np.uint8))[0]


def _thicken(ink: np.ndarray) -> np.ndarray:
    """Widen strokes, uint8 [height, width], that would be thinner than `STROKE` in MNIST's form."""
    ink = np.pad(ink, 1)
    dark = ink > 127
    edge = dark.sum() - ndimage.binary_erosion(dark).sum()
    width = 2 * dark.sum() / max(1, edge)  # of a long stroke, which has two edges
    missing = round((STROKE * max(ink.shape) / 20 - width) / 2)  # pixels on each side
    if missing < 1:
        return ink
    return ndimage.maximum_filter(np.pad(ink, missing), 2 * missing + 1)
