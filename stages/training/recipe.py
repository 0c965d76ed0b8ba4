"""The sections `train` and `recipes` of params.yaml."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from stages.networks.registry import Network
from stages.runtime.config import PARAMS, PositiveInt, Section, Seed, shown
from stages.runtime.errors import UserError
from stages.training.augmentations import Augmentation
from stages.training.initial_weights import NONE
from stages.training.losses import CrossEntropy, Loss
from stages.training.optimizers import Optimizer


def in_its_folder(path: str) -> str:
    """Refuse a path elsewhere, since a stage's own output cannot be its input."""
    if not path.startswith(f"{NONE.parent}/") or ".." in Path(path).parts:
        raise PydanticCustomError(
            "elsewhere",
            "use a file in {folder}/, to which you copy the weights of an earlier training; {none} is "
            "for random ones",
            {"folder": str(NONE.parent), "none": str(NONE)},
        )
    return path


class TrainParams(Section):
    others: ClassVar[str] = " (a recipe's own are below recipes.NAME)"

    # Letters, digits, _ and -, since dvc.yaml looks the recipe up as recipes.NAME.
    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]
    initial_weights: Annotated[str, AfterValidator(in_its_folder)]


class Recipe(Section):
    """A network and how it is trained; each part goes with any other."""

    network: Network
    optimizer: Optimizer
    augmentation: list[Augmentation]  # applied in this order
    loss: Loss = CrossEntropy()
    epochs: PositiveInt
    min_steps: Annotated[int, Field(ge=0, lt=2**31)] = 0  # small sets get more epochs for them
    batch_size: PositiveInt
    shards: Annotated[int, Field(ge=1, le=256)]
    drop_last: bool = False  # of the epoch's batches, the last where it is incomplete
    precision: Literal["float32", "bfloat16"] = "float32"  # of a GPU's layers; weights are float32
    keep: Literal["last", "best"] = "last"  # the weights of which epoch; best: validation loss
    patience: PositiveInt | None = None  # epochs without a lower validation loss, then it ends
    freeze: bool = False  # train the last layer alone

    def batches(self, images: int) -> int:
        """Return the number of steps in an epoch of so many images."""
        whole, rest = divmod(images, self.batch_size)
        return max(1, whole) if self.drop_last else whole + (rest > 0)

    def for_images(self, images: int, validation: int) -> "Recipe":
        """Return the recipe for so many images, with as many epochs as `min_steps` asks for.

        Raises:
            ValueError: there are no images for validation, but the recipe depends on it.
        """
        if not validation and (self.keep == "best" or self.patience):
            raise ValueError(
                "keep: best and patience need a validation set; use keep: last and no patience, or set "
                "prepare.validation_size"
            )
        epochs = -(-self.min_steps // self.batches(images))
        return self.model_copy(update={"epochs": max(self.epochs, epochs)})


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
