"""Decides how a folder of pictures is laid out, by a look at all of them.

A picture looks like a drawing if three in five of its pixels have the colour of its border, the paper,
and the rest is mostly ink: of one colour, the same in the whole set. If four pictures in five do, they
are drawings, else photographs.
"""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from stages.datasets.params import Layout
from stages.datasets.pictures import average, read_pixels

SIDE = 64  # pixels: enough to tell drawings from photographs
# Pixels of a side: photographs are laid out with as many as most of them have, in this range.
SIZES = (28, 64)
# Of the largest difference from the paper: a pixel below NEAR is paper, one above FULL is ink.
NEAR, FULL = 0.25, 0.5
PAPER = 0.6  # of a drawing's pixels, at least
INK = 0.5  # of the pixels that are no paper, at least
ONE_COLOUR = 0.95  # of the ink's squared difference from the paper, in one direction
SAME = 0.9  # cosine of the angle between the colours of two inks, seen from the paper
CANDIDATES = 100  # pictures whose ink is compared with that of all
MIN_CONTRAST = 48  # of 255, between ink and paper
MOST = 0.8  # of the pictures look like drawings in a set of drawings


class Look(NamedTuple):
    """What one picture shows."""

    side: int  # the longer one, in pixels
    ink: np.ndarray | None  # as `find_ink` returns it; None: no drawing


def look(source: BinaryIO) -> Look:
    """Look at a picture; raises as `read_pixels`."""
    sides = []

    def small(image: Image.Image) -> Image.Image:
        sides.append(max(image.size))  # what JPEG has skipped is above `SIDE`
        return average(image, SIDE)

    pixels = read_pixels(source, SIDE, small)
    return Look(sides[0], find_ink(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def find_ink(pixels: np.ndarray) -> np.ndarray | None:
    """Return the direction from the paper's colour to the ink's, float32 [3] of length 1.

    Returns None if the picture does not look like a drawing. `pixels` are float32 [height, width, 3] in
    [0, 255].
    """
    differences = pixels - fit_paper(pixels)
    distance = np.abs(differences).max(axis=2)
    largest = np.percentile(distance, 99)
    paper, full = distance < NEAR * largest, distance > FULL * largest
    if largest < MIN_CONTRAST or paper.mean() < PAPER or full.sum() < INK * (~paper).sum():
        return None
    ink = differences[full]
    direction = ink.mean(axis=0) / (np.linalg.norm(ink.mean(axis=0)) or 1)
    of_one_colour = np.square(ink @ direction).sum() > ONE_COLOUR * np.square(ink).sum()
    return direction if of_one_colour else None


def fit_paper(pixels: np.ndarray) -> np.ndarray:
    """Return the border's colour, float32 [height, width, 3]; uneven light may change it linearly."""
    height, width, _ = pixels.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y], axis=-1).astype(np.float32)
    border = np.ones((height, width), bool)
    border[1:-1, 1:-1] = False
    levels = pixels[border]
    # Ink that touches the border is none of the paper.
    near = np.abs(levels - np.median(levels, axis=0)).max(axis=1) < 64
    fitted, *_ = np.linalg.lstsq(terms[border][near], levels[near])
    return terms @ fitted


def choose(looks: Sequence[Look]) -> tuple[Layout, int, int]:
    """Return the layout of a set, the size of its photographs, and how many look like drawings."""
    inks = np.array([look.ink for look in looks if look.ink is not None]).reshape(-1, 3)
    # Light or dark, so both signs. The most common colour is near that of one of many pictures.
    some = inks[:: -(-len(inks) // CANDIDATES) or 1]
    drawings = int((np.abs(inks @ some.T) > SAME).sum(axis=0).max(initial=0))
    sides = sorted(look.side for look in looks) or [SIZES[1]]
    size = int(np.clip(sides[len(sides) // 2], *SIZES))
    return ("drawing" if drawings >= MOST * len(looks) else "photo"), size, drawings
