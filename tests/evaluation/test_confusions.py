import torch

from stages.evaluation.confusions import worst_confusions


def test_the_worst_pairs_come_first():
    labels = torch.tensor([4, 4, 4, 9, 7, 7, 0])
    predicted = torch.tensor([9, 9, 4, 4, 1, 1, 0])
    assert worst_confusions(predicted, labels) == [
        ("4 read as 9", 2),
        ("7 read as 1", 2),
        ("9 read as 4", 1),
    ]


def test_only_the_ten_worst_pairs_count():
    labels = torch.arange(100) % 10
    predicted = (torch.arange(100) // 10) % 10
    assert len(worst_confusions(predicted, labels)) == 10
