import pytest
import torch

from stages.common.params import ConvolutionalRecipe, load_params
from stages.network.pixels import to_input
from stages.training.distortion import Distortion, distort, draw
from tests.project import ROOT

STILL = {"rotation": 0.0, "scaling": 0.0, "shear": 0.0, "shift": 0.0, "bend": 0.0}
# Ten shapes, each in a place of its own, eight times.
IMAGES = torch.zeros(80, 28, 28, dtype=torch.uint8)
for number, image in enumerate(IMAGES):
    image[2 + 2 * (number % 10) : 6 + 2 * (number % 10), 4:24] = 255
INPUTS = to_input(IMAGES)


def recipe(**changes: object) -> ConvolutionalRecipe:
    ours = load_params(ROOT / "params.yaml").recipes["convolutional"].model_dump()
    return ConvolutionalRecipe(**ours | STILL | changes)


def drawn(n: int, **changes: object) -> Distortion:
    return draw(n, recipe(**changes), torch.Generator().manual_seed(0))


def test_no_distortion_leaves_the_images():
    torch.testing.assert_close(distort(INPUTS, drawn(80)), INPUTS, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "change", [{"rotation": 20.0}, {"scaling": 0.2}, {"shear": 0.3}, {"shift": 3.0}, {"bend": 1.0}]
)
def test_every_distortion_moves_the_ink_and_keeps_it(change: dict):
    moved = distort(INPUTS, drawn(80, **change))
    assert moved.shape == INPUTS.shape
    assert (moved - INPUTS).abs().mean() > 0.005
    assert moved.sum().item() == pytest.approx(INPUTS.sum().item(), rel=0.1)
    assert not torch.equal(moved[0], moved[10])  # two images of one shape, moved differently


def test_a_rotation_is_up_to_so_many_degrees():
    maps = drawn(1000, rotation=20.0).maps[:, :, :2]
    torch.testing.assert_close(maps @ maps.mT, torch.eye(2).expand(1000, 2, 2))
    degrees = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]).rad2deg()
    assert -20 <= degrees.min() < -19
    assert 19 < degrees.max() <= 20


def test_scaling_and_shear_are_up_to_such_shares():
    scaled = drawn(1000, scaling=0.2).maps[:, :, :2]
    for axis in (0, 1):
        assert 0.8 <= scaled[:, axis, axis].min() < 0.81
        assert 1.19 < scaled[:, axis, axis].max() <= 1.2
        assert scaled[:, axis, 1 - axis].eq(0).all()
    assert not torch.equal(scaled[:, 0, 0], scaled[:, 1, 1])
    shears = drawn(1000, shear=0.3).maps[:, 0, 1]
    assert 0.29 < shears.abs().max() <= 0.3


def test_a_bend_has_a_standard_deviation_of_so_many_pixels():
    pixels = drawn(1000, bend=1.5).bends * 28 / 2
    assert pixels.std().item() == pytest.approx(1.5, rel=0.02)
    assert pixels.mean().item() == pytest.approx(0, abs=0.02)


def test_a_bend_pulls_at_its_place_and_along_its_axis():
    bends = torch.zeros(80, 2, 5, 5)
    bends[:, 0, 0] = 2 * 2 / 28  # along the upper edge: two pixels, of where its ink comes from
    still = torch.eye(2, 3).expand(80, 2, 3)
    image = torch.zeros(80, 1, 28, 28)
    image[..., 10:20] = 1  # an upright bar
    bent = distort(image, Distortion(still, bends))
    torch.testing.assert_close(bent[..., 20:, :], image[..., 20:, :], atol=0.02, rtol=0)
    torch.testing.assert_close(bent[..., 0, 8:18], torch.ones(80, 1, 10), atol=0.1, rtol=0)
    assert bent[..., 0, 18:].max() < 0.2


def test_an_affine_map_moves_the_image_by_its_shift():
    right, down = 2 * 2 / 28, -3 * 2 / 28  # 2 and -3 pixels, of where each pixel comes from
    maps = torch.tensor([[[1.0, 0.0, right], [0.0, 1.0, down]]]).expand(80, 2, 3)
    moved = distort(INPUTS, Distortion(maps, torch.zeros(80, 2, 5, 5)))
    torch.testing.assert_close(moved[..., 3:, :-2], INPUTS[..., :-3, 2:], atol=1e-4, rtol=0)
    assert moved[..., -2:].abs().max() < 1e-4  # what comes in from outside is paper


def test_a_shift_is_so_many_pixels():
    """The largest move of ink is the parameter, in pixels."""
    shifts = drawn(1000, shift=2.0).maps[:, :, 2] * 28 / 2
    assert 1.9 < shifts.abs().max() <= 2
    assert abs(shifts.mean().item()) < 0.1
