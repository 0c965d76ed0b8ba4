"""Random and damaged pictures, and a program that reads many of them.

python -m tests.datasets.hostile SEED COUNT    # counts the results
"""

import io
import struct
import sys
import zlib
from collections import Counter

import numpy as np
from PIL import Image

from stages.datasets.layout import read_picture
from stages.datasets.pictures import PictureError
from tests.samples import SHAPE

MODES = {
    "PNG": ("L", "RGB", "RGBA", "P", "1", "I;16", "LA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("L", "RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "1"),
    "BMP": ("L", "RGB", "RGBA", "P", "1"),
    "TIFF": ("L", "RGB", "RGBA", "P", "1", "I;16", "CMYK"),
    "PPM": ("L", "RGB"),  # not among the formats that are read
}


def dots(side: int, apart: int, size: int = 1) -> np.ndarray:
    """Return black dots on white, uint8 [side, side]; the first is in the corner."""
    on = np.arange(side) % apart < size
    return np.where(on[:, None] & on, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    kind = rng.integers(0, 40)
    if kind == 0:
        return (1, int(rng.integers(1, 16_000)))
    longest = 600 if kind < 3 else 28 if kind < 12 else 90
    return tuple(map(int, rng.integers(1, longest + 1, 2)))


def _pixels(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a grey image of one of many kinds."""
    paper, ink = rng.choice([0, 1, 100, 127, 128, 200, 254, 255], 2)
    y, x = np.mgrid[:height, :width]
    apart, size = rng.integers(1, 14), rng.integers(1, 4)
    kinds = [
        np.full((height, width), paper),
        rng.integers(0, 256, (height, width)),
        rng.normal(128, 10, (height, width)).clip(0, 255),
        np.where((y % apart < size) & (x % apart < size), ink, paper),
        np.where((y // size + x // size) % 2, ink, paper),
        np.where((y + x) % apart < size, ink, paper),
        np.where(rng.random((height, width)) < 1 / (1 + apart**2), ink, paper),
        255 * x / width,
        np.where(y < height // 2, ink, paper),
        np.where(abs(y - x) < 3, ink, paper),
    ]
    return Image.fromarray(kinds[rng.integers(0, len(kinds))].astype(np.uint8))


def _damaged(rng: np.random.Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(0, len(damaged), rng.integers(1, 9)):
        damaged[place] ^= 1 << rng.integers(0, 8)
    if rng.integers(0, 3) == 0:
        del damaged[rng.integers(0, len(damaged)) :]
    return bytes(damaged)


def _sealed(content: bytes) -> bytes:
    """Correct the checksums of a damaged PNG: otherwise most damage does not reach the decoder."""
    sealed, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        sealed += png_chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length])
        place += 12 + length
    return sealed


def picture(rng: np.random.Generator) -> bytes:
    """Return a file: a picture of any kind, intact or damaged."""
    form = rng.choice(list(MODES))
    mode = rng.choice(MODES[form])
    image = _pixels(rng, *_size(rng))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * np.uint16(rng.integers(258)))
    elif mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(_pixels(rng, *image.size))
    elif rng.integers(0, 2):
        image = Image.merge("RGB", [image, _pixels(rng, *image.size), image]).convert(mode)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x112] = int(rng.integers(0, 11))
    options: dict[str, object] = {"progressive": bool(rng.integers(0, 2))}  # of JPEG
    if form in ("PNG", "JPEG", "WEBP"):
        options["exif"] = exif.tobytes()
    if form in ("PNG", "GIF") and mode in ("L", "P") and rng.integers(0, 2):
        options["transparency"] = int(rng.integers(0, 256))
    if form in ("PNG", "GIF", "WEBP", "TIFF") and mode != "I;16" and rng.integers(0, 4) == 0:
        options |= {"save_all": True, "append_images": [image.copy(), image.transpose(0)]}
    content = encoded(image, form, **options)
    if rng.integers(0, 3) == 0:
        return content
    damaged = _damaged(rng, content)
    return _sealed(damaged) if form == "PNG" and rng.integers(0, 2) else damaged


def main() -> None:
    seed, count = map(int, sys.argv[1:])
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for number in range(count):
        content = picture(rng)
        for layout in ("drawing", "photo"):
            try:
                image = read_picture(io.BytesIO(content), layout, SHAPE)
            except PictureError as error:
                assert str(error).isprintable(), number
                counts[str(error).partition("(")[0].strip()] += 1
            else:
                assert (image.shape, image.dtype) == (SHAPE, np.uint8), number
                counts["read"] += 1
    for result, times in counts.most_common():
        print(f"{times:6} {result}")


if __name__ == "__main__":
    main()
