"""Any picture, brought to 28 x 28 grey pixels: photographs, scans, drawings, screenshots."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from scipy import ndimage

from stages.common.errors import UserError
from stages.common.params import Layout
from stages.datasets.layout import to_mnist_form

# The formats that people have, by decoders that are fuzzed a lot; Pillow knows some forty more.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})

# A small file may hold a huge picture. Pillow warns above its limit, and raises above twice that.
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)

SIDE = 256  # pixels: larger pictures are averaged down to it, which also takes noise away
SMALL = 32  # pixels: below it, what varies along the border is a drawing cut out, not uneven light
MIN_CONTRAST = 24  # of 255, between ink and paper; noise and JPEG's blocks stay below
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
MOST_PARTS = 100  # more are a texture, in which nothing is looked for
STROKE = 2.0  # pixels in MNIST's box of 20 x 20: thinner strokes would fade when scaled down


class PictureError(UserError):
    """A picture that cannot be read. The message does not name the file."""


class EmptyPictureError(PictureError):
    """A picture without anything that differs from the paper."""


def read_picture(source: Path | BinaryIO, layout: Layout) -> np.ndarray:
    """Read a picture and lay it out, uint8 [28, 28].

    Any size, colour, depth and polarity; what is transparent shows white paper.

    Raises:
        EmptyPictureError: there is nothing on it; with the layout "mnist" only.
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


def _decode(source: Path | BinaryIO) -> np.ndarray:
    """Return a picture upright, float32 [height, width, 1 or 3] in [0, 255], no side above `SIDE`."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            # JPEG may skip the detail that is averaged away below.
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            ImageOps.exif_transpose(image, in_place=True)
            return _to_colours(image)
    except UnidentifiedImageError:
        raise PictureError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"larger than {MAX_PIXELS // 10**6} megapixels; scale it down") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file's fault, not the picture's
        # On damaged data Pillow's decoders raise nearly anything: SyntaxError, struct.error, …
        raise PictureError(f"damaged picture ({' '.join(str(error).split())})") from None


def _to_colours(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits of grey, of which scanners and cameras may use 12
        image = image.convert("F")
        scale = 255 / max(255, image.getextrema()[1])
        image = image.point(lambda level: level * scale + 0)
    elif image.has_transparency_data:
        image = _on_paper(_reduce(_convert(image, "RGBA")))
    else:
        image = _convert(image, "L" if image.mode in ("1", "L") else "RGB")
    colours = np.asarray(_reduce(image), np.float32)
    return colours.reshape(*colours.shape[:2], -1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which would copy it


def _reduce(image: Image.Image) -> Image.Image:
    factor = -(-max(image.size) // SIDE)
    return image.reduce(factor) if factor > 1 else image


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
    if length == 0:
        raise EmptyPictureError("nothing on it: all of it is one colour")
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

    N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979.
    """
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
    full = float(np.median(ink[ink >= threshold]))
    if full < MIN_CONTRAST:
        raise EmptyPictureError("nothing on it: hardly any contrast")
    paper = ink[ink < threshold]
    noise = 1.5 * float(np.median(np.abs(paper)))  # about one standard deviation
    zero = min(max(3 * noise, 0.05 * full), threshold)
    return (np.clip((ink - zero) / (full - zero), 0, 1) * 255).astype(np.uint8)


def _only_drawing(ink: np.ndarray) -> np.ndarray:
    """Take away what is beside a drawing, uint8 [height, width]: specks, a frame, dark edges."""
    parts, count = ndimage.label(ink > 64, np.ones((3, 3)))
    if count == 1:
        return ink
    mass = np.bincount(parts.ravel(), ink.ravel())
    boxes = [None, *ndimage.find_objects(parts)]  # the 0 in `parts` is paper
    drawing = list(range(1, count + 1))
    # What touches the picture's edge, or surrounds another part, is drawn only where that other part is
    # no more than the flag of a 5, or a dot in a 0.
    inside = [part for part in drawing if not _touches_edge(boxes[part], ink.shape)]
    if max(mass[inside], default=0) > 0.3 * max(mass[1:]):
        drawing = inside
    largest = max(mass[drawing])
    drawing = [part for part in drawing if mass[part] > 0.05 * largest]
    framed = [
        part
        for part in drawing
        if len(drawing) <= MOST_PARTS
        and any(
            _surrounds(boxes[other], boxes[part]) and mass[part] > 0.3 * mass[other]
            for other in drawing
        )
    ]
    return np.where(np.isin(parts, framed or drawing), ink, 0)


def _touches_edge(box: tuple[slice, slice], shape: tuple[int, int]) -> bool:
    return any(side.start == 0 or side.stop == size for side, size in zip(box, shape, strict=True))


def _surrounds(outer: tuple[slice, slice], inner: tuple[slice, slice]) -> bool:
    return all(
        one.start < other.start and other.stop < one.stop
        for one, other in zip(outer, inner, strict=True)
    )


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
