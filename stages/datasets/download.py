"""How a published file gets into the user's cache folder: whole, verified, and only over https.

pooch keeps the folder, checks the SHA-256 and asks again where that may help. How a file is fetched is
ours: requests by itself would follow a redirect from https to http, read the body of any redirect,
look for certificates in other variables than SSL_CERT_FILE, and wait for ever for a server that sends
a byte now and then.

A source may be anything: whatever goes wrong in reading it, it counts as failed, and the next is asked.
What goes wrong in writing, a full disk, would go wrong with any source: it ends the search.
"""

import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin

import certifi
import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError as TransferError

from stages.common.errors import UserError, without_secrets

CACHE = pooch.os_cache("dvc-image-pipeline")
MAX_BYTES = 64 * 2**20  # Fashion-MNIST's largest file has 26.4 MB
RETRIES = 2  # for failures that may pass: a lost connection, an overloaded server, damaged bytes
TIMEOUTS = (5, 15)  # seconds to connect, and between two bytes
MAX_SECONDS = 600  # for one file from one source, whatever it does, with all retries
MAX_REDIRECTS = 5
PIECE = 2**16  # bytes


class SourceError(Exception):
    """Why a source cannot give a file; to ask it again would not help."""


class _OutOfTimeError(BaseException):
    """No Exception: a library that handles those could go on."""


def fetch(name: str, sha256: str, sources: list[str], folder: Path) -> Path:
    """Return the path of a verified file in `folder`; if it is not there yet, get it from a source.

    A source is a folder or an https URL that holds the file. The first that has it is moved to the
    front of `sources`, so that it is asked first for the next file. Only the main thread may call it.

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
            with _time_limit():
                path = files.fetch(name, downloader=_copy if local else _download)
        except (SourceError, ValueError, requests.RequestException) as error:
            reasons.append(f"{_shown(source)} ({_reason(error)})")
            continue
        except PermissionError as error:  # pooch's own, of the folder
            raise UserError(f"{folder}: cannot be written ({error})") from None
        sources.remove(source)
        sources.insert(0, source)
        return Path(path)
    raise SourceError(f"{name} could not be had from {', '.join(reasons)}")


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise a SourceError if the block takes longer than MAX_SECONDS.

    A signal ends any wait: for a byte, within TLS, in headers that never end.
    """

    def end(*_: object) -> NoReturn:
        raise _OutOfTimeError

    earlier = signal.signal(signal.SIGALRM, end)
    # Again each second: what is raised in a destructor is lost.
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS, 1)
    try:
        yield
    except _OutOfTimeError:
        raise SourceError(f"took more than {MAX_SECONDS} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def _shown(source: str) -> str:
    """Return a source as a message can show it, without a name or a password."""
    if ":/" in source:
        return without_secrets("".join(source.split()))
    return re.sub("^[^/]*:[^/]*@", "…@", source)  # its https:// was forgotten


def _reason(error: Exception) -> str:
    match error:
        case SourceError():
            return str(error)
        case requests.exceptions.ConnectionError():
            return "no connection"
        case requests.exceptions.HTTPError():
            return f"HTTP {error.response.status_code}"
        case requests.RequestException():
            return f"broken off: {error}"
    return "the SHA-256 of what it sends is not the official one"


def _copy(path: str, into: str, _: pooch.Pooch) -> None:
    _write(_pieces_of_file(Path(path)), into)


def _download(url: str, into: str, files: pooch.Pooch) -> None:
    """Download `url`. pooch asks again after a RequestException, not after a SourceError."""
    [name] = files.registry
    _write(_pieces_of_url(url, name), into)


def _write(pieces: Iterator[bytes], into: str) -> None:
    """Write what a source gives. `pieces` turns its errors into ours or requests'.

    Raises:
        SourceError: it gives too much.
        OSError: the file `into` cannot be written.
    """
    length = 0
    try:
        with closing(pieces), Path(into).open("wb") as file:
            for piece in pieces:
                length += len(piece)
                if length > MAX_BYTES:
                    raise SourceError(f"sends more than {MAX_BYTES:,} bytes")
                file.write(piece)
    except requests.RequestException:  # which is an OSError, too
        raise
    except OSError as error:  # a full disk names no file by itself
        raise OSError(error.errno, error.strerror, into) from None


def _pieces_of_file(path: Path) -> Iterator[bytes]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a FIFO or a device would be waited for
            raise SourceError(f"{path.name}: not a regular file")
        if status.st_size > MAX_BYTES:
            raise SourceError(f"{path.name}: more than {MAX_BYTES:,} bytes")
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise SourceError(f"{path.name}: {error.strerror}") from None


def _pieces_of_url(url: str, name: str) -> Iterator[bytes]:
    """Yield a file of this name.

    Raises:
        requests.RequestException: what may pass.
        SourceError: anything else.
    """
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
                    yield from _body(response, name)
                    return
                url = urljoin(url, response.headers["Location"])
        raise SourceError(f"more than {MAX_REDIRECTS} redirects")
    # Only names of errors are told: their messages may show the URL, with what is secret in it.
    except (SourceError, requests.exceptions.HTTPError):
        raise
    except requests.exceptions.SSLError as error:
        raise SourceError(f"TLS with the certificates of {certificates}: {_cause(error)}") from None
    except requests.exceptions.Timeout:
        raise SourceError(f"no answer within {max(TIMEOUTS)} s") from None
    except requests.exceptions.InvalidURL:
        raise SourceError("its URL, or the proxy's, is not valid") from None
    except requests.exceptions.ConnectionError:
        raise
    except (requests.RequestException, TransferError) as error:
        raise requests.RequestException(type(_cause(error)).__name__) from None
    except OSError as error:  # what requests raises for a file of certificates that is not there
        raise SourceError(f"SSL_CERT_FILE={certificates}: {error}") from None
    except Exception as error:
        raise SourceError(f"its answer is not valid ({type(error).__name__})") from None


def _cause(error: BaseException) -> BaseException:
    """Return the error within those that requests and urllib3 put around it."""
    parts = (getattr(error, "reason", None), *error.args)
    inside = [part for part in parts if isinstance(part, BaseException)]
    return _cause(inside[-1]) if inside else error


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status >= 500 or status == requests.codes.too_many_requests:
        response.raise_for_status()
    if status != requests.codes.ok:
        raise SourceError(f"HTTP {status}")


def _body(response: requests.Response, name: str) -> Iterator[bytes]:
    """Yield the body as it was sent: requests would unpack a .gz that a server labels as encoded."""
    size, first = response.raw.length_remaining, True
    # disable=None: a bar on a terminal only
    with tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None) as bar:
        # read1 returns what has come; read would wait for the whole piece, however slowly it comes.
        while piece := response.raw.read1(PIECE, decode_content=False):
            if first and name.endswith(".gz") and not b"\x1f\x8b".startswith(piece[:2]):
                raise SourceError("no gzip file; perhaps a log-in page")
            first = False
            yield piece
            bar.update(len(piece))
