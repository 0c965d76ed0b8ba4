"""The layout of MNIST's digits."""

import numpy as np
from PIL import Image

SIDE = 28  # pixels: laid out images are squares


def to_mnist_form(image: np.ndarray) -> np.ndarray:
    """Lay out one digit, uint8 [height, width] with some ink (> 0), as MNIST does: uint8 [28, 28].

    "The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20
    pixel box while preserving their aspect ratio. […] the images were centered in a 28x28 image by
    computing the center of mass of the pixels, and translating the image so as to position this
    point at the center of the 28x28 field." — LeCun, Cortes, Burges, "The MNIST database"
    """
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(digit.shape)
    height, width = (max(1, round(size * scale)) for size in digit.shape)
    box = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC))
    ink = box.sum()
    centre_row = (box.sum(axis=1) * np.arange(height)).sum() / ink
    centre_column = (box.sum(axis=0) * np.arange(width)).sum() / ink
    # In the official files the centre of mass is at index 14.0 ± 0.5 of both axes.
    top = np.clip(round(14 - centre_row), 0, 28 - height)
    left = np.clip(round(14 - centre_column), 0, 28 - width)
    field = np.zeros((28, 28), dtype=np.uint8)
    field[top : top + height, left : left + width] = box
    return field
