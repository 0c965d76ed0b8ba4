"""Published sets in MNIST's form: four files, downloaded, and known by their checksums.

Run as a module (`make data`) it only checks the parameters and fetches the files, for instance before
going offline. Its exit code is 2 if no source has them.
"""

import atexit
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from stages.common import errors
from stages.common.errors import UserError, printable
from stages.common.files import temporary_folder
from stages.common.params import load_params
from stages.datasets.description import Description, read_description
from stages.datasets.download import CACHE, SourceError, fetch
from stages.datasets.torchvision_import import import_datasets

MIRROR_VARIABLE = "MNIST_MIRROR"
MAX_UNPACKED = 2**30  # bytes; Fashion-MNIST's largest file has 47 MB


class NoSourceError(UserError):
    """A set is nowhere to be had."""

    exit_code = 2


def load(name: str, description: Description) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images uint8 [N, 28, 28], labels int64 [N], and which are of the test set, bool [N].

    0 is paper, 255 is ink.

    Raises:
        NoSourceError: a file is neither in the cache nor to be had from any source.
        UserError: a file is not in MNIST's form.
        OSError: the disk for temporary files is full.
    """
    files = {path.name: path for path in fetch_files(name, description)}
    mnist = import_datasets().mnist

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        with temporary_folder() as folder:
            for path in (
                files[f"{part}-images-idx3-ubyte.gz"],
                files[f"{part}-labels-idx1-ubyte.gz"],
            ):
                _unpack(path, folder / path.stem)
            images = mnist.read_image_file(f"{folder}/{part}-images-idx3-ubyte").numpy()
            return images, mnist.read_label_file(f"{folder}/{part}-labels-idx1-ubyte").numpy()

    try:
        (images, labels), (test_images, test_labels) = read("train"), read("t10k")
        for some, those in ((images, labels), (test_images, test_labels)):
            if some.shape != (len(those), 28, 28) or those.max() >= len(description.classes):
                raise ValueError(f"images {some.shape}, labels {those.shape} up to {those.max()}")
    except (OSError, UserError):  # of the disk for temporary files
        raise
    except Exception as error:  # torchvision believes what the file says of itself
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"data/{name}/dataset.yaml: its files are not in MNIST's form ({reason})"
        ) from None
    test = np.repeat([False, True], [len(labels), len(test_labels)])
    return np.concatenate([images, test_images]), np.concatenate([labels, test_labels]), test


def _unpack(path: Path, into: Path) -> None:
    """Unpack a .gz file.

    Raises:
        ValueError: it is none, or holds more than MAX_UNPACKED bytes.
        OSError: `into` cannot be written.
    """
    with gzip.open(path) as packed, into.open("wb") as file:
        while piece := _read(packed):
            if file.tell() + len(piece) > MAX_UNPACKED:
                raise ValueError(f"{path.name}: more than {MAX_UNPACKED:,} bytes when unpacked")
            file.write(piece)


def _read(packed: gzip.GzipFile) -> bytes:
    try:
        return packed.read(2**20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from None


def fetch_files(name: str, description: Description) -> list[Path]:
    """Return the paths of the four verified files in the user's cache folder.

    Where nothing can be kept there, they are in a temporary folder until this process ends. What is
    not there comes from the folder or https server that the environment names in MNIST_MIRROR, which
    holds a folder for each set, or MNIST's files themselves; without it, from the set's URLs.

    Raises:
        NoSourceError: no source has a file; the line names each of them and the ways out.
    """
    sources = list(description.urls)
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        sources = [f"{mirror.rstrip('/')}/{name}"] + ([mirror] if name == "mnist" else [])
    folder = _folder(CACHE / name, description.files)
    try:
        return [fetch(file, sha256, sources, folder) for file, sha256 in description.files.items()]
    except SourceError as error:
        raise NoSourceError(
            f"{name}: {error}; set {MIRROR_VARIABLE}=<folder or https URL that holds {name}/ with its "
            "four .gz files>, or use the embedded digits: dvc exp run -S prepare.dataset=digits"
        ) from None


def _folder(cache: Path, files: Iterable[str]) -> Path:
    """Return the folder to keep files in: `cache`, or a temporary one where it cannot be written to."""
    try:
        if not all((cache / file).exists() for file in files):
            cache.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache).close()
        return cache
    except OSError as error:
        print(f"note: no downloads are kept: {printable(cache)}: {error.strerror}", flush=True)
        stack = ExitStack()
        atexit.register(stack.close)
        return stack.enter_context(temporary_folder())


def main() -> None:
    name = load_params().prepare.dataset
    description = read_description(name)
    if description and description.kind == "idx":
        folder = fetch_files(name, description)[0].parent
        place = f"in {folder}" if folder == CACHE / name else "to be had"
        print(f"{name}: the four files are {place}, verified.")
    else:
        print(f"params.yaml: prepare.dataset is {name}: nothing to download.")


if __name__ == "__main__":
    errors.run(main)
