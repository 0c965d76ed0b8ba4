import numpy as np
import pytest
import torch
from torch import nn

import stages.networks.kernels  # noqa: F401  replaces the kernels


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) - 0.5


def test_products_are_those_of_float64():
    a, b, bias = drawn(7, 33), drawn(33, 5), drawn(5)
    exact = a.double().numpy() @ b.double().numpy()
    np.testing.assert_allclose(a @ b, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((b.T @ a.T).T, exact, rtol=1e-5, atol=1e-6)
    scaled = torch.addmm(bias, a, b, beta=2, alpha=3)
    np.testing.assert_allclose(scaled, 2 * bias.numpy() + 3 * exact, rtol=1e-5, atol=1e-6)
    batch = torch.bmm(torch.stack([a, -a]), torch.stack([b, b]))
    np.testing.assert_allclose(batch, np.stack([exact, -exact]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "sin", "cos"])
def test_functions_are_those_of_float64(name: str):
    values = 20 * drawn(1000)
    exact = getattr(np, name)(values.double().numpy())
    np.testing.assert_allclose(getattr(torch, name)(values), exact, rtol=1e-6, atol=1e-7)
    assert getattr(torch, name)(values[0]).shape == ()
    assert getattr(values.view(10, 100).T, name)().shape == (100, 10)


def test_a_bias_that_does_not_count_may_be_nan():
    product = torch.addmm(torch.full((2,), torch.nan), torch.ones(1, 2), torch.ones(2, 2), beta=0)
    assert product.tolist() == [[2, 2]]


def test_what_overflows_is_infinite_without_a_warning():
    assert (torch.full((2, 2), 1e38) @ torch.full((2, 2), 1e38)).isinf().all()


def test_a_linear_layer_has_the_gradients_of_its_formula():
    layer, inputs = nn.Linear(6, 3), drawn(4, 6).requires_grad_()
    layer(inputs).square().sum().backward()
    delta = 2 * (inputs.detach() @ layer.weight.detach().T + layer.bias.detach())
    torch.testing.assert_close(inputs.grad, delta @ layer.weight.detach())
    torch.testing.assert_close(layer.weight.grad, delta.T @ inputs.detach())
    torch.testing.assert_close(layer.bias.grad, delta.sum(dim=0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("count", "kernel"), [(1, 3), (1, 1), (15, 1), (16, 1)])
def test_the_convolution_of_few_images_is_that_of_many(
    count: int, kernel: int, layout: torch.memory_format
):
    """PyTorch takes that of 64 images from oneDNN in any case."""
    convolution = nn.Conv2d(4, 8, kernel, bias=True).to(memory_format=layout)
    found = {}
    for images in (count, 64):
        inputs = torch.zeros(images, 4, 5, 5)
        inputs[:count] = drawn(count, 4, 5, 5)
        inputs.requires_grad_()
        convolution.zero_grad()
        outputs = convolution(inputs)[:count]
        outputs.square().sum().backward()
        gradients = (inputs.grad[:count], convolution.weight.grad, convolution.bias.grad)
        found[images] = [outputs.detach(), *(gradient.clone() for gradient in gradients)]
    for few, many in zip(found[count], found[64], strict=True):
        torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-5)
