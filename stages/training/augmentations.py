"""The augmentations that a recipe can choose. To add one: a class, and a name in `Augmentation`.

Each maps a shard's images float32 [n, channels, height, width] in [0, 1] to such images, and draws from
the generator that it is given, on their device.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from stages.runtime.config import NotNegative, PositiveInt, Section, Share


class Affine(Section):
    """Rotates, scales, shears and translates each image, by amounts drawn uniformly."""

    kind: Literal["affine"]
    rotation: Annotated[float, Field(ge=0, le=180)]  # up to so many degrees
    scaling: Share  # each axis by up to this share
    shear: Share  # up to this share
    translate: NotNegative  # each axis by up to so many pixels

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        n, _, height, width = images.shape
        drawn = 2 * torch.rand(6, n, generator=rng, device=rng.device) - 1
        angle, stretch_x, stretch_y, shear, right, down = drawn
        angle, shear = angle * math.radians(self.rotation), shear * self.shear
        stretch_x, stretch_y = 1 + stretch_x * self.scaling, 1 + stretch_y * self.scaling
        # A grid's coordinates are from -1 to 1.
        right, down = right * (self.translate * 2 / width), down * (self.translate * 2 / height)
        cosine, sine = angle.cos(), angle.sin()
        rows = (
            torch.stack([cosine * stretch_x, (shear * cosine - sine) * stretch_y, right], dim=1),
            torch.stack([sine * stretch_x, (shear * sine + cosine) * stretch_y, down], dim=1),
        )
        maps = torch.stack(rows, dim=1)
        return grid_sample(
            images, affine_grid(maps, list(images.shape), align_corners=False), align_corners=False
        )


class Elastic(Section):
    """Displaces each image's pixels smoothly, by normally distributed distances at 5 x 5 points.

    P. Simard, D. Steinkraus, J. Platt, "Best Practices for Convolutional Neural Networks Applied to
    Visual Document Analysis", 2003.
    """

    kind: Literal["elastic"]
    displacement: NotNegative  # standard deviation in pixels

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        n, _, height, width = images.shape
        sides = torch.tensor([width, height], device=rng.device).view(1, 2, 1, 1)
        displacements = torch.randn(n, 2, 5, 5, generator=rng, device=rng.device)
        displacements = displacements * (self.displacement * 2 / sides)
        smooth = interpolate(
            displacements, size=(height, width), mode="bicubic", align_corners=True
        )
        still = torch.eye(2, 3, device=images.device).expand(n, 2, 3)
        grid = affine_grid(still, list(images.shape), align_corners=False)
        return grid_sample(images, grid + smooth.permute(0, 2, 3, 1), align_corners=False)


class Mirror(Section):
    """Mirrors half of the images, left to right."""

    kind: Literal["mirror"]

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        mirrored = torch.rand(len(images), generator=rng, device=rng.device) < 0.5
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


class Crop(Section):
    """Pads each image by its own reflection, and cuts it out again at a place drawn uniformly."""

    kind: Literal["crop"]
    padding: PositiveInt  # pixels, on each side

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        n, _, height, width = images.shape
        if self.padding >= min(height, width):
            raise ValueError(f"crop: padding {self.padding}: use less than the image's side")
        places = 2 * self.padding + 1
        offsets = torch.randint(0, places, (2, n), generator=rng, device=rng.device)
        padded = pad(images, (self.padding,) * 4, mode="reflect")
        rows = offsets[0, :, None] + torch.arange(height, device=images.device)
        columns = offsets[1, :, None] + torch.arange(width, device=images.device)
        image = torch.arange(n, device=images.device)[:, None, None]
        # Indices around a slice put their axes first: [n, height, width, channels].
        return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Colour(Section):
    """Changes the brightness, the contrast and the saturation of each image, by factors around 1."""

    kind: Literal["colour"]
    brightness: Share  # up to this share, as the others
    contrast: Share
    saturation: Share

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        amounts = 2 * torch.rand(3, len(images), 1, 1, 1, generator=rng, device=rng.device) - 1
        shares = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (
            1 + amount * share for amount, share in zip(amounts, shares, strict=True)
        )
        images = images * brightness
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * saturation
        mean = grey.mean(dim=(2, 3), keepdim=True)
        return (mean + (images - mean) * contrast).clamp(0, 1)


class Erase(Section):
    """Makes a square of each image grey, at a place drawn uniformly.

    T. DeVries, G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017.
    """

    kind: Literal["erase"]
    side: PositiveInt  # pixels

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        n, _, height, width = images.shape
        place = torch.rand(2, n, 1, generator=rng, device=rng.device)
        # The centre may be at the edge: then less of the square is in the image.
        inside = [
            (torch.arange(size, device=images.device) - centre * size).abs() * 2 < self.side
            for size, centre in zip((height, width), place, strict=True)
        ]
        erased = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return images.masked_fill(erased, 0.5)


Augmentation = Annotated[
    Affine | Elastic | Mirror | Crop | Colour | Erase, Field(discriminator="kind")
]
