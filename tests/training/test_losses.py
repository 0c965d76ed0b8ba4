import math

import pytest
import torch

from stages.training.losses import CrossEntropy

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
LABELS = torch.tensor([0, 1, 1])


def test_cross_entropy_is_summed_over_the_images():
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))
    loss = CrossEntropy().build(LABELS, 2)
    assert loss(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_moves_a_share_of_a_label_to_all_classes():
    """0.2 of each label goes to both classes, so 0.9 and 0.1 are their targets."""
    targets = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    expected = -(targets * LOGITS.log_softmax(dim=1)).sum()
    loss = CrossEntropy(label_smoothing=0.2).build(LABELS, 2)
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)


def test_balanced_classes_count_as_much_as_each_other():
    """With one image of class 0 and two of class 1, these weights are 3/2 and 3/4."""
    first, *others = -LOGITS.log_softmax(dim=1)[range(3), LABELS]
    loss = CrossEntropy(class_weights="balanced").build(LABELS, 2)
    torch.testing.assert_close(loss(LOGITS, LABELS), first * 3 / 2 + sum(others) * 3 / 4)
