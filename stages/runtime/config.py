"""How params.yaml and other YAML files are read and checked.

Each section's schema is in the room of the code that it configures. A value that is not allowed ends
in one line: `params.yaml: train.seed: -1 is not allowed: input should be greater than or equal to 0`.
"""

import warnings
from datetime import date
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stages.runtime.errors import UserError, without_secrets

PARAMS = Path("params.yaml")
MAX_ERRORS = 5  # in one message
MAX_LETTERS = 200  # of a value in a message

Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's legacy seeds (scikit-learn)


class Section(BaseModel):
    """A section of a YAML file: exact types, finite numbers, no unknown key."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    others: ClassVar[str] = ""  # the section of keys that users expect in this one

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: object) -> object:
        if isinstance(values, dict) and (
            unknown := [key for key in values if key not in cls.model_fields]
        ):
            allowed = ", ".join(cls.model_fields)
            raise PydanticCustomError(
                "unknown_key",
                "unknown key; allowed are {allowed}{others}",
                {"key": unknown[0], "allowed": allowed, "others": cls.others},
            )
        return values


Schema = TypeVar("Schema", bound=Section)


def read_yaml(path: Path) -> object:
    """Return the content of a YAML file.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    try:
        return parse_yaml(path, path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the folder that holds dvc.yaml") from None


def parse_yaml(path: Path, content: bytes) -> object:
    """Return the content of a YAML file.

    DVC fills in dvc.yaml and records parameters by what it reads, so this is DVC's own reader. Another
    would read data/2024_01 where DVC records data/202401.

    Raises:
        UserError: it is not YAML.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of a reused anchor: DVC prints it
            return YAML(typ="safe").load(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start:,})") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        reason = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45 is no date
        reason = str(error)
    raise UserError(f"{path}: not valid YAML: {without_secrets(' '.join(reason.split()))}")


def read_checked(path: Path, schema: type[Schema]) -> Schema:
    """Return the content of a YAML file as `schema`.

    Raises:
        UserError: the file is missing, is not YAML, or has a value that is not allowed.
    """
    return check(path, "", read_yaml(path), schema)


def lookup(document: object, key: str) -> object:
    """Return document["train"]["recipe"] for "train.recipe"; None if there is none."""
    for part in key.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def check(path: Path, key: str, values: object, schema: type[Schema]) -> Schema:
    """Return the values of section `key` ("" for the whole file) of a YAML file as `schema`.

    Raises:
        UserError: a value is not allowed, missing or unknown. The line names its key.
    """
    if values is None and key:
        raise UserError(f"{path}: {key}: missing; add it")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        lines = [_line(key, details, values) for details in errors[:MAX_ERRORS]]
        more = f"; and {len(errors) - MAX_ERRORS:,} more" if len(errors) > MAX_ERRORS else ""
        raise UserError(f"{path}: {'; '.join(lines)}{more}") from None


def section(document: object, key: str, schema: type[Schema]) -> Schema:
    """Return section `key` of the content of params.yaml, such as "prepare" or "recipes.fast".

    Raises:
        UserError: it is missing, or has a value that is not allowed.
    """
    return check(PARAMS, key, lookup(document, key), schema)


def shown(value: object) -> str:
    """Return a value, shortened, for a message."""
    text = without_secrets(str(value) if isinstance(value, date) else repr(value))
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 50]} … {text[-40:]}"


def _line(prefix: str, details: ErrorDetails, values: object) -> str:
    keys = [prefix] if prefix else []
    for part in details["loc"]:
        # pydantic's own marks: the kind of a discriminated union, and an error in a key itself.
        marks = isinstance(values, dict) and part == values.get("kind") and part not in values
        if not marks and part != "[key]":
            keys.append(str(part))
            try:
                values = values[part]  # type: ignore[index]
            except (LookupError, TypeError):
                values = None
    kind, context = details["type"], details.get("ctx", {})
    message = details["msg"].removeprefix("Value error, ")
    if kind == "unknown_key":
        keys.append(shown(context["key"]).strip("'"))
    if kind.startswith("union_tag"):
        keys.append("kind")
    key = ".".join(keys)
    match kind:
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "use a section, with its keys below it"
        case "unknown_key":
            return f"{key}: {message}"
        case "missing" | "union_tag_not_found":
            return f"{key}: missing; add it"
        case "union_tag_invalid":
            tag = shown(context["tag"])
            return f"{key}: {tag} is not allowed: use {context['expected_tags']}"
        case "value_error":
            return f"{key}.{message}" if key else message
        case "string_type" if isinstance(details["input"], bool | int | float | date):
            message = "a number, a truth value or a date, in YAML; put it into quotes"
    value = shown(details["input"])
    return f"{key or 'the file'}: {value} is not allowed: {message[0].lower()}{message[1:]}"
