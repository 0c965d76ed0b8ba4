"""Reads picture files of any kind: upright, with 8 bits, grey or in colour."""

import logging
import os
import warnings
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

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

Scale = Callable[[Image.Image], Image.Image]


class PictureError(UserError):
    """A picture that cannot be read. The message does not name the file."""


class NoMemoryError(PictureError):
    """There is not enough memory for a picture now; another time it may be read."""


def check_size(file: BinaryIO) -> None:
    """Refuse a file that is empty or has more than MAX_BYTES; raises PictureError."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise PictureError("an empty file; copy it again")
    if size > MAX_BYTES:
        raise PictureError(f"larger than {MAX_BYTES // 10**6} megabytes; scale it down")
    file.seek(0)


def read_pixels(
    source: BinaryIO, size: int, scale: Scale, formats: tuple[str, ...] = FORMATS
) -> np.ndarray:
    """Return an upright picture, float32 [height, width, 1 or 3] in [0, 255].

    `scale` makes it smaller, but not smaller than `size` pixels. Transparent pixels show white paper.

    Raises:
        NoMemoryError: there is not enough memory.
        PictureError: not a picture of `formats`, damaged, or larger than `MAX_PIXELS`.
        OSError: the file cannot be read.
    """
    check_size(source)
    try:
        with Image.open(source, formats=formats) as image:
            # JPEG may skip the detail that is averaged away below.
            image.draft("RGB", (2 * size, 2 * size))
            image.load()
            _turn_upright(image)
            return _to_pixels(image, scale)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"not a picture that can be read ({', '.join(formats)})") from None
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


def average(image: Image.Image, side: int) -> Image.Image:
    """Average blocks of pixels, so that no side is longer than `side`."""
    return image.reduce(-(-max(image.size) // side))


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data raise nearly anything; the pixels are intact
        pass


def _to_pixels(image: Image.Image, scale: Scale) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise PictureError("32 bits for each pixel; save it with 8 or 16")
    if image.mode.startswith("I;16"):  # of grey, of which scanners and cameras may use 12
        white = max(255, cast("float", image.getextrema()[1]))
        small = scale(image.convert("F")).point(lambda level: level * (255 / white) + 0)
    elif image.has_transparency_data and not _is_opaque_bmp(image):
        small = _on_paper(scale(_convert(image, "RGBA")))
    else:
        small = scale(_convert(image, "L" if image.mode in ("1", "L") else "RGB"))
    pixels = np.asarray(small, np.float32)
    return pixels.reshape(*pixels.shape[:2], -1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # to the same would be a copy


def _is_opaque_bmp(image: Image.Image) -> bool:
    """Return whether it is a BMP with alpha 0 everywhere: its program does not use alpha."""
    return image.format == "BMP" and image.getchannel("A").getextrema() == (0, 0)


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white paper, or on black where all that is visible is light."""
    visible = np.asarray(image.convert("L"))[np.asarray(image.getchannel("A")) > 127]
    light = visible.size > 0 and np.percentile(visible, 5) > 127
    paper = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(paper, image).convert("RGB")
