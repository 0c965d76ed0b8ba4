"""The mistakes of a network, as a table and as a sheet."""

from pathlib import PurePosixPath
from typing import NamedTuple

import torch

from stages.drawing.sheet import draw_sheet, to_picture
from stages.runtime.splits import Split

COLUMNS = 4
COUNT = 24  # mistakes on the sheet
LONGEST = 11  # letters of a caption, about as many as fit below an image


class Mistake(NamedTuple):
    picture: str  # its path, or its number in the test set
    actual: str
    predicted: str
    probability: float  # of the predicted class, in [0, 1]


def find_mistakes(split: Split, logits: torch.Tensor) -> tuple[torch.Tensor, list[Mistake]]:
    """Return the wrongly classified images of `split`, the most confident mistake first.

    `logits` are float32 [N, classes]. Returns their indices, int64 [n], and n mistakes.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != split.labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    return wrong, [
        Mistake(
            split.name(index),
            split.classes[split.labels[index]],
            split.classes[predicted[index]],
            round(confidence[index].item(), 6),
        )
        for index in wrong.tolist()
    ]


def gallery(split: Split, wrong: torch.Tensor, mistakes: list[Mistake]) -> bytes:
    """Return an SVG file of the first 24 mistakes that `find_mistakes` returned.

    Each image has a caption: its predicted and its actual class, the network's confidence, and the end
    of its file's name, or its number.
    """
    captions = [
        (one.predicted, f"is {one.actual}", f"{one.probability:.0%}", _caption(one.picture))
        for one in mistakes[:COUNT]
    ]
    layout = split.dataset["layout"]
    pictures = [to_picture(image, layout) for image in split.take(wrong[:COUNT])[0].numpy()]
    return draw_sheet(pictures, captions, COLUMNS)


def _caption(picture: str) -> str:
    name = f"#{picture}" if picture.isdecimal() else PurePosixPath(picture).name
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"  # cameras count at the end
