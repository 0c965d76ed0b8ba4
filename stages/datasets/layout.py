"""How a picture becomes an image of the data set: as a drawing, or as a photograph."""

from functools import partial
from typing import BinaryIO

import numpy as np
from PIL import Image

from stages.datasets.drawings import to_drawing
from stages.datasets.params import Layout
from stages.datasets.pictures import FORMATS, average, read_pixels

SIDE = 256  # pixels: larger drawings are averaged down to it, which also removes noise
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue, ITU-R BT.601

Shape = tuple[int, int, int]  # of an image: 1 or 3 channels, height, width


def read_picture(
    source: BinaryIO, layout: Layout, shape: Shape, formats: tuple[str, ...] = FORMATS
) -> np.ndarray:
    """Read a picture of any size and colour, and lay it out: uint8 of `shape`.

    A drawing is grey, 0 is paper: `drawings.to_drawing`. A photograph is scaled to the square as it is,
    whole: nothing is cut off, added or inverted.

    Raises:
        EmptyPictureError: there is nothing on a drawing.
        NoMemoryError: there is not enough memory.
        PictureError: not a picture that can be read, damaged, or too large.
        OSError: the file cannot be read.
    """
    channels, size, _ = shape
    if layout == "drawing":
        pixels = read_pixels(source, SIDE, partial(average, side=SIDE), formats)
        return to_drawing(pixels, size)[None]

    def squeeze(image: Image.Image) -> Image.Image:
        return image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)

    pixels = read_pixels(source, size, squeeze, formats)
    if channels == 1 and pixels.shape[2] == 3:
        pixels = (pixels @ LUMA)[..., None]
    levels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.broadcast_to(levels.transpose(2, 0, 1), shape)
