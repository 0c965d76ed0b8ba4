"""Published sets in MNIST's form: four downloaded files with known checksums.

`make data` runs this module: it checks the parameters and fetches the files, for instance before going
offline. The exit code is 2 if no source has them.
"""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np

from stages.datasets.description import Description, read_description
from stages.datasets.download import CACHE, SourceError, fetch
from stages.datasets.params import PrepareParams
from stages.runtime import errors
from stages.runtime.config import PARAMS, read_yaml, section
from stages.runtime.errors import UserError

MIRROR_VARIABLE = "MNIST_MIRROR"


class NoSourceError(UserError):
    """No source has a set."""

    exit_code = 2


def load(name: str, description: Description) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images uint8 [N, 1, 28, 28], labels int64 [N], and a mask of the test set, bool [N].

    0 is paper, 255 is ink.

    Raises:
        NoSourceError: a file is neither in the cache nor available from any source.
        UserError: a file is not in MNIST's form.
    """
    files = {path.name: read_verified(path, description) for path in fetch_files(name, description)}
    try:
        images, labels = _read(files, "train")
        test_images, test_labels = _read(files, "t10k")
        test = np.repeat([False, True], [len(labels), len(test_labels)])
        images = np.concatenate([images, test_images])
        labels = np.concatenate([labels, test_labels])
        if labels.max() >= len(description.classes):
            raise ValueError(f"{len(description.classes)} classes, labels up to {labels.max()}")
    except (EOFError, IndexError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"data/{name}/dataset.yaml: its files are not in MNIST's form "
            f"({type(error).__name__}: {error})"
        ) from None
    return images[:, None], labels, test


def read_verified(path: Path, description: Description) -> bytes:
    """Return the content of a file in the cache; raises UserError: it has changed since `fetch`."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != description.files[path.name]:
        raise UserError(f"{path}: changed after it was verified; run `dvc repro` again")
    return content


def _read(files: dict[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, 28, 28] and labels int64 [N] of "train" or "t10k"."""
    images = parse(files[f"{split}-images-idx3-ubyte.gz"])
    labels = parse(files[f"{split}-labels-idx1-ubyte.gz"])
    if labels.ndim != 1 or images.shape != (len(labels), 28, 28):
        raise ValueError(f"images {images.shape}, labels {labels.shape}")
    return images, labels.astype(np.int64)


def parse(content: bytes) -> np.ndarray:
    """Return the values of a compressed IDX file of bytes, uint8; http://yann.lecun.com/exdb/mnist.

    Raises:
        EOFError, IndexError, ValueError, gzip.BadGzipFile, zlib.error: not an IDX file of bytes.
    """
    content = gzip.decompress(content)
    if content[:3] != b"\0\0\x08":
        raise ValueError("no IDX file of bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def fetch_files(name: str, description: Description) -> list[Path]:
    """Return the paths of the four verified files in the user's cache folder.

    Missing files come from the folder or https URL in MNIST_MIRROR, which holds a folder for each set,
    or MNIST's files themselves; without that variable, from the set's URLs.

    Raises:
        NoSourceError: no source has a file; the line names each source and the alternatives.
        OSError: the cache folder cannot be written.
    """
    sources = list(description.urls)
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        sources = [f"{mirror.rstrip('/')}/{name}"] + ([mirror] if name == "mnist" else [])
    try:
        return [
            fetch(file, sha256, sources, CACHE / name) for file, sha256 in description.files.items()
        ]
    except SourceError as error:
        raise NoSourceError(
            f"{name}: {error}; set {MIRROR_VARIABLE}=<folder or https URL that holds {name}/ with its "
            "four .gz files>, or use the embedded digits: dvc exp run -S prepare.dataset=digits"
        ) from None


def main() -> None:
    name = section(read_yaml(PARAMS), "prepare", PrepareParams).dataset
    description = read_description(name)
    if isinstance(description, Description) and description.kind == "idx":
        fetch_files(name, description)
        print(f"{name}: the four files are in {CACHE / name}, verified.")
    else:
        print(f"params.yaml: prepare.dataset is {name}: nothing to download.")


if __name__ == "__main__":
    errors.run_command(main)
