"""Downloads from a real HTTPS server on loopback with its own certificate authority."""

import base64
import gzip
import hashlib
import os
import re
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest
import trustme
import yaml

from stages.datasets import download, idx
from stages.datasets.description import Description, read_description
from stages.runtime.errors import UserError
from tests.project import ROOT, Project, clean_environment

MNIST = yaml.safe_load((ROOT / "data/mnist/dataset.yaml").read_text())
CONTENT = {name: gzip.compress(name.encode() * 1000, mtime=0) for name in MNIST["files"]}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
FIRST = next(iter(CONTENT))

Handler = BaseHTTPRequestHandler
Answer = Callable[[Handler, bytes], None]


def send(handler: Handler, body: bytes, status: int = 200, **headers: str | int) -> None:
    handler.send_response(status)
    for name, value in ({"Content_Length": len(body)} | headers).items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def truncated(handler: Handler, body: bytes) -> None:
    send(handler, body[:-20], Content_Length=len(body))


def bit_flipped(handler: Handler, body: bytes) -> None:
    send(handler, body[:30] + bytes([body[30] ^ 1]) + body[31:])


def login_page(handler: Handler, body: bytes) -> None:
    send(handler, b"<html>Please log in</html>", Content_Type="text/html")


def not_found(handler: Handler, body: bytes) -> None:
    send(handler, b"not found", status=404)


def silent(handler: Handler, body: bytes) -> None:
    time.sleep(0.8)


class Server:
    """An HTTPS server for localhost; `answer` decides how it answers."""

    def __init__(self, authority: trustme.CA, files: dict[str, bytes]):
        self.answer: Answer = send
        self.requests: list[str] = []
        server = self

        class ServerHandler(Handler):
            def do_GET(self) -> None:  # noqa: N802
                server.requests.append(self.path)
                server.answer(self, files.get(self.path.rpartition("/")[2], b"not found"))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("localhost", 0), ServerHandler)
        self.server.handle_error = lambda *_: None  # of a client that has gone
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def fetched(name: str = "mnist", **changes: object) -> dict[str, bytes]:
    """Return the files of a set like MNIST; the server has small substitutes."""
    paths = idx.fetch_files(name, Description(**MNIST | {"files": CHECKSUMS} | changes))
    return {path.name: path.read_bytes() for path in paths}


def error_of_fetching(**changes: object) -> str:
    with pytest.raises(idx.NoSourceError) as caught:
        fetched(**changes)
    return str(caught.value)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, in place of the user's. pooch retries without a pause."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(idx, "CACHE", folder)
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))
    return folder / "mnist"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def server(
    authority: trustme.CA,
    authority_file: Path,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A mirror with substitutes for the four files, named and trusted by the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    server = Server(authority, CONTENT)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    yield server
    server.stop()


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_files_are_downloaded_once(server: Server, cache: Path):
    assert fetched() == CONTENT
    assert server.requests == [f"/mnist/{name}" for name in CONTENT]
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENT
    assert fetched() == CONTENT
    assert len(server.requests) == len(CONTENT)


@pytest.mark.parametrize("content", [b"", b"damaged", CONTENT[FIRST][:-1]])
def test_a_damaged_cached_file_is_downloaded_again(server: Server, cache: Path, content: bytes):
    fetched()
    (cache / FIRST).write_bytes(content)
    server.requests.clear()
    assert fetched() == CONTENT
    assert server.requests == [f"/mnist/{FIRST}"]
    assert (cache / FIRST).read_bytes() == CONTENT[FIRST]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (truncated, "download failed: ChunkedEncodingError"),
        (bit_flipped, "wrong SHA-256: a damaged file, or a log-in page"),
        (login_page, "wrong SHA-256: a damaged file, or a log-in page"),
        (not_found, "HTTP 404"),
        (silent, "download failed: ReadTimeout"),
    ],
)
def test_a_bad_answer_is_one_line_and_nothing_is_kept(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, reason: str
):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server.answer = answer
    assert error_of_fetching() == (
        f"mnist: {FIRST} is not available from {server.url}/mnist ({reason}), {server.url} ({reason}); "
        "set MNIST_MIRROR=<folder or https URL that holds mnist/ with its four .gz files>, or use the "
        "embedded digits: dvc exp run -S prepare.dataset=digits"
    )
    assert len(server.requests) == 2 * (1 + download.RETRIES)
    assert list(cache.iterdir()) == []


def test_a_temporary_failure_is_retried(server: Server):
    def overloaded_at_first(handler: Handler, body: bytes) -> None:
        if len(server.requests) == 1:
            send(handler, b"", status=503)
        elif len(server.requests) == 2:
            truncated(handler, body)
        else:
            send(handler, body)

    server.answer = overloaded_at_first
    assert fetched() == CONTENT


def test_the_next_source_is_used_and_comes_first_for_the_next_file(
    server: Server, closed_port: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MNIST_MIRROR")
    server.answer = lambda handler, body: (not_found if handler.path.startswith("/dead") else send)(
        handler, body
    )
    urls = [f"https://{closed_port}", f"{server.url}/dead", f"{server.url}/alive"]
    assert fetched(urls=urls) == CONTENT
    attempts = 1 + download.RETRIES
    asked = [path.split("/")[1] for path in server.requests]
    assert asked == ["dead"] * attempts + ["alive"] * 4


def test_a_certificate_of_an_unknown_authority_is_refused(
    server: Server, authority_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger))
    assert "(its certificate is not trusted; name your authority's file" in error_of_fetching()
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    assert "certificate bundle, invalid path: /nowhere/ca.pem)" in error_of_fetching()
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "(its certificate is not trusted; name your authority's file" in error_of_fetching()
    assert server.requests == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority_file))
    assert fetched() == CONTENT


@pytest.mark.parametrize("answer", [not_found, truncated, bit_flipped, silent])
def test_a_password_is_sent_but_no_secret_of_a_url_is_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, answer: Answer
):
    def locked(handler: Handler, body: bytes) -> None:
        expected = base64.b64encode(b"bob:secret").decode()
        assert handler.headers["Authorization"] in {f"Basic {expected}", None}
        answer(handler, body)

    server.answer = locked
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "RETRIES", 0)
    host = server.url.removeprefix("https://")
    for mirror, shown in {
        "https://bob:secret@HOST/a": "https://HOST/a/mnist (",
        "https://HOST/a?token=secret": "https://HOST/a?… (",
        "https://bob:sec?re@t@HOST/": "https://… (",
        "https://bob:sec\nret@HOST": "https://HOST/mnist (",
        "bob:secret@HOST/a": "…@HOST/a/mnist (no such file)",
        "bob:sec/ret@HOST/a": "…@HOST/a/mnist (no such file)",
        "//bob:secret@HOST/a": "//HOST/a/mnist (no such file)",
        "//HOST/a?token=secret": "//HOST/a?… (no such file)",
        "http://bob:secret@HOST": "http://HOST/mnist (only https and local folders are allowed)",
        "file:///bob": "file:///bob/mnist (only https and local folders are allowed)",
    }.items():
        monkeypatch.setenv("MNIST_MIRROR", mirror.replace("HOST", host))
        message = error_of_fetching()
        assert f"is not available from {shown.replace('HOST', host)}" in message
        assert not re.search("bob:|sec|cret|ret@|re@|\n", message)
    assert capfd.readouterr() == ("", "")


def test_a_description_refuses_http_without_showing_a_secret(in_empty_folder: Path):
    Path("data/letters").mkdir(parents=True)
    description = MNIST | {"urls": ["http://bob:secret@host/"]}
    Path("data/letters/dataset.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(
        UserError, match=r"^data/letters/dataset\.yaml: urls.*not allowed"
    ) as caught:
        read_description("letters")
    assert "secret" not in str(caught.value)


def test_a_local_folder_may_be_the_mirror(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch):
    mirror = Path("Ünsere\nBilder é")
    (mirror / FIRST).mkdir(parents=True)
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    assert r"from Ünsere\nBilder é/mnist (no such file), " in error_of_fetching()
    (mirror / FIRST).rmdir()
    for name, content in CONTENT.items():
        (mirror / name).write_bytes(content)
    assert fetched() == CONTENT
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")  # the cache needs no source
    assert fetched() == CONTENT


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("file").touch()
    monkeypatch.setattr(idx, "CACHE", in_empty_folder / "file/below")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as caught:
        fetched()
    assert "file/below" in str(caught.value.filename)


def test_a_home_of_another_user_is_named(monkeypatch: pytest.MonkeyPatch):
    """It was reported as sources without the files, so `make run` used the embedded digits."""
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")
    folder = Path("/no home")  # a user without a home has / for it, as in a container
    monkeypatch.setattr(idx, "CACHE", folder)
    user = os.geteuid()
    with pytest.raises(PermissionError) as caught:
        try:
            os.seteuid(user or 65534)  # root may write anywhere
            fetched()
        finally:
            os.seteuid(user)
    assert caught.value.filename == str(folder / "mnist")


def test_a_full_disk_is_not_a_fault_of_the_server(server: Server, cache: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="File too large") as caught:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
            fetched()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(cache)  # the line for the user names it
    assert list(cache.iterdir()) == []


def test_make_data_fails_with_2_and_digits_need_no_download(project: Project):
    command = [sys.executable, "-m", "stages.datasets.idx"]
    environment = clean_environment(project.folder.parent) | {"MNIST_MIRROR": "/nowhere"}
    options = {"cwd": project.folder, "env": environment, "capture_output": True, "text": True}
    result = subprocess.run(command, check=False, **options)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(
        rf"error: mnist: {FIRST} is not available from /nowhere/mnist .*\n", result.stderr
    )
    project.edit("params.yaml", "dataset: mnist", "dataset: digits")
    result = subprocess.run(command, check=False, **options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing to download" in result.stdout
