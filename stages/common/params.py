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


class TrainParams(_Section):
    hidden_sizes: list[Annotated[int, Field(ge=1, le=65_536)]]
    activations: list[Literal["tanh", "sigmoid", "relu", "gelu"]]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]
    seed: Seed
    threads: Annotated[int, Field(ge=1, le=256)]
    device: Literal["auto", "cpu", "cuda", "mps"]

    @model_validator(mode="after")
    def _one_activation_a_hidden_layer(self) -> "TrainParams":
        if len(self.hidden_sizes) != len(self.activations):
            raise ValueError(
                f"hidden_sizes has {len(self.hidden_sizes)} layers but activations has "
                f"{len(self.activations)}: give one activation for each hidden layer"
            )
        return self


class EvaluateParams(_Section):
    batch_size: PositiveInt


class ExportParams(_Section):
    tolerance: Annotated[float, Field(gt=0)]


class Params(_Section):
    prepare: PrepareParams
    train: TrainParams
    evaluate: EvaluateParams
    export: ExportParams


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
