"""Pictures that no honest program writes, and a program that reads many of them.

python -m tests.datasets.hostile SEED COUNT    # prints what became of them
"""

import io
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from stages.datasets.pictures import PictureError, read_picture

Generator = np.random.Generator
FORMS = {
    "PNG": ("L", "RGB", "RGBA", "P", "1", "I;16", "LA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("L", "RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "1"),
    "TIFF": ("L", "RGB", "I;16"),  # is no format of ours
    "BMP": ("L", "RGB", "RGBA", "P", "1"),
}


def dots(side: int, apart: int, size: int = 1) -> np.ndarray:
    """Return black dots on white, uint8 [side, side]; the first lies in the corner."""
    on = np.arange(side) % apart < size
    return np.where(on[:, None] & on, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(size: tuple[int, int], rows: bytes, before: bytes = b"", colour: int = 0) -> bytes:
    """Return a PNG of 8 bits; it may promise more than its rows hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + chunk(b"IEND", b"")


def run_length_bmp(side: int, line: bytes) -> bytes:
    """Return a BMP whose lines are all encoded alike."""
    palette = bytes(4) + b"\xff\xff\xff\0" * 255
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, side * len(line), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    whole = start + side * len(line)
    return b"BM" + struct.pack("<IHHI", whole, 0, 0, start) + header + palette + line * side


def many_scans(side: int, count: int) -> bytes:
    """Return a progressive JPEG that refines its pixels again and again."""
    content = encoded(Image.new("L", (side, side), 255), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * count + content[-2:]


LONGEST = {"WEBP": 16_383, "PNG": 60_000}  # sides


def _size(random: Generator, longest: int) -> tuple[int, int]:
    kind = random.integers(0, 40)
    if kind == 0:
        sides = (1, int(random.integers(1, longest + 1)))
        return sides if random.integers(0, 2) else sides[::-1]
    most = 600 if kind < 3 else 28 if kind < 12 else 90
    return tuple(int(side) for side in random.integers(1, most + 1, 2))


def _pixels(random: Generator, width: int, height: int) -> np.ndarray:
    """Return grey uint8 [height, width] of one of many kinds."""
    paper, ink = random.choice([0, 1, 100, 127, 128, 200, 254, 255], 2)
    y, x = np.ogrid[:height, :width]
    apart, size = random.integers(1, 14), random.integers(1, 4)
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: np.full((height, width), paper),
        lambda: random.integers(0, 256, (height, width)),
        lambda: random.normal(128, 10, (height, width)).clip(0, 255),
        lambda: np.where((y % apart < size) & (x % apart < size), ink, paper),
        lambda: np.where((y // size + x // size) % 2, ink, paper),
        lambda: np.where((y + x) % apart < size, ink, paper),
        lambda: np.where(random.random((height, width)) < 1 / (1 + apart**2), ink, paper),
        lambda: np.broadcast_to(255 * x / width, (height, width)),
        lambda: np.where(y < height // 2, ink, paper) + 0 * x,
    ]
    return random.choice(np.array(kinds, object))().astype(np.uint8)


def _drawn(random: Generator, image: Image.Image) -> Image.Image:
    brush = ImageDraw.Draw(image)
    for _ in range(random.integers(0, 4)):
        ends = [tuple(random.integers(-5, side + 5) for side in image.size) for _ in range(2)]
        brush.line([tuple(map(int, end)) for end in ends], int(random.integers(0, 256)), 3)
    return image


def _damaged(random: Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in random.integers(0, len(damaged), random.integers(1, 9)):
        damaged[place] ^= 1 << random.integers(0, 8)
    if random.integers(0, 3) == 0:
        del damaged[random.integers(0, len(damaged)) :]
    return bytes(damaged)


def _sealed(content: bytes) -> bytes:
    """Mend the checksums of a damaged PNG, which keep most damage from the decoder."""
    whole, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        whole += chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length])
        place += 12 + length
    return whole


def picture(random: Generator) -> bytes:
    """Return a file: a picture of any kind, whole or damaged."""
    form = random.choice(list(FORMS))
    mode = random.choice(FORMS[form])
    grey = _pixels(random, *_size(random, LONGEST.get(form, 30_000)))
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * np.uint16(random.integers(1, 258)))
    elif mode in ("RGB", "P", "CMYK", "RGBA") and random.integers(0, 2):
        other = Image.fromarray(_pixels(random, *image.size))
        image = Image.merge("RGB", [_drawn(random, image), other, image]).convert(mode)
    elif mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(_pixels(random, *image.size)))
    else:
        image = _drawn(random, image).convert(mode)
    options: dict[str, object] = {}
    if form in ("PNG", "JPEG", "WEBP"):
        exif = Image.Exif()
        exif[0x112] = int(random.integers(0, 11))
        options["exif"] = exif.tobytes()
    if form in ("PNG", "GIF") and mode in ("L", "P") and random.integers(0, 2):
        options["transparency"] = int(random.integers(0, 256))
    if form == "JPEG":
        options["progressive"] = bool(random.integers(0, 2))
    if form in ("PNG", "GIF", "WEBP", "TIFF") and mode != "I;16" and random.integers(0, 4) == 0:
        options |= {"save_all": True, "append_images": [image.copy(), image.transpose(0)]}
    content = encoded(image, form, **options)
    if random.integers(0, 3) == 0:
        return content
    damaged = _damaged(random, content)
    return _sealed(damaged) if form == "PNG" and random.integers(0, 2) else damaged


def bombs() -> list[bytes]:
    """Return files that are small, or soon read, and promise much."""
    plain = encoded(Image.new("L", (64, 64), 255), "JPEG")
    exif = b"\xff\xe1\x00\x09Exif\0\0\x01"
    return [
        *(png(size, b"\0") for size in ((50_000, 50_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0))),
        png((2_000_000, 20), bytes(20 * 2_000_001)),
        png((8, 8), bytes(72), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
        png((8, 8), bytes(72), before=chunk(b"prVt", b"") * 300_000),
        run_length_bmp(7_000, b"\x01\x01\0\0"),
        many_scans(1_000, 3_000),
        encoded(Image.new("L", (4_000, 4_000)), "WEBP"),
        plain[:2] + exif * 300_000 + plain[2:],
        plain[:20] + bytes(3_000_000) + plain[20:],
        encoded(Image.new("1", (10_000, 6_000))),
    ]


def main() -> None:
    seed, count = map(int, sys.argv[1:])
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for number in range(count):
        content = picture(random)
        for layout in ("mnist", "resize"):
            try:
                seen = read_picture(io.BytesIO(content), layout)
            except PictureError as error:
                assert str(error).isprintable(), number
                counts[str(error).partition("(")[0].strip()] += 1
            else:
                assert (seen.shape, seen.dtype) == ((28, 28), np.uint8), number
                counts["read"] += 1
    for what, times in counts.most_common():
        print(f"{times:6} {what}")


if __name__ == "__main__":
    main()
