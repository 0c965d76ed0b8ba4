from dataclasses import replace

import numpy as np
import torch

from stages.reporting.mistakes import Mistake, find_mistakes, gallery
from stages.runtime.splits import Split
from tests.samples import random_images, read_sheet, split_of

IMAGES = random_images(30)
LOGITS = torch.zeros(30, 10)
LOGITS[:, 0] = torch.arange(30) / 5.0  # all are predicted as 0, with rising confidence


def with_mistakes() -> Split:
    labels = torch.ones(30)
    labels[29] = 0
    return split_of(IMAGES, labels)


def test_all_mistakes_are_listed_the_most_confident_first():
    indices, mistakes = find_mistakes(with_mistakes(), LOGITS)
    assert indices.tolist() == list(range(28, -1, -1))
    assert mistakes[0] == Mistake("28", "1", "0", round(LOGITS[28].softmax(0)[0].item(), 6))
    assert mistakes[-1] == Mistake("0", "1", "0", 0.1)
    assert len(mistakes) == 29


def test_a_mistake_names_its_picture():
    paths = [f"data/letters/test/b/IMG 2024 {number:04}.jpg" for number in range(30)]
    split = replace(with_mistakes(), paths=paths)
    indices, mistakes = find_mistakes(split, LOGITS)
    assert [one.picture for one in mistakes] == paths[28::-1]
    _, captions = read_sheet(gallery(split, indices, mistakes))
    assert captions[:4] == ["0", "is 1", "97%", "…4 0028.jpg"]


def test_the_gallery_shows_the_24_most_confident_mistakes():
    split = with_mistakes()
    picture, captions = read_sheet(gallery(split, *find_mistakes(split, LOGITS)))
    assert picture.size == (4 * 92, 6 * 160)
    assert captions[3::4] == [f"#{number}" for number in range(28, 4, -1)]
    for place, index in ((0, 28), (1, 27), (4, 24), (23, 5)):
        left, top = place % 4 * 92 + 4, place // 4 * 160 + 4
        shown = np.asarray(picture)[top : top + 84 : 3, left : left + 84 : 3]
        assert np.array_equal(shown, 255 - IMAGES[index, 0].numpy())


def test_a_gallery_without_mistakes_is_a_line():
    split = split_of(IMAGES, torch.zeros(30))
    assert read_sheet(gallery(split, *find_mistakes(split, LOGITS)))[1] == ["none"]
