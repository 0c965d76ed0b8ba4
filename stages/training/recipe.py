"""The sections `train` and `recipes` of params.yaml."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stages.networks.registry import Network
from stages.runtime.config import PARAMS, PositiveInt, Section, Seed, shown
from stages.runtime.errors import UserError
from stages.training.augmentations import Augmentation
from stages.training.losses import CrossEntropy, Loss
from stages.training.optimizers import Optimizer


class TrainParams(Section):
    others: ClassVar[str] = " (a recipe's own are below recipes.NAME)"

    # Letters, digits, _ and -, since dvc.yaml looks the recipe up as recipes.NAME.
    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]


class Recipe(Section):
    """A network and how it is trained; each part goes with any other."""

    network: Network
    optimizer: Optimizer
    augmentation: list[Augmentation]  # applied in this order
    loss: Loss = CrossEntropy()
    epochs: PositiveInt
    batch_size: PositiveInt
    shards: Annotated[int, Field(ge=1, le=256)]
    drop_last: bool = False  # of the epoch's batches, the last where it is incomplete


def check_choice(name: str, recipes: object) -> None:
    """Refuse a `train.recipe` that is not among the `recipes` of params.yaml.

    Raises:
        UserError: it is not.
    """
    if not isinstance(recipes, dict) or not recipes:
        raise UserError(f"{PARAMS}: recipes: missing; add it")
    if name not in recipes:
        raise UserError(
            f"{PARAMS}: train.recipe: {shown(name)} is not one of the recipes; choose "
            f"{', '.join(map(str, recipes))}, or add it below `recipes:`"
        )
