"""Images of a data set on a sheet, each with a caption."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 4  # pixels around an image
LINE = 15  # pixels a line of a caption


def draw_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    columns: int,
    side: int = 84,
    span: int = 1,
) -> bytes:
    """Return a PNG of images uint8 [28, 28], dark on light, in rows, each over its caption's lines.

    An image is drawn `side` pixels wide and high, and a line of a caption ends after `span` columns.
    Without images, the sheet says "none".
    """
    lines = max(map(len, captions), default=1)
    width, height = side + 2 * MARGIN, side + 4 * MARGIN + lines * LINE
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("L", (columns * width, rows * height), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)

    def cut(line: str) -> str:
        room = span * width - 2 * MARGIN
        if draw.textlength(line, font) <= room:
            return line
        while draw.textlength(f"{line}…", font) > room:
            line = line[:-1]
        return f"{line}…"

    if not len(images):
        draw.text((MARGIN, MARGIN), "none", fill=0, font=font)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        ink = Image.fromarray(255 - image).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(ink, (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline=200)
        text = "\n".join(map(cut, caption))
        draw.text((left, top + side + 2), text, fill=0, font=font, spacing=1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
