"""A set of labelled images from any source."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from stages.datasets import digits, folder, idx
from stages.datasets.description import DATA, NAME, FolderDescription, read_description
from stages.datasets.drawings import MNIST
from stages.datasets.layout import Shape
from stages.datasets.look import Look, choose, look
from stages.datasets.params import Layout, PrepareParams
from stages.runtime.config import PARAMS
from stages.runtime.errors import UserError, printable, refuse
from stages.runtime.inputs import Inputs
from stages.runtime.splits import checksum

MAX_WARNINGS = 5


@dataclass
class Dataset:
    """N labelled images."""

    images: np.ndarray  # uint8 [N, C, H, W], C is 1 or 3
    labels: np.ndarray  # int64 [N]
    test: np.ndarray | None  # mask of the test set, bool [N]; None: not yet chosen
    about: dict  # name, title, classes, layout, …: recorded in every file made from it
    unreadable: int = 0  # pictures that were skipped
    paths: list[str] | None = None  # of the N pictures; None: the images had no files
    first: np.ndarray = field(init=False)  # int64 [N]: the index of the first equal image

    def __post_init__(self) -> None:
        indices: dict[bytes, int] = {}
        digests = (hashlib.blake2b(image.tobytes(), digest_size=16) for image in self.images)
        self.first = np.array(
            [indices.setdefault(digest.digest(), i) for i, digest in enumerate(digests)], np.int64
        )
        self.about["sha256"] = checksum(self.images, self.labels)

    @property
    def repeated(self) -> np.ndarray:
        """The indices of the images that equal an earlier one, int64 [n]."""
        return np.flatnonzero(self.first != np.arange(len(self.first)))


def load(params: PrepareParams, inputs: Inputs) -> Dataset:
    """Load the set in data/NAME, a dependency of the stage.

    Raises:
        UserError: it is missing or not valid, or a parameter does not apply to it.
    """
    description = read_description(params.dataset, inputs)
    if isinstance(description, FolderDescription):
        return load_folder(params, description, inputs)
    for name in ("test_share", "layout", "size", "skip_unreadable"):
        if getattr(params, name) is not None:
            raise UserError(
                f"{PARAMS}: prepare.{name}: {getattr(params, name)} does not apply to "
                f"{params.dataset}, which {DATA / params.dataset / NAME} describes; set it to null"
            )
    if description.kind == "idx":
        images, labels, test = idx.load(params.dataset, description)
    else:
        images, labels, test = digits.load(params.seed)
    texts = description.model_dump(
        include={"title", "classes", "layout", "licence", "source", "cite"}
    )
    return Dataset(images, labels, test, {"name": params.dataset} | texts)


def load_folder(params: PrepareParams, description: FolderDescription, inputs: Inputs) -> Dataset:
    """Load a folder of pictures.

    Raises:
        UserError: the folder or a picture in it is not valid.
    """
    name = params.dataset
    classes, has_test, pictures = folder.list_pictures(name, inputs)
    if has_test and params.test_share is not None:
        raise UserError(
            f"{PARAMS}: prepare.test_share: {params.test_share} does not apply to {name}, which has a "
            "folder test/; set it to null"
        )
    paths = [picture.path for picture in pictures]
    layout, shape = choose_layout(params, description, paths, inputs)
    images, problems = folder.read_pictures(paths, layout, shape, inputs)
    lines = [f"{printable(pictures[index].path)}: {problems[index]}" for index in problems]
    if not params.skip_unreadable:
        remedy = f"repair or remove it, or set prepare.skip_unreadable to true in {PARAMS}"
        refuse(f"{line}; {remedy}" for line in lines)
    for line in lines:
        print(f"skipped: {line}")
    pictures = [picture for index, picture in enumerate(pictures) if index not in problems]
    labels = np.array([picture.label for picture in pictures], np.int64)
    test = np.array([picture.test for picture in pictures], bool)
    refuse(
        f"{DATA / name}: no readable picture of the class {classes[label]} in {split}/; add some"
        for mask, split in (((~test, "train"), (test, "test")) if has_test else ())
        for label in sorted(set(range(len(classes))) - set(labels[mask]))
    )
    texts = description.model_dump(
        include={"title", "licence", "source", "cite"}, exclude_none=True
    )
    about = {"name": name, "title": name, "classes": classes, "layout": layout} | texts
    paths = [picture.path for picture in pictures]
    dataset = Dataset(images, labels, test if has_test else None, about, len(problems), paths)
    _check_repeated(dataset, paths)
    return dataset


def choose_layout(
    params: PrepareParams, description: FolderDescription, paths: list[str], inputs: Inputs
) -> tuple[Layout, Shape]:
    """Return how the pictures are laid out: as params.yaml says, or dataset.yaml, or a look at them."""
    layout = params.layout or description.layout
    size = params.size or description.size
    if layout is None or (layout == "photo" and size is None):
        looks = list(folder.read_all(paths, look, inputs, "a look at all pictures"))
        found, side, drawings = choose([one for one in looks if isinstance(one, Look)])
        layout = layout or found
        size = size or (MNIST if layout == "drawing" else side)
        print(
            f"layout: {layout}, size: {size} ({drawings:,} of {len(looks):,} pictures look like "
            "drawings in one colour); set prepare.layout and prepare.size to choose others"
        )
    size = size or MNIST
    return layout, (1 if layout == "drawing" else 3, size, size)


def _check_repeated(dataset: Dataset, paths: list[str]) -> None:
    """Refuse pictures in both train/ and test/, and warn of pictures with two labels."""
    leaks, warnings = [], []
    for index in dataset.repeated:
        first = dataset.first[index]
        pair = f"{paths[first]} and {paths[index]}: the same picture after layout"
        if dataset.test is not None and dataset.test[index] != dataset.test[first]:
            leaks.append(
                f"{pair}, in train/ and in test/, so the test accuracy would be too high; remove one"
            )
        if dataset.labels[index] != dataset.labels[first]:
            warnings.append(f"{pair}, with two labels; remove one, or try another prepare.layout")
    refuse(leaks)
    warn(warnings, "pictures have two labels")


def warn(lines: list[str], fault: str) -> None:
    """Print the first five lines as warnings, and how many more pictures have the `fault`."""
    for line in lines[:MAX_WARNINGS]:
        print(f"warning: {printable(line)}")
    if len(lines) > MAX_WARNINGS:
        print(f"warning: {len(lines) - MAX_WARNINGS:,} more {fault}")
