import math

import pytest
import torch

from stages.training.losses import CrossEntropy

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
LABELS = torch.tensor([0, 1, 1])


def test_cross_entropy_is_summed_over_the_images():
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))
    assert CrossEntropy()(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_moves_a_share_of_a_label_to_all_classes():
    """0.2 of each label goes to both classes, so 0.9 and 0.1 are their targets."""
    targets = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    expected = -(targets * LOGITS.log_softmax(dim=1)).sum()
    torch.testing.assert_close(CrossEntropy(label_smoothing=0.2)(LOGITS, LABELS), expected)
