"""A network that no recipe has: its layers draw random numbers in every way, and keep buffers."""

import torch
from torch import Tensor, nn


class RandomNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 5, stride=3)
        self.normalisation = nn.BatchNorm2d(8)
        self.noise = nn.Sequential(nn.Dropout2d(0.2), nn.RReLU(), nn.AlphaDropout(0.2))
        self.linear = nn.Linear(8 * 8 * 8, 10)
        self.register_buffer("scale", torch.tensor(1 / 3))  # that training does not change
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.tensor(0.0))

    def forward(self, images: Tensor) -> Tensor:
        values = self.normalisation(self.convolution(images)) * self.scale
        if self.training:
            self.seen += 1
            self.mean += 0.25 * (images.mean() - self.mean)
            values = self.noise(values)
            values = values * torch.empty(len(images), 1, 1, 1).bernoulli_(0.8)  # stochastic depth
        return nn.functional.dropout(self.linear(values.flatten(1)), 0.1, self.training)
