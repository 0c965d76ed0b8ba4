"""The layout of drawings: MNIST's, for a drawing of any size, colour and polarity."""

import numpy as np
from PIL import Image
from scipy import ndimage

from stages.datasets.pictures import PictureError

SMALL = 32  # pixels: below it, a varying border is a cropped drawing, not uneven light
MIN_CONTRAST = 24  # of 255, between ink and paper; noise and JPEG's blocks stay below
MIN_DIFFERENCE = 0.1  # of 255: levels closer than this are not separated
MAX_REGIONS = 100  # more are a texture, in which no frame is looked for
STROKE = 2.0  # pixels in MNIST's box of 20 x 20: thinner strokes would fade when scaled down
MNIST = 28  # pixels of an image's sides
BOX = 20 / MNIST  # the share of a side that a drawing takes


class EmptyPictureError(PictureError):
    """A picture on which nothing differs from the paper."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"nothing on it: {reason}; if it is a photograph, set prepare.layout to photo"
        )


def to_drawing(colours: np.ndarray, size: int) -> np.ndarray:
    """Lay out a drawing, float32 [height, width, 1 or 3] in [0, 255], as MNIST does.

    Returns uint8 [size, size], 0 is paper, 255 is ink.

    Raises:
        EmptyPictureError: there is no contrast.
    """
    ink = _ink(colours)
    if ink.shape == (size, size) and _is_mnist_form(ink):
        return np.clip(ink, 0, 255).round().astype(np.uint8)
    drawing = _only_drawing(_separate(ink))
    return to_mnist_form(_thicken(drawing[_extent(drawing > 64)]), size)


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
        raise EmptyPictureError("all of it is one colour")
    if length == 0:
        raise EmptyPictureError("ink and paper cannot be told apart")
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
    """Return whether square pixels are laid out as MNIST's: scaling would only blur them."""
    if ink.max() < 192:
        return False
    dark, box = ink > 64, round(BOX * len(ink))
    extent = max(ink[_extent(dark)].shape)
    centre = np.array(ndimage.center_of_mass(np.where(dark, ink, 0)))
    return 0.85 * box <= extent <= box and bool((abs(centre - len(ink) / 2) < 1).all())


def _separate(ink: np.ndarray) -> np.ndarray:
    """Separate ink from paper, grey in between: uint8 [height, width], 0 is paper."""
    threshold = _otsu(ink)
    inked = ink[ink >= threshold]
    full = float(np.median(inked)) if inked.size else 0
    if full < MIN_CONTRAST:
        raise EmptyPictureError("hardly any contrast")
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


def to_mnist_form(image: np.ndarray, size: int = MNIST) -> np.ndarray:
    """Lay out one digit, uint8 [height, width] with some ink (> 0), as MNIST does: uint8 [size, size].

    MNIST's size is 28; for others, everything is larger or smaller in proportion.

    "The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20
    pixel box while preserving their aspect ratio. […] the images were centered in a 28x28 image by
    computing the center of mass of the pixels, and translating the image so as to position this
    point at the center of the 28x28 field." — LeCun, Cortes, Burges, "The MNIST database"
    """
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = round(BOX * size) / max(digit.shape)
    height, width = (max(1, round(side * scale)) for side in digit.shape)
    box = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC))
    ink = box.sum()
    centre_row = (box.sum(axis=1) * np.arange(height)).sum() / ink
    centre_column = (box.sum(axis=0) * np.arange(width)).sum() / ink
    # In the official files the centre of mass is at index 14.0 ± 0.5 of both axes.
    top = np.clip(round(size / 2 - centre_row), 0, size - height)
    left = np.clip(round(size / 2 - centre_column), 0, size - width)
    field = np.zeros((size, size), dtype=np.uint8)
    field[top : top + height, left : left + width] = box
    return field
