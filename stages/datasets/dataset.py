"""A set of labelled images, wherever it comes from."""

from dataclasses import dataclass, field

import numpy as np

from stages.common.errors import UserError, printable
from stages.common.params import PARAMS, PrepareParams
from stages.common.splits import checksum
from stages.datasets import digits, folder, idx
from stages.datasets.description import DATA, NAME, read_description


@dataclass
class Dataset:
    """N labelled images, 0 is background."""

    images: np.ndarray  # uint8 [N, 28, 28]
    labels: np.ndarray  # int64 [N]
    test: np.ndarray | None  # bool [N]; None: it is still to be drawn
    about: dict  # name, title, classes, layout, …: what every file made from it tells
    paths: list[str] | None = None  # of its own pictures; None: they were published as they are
    unreadable: int = 0  # pictures that were left out
    first: np.ndarray = field(init=False)  # int64 [N]: the index of the first that is equal

    def __post_init__(self) -> None:
        self.first = folder.equal_pictures(self.images)
        self.about["sha256"] = checksum(self.images, self.labels)

    @property
    def repeated(self) -> np.ndarray:
        """The indices of the images that are equal to an earlier one, int64 [n]."""
        return np.flatnonzero(self.first != np.arange(len(self.first)))


def load(params: PrepareParams) -> Dataset:
    """Load the set in data/NAME.

    Raises:
        UserError: it is missing or not as it should be, or a parameter does not go with it.
    """
    description = read_description(params.dataset)
    if description is None:
        return load_folder(params)
    for name in ("test_share", "layout", "skip_unreadable"):
        if getattr(params, name) is not None:
            raise UserError(
                f"{PARAMS}: prepare.{name}: {getattr(params, name)} does not count for "
                f"{params.dataset}, of which {DATA / params.dataset / NAME} says it all; set it to null"
            )
    if description.kind == "idx":
        images, labels, test = idx.load(params.dataset, description)
    else:
        images, labels, test = digits.load(params.seed)
    texts = description.model_dump(
        include={"title", "classes", "layout", "licence", "source", "cite"}
    )
    return Dataset(images, labels, test, {"name": params.dataset} | texts)


def load_folder(params: PrepareParams) -> Dataset:
    """Load a folder of pictures.

    Raises:
        UserError: something in it is not as it should be.
    """
    name, layout = params.dataset, params.layout or "mnist"
    classes, divided, pictures = folder.list_pictures(name)
    if divided and params.test_share is not None:
        raise UserError(
            f"{PARAMS}: prepare.test_share: {params.test_share} does not count for {name}, which has a "
            "folder test/; set it to null"
        )
    images, problems = folder.read_pictures(pictures, layout)
    lines = [
        f"{printable(pictures[place].path)}: {reason}" for place, reason in sorted(problems.items())
    ]
    if problems and not params.skip_unreadable:
        more = f" (and {len(lines) - 1:,} more)" if len(lines) > 1 else ""
        raise UserError(
            f"{lines[0]}{more}; mend or remove it, or set prepare.skip_unreadable to true in {PARAMS}"
        )
    for line in lines:
        print(f"left out: {line}")
    kept = [place for place in range(len(pictures)) if place not in problems]
    if problems:  # in its place, since a copy would be in memory
        for first in range(0, len(kept), folder.AT_ONCE):
            some = kept[first : first + folder.AT_ONCE]
            images[first : first + len(some)] = images[some]
    images = images[: len(kept)]
    labels = np.array([pictures[place].label for place in kept], np.int64)
    test = np.array([pictures[place].test for place in kept]) if divided else None
    for part in (False, True) if divided else ():
        if lost := set(range(len(classes))) - set(labels[test == part]):
            raise UserError(
                f"{DATA / name}: no readable picture of the class {classes[min(lost)]} in "
                f"{'test' if part else 'train'}/; add some"
            )
    about = {"name": name, "title": name, "classes": classes, "layout": layout}
    paths = [pictures[place].path for place in kept]
    found = Dataset(images, labels, test, about, paths, len(problems))
    refuse_mixed(found)
    return found


def refuse_mixed(dataset: Dataset) -> None:
    """Refuse a folder with a picture in train/ and test/, and warn of one with two labels."""
    told = 0
    for index in dataset.repeated:
        first = dataset.first[index]
        one, other = (printable(dataset.paths[place]) for place in (first, index))
        if dataset.test is not None and dataset.test[index] != dataset.test[first]:
            raise UserError(
                f"{one} and {other}: the same picture, once laid out, for training and for the "
                "test, whose accuracy would be too good; remove one"
            )
        if dataset.labels[index] != dataset.labels[first]:
            told += 1
            if told <= folder.TOLD:
                print(
                    f"warning: {one} and {other}: the same picture, once laid out, under two labels; "
                    "remove one, or try another prepare.layout"
                )
    if told > folder.TOLD:
        print(f"warning: {told - folder.TOLD:,} more pictures have two labels")
