"""Downloads published files into the user's cache folder, by pooch, which verifies them each time."""

import errno
import os
import re
import sys
from pathlib import Path

import pooch
import requests

from stages.runtime.errors import without_secrets

CACHE = pooch.os_cache("dvc-image-pipeline")
RETRIES = 2  # a connection may break, a server may be overloaded
TIMEOUT = 15  # seconds, to connect and between two packets


class SourceError(Exception):
    """A source cannot give a file; a retry would not help."""


def fetch(name: str, sha256: str, sources: list[str], folder: Path) -> Path:
    """Return the path of a verified file in `folder`; get it from a source if it is not there.

    A source is a local folder or an https URL. The first that has the file moves to the front of
    `sources`, so that the next file comes from there.

    Raises:
        SourceError: no source has the file; the message names each source and the reason.
        OSError: the file cannot be written.
    """
    pooch.get_logger().setLevel("WARNING")
    reasons = []
    for source in list(sources):
        remote = "://" in source
        files = pooch.create(
            folder,
            base_url=f"{source.rstrip('/')}/",
            registry={name: f"sha256:{sha256}"},
            retry_if_failed=RETRIES if remote else 0,
        )
        try:
            path = files.fetch(name, downloader=_download if remote else _copy)
        except (SourceError, ValueError, OSError) as error:  # those of requests are OSErrors
            if type(error) is PermissionError and not error.errno:  # pooch's own, of the folder
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder)) from None
            if isinstance(error, OSError) and error.errno:  # a full disk names no file by itself
                raise OSError(error.errno, error.strerror, error.filename or str(folder)) from None
            reasons.append(f"{_shown(source)} ({_reason(error)})")
        else:
            sources.remove(source)
            sources.insert(0, source)
            return Path(path)
    raise SourceError(f"{name} is not available from {', '.join(reasons)}")


def _copy(path: str, target: str, _: pooch.Pooch) -> None:
    if not Path(path).is_file():
        raise SourceError("no such file")
    Path(target).write_bytes(Path(path).read_bytes())


def _download(url: str, target: str, files: pooch.Pooch) -> None:
    if not url.lower().startswith("https://"):
        raise SourceError("only https and local folders are allowed")
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        timeout=TIMEOUT,
        # True: requests reads REQUESTS_CA_BUNDLE, or takes certifi's certificates.
        verify=os.environ.get("SSL_CERT_FILE") or True,
    )
    download(url, target, files)


def _shown(source: str) -> str:
    """Return a source without a name, password or query."""
    if re.search("^//|:/", source):
        return without_secrets("".join(source.split()))
    return re.sub("^.*:.*@", "…@", source)  # a URL without its https://


def _reason(error: Exception) -> str:
    """Return the cause in words. The messages of requests' own errors may show a password."""
    match error:
        case requests.exceptions.SSLError():
            return "its certificate is not trusted; name your authority's file in SSL_CERT_FILE"
        case requests.HTTPError(response=requests.Response(status_code=status)):
            return f"HTTP {status}"
        case requests.ConnectionError():
            return "no connection"
        case requests.RequestException():
            return f"download failed: {type(error).__name__}"
        case ValueError():
            return "wrong SHA-256: a damaged file, or a log-in page"
    return str(error)
