"""Where the official MNIST files come from, and how they are known to be the official ones.

Run as a module (`make data`) it only checks the parameters and fetches the files, for instance before
going offline. Its exit code is 2 if no source has them.
"""

import gzip
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path
from urllib.parse import urljoin

from common import errors
from common.errors import UserError
from common.files import write_bytes
from common.params import load_params
from common.torchvision_import import import_datasets

import certifi
import numpy as np
import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError as TransferError

CACHE = Path("data/raw")
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
MAX_BYTES = 16 * 2**20  # the largest file has 9.9 MB; a server that sends more sends something else
ATTEMPTS = 3  # for failures that may pass: a lost connection, an overloaded server, damaged bytes
TIMEOUTS = (5, 15)  # seconds to connect, and between two bytes
MAX_REDIRECTS = 5


class NoSourceError(UserError):
    """MNIST is nowhere to be had."""

    exit_code = 2


class _SourceError(Exception):
    """Why one source could not give a file; `may_pass` says whether to ask it again."""

    def __init__(self, reason: str, may_pass: bool = False):
        super().__init__(reason)
        self.may_pass = may_pass


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return MNIST's training and test set, each as images uint8 [N, 28, 28], labels uint8 [N].

    N is 60,000 and 10,000; 0 is paper, 255 is ink.

    Raises:
        NoSourceError: a file is neither in the cache nor to be had from any source.
    """
    files = fetch()
    # torchvision trusts any unpacked file that exists, so it gets freshly unpacked, verified ones.
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "MNIST", "raw")
        raw.mkdir(parents=True)
        for name, content in files.items():
            (raw / name).with_suffix("").write_bytes(gzip.decompress(content))
        mnist = import_datasets().MNIST
        sets = [mnist(root, train=train) for train in (True, False)]
        return tuple((part.data.numpy(), part.targets.numpy().astype(np.uint8)) for part in sets)


def fetch() -> dict[str, bytes]:
    """Return the verified content of the four files, from the cache or else from a source.

    Sources are the folder or https server that the environment names in MNIST_MIRROR or, without
    it, the public mirrors. What passes the check is kept in the cache, data/raw.

    Raises:
        NoSourceError: no source has a file; the line names each of them and the ways out.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    sources = [mirror] if mirror else list(MIRRORS)
    return {name: _cached(name) or _from_sources(name, sources) for name in SHA256}


def _cached(name: str) -> bytes | None:
    path = CACHE / name
    content = path.read_bytes() if path.is_file() else b""
    return content if _is_official(name, content) else None


def _is_official(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256[name]


def _from_sources(name: str, sources: list[str]) -> bytes:
    """Return one file from the first source that has it, which becomes the first to ask."""
    reasons = []
    for source in list(sources):
        try:
            content = _ask(source, name)
        except _SourceError as error:
            shown = re.sub("//[^/]*@", "//", source)  # without a password
            reasons.append(f"{shown} ({error})")
            continue
        sources.remove(source)
        sources.insert(0, source)
        write_bytes(CACHE / name, content)
        return content
    raise NoSourceError(
        f"MNIST's {name} could not be had from {', '.join(reasons)}; set {MIRROR_VARIABLE}=<folder "
        "or https URL that holds the four .gz files>, or use the embedded digits: "
        "dvc exp run -S prepare.dataset=digits"
    )


def _ask(source: str, name: str) -> bytes:
    """Return the official content of one file from a folder or an https URL."""
    if "://" not in source:
        return _read(Path(source, name))
    attempt = 1
    while True:
        try:
            return _verified(name, _download(f"{source.rstrip('/')}/{name}"))
        except _SourceError as error:
            if not error.may_pass or attempt == ATTEMPTS:
                raise
        time.sleep(attempt / 2)
        attempt += 1


def _read(path: Path) -> bytes:
    try:
        return _verified(path.name, path.read_bytes())
    except OSError as error:
        raise _SourceError(f"{path.name}: {error.strerror}") from None


def _verified(name: str, content: bytes) -> bytes:
    if _is_official(name, content):
        return content
    what = "" if content.startswith(b"\x1f\x8b") else "no gzip file; perhaps a log-in page: "
    raise _SourceError(
        f"{what}{len(content):,} bytes whose SHA-256 is not the official one", may_pass=True
    )


def _download(url: str) -> bytes:
    certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
    try:
        for _ in range(MAX_REDIRECTS + 1):
            if not url.lower().startswith("https://"):
                raise _SourceError("not https, which is the only protocol allowed beside a folder")
            with requests.get(
                url,
                stream=True,
                allow_redirects=False,  # requests would follow them to http, and read their bodies
                timeout=TIMEOUTS,
                verify=certificates,
                headers={"Accept-Encoding": "identity"},
            ) as response:
                if not response.is_redirect:
                    response.raise_for_status()
                    return _body(response)
                url = urljoin(url, response.headers["Location"])
        raise _SourceError(f"more than {MAX_REDIRECTS} redirects")
    except requests.exceptions.SSLError as error:
        raise _SourceError(f"TLS with the certificates of {certificates}: {error}") from None
    except requests.exceptions.Timeout:
        raise _SourceError(f"no answer within {max(TIMEOUTS)} s") from None
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code
        raise _SourceError(f"HTTP {status}", may_pass=status == 429 or status >= 500) from None
    except requests.exceptions.ProxyError:
        raise _SourceError("no connection through the proxy", may_pass=True) from None
    except requests.exceptions.ConnectionError:
        raise _SourceError("no connection", may_pass=True) from None
    except (requests.RequestException, TransferError) as error:
        raise _SourceError(f"broken off: {error.args[0]}", may_pass=True) from None
    except OSError as error:  # what requests raises for a file of certificates it cannot read
        raise _SourceError(f"SSL_CERT_FILE={certificates}: {error}") from None


def _body(response: requests.Response) -> bytes:
    """Read the body as it was sent: requests would unpack a .gz that a server labels as encoded."""
    content = bytearray()
    name, size = response.url.rpartition("/")[2], response.raw.length_remaining
    # disable=None: a bar on a terminal only
    with tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None) as bar:
        for chunk in response.raw.stream(2**16, decode_content=False):
            content += chunk
            bar.update(len(chunk))
            if len(content) > MAX_BYTES:
                raise _SourceError(f"sends more than {MAX_BYTES:,} bytes")
    return bytes(content)


def main() -> None:
    load_params()
    fetch()


if __name__ == "__main__":
    errors.run(main)
