"""Where the official MNIST files come from, and how they are known to be the official ones.

Run as a module (`make data`) it only checks the parameters and fetches the files, for instance before
going offline. Its exit code is 2 if no source has them.
"""

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np

from stages.common import errors
from stages.common.errors import UserError
from stages.common.params import load_params
from stages.datasets.download import CACHE, SourceError, fetch
from stages.datasets.torchvision_import import import_datasets

MIRROR_VARIABLE = "MNIST_MIRROR"
# torchvision's https mirror (its other one is plain http), then Google's copy.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the files whose MD5 are those in torchvision.datasets.MNIST.resources.
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


class NoSourceError(UserError):
    """MNIST is nowhere to be had."""

    exit_code = 2


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return MNIST's training and test set, each as images uint8 [N, 28, 28], labels uint8 [N].

    N is 60,000 and 10,000; 0 is paper, 255 is ink.

    Raises:
        NoSourceError: a file is neither in the cache nor to be had from any source.
    """
    files = fetch_files()
    # torchvision trusts any unpacked file that exists, so it gets freshly unpacked, verified ones.
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "MNIST", "raw")
        raw.mkdir(parents=True)
        for path in files:
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        mnist = import_datasets().MNIST
        sets = [mnist(root, train=train) for train in (True, False)]
        return tuple((part.data.numpy(), part.targets.numpy().astype(np.uint8)) for part in sets)


def fetch_files() -> list[Path]:
    """Return the paths of the four verified files in the user's cache folder.

    What is not there comes from the folder or https server that the environment names in MNIST_MIRROR
    or, without it, from the public mirrors.

    Raises:
        NoSourceError: no source has a file; the line names each of them and the ways out.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    sources = [mirror] if mirror else list(MIRRORS)
    try:
        return [fetch(name, sha256, sources, CACHE / "mnist") for name, sha256 in SHA256.items()]
    except SourceError as error:
        raise NoSourceError(
            f"MNIST's {error}; set {MIRROR_VARIABLE}=<folder or https URL that holds the four .gz "
            "files>, or use the embedded digits: dvc exp run -S prepare.dataset=digits"
        ) from None


def main() -> None:
    if load_params().prepare.dataset == "mnist":
        print(f"MNIST: the four files are in {fetch_files()[0].parent}, verified.")
    else:
        print("params.yaml: prepare.dataset is digits, which are embedded: nothing to download.")


if __name__ == "__main__":
    errors.run(main)
