"""The mistakes of which a network is most sure, as one picture."""

import torch

from stages.common.splits import Split
from stages.drawing.sheet import draw_sheet

COLUMNS = 4
COUNT = 24


def gallery(split: Split, logits: torch.Tensor) -> bytes:
    """Return a PNG of at most 24 wrongly classified images of `split`, the most confident first.

    `logits` are float32 [N, classes]. Each image has a caption: what it was taken for, what it is, how
    sure the network was, and the number of the image.
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
    images = split.take(worst)[0].numpy()
    return draw_sheet(images, captions, COLUMNS, empty="No mistakes.")
