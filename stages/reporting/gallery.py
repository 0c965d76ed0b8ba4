"""The most confident mistakes of a network, as one picture."""

import torch

from stages.drawing.sheet import draw_sheet, to_picture
from stages.runtime.splits import Split

COLUMNS = 4
COUNT = 24


def gallery(split: Split, logits: torch.Tensor) -> bytes:
    """Return an SVG file of at most 24 wrongly classified images of `split`, the most confident first.

    `logits` are float32 [N, classes]. Each image has a caption: its predicted and its actual class, the
    network's confidence, and the number of the image.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != split.labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:COUNT]
    captions = [
        (
            split.classes[predicted[index]],
            f"is {split.classes[split.labels[index]]}",
            f"{confidence[index]:.0%}  #{index}",
        )
        for index in worst.tolist()
    ]
    layout = split.dataset["layout"]
    pictures = [to_picture(image, layout) for image in split.take(worst)[0].numpy()]
    return draw_sheet(pictures, captions, COLUMNS)
