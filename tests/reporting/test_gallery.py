import numpy as np
import torch

from stages.reporting.gallery import gallery
from tests.samples import random_images, read_sheet, split_of

IMAGES = random_images(30)


def test_the_gallery_shows_the_24_most_confident_mistakes():
    logits = torch.zeros(30, 10)
    logits[:, 0] = torch.arange(30) / 5.0  # all are predicted as 0, with rising confidence
    labels = torch.ones(30)
    labels[29] = 0
    picture, captions = read_sheet(gallery(split_of(IMAGES, labels), logits))
    assert picture.size == (4 * 92, 6 * 145)
    assert captions[:2] == ["0", "is 1"]
    for place, index in ((0, 28), (1, 27), (4, 24), (23, 5)):
        left, top = place % 4 * 92 + 4, place // 4 * 145 + 4
        shown = np.asarray(picture)[top : top + 84 : 3, left : left + 84 : 3]
        assert np.array_equal(shown, 255 - IMAGES[index, 0].numpy())


def test_a_gallery_without_mistakes_is_a_line():
    svg = gallery(split_of(IMAGES, torch.zeros(30)), torch.eye(10)[[0] * 30])
    assert read_sheet(svg)[1] == ["none"]
