import torch

from stages.reporting.confusions import worst_confusions
from tests.samples import CLASSES


def test_the_worst_pairs_come_first():
    labels = torch.tensor([4, 4, 4, 9, 7, 7, 0])
    predicted = torch.tensor([9, 9, 4, 4, 1, 1, 0])
    assert worst_confusions(predicted, labels, CLASSES) == [
        ("4 predicted as 9", 2),
        ("7 predicted as 1", 2),
        ("9 predicted as 4", 1),
    ]


def test_only_the_ten_worst_pairs_count():
    labels = torch.arange(100) % 10
    predicted = (torch.arange(100) // 10) % 10
    assert len(worst_confusions(predicted, labels, CLASSES)) == 10
