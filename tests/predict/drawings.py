"""Digits as a person would draw them: strokes of points (x, y) in [0, 1], y downwards."""

from math import cos, pi, sin

from PIL import Image, ImageDraw

Stroke = list[tuple[float, float]]


Pair = tuple[float, float]


def arc(centre: Pair, size: Pair, first: int, last: int) -> Stroke:
    """Return a part of an ellipse, from one angle to another: degrees, clockwise from the right."""
    (x, y), (width, height) = centre, size
    angles = [pi / 180 * (first + (last - first) * step / 16) for step in range(17)]
    return [(x + width / 2 * cos(angle), y + height / 2 * sin(angle)) for angle in angles]


DRAWINGS: dict[int, list[Stroke]] = {
    0: [arc((0.5, 0.5), (0.4, 0.6), -90, 270)],
    1: [[(0.52, 0.18), (0.48, 0.82)]],
    2: [[*arc((0.46, 0.36), (0.36, 0.34), -160, 40), (0.26, 0.82), (0.8, 0.82)]],
    3: [[*arc((0.48, 0.34), (0.34, 0.32), -150, 90), *arc((0.48, 0.66), (0.4, 0.34), -90, 150)]],
    4: [[(0.5, 0.16), (0.26, 0.62), (0.74, 0.62)], [(0.58, 0.42), (0.54, 0.86)]],
    5: [[(0.66, 0.2), (0.4, 0.2), (0.37, 0.46), *arc((0.48, 0.63), (0.36, 0.36), -90, 140)]],
    6: [[(0.58, 0.18), (0.4, 0.44), *arc((0.48, 0.66), (0.32, 0.32), -180, 180)]],
    7: [[(0.3, 0.22), (0.7, 0.22), (0.46, 0.82)]],
}


def draw(digit: int, side: int = 400, pen: float = 0.07) -> Image.Image:
    """Return a drawing, black on white, mode L; `pen` is the stroke's width as a share of the side."""
    image = Image.new("L", (4 * side, 4 * side), 255)  # four times as large, for smooth edges
    brush = ImageDraw.Draw(image)
    radius = 2 * side * pen
    for stroke in DRAWINGS[digit]:
        points = [(4 * side * x, 4 * side * y) for x, y in stroke]
        brush.line(points, fill=0, width=round(2 * radius), joint="curve")
        for x, y in points:
            brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return image.reduce(4)
