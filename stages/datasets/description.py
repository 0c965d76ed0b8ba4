"""data/NAME/dataset.yaml describes a set of images, and where a published one comes from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from stages.datasets.params import Layout, Size
from stages.runtime.config import Section, check, parse_yaml
from stages.runtime.errors import JOINERS, printable
from stages.runtime.inputs import Inputs

DATA = Path("data")
NAME = "dataset.yaml"
MAX_CLASSES = 1000
FILES = {  # of a set in MNIST's form
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
}

Text = Annotated[str, Field(min_length=1)]


def is_printable(name: str) -> bool:
    """Return whether a name has letters, all of which can be printed or join others."""
    return bool(name.strip(JOINERS)) and printable(name) == name


def _printable(name: str) -> str:
    if not is_printable(name):
        raise PydanticCustomError("printable", "Use printable letters")
    return name


ClassName = Annotated[Text, AfterValidator(_printable)]


class FolderDescription(Section):
    """Of pictures in a folder for each class: all that its owner wants to say."""

    title: Text | None = None
    layout: Layout | None = None
    size: Size | None = None
    licence: Text | None = None
    source: Text | None = None
    cite: Text | None = None


class Description(Section):
    """Of a published set."""

    kind: Literal["idx", "digits"]  # MNIST's four files, or scikit-learn's embedded digits
    title: Text
    classes: Annotated[list[ClassName], Field(min_length=2, max_length=MAX_CLASSES)]
    layout: Layout
    urls: list[Annotated[str, Field(pattern="^https://")]] = Field(default=[])
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(default={})  # SHA-256
    licence: Text
    source: Text
    cite: Text

    @model_validator(mode="after")
    def _downloads_are_complete(self) -> "Description":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: {self.classes} has a name twice")
        if self.kind == "idx" and (set(self.files) != FILES or not self.urls):
            raise ValueError(
                f"kind: idx needs urls, and files with the SHA-256 of {', '.join(sorted(FILES))}"
            )
        return self


def read_description(name: str, inputs: Inputs | None = None) -> Description | FolderDescription:
    """Return the description in data/NAME/dataset.yaml, which may be one of a stage's `inputs`.

    A folder of pictures needs none: its description has no `kind`, and may be empty.

    Raises:
        UserError: it is not valid.
    """
    path = DATA / name / NAME
    if not path.exists():
        return FolderDescription()
    content = parse_yaml(path, inputs.read(path) if inputs else path.read_bytes())
    if isinstance(content, dict) and "kind" in content:
        return check(path, "", content, Description)
    return check(path, "", content, FolderDescription)
