import pytest
import torch
from torch import Tensor

from stages.networks.pixels import to_input
from stages.training import augmentations
from stages.training.augmentations import Affine, Augmentation, Colour, Crop, Elastic, Erase, Mirror

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
    monkeypatch.setattr(torch, "rand", lambda *shape, generator, device: (drawn + 1) / 2)
    moved = affine(translate=2.0)(INPUTS, rng())
    torch.testing.assert_close(moved[..., 3:, :-2], INPUTS[..., :-3, 2:], atol=1e-4, rtol=0)
    assert moved[..., -2:].abs().max() < 1e-4  # what comes in from outside is background


PHOTOS = torch.rand(200, 3, 20, 30, generator=torch.Generator().manual_seed(0))
COLOUR = Colour(kind="colour", brightness=0.2, contrast=0.3, saturation=0.4)


@pytest.mark.parametrize(
    "augmentation",
    [Mirror(kind="mirror"), Crop(kind="crop", padding=3), COLOUR, Erase(kind="erase", side=8)],
)
def test_images_change_by_what_the_generator_draws(augmentation: Augmentation):
    changed = augmentation(PHOTOS, rng())
    assert changed.shape == PHOTOS.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, augmentation(PHOTOS, rng()))
    assert not torch.equal(changed, augmentation(PHOTOS, torch.Generator().manual_seed(1)))


def test_half_of_the_images_are_mirrored():
    mirrored = Mirror(kind="mirror")(PHOTOS, rng())
    flipped = (mirrored == PHOTOS.flip(-1)).all(dim=(1, 2, 3))
    assert torch.equal(mirrored[~flipped], PHOTOS[~flipped])
    assert 70 < flipped.sum() < 130


def test_a_crop_is_a_part_of_the_image_and_its_reflection():
    cropped = Crop(kind="crop", padding=2)(PHOTOS, rng())
    padded = torch.nn.functional.pad(PHOTOS, (2, 2, 2, 2), mode="reflect")
    places = {(top, left): 0 for top in range(5) for left in range(5)}
    for number, image in enumerate(cropped):
        [place] = [
            (top, left)
            for top, left in places
            if torch.equal(image, padded[number, :, top : top + 20, left : left + 30])
        ]
        places[place] += 1
    assert all(places.values())
    with pytest.raises(ValueError, match=r"^crop: padding 20: use less than the image's side$"):
        Crop(kind="crop", padding=20)(PHOTOS, rng())


def test_colours_change_by_up_to_such_shares():
    flat = torch.full((1000, 3, 4, 4), 0.5)
    brightness = Colour(kind="colour", brightness=0.2, contrast=0.0, saturation=0.0)(flat, rng())
    assert 0.4 <= brightness.min() < 0.41 and 0.59 < brightness.max() <= 0.6
    assert brightness.std(dim=(1, 2, 3)).max() < 1e-6
    red = torch.tensor([0.6, 0.3, 0.3]).view(1, 3, 1, 1).expand(1000, 3, 4, 4)
    saturation = Colour(kind="colour", brightness=0.0, contrast=0.0, saturation=0.4)(red, rng())
    assert saturation.mean(dim=(1, 2, 3)).sub(0.4).abs().max() < 1e-6
    assert 0.519 < saturation[:, 0].min() < 0.525 and 0.675 < saturation[:, 0].max() <= 0.681
    halves = torch.cat([flat - 0.1, flat + 0.1], dim=3)
    contrast = Colour(kind="colour", brightness=0.0, contrast=0.3, saturation=0.0)(halves, rng())
    assert contrast.mean(dim=(1, 2, 3)).sub(0.5).abs().max() < 1e-6
    assert 0.369 < contrast.min() < 0.371 and 0.629 < contrast.max() < 0.631


def test_a_square_is_erased():
    erased = Erase(kind="erase", side=8)(torch.zeros(1000, 3, 20, 30), rng())
    assert set(erased.unique().tolist()) == {0.0, 0.5}
    pixels = erased[:, 0].count_nonzero(dim=(1, 2))
    assert pixels.max() == 64
    assert pixels.min() >= 16  # at a corner, a quarter of it
    assert erased.any(dim=0).all()  # anywhere
