"""Linear layers, each but the last followed by an activation and dropout."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from stages.runtime.config import Section, Share

ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU, "gelu": nn.GELU}


class FeedForward(Section):
    """The configuration of a feed-forward network, and its builder."""

    kind: Literal["feed_forward"]
    hidden_sizes: list[Annotated[int, Field(ge=1, lt=2**31)]]
    activations: list[Literal["tanh", "sigmoid", "relu", "gelu"]]
    dropout: Share

    @model_validator(mode="after")
    def _one_activation_for_each_layer(self) -> "FeedForward":
        if len(self.hidden_sizes) != len(self.activations):
            raise ValueError(
                f"hidden_sizes: {len(self.hidden_sizes)} layers, but activations has "
                f"{len(self.activations)}: give one activation for each hidden layer"
            )
        return self

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network of images of `shape` (channels, height, width), with random weights."""
        channels, height, width = shape
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = channels * height * width
        for size, activation in zip(self.hidden_sizes, self.activations, strict=True):
            layers += [nn.Linear(inputs, size), ACTIVATIONS[activation](), nn.Dropout(self.dropout)]
            inputs = size
        return nn.Sequential(*layers, nn.Linear(inputs, classes))
