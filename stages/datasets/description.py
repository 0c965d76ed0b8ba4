"""data/NAME/dataset.yaml describes a published set of images and its sources."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from stages.datasets.params import Layout
from stages.runtime.config import Section, check, parse_yaml
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


def _printable(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("printable", "Use printable letters")
    return name


ClassName = Annotated[Text, AfterValidator(_printable)]


class Description(Section):
    title: Text
    kind: Literal["idx", "digits"]  # MNIST's four files, or scikit-learn's embedded digits
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


def read_description(name: str, inputs: Inputs | None = None) -> Description | None:
    """Return the description in data/NAME/dataset.yaml, which may be one of a stage's `inputs`.

    Returns None if there is no such file.

    Raises:
        UserError: it is not valid.
    """
    path = DATA / name / NAME
    if not path.exists():
        return None
    content = inputs.read(path) if inputs else path.read_bytes()
    return check(path, "", parse_yaml(path, content), Description)
