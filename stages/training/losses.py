"""The losses that a recipe can choose. To add one: a class, and a name in `Loss`."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.runtime.config import Section, Share


class CrossEntropy(Section):
    """Cross-entropy in nats.

    Label smoothing moves a share of each label's probability to all classes: C. Szegedy et al.,
    "Rethinking the Inception Architecture for Computer Vision", 2016, section 7.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Share = 0.0
    class_weights: Literal["balanced"] | None = None  # as if each class had equally many images

    def build(self, labels: Tensor, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of a training on images with `labels`, int64 [N], on their device.

        It maps logits float32 [n, classes] and labels int64 [n] to the sum of their losses, float32 [].
        """
        weight = None
        if self.class_weights:  # as scikit-learn's "balanced": their mean over all images is 1
            images = torch.bincount(labels, minlength=classes).clamp(min=1)
            weight = len(labels) / (classes * images)
        return partial(
            cross_entropy, weight=weight, reduction="sum", label_smoothing=self.label_smoothing
        )


Loss = CrossEntropy  # Annotated[CrossEntropy | Other, Field(discriminator="kind")]
