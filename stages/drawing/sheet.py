"""Images of a data set on a sheet, each with a caption."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 4  # pixels around an image
LINE = 15  # pixels a line of a caption


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
    """Return a PNG of pictures in rows, each over its caption's lines.

    A picture is drawn `side` pixels wide and high, None as an empty frame. A line of a caption ends
    after `span` columns. Without pictures, the sheet says "none".
    """
    lines = max(map(len, captions), default=1)
    width, height = side + 2 * MARGIN, side + 4 * MARGIN + lines * LINE
    rows = max(1, -(-len(pictures) // columns))
    mode = "RGB" if any(one and one.mode == "RGB" for one in pictures) else "L"
    sheet = Image.new(mode, (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)

    def cut(line: str) -> str:
        room = span * width - 2 * MARGIN
        if draw.textlength(line, font) <= room:
            return line
        while draw.textlength(f"{line}…", font) > room:
            line = line[:-1]
        return f"{line}…"

    if not pictures:
        draw.text((MARGIN, MARGIN), "none", fill="black", font=font)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        if picture:
            whole = side % picture.width == 0  # then its pixels stay visible
            kind = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
            sheet.paste(picture.resize((side, side), kind), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline="silver")
        text = "\n".join(map(cut, caption))
        draw.text((left, top + side + 2), text, fill="black", font=font, spacing=1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
