"""The download path, against a real HTTPS server on loopback with its own certificate authority."""

import base64
import gzip
import hashlib
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from stages.datasets.description import Description, read_description
from tests.pipeline.test_disk import bad_disk
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


def named(name: str, function: Answer) -> Answer:
    function.__name__ = name
    return function


def not_modified(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(handler, b"", status=304)


def redirect(to: str) -> Answer:
    return named(
        f"redirect_to_{to}", lambda handler, body: answer(handler, b"", status=302, Location=to)
    )


def chunks_of(size: str) -> Answer:
    """The first chunk says that it has another size than it has."""

    def function(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        coded = size.encode() + b"\r\n" + body + b"\r\n0\r\n\r\n"
        answer(handler, coded, length=0, Transfer_Encoding="chunked")

    return named(f"chunks_of_{size}", function)


def announced_as(*lengths: str) -> Answer:
    head = "".join(f"Content-Length: {length}\r\n" for length in lengths)
    return named(
        f"announced_as_{lengths}",
        lambda handler, body: handler.wfile.write(
            f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body[:-20]
        ),
    )


def says(text: bytes) -> Answer:
    return named(f"says_{text[:20]}", lambda handler, body: handler.wfile.write(text))


class Server:
    """An HTTPS server for localhost; `answer` decides what it says."""

    def __init__(self, authority: trustme.CA, files: dict[str, bytes]):
        self.answer: Answer = good
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.requests.append(handler.path)
                self.answer(handler, files.get(handler.path.rpartition("/")[2], b"not found"))

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self.server = ThreadingHTTPServer(("localhost", 0), Handler)
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
        (truncated, "(broken off: IncompleteRead)", 3),
        (truncated_without_length, "the SHA-256 of what it sends is not the official one", 3),
        (bit_flipped, "the SHA-256 of what it sends is not the official one", 3),
        (overloaded, "(HTTP 503)", 3),
        (asked_too_often, "(HTTP 429)", 3),
        (html, "(no gzip file; perhaps a log-in page)", 1),
        (not_found, "HTTP 404", 1),
        (endless, "sends more than 67,108,864 bytes", 1),
        (redirect_to_itself, "more than 5 redirects", 6),
        (redirect_to_http, "(not https, which is the only protocol allowed", 1),
        (not_modified, "(HTTP 304)", 1),
        (redirect("https://[bad"), "(its answer is not valid (ValueError))", 1),
        (redirect("https://localhost:99999/"), "(its URL, or the proxy's, is not valid)", 1),
        (redirect("https://\xff\xfe\x80/\xe9"), "not valid", 1),
        (redirect("https://user:se\tcret@[::1"), "(its answer is not valid (ValueError))", 1),
        (chunks_of("-5"), "(broken off: IncompleteRead)", 3),
        (chunks_of("-" + "f" * 16), "(its answer is not valid (OverflowError))", 1),
        (chunks_of("zz"), "(broken off: IncompleteRead)", 3),
        (chunks_of("f" * 40), "(broken off: IncompleteRead)", 3),
        (announced_as("-1"), "the SHA-256 of what it sends is not the official one", 3),
        (announced_as("many"), "the SHA-256 of what it sends is not the official one", 3),
        (announced_as("9" * 30), "(broken off: IncompleteRead)", 3),
        (announced_as("5", "7"), "(broken off: InvalidHeader)", 3),
        (says(b""), "(no connection)", 3),
        (says(b"\xff\x00\r\n\r\n"), "(no connection)", 3),
        (says(b"HTTP/1.1 99999 What\r\n\r\n"), "(no connection)", 3),
        (says(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"), "(no connection)", 3),
        (says(b"HTTP/1.1 200 OK\r\na: " + b"b" * 10**5 + b"\r\n\r\n"), "(no connection)", 3),
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


def test_each_source_is_named_with_what_went_wrong(
    server: Server, nobody: str, monkeypatch: pytest.MonkeyPatch, explained: Callable[[str], None]
):
    answers = {"login": html, "nonsense": redirect("https://[bad"), "other": bit_flipped}
    server.answer = lambda handler, body: answers[handler.path.split("/")[1]](handler, body)
    monkeypatch.delenv("MNIST_MIRROR")
    with pytest.raises(UserError) as caught:
        fetched(urls=[*(f"{server.url}/{name}" for name in answers), f"https://{nobody}"])
    told = re.findall(r"https://\S+ \((.*?)\)+[,;]", str(caught.value))
    assert told == [
        "no gzip file; perhaps a log-in page",
        "its answer is not valid (ValueError",
        "the SHA-256 of what it sends is not the official one",
        "no connection",
    ]
    explained(f"error: {caught.value}")


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
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    explained: Callable[[str], None],
):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger))
    with pytest.raises(
        UserError, match=r"TLS with .*stranger\.pem: .*CERTIFICATE_VERIFY_FAILED"
    ) as caught:
        fetched()
    assert server.requests == []
    explained(f"error: {caught.value}")


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


SECRET_ADDRESSES = {
    "https://bob:secret@HOST/a": "https://HOST/a/mnist",
    "https://bob:secret@HOST/?token=secret": "https://HOST/?…",
    "https://HOST/a?token=secret": "https://HOST/a?…",
    "https://HOST/a#secret": "https://HOST/a?…",
    "https://HOST/a?token=sec@ret": "https://…",
    "https://bob:sec?re@t@HOST/": "https://…",
    "https://bob:sec ret@HOST": "https://HOST/mnist",
    "https://bob:sec\nret@HOST": "https://HOST/mnist",
    "HTTPS://bob:secret@HOST": "HTTPS://HOST/mnist",
    "http://bob:secret@HOST": "http://HOST/mnist",
    "https:/bob:secret@HOST": "https:/HOST/mnist",
    "bob:secret@HOST/a": "…@HOST/a/mnist",
}


@pytest.mark.parametrize("answered", [not_found, says(b""), bit_flipped, redirect("https://[bad")])
@pytest.mark.parametrize("address", SECRET_ADDRESSES)
def test_nothing_secret_of_an_address_is_shown(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    address: str,
    answered: Answer,
):
    server.answer = answered
    monkeypatch.setattr(download, "TIMEOUTS", (0.1, 0.1))
    monkeypatch.setattr(download, "RETRIES", 0)
    host = server.url.removeprefix("https://")
    monkeypatch.setenv("MNIST_MIRROR", address.replace("HOST", host))
    with pytest.raises(UserError) as caught:
        fetched()
    message = str(caught.value)
    assert f"could not be had from {SECRET_ADDRESSES[address].replace('HOST', host)} (" in message
    assert not re.search("bob|sec|cret|ret@|re@|\n", message.replace("the SHA", ""))
    assert capfd.readouterr() == ("", "")


def test_nothing_secret_is_shown_where_the_certificate_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("MNIST_MIRROR", f"{server.url}/?token=secret")
    with pytest.raises(UserError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        fetched()
    assert "secret" not in str(caught.value)


def test_nothing_secret_of_an_address_in_a_description_is_shown(in_empty_folder: Path):
    Path("data/letters").mkdir(parents=True)
    for urls in (
        ["http://bob:secret@host/"],
        "http://bob:secret@host/",
        {"http://bob:secret@h": 1},
    ):
        description = MNIST | {"urls": urls}
        Path("data/letters/dataset.yaml").write_text(yaml.safe_dump(description))
        with pytest.raises(UserError, match=r"^data/letters/dataset\.yaml: urls.* is not allowed"):
            read_description("letters")
        try:
            read_description("letters")
        except UserError as error:
            assert "secret" not in str(error)
    Path("data/letters/dataset.yaml").write_text("urls: [https://bob:secret@host/, ]]")
    with pytest.raises(UserError, match="not valid YAML") as caught:
        read_description("letters")
    assert "secret" not in str(caught.value)


def test_a_line_break_in_a_name_does_not_split_the_line(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("mir\nror").mkdir()
    monkeypatch.setenv("MNIST_MIRROR", "mir\nror")
    with pytest.raises(UserError) as caught:
        fetched()
    assert str(caught.value).startswith(f"mnist: {FIRST} could not be had from mir\\nror/mnist (")
    assert str(caught.value).isprintable()
    Path("data/letters").mkdir(parents=True)
    description = MNIST | {"classes": ["a", "b\nc"]}
    Path("data/letters/dataset.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(
        UserError, match=r"classes\.1: 'b\\nc' is not allowed: use printable letters"
    ):
        read_description("letters")


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
    folder = tmp_path / "Ünsere Bilder é"
    folder.mkdir()
    monkeypatch.setenv("MNIST_MIRROR", str(folder))
    with pytest.raises(UserError, match=f"{FIRST}: No such file"):
        fetched()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    assert fetched() == CONTENT


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 * 2**30)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def endless_file(path: Path) -> None:
    """A regular file that says it is empty, and gives more and more."""
    path.symlink_to("/proc/self/pagemap")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "not a regular file"),
        (device, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (sparse, "more than 67,108,864 bytes"),
        (loop, "Too many levels of symbolic links"),
        (dangling, "No such file or directory"),
        (Path.touch, "the SHA-256 of what it sends is not the official one"),
        (endless_file, "sends more than 67,108,864 bytes"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_file_in_a_folder_is_a_failure_of_the_source(
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable,
    reason: str,
    explained: Callable[[str], None],
):
    Path("mirror/letters").mkdir(parents=True)
    make(Path("mirror/letters", FIRST))
    monkeypatch.setattr(download, "MAX_SECONDS", 20)
    monkeypatch.setenv("MNIST_MIRROR", "mirror")
    with pytest.raises(
        UserError, match=rf"could not be had from mirror/letters \(.*{reason}\); "
    ) as caught:
        fetched("letters")
    if make is fifo:
        explained(f"error: {caught.value}")


def cut(path: Path) -> None:
    path.write_bytes(b"")


def edited(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def growing(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(2 * download.PIECE))


@pytest.mark.parametrize("change", [cut, edited, growing])
def test_a_file_that_changes_while_it_is_read_is_refused(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
):
    content = random_images(1000).numpy().tobytes()
    Path("mirror").mkdir()
    Path("mirror/file").write_bytes(content)
    monkeypatch.setattr(download, "MAX_BYTES", 2_000_000)
    pieces = download._pieces_of_file

    def changing(path: Path) -> Iterator[bytes]:
        for piece in pieces(path):
            yield piece
            change(path)

    monkeypatch.setattr(download, "_pieces_of_file", changing)
    reason = "sends more than 2,000,000 bytes" if change is growing else "the SHA-256 of what it"
    with pytest.raises(download.SourceError, match=reason):
        download.fetch("file", hashlib.sha256(content).hexdigest(), ["mirror"], Path("cache"))
    assert list(Path("cache").iterdir()) == []


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
    [
        (silent, "no answer within 0.5 s", 1),
        (silent_after_a_while, "broken off: ReadTimeoutError", 3),
    ],
)
def test_a_server_that_falls_silent_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, behaviour: Answer, reason: str, attempts: int
):
    monkeypatch.setattr(download, "TIMEOUTS", (0.5, 0.5))
    server.answer = behaviour
    with pytest.raises(UserError, match=reason):
        fetched()
    assert len(server.requests) == 2 * attempts


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (OK + b"Content-Length: 1000\r\n\r\n\x1f\x8b", b"\0"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"H"),
        (OK + b"Name: ", b"a"),
        (OK, b"A: b\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"0\r\n", b"a: b\r\n"),
    ],
    ids=["body", "continue", "status", "header", "headers", "size", "extension", "trailer"],
)
def test_a_server_that_never_ends_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, first: bytes, drop: bytes
):
    """Although each of its bytes comes in time, and few of them."""

    def dripping(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with suppress(OSError):
            handler.wfile.write(first)
            for _ in range(100):
                time.sleep(0.05)
                handler.wfile.write(drop)

    def dripping_at_first(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        (good if handler.path.startswith("/alive") else dripping)(handler, body)

    server.answer = dripping_at_first
    monkeypatch.setattr(download, "MAX_SECONDS", 0.4)
    monkeypatch.delenv("MNIST_MIRROR")
    assert fetched(urls=[f"{server.url}/slow", f"{server.url}/alive"]) == CONTENT
    assert [path.split("/")[1] for path in server.requests] == ["slow", *["alive"] * 4]


# Python leaves it to its garbage collector to close a socket whose handshake a signal has ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handshake_that_never_ends_is_given_up(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, explained: Callable[[str], None]
):
    record = b"\x16\x03\x03\x40\x00" + bytes(1000)  # it announces 16 KiB

    def drip(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    for byte in record:
                        connection.send(bytes([byte]))
                        time.sleep(0.05)

    with socket.create_server(("localhost", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,), daemon=True)
        thread.start()
        monkeypatch.setattr(download, "MAX_SECONDS", 0.4)
        monkeypatch.setenv("MNIST_MIRROR", f"https://localhost:{listening.getsockname()[1]}")
        with pytest.raises(UserError, match=r"\(took more than 0\.4 s\)") as caught:
            fetched("letters")
        explained(f"error: {caught.value}")
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    "broken",
    [
        redirect("https://[bad"),
        redirect("https://localhost:99999/"),
        redirect("https://\xff\xfe\x80/\xe9"),
        chunks_of("-" + "f" * 16),
        says(b"\xff"),
        not_modified,
    ],
    ids=lambda value: value.__name__,
)
def test_after_any_failure_the_next_source_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, broken: Answer
):
    monkeypatch.delenv("MNIST_MIRROR")
    server.answer = lambda handler, body: (broken if handler.path.startswith("/dead") else good)(
        handler, body
    )
    assert fetched(urls=[f"{server.url}/dead", f"{server.url}/alive"]) == CONTENT


def test_any_error_of_the_libraries_is_a_failure_of_the_source(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    """Even one that no answer of ours has brought about."""
    monkeypatch.delenv("MNIST_MIRROR")
    get = download.requests.get

    def failing(url: str, **options: object) -> object:
        if "/dead" in url:
            raise AttributeError(f"of {url}")
        return get(url, **options)

    monkeypatch.setattr(download.requests, "get", failing)
    assert fetched(urls=[f"{server.url}/dead", f"{server.url}/alive"]) == CONTENT


def test_the_time_limit_leaves_no_alarm(server: Server):
    handler = signal.getsignal(signal.SIGALRM)
    fetched()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_cache_that_cannot_be_written_costs_only_the_keeping(
    server: Server,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    Path("file").touch()
    monkeypatch.setattr(idx, "CACHE", in_empty_folder / "file" / "below a file")
    assert fetched() == CONTENT
    assert re.fullmatch(
        r"note: no downloads are kept: \S+/file/below a file/mnist: Not a directory\n",
        capsys.readouterr().out,
    )


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file be larger than 20 bytes; not for a whole test, since pytest may write to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_not_taken_for_a_fault_of_the_server(server: Server, cache: Path):
    with pytest.raises(OSError, match="File too large") as caught, small_files():
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


def in_a_mirror(contents: Sequence[bytes], monkeypatch: pytest.MonkeyPatch) -> Description:
    """Put the four files of a set called letters into a folder, which becomes the mirror."""
    Path("mirror/letters").mkdir(parents=True)
    files = dict(zip(MNIST["files"], contents, strict=True))
    for name, content in files.items():
        Path("mirror/letters", name).write_bytes(content)
    monkeypatch.setenv("MNIST_MIRROR", "mirror")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Description(**MNIST | {"files": sums})


def lying(*sizes: int) -> bytes:
    return gzip.compress(struct.pack(f">{1 + len(sizes)}I", 2048 + len(sizes), *sizes) + bytes(100))


@pytest.mark.parametrize(
    "content",
    [
        lying(2**32 - 1, 28, 28),
        lying(2**32 - 1),
        lying(),
        gzip.compress(b""),
        gzip.compress(b"\0\0\xff\x03" + bytes(12)),
        b"\x1f\x8b",
        b"no gzip",
        gzip.compress(bytes(1000))[:-9],
        gzip.compress(bytes(1000))[:12] + b"\xff" * 20,
    ],
    ids=["images", "labels", "none", "empty", "type", "head", "no_gzip", "cut", "damaged"],
)
@pytest.mark.parametrize("place", range(4))
def test_a_file_that_its_description_names_may_hold_anything(
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    place: int,
):
    images, labels = random_images(6).numpy(), np.arange(6) % 3
    contents = [*idx_files(images, labels), *idx_files(images, labels)]
    contents[place] = content
    description = in_a_mirror(contents, monkeypatch)
    with pytest.raises(
        UserError, match=r"^data/letters/dataset\.yaml: its files are not in MNIST's form"
    ):
        idx.load("letters", description)


def test_a_file_is_not_unpacked_to_any_size(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, explained: Callable[[str], None]
):
    description = in_a_mirror([gzip.compress(bytes(2**22))] * 4, monkeypatch)
    monkeypatch.setattr(idx, "MAX_UNPACKED", 2**20)
    with pytest.raises(UserError, match="more than 1,048,576 bytes when unpacked") as caught:
        idx.load("letters", description)
    explained(f"error: {caught.value}")


def test_a_full_disk_for_temporary_files_is_named(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    images, labels = random_images(200).numpy(), np.arange(200) % 3
    description = in_a_mirror(2 * idx_files(images, labels), monkeypatch)
    Path("full").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "full")  # TMPDIR is read once in a process
    with bad_disk(Path("full"), "full"), pytest.raises(OSError, match="No space left") as caught:
        idx.load("letters", description)
    assert caught.value.filename == "full"
