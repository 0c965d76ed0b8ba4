"""How a published file gets into the user's cache folder: whole, verified, and only over https.

pooch keeps the folder, checks the SHA-256 and asks again where that may help. How a file is fetched is
ours: requests by itself would follow a redirect from https to http, read the body of any redirect,
look for certificates in other variables than SSL_CERT_FILE, and wait for ever for a server that sends
a byte now and then.
"""

import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urljoin

import certifi
import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError as TransferError

from stages.common.errors import UserError

CACHE = pooch.os_cache("dvc-image-pipeline")
MAX_BYTES = 64 * 2**20  # Fashion-MNIST's largest file has 26.4 MB
RETRIES = 2  # for failures that may pass: a lost connection, an overloaded server, damaged bytes
TIMEOUTS = (5, 15)  # seconds to connect, and between two bytes
MAX_SECONDS = 600  # for one file
MAX_REDIRECTS = 5


class SourceError(Exception):
    """Why a source cannot give a file; to ask it again would not help."""


def fetch(name: str, sha256: str, sources: list[str], folder: Path) -> Path:
    """Return the path of a verified file in `folder`; if it is not there yet, get it from a source.

    A source is a folder or an https URL that holds the file. The first that has it is moved to the
    front of `sources`, so that it is asked first for the next file.

    Raises:
        SourceError: no source has the file; the message names each and what went wrong.
    """
    pooch.get_logger().setLevel("WARNING")
    reasons = []
    for source in list(sources):
        local = "://" not in source
        files = pooch.create(
            folder,
            base_url=f"{source.rstrip('/')}/",
            registry={name: f"sha256:{sha256}"},
            retry_if_failed=0 if local else RETRIES,
        )
        try:
            path = files.fetch(name, downloader=_copy if local else _download)
        except (SourceError, ValueError, requests.RequestException) as error:
            shown = re.sub("//.*@", "//", source)  # without a password, which may hold a slash
            reasons.append(f"{shown} ({_reason(error)})")
            continue
        except PermissionError as error:  # pooch's own, of the folder
            raise UserError(f"{folder}: cannot be written ({error})") from None
        sources.remove(source)
        sources.insert(0, source)
        return Path(path)
    raise SourceError(f"{name} could not be had from {', '.join(reasons)}")


def _reason(error: Exception) -> str:
    match error:
        case SourceError():
            return str(error)
        case requests.exceptions.ConnectionError():
            return "no connection"
        case requests.exceptions.HTTPError():
            return f"HTTP {error.response.status_code}"
        case requests.RequestException():
            return f"broken off: {error.args[0]}"
    return "the SHA-256 of what it sends is not the official one"


def _copy(path: str, into: str, _: pooch.Pooch) -> None:
    try:
        shutil.copyfile(path, into)
    except OSError as error:
        raise SourceError(f"{Path(path).name}: {error.strerror}") from None


def _download(url: str, into: str, _: pooch.Pooch) -> None:
    """Download `url`. pooch asks again after a RequestException, not after a SourceError."""
    certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
    try:
        for _ in range(MAX_REDIRECTS + 1):
            if not url.lower().startswith("https://"):
                raise SourceError("not https, which is the only protocol allowed beside a folder")
            with requests.get(
                url,
                stream=True,
                allow_redirects=False,
                timeout=TIMEOUTS,
                verify=certificates,
                headers={"Accept-Encoding": "identity"},
            ) as response:
                if not response.is_redirect:
                    _check_status(response)
                    return _save(response, Path(into))
                url = urljoin(url, response.headers["Location"])
        raise SourceError(f"more than {MAX_REDIRECTS} redirects")
    except requests.exceptions.SSLError as error:
        raise SourceError(f"TLS with the certificates of {certificates}: {error}") from None
    except requests.exceptions.Timeout:
        raise SourceError(f"no answer within {max(TIMEOUTS)} s") from None
    except requests.exceptions.InvalidURL:  # its message may show a password
        raise SourceError("its URL, or the proxy's, is not valid") from None
    except TransferError as error:
        raise requests.RequestException(*error.args) from None
    except requests.RequestException:
        raise
    except OSError as error:
        if error.errno:  # of the file that is written: the disk is full
            raise OSError(error.errno, error.strerror, into) from None
        # What requests raises for a file of certificates that is not there.
        raise SourceError(f"SSL_CERT_FILE={certificates}: {error}") from None


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if 400 <= status < 500 and status != requests.codes.too_many_requests:
        raise SourceError(f"HTTP {status}")
    response.raise_for_status()


def _save(response: requests.Response, into: Path) -> None:
    """Write the body as it was sent: requests would unpack a .gz that a server labels as encoded."""
    name, size = response.url.rpartition("/")[2], response.raw.length_remaining
    length, end = 0, time.monotonic() + MAX_SECONDS
    # disable=None: a bar on a terminal only
    with (
        into.open("wb") as file,
        tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None) as bar,
    ):
        # read1 returns what has come; read would wait for all 64 KiB, however slowly they come.
        while chunk := response.raw.read1(2**16, decode_content=False):
            if length == 0 and name.endswith(".gz") and not b"\x1f\x8b".startswith(chunk[:2]):
                raise SourceError("no gzip file; perhaps a log-in page")
            file.write(chunk)
            bar.update(len(chunk))
            length += len(chunk)
            if length > MAX_BYTES:
                raise SourceError(f"sends more than {MAX_BYTES:,} bytes")
            if time.monotonic() > end:
                raise SourceError(f"took more than {MAX_SECONDS} s")
