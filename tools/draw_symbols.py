"""Draw data/symbols, the example of a folder of pictures: five symbols, by a shaky pen.

python -m tools.draw_symbols FOLDER
"""

import argparse
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

EACH = 40  # pictures of a class
SIZE = 64  # pixels, more or less
INKS = ("black", "navy", "darkred", "dimgray")


def corners(count: int, turn: float = 0.0) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon in the unit circle, the first one at the end again."""
    angles = (turn - math.pi / 2 + 2 * math.pi * corner / count for corner in range(count + 1))
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


SYMBOLS = {  # strokes, each a list of points in [-1, 1]
    "arrow": [[(-1, 0), (1, 0)], [(0.3, -0.6), (1, 0), (0.3, 0.6)]],
    "circle": [corners(24)],
    "cross": [[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]],
    "square": [corners(4, math.pi / 4)],
    "triangle": [corners(3)],
}


def draw(strokes: list, chance: random.Random) -> Image.Image:
    """Draw strokes moved, turned, bent and scaled a little, dark on light or light on dark."""
    size = chance.randint(SIZE - 16, SIZE + 16)
    width = size + chance.randint(-8, 16)
    paper, ink = "white", chance.choice(INKS)
    if chance.random() < 0.25:
        paper, ink = "black", "white"
    picture = Image.new("RGB", (width, size), paper)
    pen = ImageDraw.Draw(picture)
    angle, scale = chance.gauss(0, 0.12), chance.uniform(0.28, 0.4) * min(size, width)
    middle = width / 2 + chance.gauss(0, 2), size / 2 + chance.gauss(0, 2)
    thick = chance.randint(2, 5)
    for stroke in strokes:
        shaky = [(x + chance.gauss(0, 0.06), y + chance.gauss(0, 0.06)) for x, y in stroke]
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    chance = random.Random(0)
    for name, strokes in SYMBOLS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            picture = draw(strokes, chance).quantize(16)
            picture.save(folder / name / f"{number:02}.png", optimize=True)


if __name__ == "__main__":
    main()
