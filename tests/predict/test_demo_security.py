"""The demo against other sites, DNS rebinding and large requests."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from predict.demo.app import MAX_BODY_SIZE
from predict.demo.server import SECURITY_HEADERS
from tests.predict.demo import COMMAND, png, serving
from tests.predict.drawings import draw
from tests.predict.models import CERTAIN, write_model
from tests.project import ROOT

THREE = png(draw(3))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", CERTAIN)


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[httpx.Client]:
    with serving(model) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "LOCALHOST:8000"},
        {"Host": "localhost:9000", "Origin": "http://localhost:9000"},  # a tunnel
        {"Host": "127.0.0.1", "Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_own_requests_are_served(client: httpx.Client, headers: dict[str, str]):
    response = client.post("/predict", content=THREE, headers=headers)
    assert response.json()["class"] == "3"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),  # DNS rebinding
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": ""}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(
    client: httpx.Client, headers: dict[str, str], status: int
):
    assert client.get("/", headers=headers).status_code == status
    assert client.post("/predict", headers=headers, content=THREE).status_code == status


def test_links_of_other_sites_open_the_page_but_not_in_a_frame(client: httpx.Client):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    page, frame = link | {"Sec-Fetch-Dest": "document"}, link | {"Sec-Fetch-Dest": "iframe"}
    assert client.get("/", headers=page).status_code == 200
    assert client.get("/", headers=frame).status_code == 403
    assert client.post("/predict", headers=page, content=THREE).status_code == 403


def test_every_response_has_the_security_headers(client: httpx.Client):
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]
    for response, status in (
        (client.get("/"), 200),
        (client.get("/", headers={"Host": "evil.example"}), 400),
        (client.get("/", headers={"Origin": "null"}), 403),
        (client.get("/missing"), 404),
        (client.post("/predict", content=b"\0" * (MAX_BODY_SIZE + 1)), 413),
        (client.post("/predict", content=b"text"), 422),
    ):
        assert response.status_code == status
        for name, value in SECURITY_HEADERS.items():
            assert response.headers[name] == value
        assert {"server", "access-control-allow-origin"}.isdisjoint(response.headers)


def test_a_large_body_without_a_length_is_refused(client: httpx.Client):
    response = client.post("/predict", content=iter([bytes(MAX_BODY_SIZE), b"\0"]))  # in chunks
    assert (response.status_code, response.text) == (413, "Content Too Large")


def test_idle_connections_above_the_limit_get_503(model: Path):
    with serving(model) as url, ExitStack() as stack:
        address = httpx.URL(url).host, httpx.URL(url).port
        for _ in range(100):
            stack.enter_context(socket.create_connection(address))
        assert httpx.get(url, trust_env=False).status_code == 503


def test_a_client_that_disconnects_leaves_no_traceback(model: Path):
    with serving(model) as url:  # which fails on a traceback
        with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port)) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
            )
            time.sleep(0.2)
        assert httpx.post(f"{url}/predict", content=THREE, trust_env=False).status_code == 200


@pytest.mark.parametrize("seconds", [0.2, 0.6, 3])
def test_ctrl_c_ends_the_demo_at_once_and_without_a_traceback(model: Path, seconds: float):
    with subprocess.Popen(
        [*COMMAND, str(model)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        time.sleep(seconds)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert "Traceback" not in process.stderr.read()
        assert time.monotonic() - start < 3
    assert process.returncode == 130
