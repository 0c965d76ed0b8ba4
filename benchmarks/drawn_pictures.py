"""Two sets of pictures for `python -m benchmarks.pictures`, drawn the same each time.

The class of `colours` is a hue, that of `textures` a pattern or its period. All else is drawn alike for
all classes: light, size, place, rotation, and the shapes of the one set or the colours of the other.
"""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SETS = {
    "colours": ("red", "yellow", "green", "blue", "violet"),
    "textures": [
        "fine stripes",
        "coarse stripes",
        "fine checks",
        "coarse checks",
        "dots",
        "blotches",
    ],
}
SIDES = (64, 120)  # pixels
Picture = np.ndarray  # float64 [height, width, 3], red, green and blue from 0 to 255


def draw(name: str, folder: Path, train: int = 120, test: int = 60) -> None:
    """Draw so many JPEG pictures of each class into FOLDER/train/CLASS and FOLDER/test/CLASS."""
    for label, class_name in enumerate(SETS[name]):
        for split, count, seed in (("train", train, 0), ("test", test, 1)):
            (folder / split / class_name).mkdir(parents=True)
            for number, content in enumerate(jpegs(name, label, count, seed)):
                (folder / split / class_name / f"{number:03}.jpg").write_bytes(content)


def jpegs(name: str, label: int, count: int, seed: int) -> Iterator[bytes]:
    """Yield JPEG files of one class."""
    rng = np.random.default_rng((seed, label))
    paint = {"colours": flower, "textures": texture}[name]
    for _ in range(count):
        height, width = rng.choice(np.arange(SIDES[0], SIDES[1] + 1), 2, replace=False)
        side = math.sqrt(height * width)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = (x - width / 2) / side, (y - height / 2) / side
        picture = paint(label, x, y, side, rng)
        light = 1 + rng.uniform(-0.5, 0.5) * x + rng.uniform(-0.5, 0.5) * y
        picture = picture * light[..., None] + rng.normal(0, 10, picture.shape)
        file = io.BytesIO()
        levels = picture.clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(file, "jpeg", quality=int(rng.integers(60, 91)))
        yield file.getvalue()


def flower(
    label: int, x: np.ndarray, y: np.ndarray, side: float, rng: np.random.Generator
) -> Picture:
    """Paint a patch with petals, of the class's hue, before blotches of another; `x`, `y` in sides."""
    x, y = x - rng.uniform(-0.2, 0.2), y - rng.uniform(-0.2, 0.2)
    petals = np.cos(rng.integers(3, 8) * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))
    edge = rng.uniform(0.15, 0.3) * (1 + rng.uniform(0, 0.3) * petals)
    inside = 1 / (1 + np.exp((np.hypot(x, y) - edge) * side))
    blotches = gaussian_filter(rng.normal(size=x.shape), side / 8)
    behind = (1 - inside) * (0.6 + 0.4 * np.tanh(blotches / blotches.std()))
    # Luma and chroma are independent, so that the class does not show in a grey picture.
    luma = rng.uniform(90, 170, 2)
    hue = 2 * np.pi * label / len(SETS["colours"]) + rng.normal(0, 0.15) + 1.9  # 1.9 is red
    hues = np.array([hue, rng.uniform(0, 2 * np.pi)])
    chroma = rng.uniform((25, 5), (55, 45))
    cast = rng.normal(0, 5, 2)  # of the light
    blue, red = chroma * np.cos(hues) + cast[0], chroma * np.sin(hues) + cast[1]
    # ITU-R BT.601, as in JPEG.
    colours = np.stack([luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue])
    return np.stack([inside, behind], axis=-1) @ colours.T


def texture(
    label: int, x: np.ndarray, y: np.ndarray, side: float, rng: np.random.Generator
) -> Picture:
    """Paint the class's pattern in two colours, rotated; `x`, `y` in sides."""
    name = SETS["textures"][label]
    periods = {"fine": (0.07, 0.1), "coarse": (0.15, 0.25)}.get(name.split()[0], (0.07, 0.25))
    period, turn = rng.uniform(*periods), rng.uniform(0, 2 * np.pi)
    u = 2 * np.pi * (np.cos(turn) * x + np.sin(turn) * y + rng.uniform()) / period
    v = 2 * np.pi * (np.cos(turn) * y - np.sin(turn) * x + rng.uniform()) / period
    if name == "blotches":
        pattern = gaussian_filter(rng.normal(size=x.shape), period * side / 4)
        pattern /= pattern.std()
    elif name == "dots":
        pattern = np.cos(u) + np.cos(v) - 0.7
    else:
        pattern = np.sin(u) * (np.sin(v) if "checks" in name else 1)
    one, other = rng.uniform(0, 255, (2, 3))
    while np.abs(one - other).max() < 60:
        other = rng.uniform(0, 255, 3)
    return one + (other - one) * (0.5 + 0.5 * np.tanh(3 * pattern))[..., None]
