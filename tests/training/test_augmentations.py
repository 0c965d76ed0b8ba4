import pytest
import torch
from torch import Tensor

from stages.networks.pixels import to_input
from stages.training import augmentations
from stages.training.augmentations import Affine, Elastic

# Ten shapes, each in a place of its own, eight times.
IMAGES = torch.zeros(80, 1, 28, 28, dtype=torch.uint8)
for number, image in enumerate(IMAGES):
    image[0, 2 + 2 * (number % 10) : 6 + 2 * (number % 10), 4:24] = 255
INPUTS = to_input(IMAGES)


def affine(**amounts: float) -> Affine:
    nothing = {"rotation": 0.0, "scaling": 0.0, "shear": 0.0, "translate": 0.0}
    return Affine(kind="affine", **nothing | amounts)


def elastic(displacement: float) -> Elastic:
    return Elastic(kind="elastic", displacement=displacement)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("augmentation", [affine(), elastic(0.0)])
def test_amounts_of_zero_leave_the_images(augmentation: Affine | Elastic):
    torch.testing.assert_close(augmentation(INPUTS, rng()), INPUTS, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "augmentation",
    [
        affine(rotation=20.0),
        affine(scaling=0.2),
        affine(shear=0.3),
        affine(translate=3.0),
        elastic(1.0),
    ],
)
def test_every_augmentation_moves_the_ink_and_keeps_it(augmentation: Affine | Elastic):
    moved = augmentation(INPUTS, rng())
    assert moved.shape == INPUTS.shape
    assert (moved - INPUTS).abs().mean() > 0.005
    assert moved.sum().item() == pytest.approx(INPUTS.sum().item(), rel=0.1)
    assert not torch.equal(moved[0], moved[10])  # two images of one shape, moved differently
    assert torch.equal(moved, augmentation(INPUTS, rng()))


@pytest.mark.parametrize("augmentation", [affine(rotation=9.0, translate=2.0), elastic(1.0)])
def test_channels_move_together_on_images_of_any_size(augmentation: Affine | Elastic):
    images = torch.rand(4, 1, 20, 30, generator=rng())
    moved = augmentation(images.expand(4, 3, 20, 30), rng())
    for channel in range(3):
        assert torch.equal(moved[:, channel : channel + 1], augmentation(images, rng()))


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The affine maps [n, 2, 3] that are used, and with them the grids."""
    used: list[Tensor] = []
    make = augmentations.affine_grid

    def watch(theta: Tensor, *rest: object, **options: object) -> Tensor:
        used.append(theta)
        return make(theta, *rest, **options)

    monkeypatch.setattr(augmentations, "affine_grid", watch)
    return used


def test_a_rotation_is_up_to_so_many_degrees(maps: list[Tensor]):
    affine(rotation=20.0)(INPUTS[:1].expand(1000, 1, 28, 28), rng())
    turns = maps[0][:, :, :2]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(2).expand(1000, 2, 2))
    degrees = torch.atan2(turns[:, 1, 0], turns[:, 0, 0]).rad2deg()
    assert -20 <= degrees.min() < -19
    assert 19 < degrees.max() <= 20


def test_scaling_shear_and_translation_are_up_to_such_amounts(maps: list[Tensor]):
    images = INPUTS[:1].expand(1000, 1, 28, 28)
    for amounts in ({"scaling": 0.2}, {"shear": 0.3}, {"translate": 2.0}):
        affine(**amounts)(images, rng())
    scaled, sheared, translated = maps
    for axis in (0, 1):
        assert 0.8 <= scaled[:, axis, axis].min() < 0.81
        assert 1.19 < scaled[:, axis, axis].max() <= 1.2
        assert scaled[:, axis, 1 - axis].eq(0).all()
    assert not torch.equal(scaled[:, 0, 0], scaled[:, 1, 1])
    assert 0.29 < sheared[:, 0, 1].abs().max() <= 0.3
    pixels = translated[:, :, 2] * 28 / 2
    assert 1.9 < pixels.abs().max() <= 2
    assert abs(pixels.mean().item()) < 0.1


def test_an_elastic_displacement_has_so_many_pixels(monkeypatch: pytest.MonkeyPatch):
    used: list[Tensor] = []
    make = augmentations.interpolate

    def watch(displacements: Tensor, **options: object) -> Tensor:
        used.append(displacements)
        return make(displacements, **options)

    monkeypatch.setattr(augmentations, "interpolate", watch)
    elastic(1.5)(torch.zeros(1000, 1, 28, 56), rng())
    pixels = used[0] * torch.tensor([56, 28]).view(1, 2, 1, 1) / 2  # along x and y
    for axis in (0, 1):
        assert pixels[:, axis].std().item() == pytest.approx(1.5, rel=0.02)
        assert pixels[:, axis].mean().item() == pytest.approx(0, abs=0.03)


def test_images_move_by_the_affine_map(monkeypatch: pytest.MonkeyPatch):
    """Two pixels to the left and three down, in place of what is drawn."""
    drawn = torch.zeros(6, 80)
    drawn[4], drawn[5] = 1.0, -1.5  # of `translate`, where each pixel comes from
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: (drawn + 1) / 2)
    moved = affine(translate=2.0)(INPUTS, rng())
    torch.testing.assert_close(moved[..., 3:, :-2], INPUTS[..., :-3, 2:], atol=1e-4, rtol=0)
    assert moved[..., -2:].abs().max() < 1e-4  # what comes in from outside is background
