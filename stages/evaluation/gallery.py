"""The mistakes of which a network is most sure, as one picture."""

import io

import torch
from PIL import Image, ImageDraw, ImageFont

from stages.common.splits import SIDE, Split

SCALE = 3  # pixels of the picture for one of an image
COLUMNS = 4
COUNT = 24
MARGIN = 8
CAPTION = 34


def gallery(split: Split, logits: torch.Tensor) -> bytes:
    """Return a PNG of at most 24 wrongly read images of `split`, the most confident first.

    `logits` are float32 [N, 10]. Each image has a caption: what was read, how surely, what it is.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != split.labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:COUNT]
    width, height = SIDE * SCALE + 2 * MARGIN, SIDE * SCALE + MARGIN + CAPTION
    rows = max(1, -(-len(worst) // COLUMNS))
    sheet = Image.new("L", (COLUMNS * width, rows * height), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    if len(worst) == 0:
        draw.text((MARGIN, MARGIN), "No mistakes.", fill=0, font=font)
        worst_images = ()
    else:
        worst_images = split.take(worst)[0]
    for place, (index, image) in enumerate(zip(worst.tolist(), worst_images, strict=True)):
        left, top = place % COLUMNS * width + MARGIN, place // COLUMNS * height + MARGIN
        ink = Image.fromarray(255 - image.numpy())
        side = SIDE * SCALE
        sheet.paste(ink.resize((side, side), Image.Resampling.NEAREST), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline=200)
        caption = (
            f"{predicted[index]} ({confidence[index]:.0%})\nis {split.labels[index]}  #{index}"
        )
        draw.text((left, top + side + 2), caption, fill=0, font=font, spacing=1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
