"""The section `prepare` of params.yaml."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from stages.runtime.config import Section, Seed

RENAMED = {"mnist": "drawing", "resize": "photo"}


def _new_name(value: object) -> object:
    if new := RENAMED.get(value if isinstance(value, str) else ""):
        raise PydanticCustomError("renamed", "Use its new name: {new}", {"new": new})
    return value


# How a picture becomes an image: layout.py.
LayoutName = Literal["drawing", "photo"]
Layout = Annotated[LayoutName, BeforeValidator(_new_name)]
Size = Annotated[int, Field(ge=8, le=256)]  # pixels of an image's sides


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


def _name_of_a_set(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", value) or value == "prepared":
        raise PydanticCustomError(
            "name",
            "Use the plain name of a folder in data/, of letters, digits, _, - and dots; data/prepared "
            "is the stage's own",
        )
    return value


# Of pictures: an int, or a float below 1.
Amount = Annotated[Any, AfterValidator(_amount)]
AmountOrNone = Annotated[Any, AfterValidator(_amount_or_none)]


class PrepareParams(Section):
    dataset: Annotated[str, AfterValidator(_name_of_a_set)]
    validation_size: AmountOrNone
    seed: Seed
    test_share: Amount | None
    layout: Layout | None
    size: Size | None
    skip_unreadable: bool | None
