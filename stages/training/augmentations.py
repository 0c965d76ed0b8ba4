"""The augmentations that a recipe can choose. To add one: a class, and a name in `Augmentation`.

Each maps a shard's images float32 [n, channels, height, width] in [0, 1] to such images, and draws from
the generator that it is given, on the CPU.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from stages.runtime.config import NotNegative, Section, Share


class Affine(Section):
    """Rotates, scales, shears and translates each image, by amounts drawn uniformly."""

    kind: Literal["affine"]
    rotation: Annotated[float, Field(ge=0, le=180)]  # up to so many degrees
    scaling: Share  # each axis by up to this share
    shear: Share  # up to this share
    translate: NotNegative  # each axis by up to so many pixels

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        n, _, height, width = images.shape
        angle, stretch_x, stretch_y, shear, right, down = 2 * torch.rand(6, n, generator=rng) - 1
        angle, shear = angle * math.radians(self.rotation), shear * self.shear
        stretch_x, stretch_y = 1 + stretch_x * self.scaling, 1 + stretch_y * self.scaling
        # A grid's coordinates are from -1 to 1.
        right, down = right * (self.translate * 2 / width), down * (self.translate * 2 / height)
        cosine, sine = angle.cos(), angle.sin()
        rows = (
            torch.stack([cosine * stretch_x, (shear * cosine - sine) * stretch_y, right], dim=1),
            torch.stack([sine * stretch_x, (shear * sine + cosine) * stretch_y, down], dim=1),
        )
        maps = torch.stack(rows, dim=1).to(images.device)
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
        scale = self.displacement * 2 / torch.tensor([width, height]).view(1, 2, 1, 1)
        displacements = (torch.randn(n, 2, 5, 5, generator=rng) * scale).to(images.device)
        smooth = interpolate(
            displacements, size=(height, width), mode="bicubic", align_corners=True
        )
        still = torch.eye(2, 3, device=images.device).expand(n, 2, 3)
        grid = affine_grid(still, list(images.shape), align_corners=False)
        return grid_sample(images, grid + smooth.permute(0, 2, 3, 1), align_corners=False)


Augmentation = Annotated[Affine | Elastic, Field(discriminator="kind")]
