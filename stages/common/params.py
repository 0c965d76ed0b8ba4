"""What params.yaml may say.

The whole file is checked whichever stage reads it: a slip in `export:` must not surface after an
hour of training. The defaults stand in params.yaml alone; here every key is required.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from yamlcore import CoreLoader

from stages.common.errors import UserError, without_secrets

PARAMS = Path("params.yaml")
SIDE = 28  # pixels: images are squares, of MNIST's size
MOST_CLASSES = 1000
MOST_LAYERS = 100
MOST_WEIGHTS = 2**28  # of a network for 1,000 classes; with gradients and Adam's moments, 4 GB
MOST_VALUES = 100_000  # in a YAML file: with aliases, a few lines can stand for billions
MOST_LINES = 5  # of a message
MOST_LETTERS = 200  # of a value, in a message

PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's legacy seeds (scikit-learn)
Of = TypeVar("Of")
Layers = Annotated[list[Of], Field(max_length=MOST_LAYERS)]
Sizes = Layers[Annotated[int, Field(ge=1, le=SIDE)]]


def _amount(value: object) -> object:
    whole = type(value) is int and 0 < value < 2**31
    share = type(value) is float and 0 < value < 1
    if not (whole or share):
        raise PydanticCustomError(
            "amount", "Use a number of pictures (5000) or a share of them (0.1)"
        )
    return value


def _amount_or_none(value: object) -> object:
    return 0 if type(value) is int and value == 0 else _amount(value)


# Of pictures: an int, or a float below 1.
Amount = Annotated[Any, AfterValidator(_amount)]
AmountOrNone = Annotated[Any, AfterValidator(_amount_or_none)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Layout = Literal["mnist", "resize"]


def _name_of_a_set(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value) or value == "prepared":
        raise PydanticCustomError(
            "name",
            "Use the plain name of a folder in data/, of letters, digits, _, - and dots; data/prepared "
            "is the stage's own",
        )
    return value


class PrepareParams(Section):
    dataset: Annotated[str, AfterValidator(_name_of_a_set)]
    validation_size: AmountOrNone
    seed: Seed
    test_share: Amount | None
    layout: Layout | None
    skip_unreadable: bool | None


class TrainParams(Section):
    recipe: str
    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]


class _Recipe(Section):
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]
    shards: Annotated[int, Field(ge=1, le=256)]


def _refuse_too_many_weights(key: str, sizes: list[int], weights: int) -> None:
    if weights > MOST_WEIGHTS:
        raise ValueError(
            f"{key}: {sizes} make up to {weights:,} weights: use fewer or smaller layers, of at most "
            f"{MOST_WEIGHTS:,}"
        )


class FeedForwardRecipe(_Recipe):
    network: Literal["feed_forward"]
    hidden_sizes: Layers[Annotated[int, Field(ge=1, le=65_536)]]
    activations: Layers[Literal["tanh", "sigmoid", "relu", "gelu"]]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _one_activation_a_hidden_layer(self) -> "FeedForwardRecipe":
        if len(self.hidden_sizes) != len(self.activations):
            raise ValueError(
                f"hidden_sizes has {len(self.hidden_sizes)} layers but activations has "
                f"{len(self.activations)}: give one activation for each hidden layer"
            )
        sizes = [SIDE * SIDE, *self.hidden_sizes, MOST_CLASSES]
        weights = sum(first * second for first, second in pairwise(sizes))
        _refuse_too_many_weights("hidden_sizes", self.hidden_sizes, weights)
        return self

    @property
    def architecture(self) -> dict:
        """What `networks.build` takes."""
        return self.model_dump(include={"network", "hidden_sizes", "activations", "dropout"})


class ConvolutionalRecipe(_Recipe):
    network: Literal["convolutional"]
    channels: Annotated[Layers[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)]
    kernel_sizes: Sizes
    pool_sizes: Sizes
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    rotation: Annotated[float, Field(ge=0, le=180)]
    scaling: Annotated[float, Field(ge=0, lt=1)]
    shear: Annotated[float, Field(ge=0, lt=1)]
    shift: Annotated[float, Field(ge=0, le=SIDE)]
    bend: Annotated[float, Field(ge=0, le=SIDE)]

    @model_validator(mode="after")
    def _the_layers_fit_the_image(self) -> "ConvolutionalRecipe":
        if not len(self.channels) == len(self.kernel_sizes) == len(self.pool_sizes):
            raise ValueError(
                f"channels, kernel_sizes and pool_sizes have {len(self.channels)}, "
                f"{len(self.kernel_sizes)} and {len(self.pool_sizes)} entries: give each layer one"
            )
        side, inputs, weights = SIDE, 1, 0
        for layer, (outputs, kernel, pool) in enumerate(
            zip(self.channels, self.kernel_sizes, self.pool_sizes, strict=True), start=1
        ):
            weights += inputs * outputs * kernel * kernel
            side, inputs = (side - kernel + 1) // pool, outputs
            if side < 1:
                raise ValueError(
                    f"kernel_sizes: {self.kernel_sizes} with pool_sizes {self.pool_sizes} leave "
                    f"nothing of the {SIDE} pixels after layer {layer}: use smaller ones"
                )
        weights += inputs * side * side * MOST_CLASSES
        _refuse_too_many_weights("channels", self.channels, weights)
        if self.batch_size < 2 * self.shards:
            raise ValueError(
                f"batch_size: {self.batch_size} is too small for {self.shards} shards: batch "
                f"normalisation wants at least two images in each, so at least {2 * self.shards}"
            )
        return self

    @property
    def architecture(self) -> dict:
        """What `networks.build` takes."""
        return self.model_dump(include={"network", "channels", "kernel_sizes", "pool_sizes"})


Checked = TypeVar("Checked", bound=Section)
RECIPES = {"feed_forward": FeedForwardRecipe, "convolutional": ConvolutionalRecipe}
Recipe = FeedForwardRecipe | ConvolutionalRecipe
# Of letters, digits, _ and -, since dvc.yaml looks a recipe up as recipes.NAME.
RecipeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class EvaluateParams(Section):
    batch_size: PositiveInt


class ExportParams(Section):
    tolerance: Annotated[float, Field(gt=0)]
    calibration_images: PositiveInt
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)]


class Params(Section):
    prepare: PrepareParams
    train: TrainParams
    recipes: dict[RecipeName, Annotated[Recipe, Field(discriminator="network")]]
    evaluate: EvaluateParams
    export: ExportParams

    @model_validator(mode="after")
    def _the_recipe_is_there(self) -> "Params":
        if self.train.recipe not in self.recipes:
            raise ValueError(
                f"train.recipe: {self.train.recipe!r} is not one of the recipes; choose "
                f"{', '.join(self.recipes)}, or add it below `recipes:`"
            )
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe that `train.recipe` names."""
        return self.recipes[self.train.recipe]


def read_yaml(path: Path) -> object:
    """Return what a YAML file holds, as YAML 1.2, like DVC (1.1 takes `1e-3` for a string).

    Raises:
        UserError: the file is missing, is not YAML, or its aliases stand for too much.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the folder that holds dvc.yaml") from None
    try:
        document = yaml.load(content.decode("utf-8"), Loader=CoreLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start:,})") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: its values are nested too deeply") from None
    # yamlcore takes a scalar of an explicit type (`!!int ""`, `!!map x`) for what its tag says, and so
    # raises any of Python's errors.
    except Exception as error:
        said = " ".join(str(error).split())
        if not isinstance(error, yaml.YAMLError):
            said = f"a value is not of its type ({said})"
        raise UserError(f"{path}: not valid YAML: {without_secrets(said)}") from None
    if not _is_small(document):
        raise UserError(
            f"{path}: stands for more than {MOST_VALUES:,} values; write it without aliases"
        )
    return document


def _is_small(document: object) -> bool:
    """Say whether a document has at most MOST_VALUES values, each alias written out."""
    left, values = MOST_VALUES, [document]
    while values:
        value = values.pop()
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(inside, list):
            left -= len(inside)
            if left < 0:
                return False
            values += inside
    return True


def load_params(path: Path = PARAMS) -> Params:
    """Read and check `path`.

    Raises:
        UserError: the file is missing, is not YAML, or a value is not allowed.
    """
    return read_checked(path, Params)


def read_checked(path: Path, schema: type[Checked]) -> Checked:
    """Return what a YAML file holds as a `schema`.

    Raises:
        UserError: the file is missing, is not YAML, or a value is not allowed.
    """
    document = read_yaml(path)
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        errors = error.errors()
        lines = [_line(path, details, document, schema) for details in errors[:MOST_LINES]]
        more = f"; and {len(errors) - MOST_LINES:,} more" if len(errors) > MOST_LINES else ""
        raise UserError("; ".join(lines) + more) from None


def _shown(value: object) -> str:
    """Return a value as one line can show it."""
    try:
        return _short(without_secrets(repr(value)))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 50]} … {text[-40:]}"


def _line(path: Path, details: dict, document: object, schema: type[Section]) -> str:
    """One pydantic error as `params.yaml: train.seed: -1 is not allowed: input should be ...`."""
    keys, message = list(details["loc"]), details["msg"].removeprefix("Value error, ")
    if keys[:1] == ["recipes"] and len(keys) > 2 and keys[2] in RECIPES:
        schema = RECIPES[keys.pop(2)]  # pydantic's own mark, which is no key
    elif len(keys) > 1 and schema is Params and keys[0] in Params.model_fields:
        schema = Params.model_fields[keys[0]].annotation
    if keys[-1:] == ["[key]"]:  # pydantic's own mark, too: the name itself is not allowed
        del keys[-2:]
    key = _short(".".join(map(str, keys)))
    match details["type"]:
        case "extra_forbidden":
            line = f"{path}: {key}: unknown key; allowed are {', '.join(schema.model_fields)}"
            if schema is TrainParams and any(
                keys[1] in one.model_fields for one in RECIPES.values()
            ):
                recipe = document["train"].get("recipe", "NAME")
                line += f" (it belongs to a recipe: recipes.{_short(str(recipe))}.{keys[1]})"
            return line
        case "missing":
            defaults = f" (git show HEAD:{path} has the defaults)" if path == PARAMS else ""
            return f"{path}: {key}: missing; add it{defaults}"
        case "union_tag_not_found" | "union_tag_invalid":
            found = details["input"].get("network") if isinstance(details["input"], dict) else None
            return (
                f"{path}: {key}.network: {_shown(found)} is not allowed: use {' or '.join(RECIPES)}"
            )
        case "value_error":
            return f"{path}: {key}{'.' if key else ''}{message}"
    where = f"{path}: {key}" if key else str(path)
    return f"{where}: {_shown(details['input'])} is not allowed: {message[0].lower()}{message[1:]}"
