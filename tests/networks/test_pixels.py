import numpy as np
import torch

from stages.networks.pixels import to_input

PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


def test_the_input_is_what_to_tensor_gives():
    """Of torch and of NumPy alike: `ToTensor` divides by 255 in float32."""
    expected = (torch.arange(256).float() / 255).view(1, 1, 16, 16)
    assert expected[0, 0, 3, 3] == np.float32(0.2)
    assert torch.equal(to_input(torch.from_numpy(PIXELS)), expected)
    found = to_input(PIXELS)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.numpy())
