import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

import stages.networks.kernels  # noqa: F401  replaces the kernels
from tests.project import ROOT


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


def test_torchscript_records_the_convolutions_for_arm64():
    """Not their results, as constants."""
    code = """if True:
        import warnings
        import stages
        stages.ARCHITECTURE = stages.ARM64
        import torch
        import stages.networks.kernels

        layer = torch.nn.Conv2d(2, 3, 3)
        warnings.filterwarnings("error", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, torch.ones(1, 2, 5, 5), check_trace=False)
        images = torch.rand(4, 2, 6, 6)
        assert traced(images).equal(layer(images))
        assert layer(images).std() > 0
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def arm64() -> Iterator[ModuleType]:
    enabled = torch._C._get_mkldnn_enabled()
    from stages.networks import kernels_arm64  # which turns oneDNN off

    yield kernels_arm64
    torch._C._set_mkldnn_enabled(enabled)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (5, 2), "stride": 2, "padding": (2, 0), "bias": False},
        {"kernel_size": 3, "stride": (3, 2), "dilation": (1, 2)},
        {"kernel_size": 3, "groups": 2, "padding": 1},
        {"kernel_size": 3, "groups": 4, "stride": 2},
    ],
)
def test_convolutions_for_arm64_are_those_of_float64(
    arm64: ModuleType, options: dict, layout: torch.memory_format
):
    layer = nn.Conv2d(4, 8, **options).to(memory_format=layout)
    weight, bias = layer.weight.detach(), layer.bias
    images = drawn(3, 4, 9, 8).to(memory_format=layout)
    shared = (layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups)
    results = arm64.convolution(images, weight, bias, *shared)
    gradient = drawn(*results.shape)
    gradients = arm64.convolution_backward(gradient, images, weight, [8], *shared, [True] * 3)

    exact_images, exact_weight = (x.double().requires_grad_() for x in (images, weight))
    patches = unfold(
        exact_images, layer.kernel_size, layer.dilation, layer.padding, layer.stride
    ).unflatten(1, (layer.groups, -1))
    exact = exact_weight.reshape(layer.groups, 8 // layer.groups, -1) @ patches
    exact = exact.reshape(results.shape)
    exact.backward(gradient.double())
    if bias is not None:
        exact = exact + bias.double().view(-1, 1, 1)
        torch.testing.assert_close(gradients[2], gradient.sum(dim=(0, 2, 3)))
    torch.testing.assert_close(results, exact.float())
    assert results.stride() == layer(images).stride()
    torch.testing.assert_close(gradients[0], exact_images.grad.float())
    torch.testing.assert_close(gradients[1], exact_weight.grad.float())
    assert gradients[1].stride() == weight.stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "kernel", "size"), [(1, 1, 4), (1, 3, 4), (2, 1, 1), (8, 3, 4)]
)
def test_convolutions_for_arm64_have_the_memory_format_of_pytorch(
    arm64: ModuleType, channels: int, kernel: int, size: int, layout: torch.memory_format
):
    layer = nn.Conv2d(channels, 8, kernel, padding=kernel // 2).to(memory_format=layout)
    images = drawn(20, channels, size, size).to(memory_format=layout)
    shared = ([1, 1], layer.padding, [1, 1], False, [0, 0], 1)
    results = arm64.convolution(images, layer.weight, layer.bias, *shared)
    torch._C._set_mkldnn_enabled(True)
    expected = layer(images)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        assert results.is_contiguous(memory_format=memory_format) == expected.is_contiguous(
            memory_format=memory_format
        )


def test_convolutions_for_arm64_in_blocks_are_those_of_all_images(
    arm64: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    images, weight, bias = drawn(7, 4, 5, 5), drawn(6, 2, 3, 3), drawn(6)
    shared = ([1, 1], [1, 1], [1, 1], False, [0, 0], 2)
    found = {}
    for block in (1, 2000, 2**22):
        monkeypatch.setattr(arm64, "BLOCK", block)
        results = arm64.convolution(images, weight, bias, *shared)
        gradients = arm64.convolution_backward(results, images, weight, [6], *shared, [True] * 3)
        found[block] = [results, *gradients]
    for values in found.values():
        torch.testing.assert_close(values, found[2**22])
    assert len(list(arm64.blocks((7, 300, 300), 36))) == 7
    assert arm64.convolution(images[:0], weight, bias, *shared).shape == (0, 6, 5, 5)


def test_gradients_that_nobody_needs_are_not_computed(arm64: ModuleType):
    images, weight = drawn(1, 2, 4, 4), drawn(3, 2, 1, 1)
    shared = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    gradients = arm64.convolution_backward(images, images, weight, None, *shared, [False] * 3)
    assert gradients == (None, None, None)


def test_a_transposed_convolution_on_arm64_is_refused(arm64: ModuleType):
    with pytest.raises(NotImplementedError, match="transposed"):
        arm64.convolution(
            drawn(1, 2, 4, 4), drawn(2, 2, 1, 1), None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1
        )
