"""What params.yaml may say.

The whole file is checked whichever stage reads it: a slip in `export:` must not surface after an
hour of training. The defaults stand in params.yaml alone; here every key is required.
"""

from pathlib import Path
from typing import Annotated, Literal

from common.errors import UserError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's legacy seeds (scikit-learn)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PrepareParams(_Section):
    dataset: Literal["mnist", "digits"]
    validation_size: Annotated[int, Field(ge=0, le=59_990)]
    seed: Seed

    @model_validator(mode="after")
    def _every_class_has_an_image(self) -> "PrepareParams":
        if 0 < self.validation_size < 10:
            raise ValueError(
                f"validation_size: {self.validation_size} is too small for a stratified split of "
                "10 classes: use 0 (none) or at least 10"
            )
        return self


class Recipe(_Section):
    """What every training needs."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]
    seed: Seed
    threads: Annotated[int, Field(ge=1, le=256)]
    device: Literal["auto", "cpu", "cuda", "mps"]


class FeedForwardParams(Recipe):
    hidden_sizes: list[Annotated[int, Field(ge=1, le=65_536)]]
    activations: list[Literal["tanh", "sigmoid", "relu", "gelu"]]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _one_activation_a_hidden_layer(self) -> "FeedForwardParams":
        if len(self.hidden_sizes) != len(self.activations):
            raise ValueError(
                f"hidden_sizes has {len(self.hidden_sizes)} layers but activations has "
                f"{len(self.activations)}: give one activation for each hidden layer"
            )
        return self

    @property
    def description(self) -> dict:
        """What `common.networks.build` takes."""
        shape = self.model_dump(include={"hidden_sizes", "activations", "dropout"})
        return {"network": "feed_forward", **shape}


class ConvolutionalParams(Recipe):
    channels: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)]
    kernel_sizes: list[Annotated[int, Field(ge=1, le=28)]]
    pool_sizes: list[Annotated[int, Field(ge=1, le=28)]]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    rotation: Annotated[float, Field(ge=0, le=180)]
    scaling: Annotated[float, Field(ge=0, lt=1)]
    shear: Annotated[float, Field(ge=0, lt=1)]
    shift: Annotated[float, Field(ge=0, le=28)]
    bend: Annotated[float, Field(ge=0, le=28)]

    @model_validator(mode="after")
    def _the_layers_fit_the_image(self) -> "ConvolutionalParams":
        if not len(self.channels) == len(self.kernel_sizes) == len(self.pool_sizes):
            raise ValueError(
                f"channels, kernel_sizes and pool_sizes have {len(self.channels)}, "
                f"{len(self.kernel_sizes)} and {len(self.pool_sizes)} entries: give each layer one"
            )
        side = 28
        for layer, (kernel, pool) in enumerate(
            zip(self.kernel_sizes, self.pool_sizes, strict=True), start=1
        ):
            side = (side - kernel + 1) // pool
            if side < 1:
                raise ValueError(
                    f"kernel_sizes: {self.kernel_sizes} with pool_sizes {self.pool_sizes} leave "
                    f"nothing of the 28 pixels after layer {layer}: use smaller ones"
                )
        if self.batch_size < 2 * self.threads:
            raise ValueError(
                f"batch_size: {self.batch_size} is too small for {self.threads} threads: batch "
                f"normalisation wants at least two images in each share, so at least {2 * self.threads}"
            )
        return self

    @property
    def description(self) -> dict:
        """What `common.networks.build` takes."""
        shape = self.model_dump(include={"channels", "kernel_sizes", "pool_sizes"})
        return {"network": "convolutional", **shape}


class EvaluateParams(_Section):
    batch_size: PositiveInt


class ExportParams(_Section):
    formats: Annotated[list[Literal["torchscript", "pt2", "onnx", "int8"]], Field(min_length=1)]
    tolerance: Annotated[float, Field(gt=0)]
    calibration_images: PositiveInt
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _each_format_can_be_made(self) -> "ExportParams":
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats: {self.formats} names one twice: name each once")
        if "int8" in self.formats and "onnx" not in self.formats:
            raise ValueError(f"formats: {self.formats}: int8 is made from onnx: add onnx")
        return self


class Params(_Section):
    recipe: Literal["train", "fast", "convolutional", "thorough"]
    prepare: PrepareParams
    train: FeedForwardParams
    fast: FeedForwardParams
    convolutional: ConvolutionalParams
    thorough: ConvolutionalParams
    evaluate: EvaluateParams
    export: ExportParams

    @property
    def training(self) -> FeedForwardParams | ConvolutionalParams:
        """The section that `recipe` names."""
        return getattr(self, self.recipe)


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `path`.

    It is read as DVC reads it, as YAML 1.2 by ruamel.yaml, so that both see the same numbers
    (YAML 1.1, PyYAML's, takes `1e-3` for a string).

    Raises:
        UserError: the file is missing, is not YAML, or a value is not allowed.
    """
    try:
        document = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the folder that holds dvc.yaml") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        raise UserError("; ".join(_line(path, details) for details in error.errors())) from None


def _line(path: Path, details: dict) -> str:
    """One pydantic error as `params.yaml: train.epochs: 0: input should be ...`."""
    key = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    match details["type"]:
        case "extra_forbidden":
            schema = Params
            for part in details["loc"][:-1]:
                schema = schema.model_fields[part].annotation
            return f"{path}: {key}: unknown key; allowed are {', '.join(schema.model_fields)}"
        case "missing":
            return f"{path}: {key}: missing; add it (git show HEAD:{path} has the defaults)"
        case "value_error":
            return f"{path}: {key}.{message}"
    where = f"{path}: {key}" if key else str(path)
    return f"{where}: {details['input']!r} is not allowed: {message[0].lower()}{message[1:]}"
