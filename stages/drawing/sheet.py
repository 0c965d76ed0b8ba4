"""Images of a data set on a sheet, each with a caption."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 84  # pixels of an image on the sheet
MARGIN = 8
LINE = 15  # pixels a line of a caption
LETTERS = 15  # of a line; longer ones are cut


def draw_sheet(
    images: Sequence[np.ndarray], captions: Sequence[Sequence[str]], columns: int, empty: str = ""
) -> bytes:
    """Return a PNG of images uint8 [28, 28], dark on light, in rows, each over its caption's lines.

    Without images, the sheet has the text `empty`.
    """
    lines = max(map(len, captions), default=1)
    width, height = SIDE + 2 * MARGIN, SIDE + MARGIN + 4 + lines * LINE
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("L", (columns * width, rows * height), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    if not len(images):
        draw.text((MARGIN, MARGIN), empty, fill=0, font=font)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        ink = Image.fromarray(255 - image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        sheet.paste(ink, (left, top))
        draw.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline=200)
        text = "\n".join(
            line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…" for line in caption
        )
        draw.text((left, top + SIDE + 2), text, fill=0, font=font, spacing=1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
