"""Images of a data set on a sheet, each with a caption."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from stages.runtime.errors import printable

MARGIN = 4  # pixels around an image
LINE = 15  # pixels a line of a caption
# The browser has the letters of any script, and their joining and direction: no font has all of them.
FONT = 'font-family="Liberation Sans, Arial, Helvetica, sans-serif" font-size="13"'


def to_pillow(image: np.ndarray) -> Image.Image:
    """Return an image uint8 [C, H, W], C is 1 or 3, as Pillow's."""
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def to_picture(image: np.ndarray, layout: str) -> Image.Image:
    """Return an image uint8 [C, H, W] as people see it: drawings are dark on light."""
    return to_pillow(255 - image if layout == "drawing" else image)


def draw_sheet(
    pictures: Sequence[Image.Image | None],
    captions: Sequence[Sequence[str]],
    columns: int,
    side: int = 84,
    span: int = 1,
) -> bytes:
    """Return an SVG file of pictures in rows, each over its caption's lines.

    A picture is drawn `side` pixels wide and high, None as an empty frame. All are in one embedded PNG.
    A line of a caption is cut off after `span` columns. Without pictures, the sheet says "none".
    """
    lines = max(map(len, captions), default=1)
    width, height = side + 2 * MARGIN, side + 4 * MARGIN + lines * LINE
    rows = max(1, -(-len(pictures) // columns))
    mode = "RGB" if any(one and one.mode == "RGB" for one in pictures) else "L"
    sheet = Image.new(mode, (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    texts = [] if pictures else [_line("none", MARGIN, MARGIN, width)]
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        if picture:
            whole = side % picture.width == 0  # then its pixels stay visible
            kind = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
            sheet.paste(picture.resize((side, side), kind), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline="silver")
        below, room = top + side + 2, span * width - 2 * MARGIN
        texts += [
            _line(text, left, below + i * LINE, room) for i, text in enumerate(caption) if text
        ]
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    size = f'width="{sheet.width}" height="{sheet.height}"'
    image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>']
    parts += [f'<image {size} href="{image}"/>', *texts, "</svg>\n"]
    return "\n".join(parts).encode()


def _line(text: str, left: int, top: int, room: int) -> str:
    """Return a line of text, in a frame of `room` pixels that cuts off the rest."""
    frame = f'<svg x="{left}" y="{top}" width="{room}" height="{LINE + 1}">'
    return f'{frame}<text y="12">{escape(printable(text))}</text></svg>'
