"""Draw data/symbols, the example of a folder of pictures: five symbols, by a shaky pen.

python -m tools.draw_symbols FOLDER
"""

import argparse
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

COUNT = 40  # pictures of a class
SIZE = 64  # pixels, more or less
Stroke = list[tuple[float, float]]  # points in [-1, 1]
INKS = ("black", "navy", "darkred", "dimgray")


def corners(count: int, turn: float = 0.0) -> Stroke:
    """Return the corners of a regular polygon in the unit circle; the first one also comes last."""
    angles = (turn - math.pi / 2 + 2 * math.pi * corner / count for corner in range(count + 1))
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


SYMBOLS: dict[str, list[Stroke]] = {
    "arrow": [[(-1, 0), (1, 0)], [(0.3, -0.6), (1, 0), (0.3, 0.6)]],
    "circle": [corners(24)],
    "cross": [[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]],
    "square": [corners(4, math.pi / 4)],
    "triangle": [corners(3)],
}


def draw(strokes: list[Stroke], rng: random.Random) -> Image.Image:
    """Draw strokes with a small random shift, rotation and scale, dark on light or light on dark."""
    size = rng.randint(SIZE - 16, SIZE + 16)
    width = size + rng.randint(-8, 16)
    paper, ink = "white", rng.choice(INKS)
    if rng.random() < 0.25:
        paper, ink = "black", "white"
    picture = Image.new("RGB", (width, size), paper)
    pen = ImageDraw.Draw(picture)
    angle, scale = rng.gauss(0, 0.12), rng.uniform(0.28, 0.4) * min(size, width)
    middle = width / 2 + rng.gauss(0, 2), size / 2 + rng.gauss(0, 2)
    thick = rng.randint(2, 5)
    for stroke in strokes:
        shaky = [(x + rng.gauss(0, 0.06), y + rng.gauss(0, 0.06)) for x, y in stroke]
        points = [
            (
                middle[0] + scale * (x * math.cos(angle) - y * math.sin(angle)),
                middle[1] + scale * (x * math.sin(angle) + y * math.cos(angle)),
            )
            for x, y in shaky
        ]
        pen.line(points, ink, thick, joint="curve")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rng = random.Random(0)
    for name, strokes in SYMBOLS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(COUNT):
            picture = draw(strokes, rng).quantize(16)
            picture.save(folder / name / f"{number:02}.png", optimize=True)


if __name__ == "__main__":
    main()
