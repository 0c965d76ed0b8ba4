"""The losses that a recipe can choose. To add one: a class, and a name in `Loss`."""

from typing import Literal

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

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the losses, float32 [], of logits [n, classes] and labels int64 [n]."""
        return cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)


Loss = CrossEntropy  # Annotated[CrossEntropy | Other, Field(discriminator="kind")]
