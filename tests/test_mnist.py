"""The download path, against a real HTTPS server on loopback with its own certificate authority."""

import gzip
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import mnist
from common.errors import UserError

import pytest
import trustme
from conftest import MIRROR, ROOT, Project, needs_mnist

CONTENT = {name: gzip.compress(name.encode() * 1000, mtime=0) for name in mnist.SHA256}
FIRST = next(iter(CONTENT))

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


def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, bytes(mnist.MAX_BYTES + 1))


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
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


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
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(mnist, "SHA256", digests)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    server = Server(authority, CONTENT)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    yield server
    server.stop()


@pytest.mark.parametrize("behaviour", [good, redirect_to_https, labelled_as_encoded])
def test_good_files_are_fetched_once(server: Server, behaviour: Answer):
    server.answer = behaviour
    assert mnist.fetch() == CONTENT
    assert {path.name: path.read_bytes() for path in mnist.CACHE.iterdir()} == CONTENT
    server.requests.clear()
    assert mnist.fetch() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize(
    ("behaviour", "reason", "attempts"),
    [
        (truncated, "(broken off: Connection broken: IncompleteRead(", 3),
        (truncated_without_length, "whose SHA-256 is not the official one", 3),
        (bit_flipped, "whose SHA-256 is not the official one", 3),
        (html, "no gzip file; perhaps a log-in page: 26 bytes whose SHA-256", 3),
        (not_found, "HTTP 404", 1),
        (endless, "sends more than 16,777,216 bytes", 1),
        (redirect_to_itself, "more than 5 redirects", 6),
        (redirect_to_http, "(not https, which is the only protocol allowed", 1),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_anything_else_is_refused_and_not_kept(
    server: Server, behaviour: Answer, reason: str, attempts: int
):
    server.answer = behaviour
    with pytest.raises(UserError) as caught:
        mnist.fetch()
    message = str(caught.value)
    assert message.startswith(f"MNIST's {FIRST} could not be had from {server.url} (")
    assert reason in message
    assert "set MNIST_MIRROR=<" in message
    assert "dvc exp run -S prepare.dataset=digits" in message
    assert "\n" not in message
    assert len(server.requests) == attempts
    assert list(Path().rglob("*.*")) == []


def test_a_failure_that_passes_is_retried(server: Server):
    def overloaded_at_first(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(server.requests) == 1:
            answer(handler, b"", status=503)
        elif len(server.requests) == 2:
            truncated(handler, body)
        else:
            answer(handler, body)

    server.answer = overloaded_at_first
    assert mnist.fetch() == CONTENT


def test_a_certificate_of_another_authority_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger))
    with pytest.raises(UserError, match=r"TLS with .*stranger\.pem: .*CERTIFICATE_VERIFY_FAILED"):
        mnist.fetch()
    assert server.requests == []


def test_without_SSL_CERT_FILE_certifi_decides(server: Server, monkeypatch: pytest.MonkeyPatch):  # noqa: N802
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match=r"TLS with the certificates of .*certifi.*VERIFY_FAILED"):
        mnist.fetch()


def test_no_other_variable_adds_or_removes_trust(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ROOT / "LICENSE"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(ROOT / "LICENSE"))
    assert mnist.fetch() == CONTENT


def test_a_certificate_file_that_is_not_there_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(UserError, match=r"SSL_CERT_FILE.*/nowhere/ca\.pem"):
        mnist.fetch()


@pytest.mark.parametrize("content", [b"", b"damaged", CONTENT[FIRST][:-1]])
def test_a_damaged_cache_is_fetched_anew(server: Server, content: bytes):
    mnist.fetch()
    (mnist.CACHE / FIRST).write_bytes(content)
    server.requests.clear()
    assert mnist.fetch() == CONTENT
    assert server.requests == [f"/{FIRST}"]
    assert (mnist.CACHE / FIRST).read_bytes() == CONTENT[FIRST]


def test_a_source_that_fails_is_not_asked_first_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MNIST_MIRROR")
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server.url}/dead", f"{server.url}/alive"))
    server.answer = lambda handler, body: (not_found if handler.path.startswith("/dead") else good)(
        handler, body
    )
    assert mnist.fetch() == CONTENT
    assert [path.split("/")[1] for path in server.requests] == ["dead", *["alive"] * 4]


@pytest.mark.parametrize("account", ["", "user:secret@"])
def test_a_server_that_is_not_there(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, account: str
):
    with socket.socket() as taken:  # nobody listens there, nor can anybody begin to
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}/mnist"
        monkeypatch.setenv("MNIST_MIRROR", f"https://{account}{address}")
        with pytest.raises(UserError) as caught:
            mnist.fetch()
    assert f"https://{address} (no connection)" in str(caught.value)
    assert "secret" not in str(caught.value)  # a password in the URL is not shown


@pytest.mark.parametrize("mirror", ["http://localhost:1", "ftp://localhost:1", "file:///tmp"])
def test_a_mirror_by_another_protocol_is_refused(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
):
    monkeypatch.setenv("MNIST_MIRROR", mirror)
    with pytest.raises(
        UserError, match=r"\(not https, which is the only protocol allowed beside a folder\)"
    ):
        mnist.fetch()


def test_a_folder_is_a_mirror(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("MNIST_MIRROR", str(folder))
    with pytest.raises(UserError, match=f"{FIRST}: No such file"):
        mnist.fetch()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    assert mnist.fetch() == CONTENT


@pytest.mark.slow
@needs_mnist
def test_prepare_over_https_gives_the_same_bytes_as_from_the_mirror(
    project: Project, in_empty_folder: Path, authority: trustme.CA, authority_file: Path
):
    outputs = [f"data/prepared/{split}.safetensors" for split in ("train", "validation", "test")]
    server = Server(authority, mnist.fetch())
    try:
        project.run(
            *("python", "stages/prepare.py"),
            MNIST_MIRROR=server.url,
            SSL_CERT_FILE=str(authority_file),
        )
    finally:
        server.stop()
    over_https = [project.read(output) for output in outputs]
    project.run("rm", "-r", "data/raw", *outputs)
    project.run("python", "stages/prepare.py", MNIST_MIRROR=MIRROR)
    assert [project.read(output) for output in outputs] == over_https


@needs_mnist
def test_load_gives_the_official_sets(in_empty_folder: Path):
    (images, labels), (test_images, test_labels) = mnist.load()
    assert (images.shape, test_images.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert {part.dtype.name for part in (images, labels, test_images, test_labels)} == {"uint8"}
    # What the MNIST page and torchvision's users know: the first labels, and the mean ink of 0.1307.
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(images.mean() / 255, 4) == 0.1307
