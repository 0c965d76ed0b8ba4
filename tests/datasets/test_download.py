"""The download path, against a real HTTPS server on loopback with its own certificate authority."""

import base64
import gzip
import hashlib
import re
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
import trustme
import yaml

from stages.common.errors import UserError
from stages.datasets import download, idx
from stages.datasets.description import Description
from tests.project import MIRROR, ROOT, Project, clean_environment, copy_of, needs_mnist
from tests.samples import random_images

MNIST = yaml.safe_load((ROOT / "data/mnist/dataset.yaml").read_text())
CONTENT = {name: gzip.compress(name.encode() * 1000, mtime=0) for name in MNIST["files"]}
FIRST = next(iter(CONTENT))
STAND_IN = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def answer(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    length: int | None = None,
    **headers: str,
) -> None:
    """Send `body`, announced as `length` bytes (0: unannounced, the connection's end is its end)."""
    handler.send_response(status)
    if length != 0:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def good(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, body)


def truncated(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, body[:-20], length=len(body))


def truncated_without_length(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, body[:-20], length=0)


def bit_flipped(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, body[:30] + bytes([body[30] ^ 1]) + body[31:])


def html(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"<html>Please log in</html>", Content_Type="text/html")


def not_found(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"not found", status=404)


def overloaded(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"try again later", status=503)


def asked_too_often(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"try again later", status=429)


def in_chunks(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    chunks = (
        body[start : start + 20] for start in range(0, len(body) + 20, 20)
    )  # the last is empty
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    answer(handler, coded, length=0, Transfer_Encoding="chunked")


def its_first_byte_alone(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, body[:1], length=len(body))
    time.sleep(0.05)
    handler.wfile.write(body[1:])


def silent(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(0.8)


def silent_after_a_while(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    truncated(handler, body)
    silent(handler, body)


def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"\x1f\x8b" + bytes(download.MAX_BYTES))


def redirect_to_http(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"", status=302, Location=f"http://localhost:1{handler.path}")


def redirect_to_itself(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"", status=302, Location=handler.path)


def redirect_to_https(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    if handler.path.startswith("/moved"):
        answer(handler, body)
    else:
        answer(handler, b"", status=302, Location=f"/moved{handler.path}")


def labelled_as_encoded(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, body, Content_Encoding="gzip")


class Server:
    """An HTTPS server for localhost; `answer` decides what it says."""

    def __init__(self, authority: trustme.CA, files: dict[str, bytes]):
        self.answer: Answer = good
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.requests.append(handler.path)
                self.answer(handler, files[handler.path.rpartition("/")[2]])

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self.server = ThreadingHTTPServer(("localhost", 0), Handler)
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
    """Return the files of a set like MNIST, of which the server has small stand-ins."""
    description = Description(**MNIST | {"files": STAND_IN} | changes)
    return {path.name: path.read_bytes() for path in idx.fetch_files(name, description)}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files are kept, in place of the user's cache folder. pooch does not wait."""
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
    """A mirror of small stand-ins for the four files, named and trusted by the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    server = Server(authority, CONTENT)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    yield server
    server.stop()


@pytest.mark.parametrize(
    "behaviour", [good, redirect_to_https, labelled_as_encoded, in_chunks, its_first_byte_alone]
)
def test_good_files_are_fetched_once(server: Server, cache: Path, behaviour: Answer):
    server.answer = behaviour
    assert fetched() == CONTENT
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENT
    server.requests.clear()
    assert fetched() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize(
    ("behaviour", "reason", "attempts"),
    [
        (truncated, "(broken off: Connection broken: IncompleteRead(", 3),
        (truncated_without_length, "the SHA-256 of what it sends is not the official one", 3),
        (bit_flipped, "the SHA-256 of what it sends is not the official one", 3),
        (overloaded, "(HTTP 503)", 3),
        (asked_too_often, "(HTTP 429)", 3),
        (html, "(no gzip file; perhaps a log-in page)", 1),
        (not_found, "HTTP 404", 1),
        (endless, "sends more than 67,108,864 bytes", 1),
        (redirect_to_itself, "more than 5 redirects", 6),
        (redirect_to_http, "(not https, which is the only protocol allowed", 1),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_anything_else_is_refused_and_not_kept(
    server: Server, cache: Path, behaviour: Answer, reason: str, attempts: int
):
    server.answer = behaviour
    with pytest.raises(UserError) as caught:
        fetched()
    message = str(caught.value)
    assert message.startswith(f"mnist: {FIRST} could not be had from {server.url}/mnist (")
    assert f", {server.url} (" in message
    assert reason in message
    assert "set MNIST_MIRROR=<" in message
    assert "dvc exp run -S prepare.dataset=digits" in message
    assert "\n" not in message
    assert len(server.requests) == 2 * attempts
    assert list(cache.iterdir()) == []


def test_a_failure_that_passes_is_retried(server: Server):
    def overloaded_at_first(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(server.requests) == 1:
            answer(handler, b"", status=503)
        elif len(server.requests) == 2:
            truncated(handler, body)
        else:
            answer(handler, body)

    server.answer = overloaded_at_first
    assert fetched() == CONTENT


def test_a_certificate_of_another_authority_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger))
    with pytest.raises(UserError, match=r"TLS with .*stranger\.pem: .*CERTIFICATE_VERIFY_FAILED"):
        fetched()
    assert server.requests == []


def test_without_SSL_CERT_FILE_certifi_decides(server: Server, monkeypatch: pytest.MonkeyPatch):  # noqa: N802
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match=r"TLS with the certificates of .*certifi.*VERIFY_FAILED"):
        fetched()


def test_no_other_variable_adds_or_removes_trust(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ROOT / "LICENSE"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(ROOT / "LICENSE"))
    assert fetched() == CONTENT


def test_a_certificate_file_that_is_not_there_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(UserError, match=r"SSL_CERT_FILE.*/nowhere/ca\.pem"):
        fetched()


@pytest.mark.parametrize("content", [b"", b"damaged", CONTENT[FIRST][:-1]])
def test_a_damaged_cache_is_fetched_anew(server: Server, cache: Path, content: bytes):
    fetched()
    (cache / FIRST).write_bytes(content)
    server.requests.clear()
    assert fetched() == CONTENT
    assert server.requests == [f"/mnist/{FIRST}"]
    assert (cache / FIRST).read_bytes() == CONTENT[FIRST]


def test_a_source_that_fails_is_not_asked_first_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MNIST_MIRROR")
    server.answer = lambda handler, body: (not_found if handler.path.startswith("/dead") else good)(
        handler, body
    )
    assert fetched(urls=[f"{server.url}/dead", f"{server.url}/alive"]) == CONTENT
    assert [path.split("/")[1] for path in server.requests] == ["dead", *["alive"] * 4]


def test_a_mirror_has_a_folder_for_each_set(server: Server):
    assert fetched("letters") == CONTENT
    assert {path.rpartition("/")[0] for path in server.requests} == {"/letters"}
    server.answer = not_found
    with pytest.raises(UserError) as caught:
        fetched("more-letters")
    assert f"from {server.url}/more-letters (HTTP 404); set MNIST_MIRROR" in str(caught.value)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, nor can anybody begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_that_is_not_there(nobody: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MNIST_MIRROR", f"https://{nobody}/mnist")
    with pytest.raises(UserError) as caught:
        fetched()
    assert f"could not be had from https://{nobody}/mnist/mnist (no connection)" in str(
        caught.value
    )


def test_a_password_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch):
    sent = []

    def locked(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        sent.append(handler.headers["Authorization"])
        answer(handler, b"", status=401)

    server.answer = locked
    monkeypatch.setenv("MNIST_MIRROR", server.url.replace("//", "//user:secret@"))
    with pytest.raises(UserError) as caught:
        fetched()
    assert sent == [f"Basic {base64.b64encode(b'user:secret').decode()}"] * 2
    assert f"could not be had from {server.url}/mnist (HTTP 401)" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("//user:secret@NOBODY", "no connection"),
        ("//user:secret@localhost:99999", "its URL, or the proxy's, is not valid"),
        ("//user:se/cret@localhost:1", "its URL, or the proxy's, is not valid"),
        ("//user:secret@localhost:port", "its URL, or the proxy's, is not valid"),
    ],
)
def test_a_password_is_not_shown_if_it_could_not_be_sent(
    nobody: str, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
):
    monkeypatch.setenv("MNIST_MIRROR", f"https:{address.replace('NOBODY', nobody)}")
    with pytest.raises(UserError) as caught:
        fetched()
    assert f"({reason})" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_proxy_that_is_not_there(server: Server, nobody: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@{nobody}")
    with pytest.raises(UserError) as caught:
        fetched()
    assert f"could not be had from {server.url}/mnist (no connection)" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("mirror", ["http://localhost:1", "ftp://localhost:1", "file:///tmp"])
def test_a_mirror_by_another_protocol_is_refused(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
):
    monkeypatch.setenv("MNIST_MIRROR", mirror)
    with pytest.raises(
        UserError, match=r"\(not https, which is the only protocol allowed beside a folder\)"
    ):
        fetched()


def test_a_folder_is_a_mirror(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("MNIST_MIRROR", str(folder))
    with pytest.raises(UserError, match=f"{FIRST}: No such file"):
        fetched()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    assert fetched() == CONTENT


def test_a_relative_folder_is_taken_from_where_we_stand(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    Path("mirror").mkdir()
    for name, content in CONTENT.items():
        Path("mirror", name).write_bytes(content)
    monkeypatch.setenv("MNIST_MIRROR", "mirror")
    assert fetched() == CONTENT
    # What is in the cache needs no source any more, wherever we stand.
    monkeypatch.chdir("/")
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")
    assert fetched() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "reason", "attempts"),
    [(silent, "no answer within 0.5 s", 1), (silent_after_a_while, "Read timed out", 3)],
)
def test_a_server_that_falls_silent_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, behaviour: Answer, reason: str, attempts: int
):
    monkeypatch.setattr(download, "TIMEOUTS", (0.5, 0.5))
    server.answer = behaviour
    with pytest.raises(UserError, match=reason):
        fetched()
    assert len(server.requests) == 2 * attempts


def test_a_server_that_never_ends_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch):
    """Although each of its bytes comes in time, and few of them."""

    def dripping(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        answer(handler, b"\x1f\x8b", length=1000)
        with suppress(OSError):
            for _ in range(200):
                handler.wfile.write(b"\0")
                time.sleep(0.05)

    server.answer = dripping
    monkeypatch.setattr(download, "MAX_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"took more than 0\.5 s"):
        fetched()
    assert time.monotonic() - start < 5
    assert len(server.requests) == 2


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("file").touch()
    monkeypatch.setattr(idx, "CACHE", in_empty_folder / "file" / "below a file")
    with pytest.raises(OSError, match="file/below a file") as caught:
        fetched()
    assert caught.value.filename is not None  # so errors.run tells it in one line


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may be larger than 20 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_not_taken_for_a_fault_of_the_server(
    server: Server, cache: Path, full_disk: None
):
    with pytest.raises(OSError, match="File too large") as caught:
        fetched()
    assert Path(caught.value.filename).parent == cache  # named, so errors.run tells it in one line
    assert list(cache.iterdir()) == []


def test_to_fetch_fails_with_2_and_is_not_needed_for_digits(project: Project):
    """As `make data` does, by which a team goes offline."""
    command = [sys.executable, "-m", "stages.datasets.idx"]
    environment = clean_environment(project.folder.parent) | {"MNIST_MIRROR": "/nowhere"}
    options = {"cwd": project.folder, "env": environment, "capture_output": True, "text": True}
    result = subprocess.run(command, check=False, **options)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(
        rf"error: mnist: {FIRST} could not be had from /nowhere/mnist .*\n", result.stderr
    )
    project.edit("params.yaml", "dataset: mnist", "dataset: digits")
    result = subprocess.run(command, check=False, **options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing to download" in result.stdout


@needs_mnist
def test_a_second_clone_needs_no_source(project: Project, tmp_path: Path):
    """The cache is the user's, not the clone's."""
    command = ("python", "-m", "stages.datasets.idx")
    second = copy_of(project, tmp_path / "second")
    second.run(*command, fails=True, MNIST_MIRROR="/nowhere")
    project.run(*command, MNIST_MIRROR=MIRROR)
    where = tmp_path / "cache/dvc-image-pipeline/mnist"
    assert second.run(*command, MNIST_MIRROR="/nowhere").startswith(
        f"mnist: the four files are in {where}, verified."
    )
    assert project.git_status() == second.git_status() == ""


@pytest.mark.slow
@needs_mnist
def test_prepare_over_https_gives_the_same_bytes_as_from_the_mirror(
    project: Project,
    authority: trustme.CA,
    authority_file: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    outputs = [f"data/prepared/{split}.safetensors" for split in ("train", "validation", "test")]
    monkeypatch.setenv("MNIST_MIRROR", MIRROR)
    server = Server(authority, fetched(files=MNIST["files"]))
    try:
        project.run(
            *("python", "-m", "stages.prepare"),
            MNIST_MIRROR=server.url,
            SSL_CERT_FILE=str(authority_file),
        )
    finally:
        server.stop()
    over_https = [project.read(output) for output in outputs]
    project.run("rm", "-r", "../cache", *outputs)
    project.run("python", "-m", "stages.prepare", MNIST_MIRROR=MIRROR)
    assert [project.read(output) for output in outputs] == over_https


@needs_mnist
def test_load_gives_the_official_sets(in_empty_folder: Path):
    images, labels, test = idx.load("mnist", Description(**MNIST))
    assert (images.shape, images.dtype, labels.dtype) == ((70_000, 28, 28), np.uint8, np.int64)
    assert test.tolist() == [False] * 60_000 + [True] * 10_000
    # What the MNIST page and torchvision's users know: the first labels, and the mean ink of 0.1307.
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    assert round(images[~test].mean() / 255, 4) == 0.1307


def idx_files(images: np.ndarray, labels: np.ndarray) -> tuple[bytes, bytes]:
    """Return images uint8 [N, height, width] and labels as two files in MNIST's form."""
    return tuple(
        gzip.compress(struct.pack(f">{1 + one.ndim}I", 2048 + one.ndim, *one.shape) + one.tobytes())
        for one in (images, labels.astype(np.uint8))
    )


@pytest.mark.parametrize(
    "case", [(28, 3, ""), (28, 2, "up to 2"), (14, 3, r"images \(6, 14, 14\)")]
)
def test_a_further_set_of_this_form_needs_no_code(
    server: Server,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[int, int, str],
):
    """As Fashion-MNIST and KMNIST, of which only the descriptions are here."""
    side, classes, reason = case
    images = random_images(9).numpy()[:, :side, :side]
    labels = np.arange(9) % 3
    contents = (*idx_files(images[:6], labels[:6]), *idx_files(images[6:], labels[6:]))
    files = dict(zip(MNIST["files"], contents, strict=True))
    other = Server(authority, files)
    monkeypatch.setenv("MNIST_MIRROR", other.url)
    description = Description(
        **MNIST
        | {
            "classes": [f"class {label}" for label in range(classes)],
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
    )
    if reason:
        with pytest.raises(UserError, match=rf"^data/letters/dataset\.yaml: .*{reason}"):
            idx.load("letters", description)
    else:
        found = idx.load("letters", description)
        for one, expected in zip(found, (images, labels, np.arange(9) >= 6), strict=True):
            assert np.array_equal(one, expected)
    other.stop()
