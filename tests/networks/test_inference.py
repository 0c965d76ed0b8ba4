import math

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from stages.networks.inference import accuracy, mean_loss, predict_batches
from stages.networks.registry import build
from stages.runtime.errors import UserError
from tests.samples import NETWORK, SHAPE, random_images

IMAGES = random_images(25)


def test_the_loss_of_a_network_that_knows_nothing_is_the_entropy_of_ten_classes():
    assert mean_loss(torch.zeros(5, 10), torch.arange(5)) == pytest.approx(math.log(10))
    assert accuracy(torch.zeros(5, 10), torch.zeros(5).long()) == 1.0


def test_accuracy_and_loss_are_means_over_the_images():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1], dtype=torch.uint8)
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 3
    assert accuracy(logits, labels) == pytest.approx(2 / 3)
    assert mean_loss(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_the_batch_size_shows_in_rounding_alone():
    torch.manual_seed(0)
    network = build(NETWORK, SHAPE, 10)
    whole = predict_batches(network, IMAGES, batch_size=100)
    assert whole.shape == (25, 10)
    with torch.no_grad():
        torch.testing.assert_close(whole, network.eval()(IMAGES / 255))
    for batch_size in (1, 7, 25):
        torch.testing.assert_close(predict_batches(network, IMAGES, batch_size), whole)


def test_dropout_is_off_and_no_gradient_is_kept():
    network = build(NETWORK, SHAPE, 10).train()
    once, again = (predict_batches(network, IMAGES, batch_size=10) for _ in range(2))
    assert torch.equal(once, again)
    assert not once.requires_grad


def test_a_network_that_is_random_in_eval_mode_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    network.register_forward_hook(lambda module, inputs, outputs: dropout(outputs))
    with pytest.raises(UserError, match=r"^the network draws random numbers in eval mode"):
        predict_batches(network, IMAGES, batch_size=10)


def test_no_images_give_no_logits():
    network = build(NETWORK, SHAPE, 10)
    assert predict_batches(network, IMAGES[:0], batch_size=10).shape == (0, 10)
