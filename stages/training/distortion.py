"""Training images a little moved, turned and bent, so that each is seen in many forms."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from stages.common.params import SIDE, ConvolutionalRecipe


class Distortion(NamedTuple):
    """How each of n images is distorted."""

    maps: Tensor  # float32 [n, 2, 3], affine maps as `affine_grid` takes them
    bends: Tensor  # float32 [n, 2, 5, 5], displacements at 5 by 5 points, in half images

    def to(self, device: torch.device) -> "Distortion":
        return Distortion(self.maps.to(device), self.bends.to(device))


def draw(n: int, recipe: ConvolutionalRecipe, generator: torch.Generator) -> Distortion:
    """Draw how n images are distorted.

    The maps turn by up to `recipe.rotation` degrees, scale each axis by 1 ± `scaling`, shear by up
    to `shear` and shift each axis by up to `shift` pixels, all drawn uniformly. The bends are
    normally distributed, with a standard deviation of `bend` pixels.
    """

    angle, width, height, shear, right, down = 2 * torch.rand(6, n, generator=generator) - 1
    angle, shear = angle * math.radians(recipe.rotation), shear * recipe.shear
    width, height = 1 + width * recipe.scaling, 1 + height * recipe.scaling
    right, down = (part * (recipe.shift * 2 / SIDE) for part in (right, down))  # 2 units wide
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack([cosine * width, (shear * cosine - sine) * height, right], dim=1),
        torch.stack([sine * width, (shear * sine + cosine) * height, down], dim=1),
    )
    normal = torch.randn(n, 2, 5, 5, generator=generator)
    return Distortion(torch.stack(rows, dim=1), normal * (recipe.bend * 2 / SIDE))


def distort(images: Tensor, distortion: Distortion) -> Tensor:
    """Return images float32 [n, 1, 28, 28], each under its affine map and smooth bend.

    Smooth random displacements of handwriting are those of P. Simard, D. Steinkraus, J. Platt, "Best
    Practices for Convolutional Neural Networks Applied to Visual Document Analysis", 2003.
    """
    grid = affine_grid(distortion.maps, list(images.shape), align_corners=False)
    if distortion.bends.any():
        smooth = interpolate(
            distortion.bends, size=images.shape[2:], mode="bicubic", align_corners=True
        )
        grid = grid + smooth.permute(0, 2, 3, 1)
    return grid_sample(images, grid, align_corners=False)
