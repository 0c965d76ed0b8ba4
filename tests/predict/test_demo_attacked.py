"""The demo under load and attack: real clients, real sockets, a real server."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple

import httpx
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from predict.demo.limits import CONNECTIONS, MAX_BYTES, OTHER_FILES, SMALL
from tests.predict.drawings import draw
from tests.predict.test_demo import png
from tests.predict.test_model import SURE, write
from tests.project import ROOT

SMALL_DEMO = ("-m", "tests.predict.small_demo")
FILES = CONNECTIONS + OTHER_FILES
THREE = png(draw(3))
Explained = Callable[[str], None]


class Demo(NamedTuple):
    process: subprocess.Popen
    url: str
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def connect(self, sent: bytes = b"") -> socket.socket:
        url = httpx.URL(self.url)
        connection = socket.create_connection((url.host, url.port), timeout=30)
        connection.sendall(sent.replace(b"HOST", url.netloc))
        return connection


@contextmanager
def attacked(folder: Path, model: Path, seconds: int) -> Iterator[Demo]:
    """Run the demo in a session of its own; at the end, it must have logged nothing."""
    limited = ["sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh", sys.executable]
    command = [*limited, *SMALL_DEMO, str(seconds), "--port", "0", "--model", model]
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), log.read_text()
            yield Demo(process, line.split()[0], log)
        finally:
            process.kill()
        assert log.read_text() == ""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "model.onnx", SURE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Demo]:
    with attacked(tmp_path_factory.mktemp("demo"), model, seconds=2) as demo:
        yield demo


def told(response: httpx.Response, status: int) -> str:
    """Return the one line of an answer, which has all headers that the page has."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cache-Control"] == "no-store"
    assert "server" not in response.headers
    assert "access-control-allow-origin" not in response.headers
    assert (status == 503) == ("retry-after" in response.headers)
    assert "\n" not in response.text
    return response.json()["error"]


def parsed(content: bytes) -> httpx.Response:
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


def answer_on(connection: socket.socket) -> httpx.Response:
    """Return one whole answer; fail if the connection ends before."""
    answer = HTTPResponse(connection)
    answer.begin()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def rest_of(connection: socket.socket) -> bytes:
    """Return what comes on a connection until the server closes it."""
    content = b""
    try:
        while block := connection.recv(65_536):
            content += block
    except ConnectionResetError:  # what we had sent was not all read
        pass
    return content


def upload(length: int) -> bytes:
    return b"POST /predict HTTP/1.1\r\nHost: HOST\r\nContent-Length: %d\r\n\r\n" % length


def test_other_sites_are_refused(demo: Demo, explained: Explained):
    own = demo.url
    with demo.client() as client:
        for headers in (
            {},
            {"Host": f"LOCALHOST:{client.base_url.port}"},
            {"Host": "localhost:9000", "Origin": "http://localhost:9000"},  # through a tunnel
            {"Origin": own, "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
        ):
            response = client.post("/predict", content=THREE, headers=headers)
            assert response.json()["class"] == "3"
        lines = [
            told(client.request(method, path, headers=headers, content=THREE), 403)
            for method, path in (("GET", "/"), ("POST", "/predict"))
            for headers in (
                {"Host": "evil.example"},
                {"Host": f"127.0.0.1.evil.example:{client.base_url.port}"},
                {"Host": "evil.example", "Origin": "http://evil.example"},
                {"Host": ""},
                {"Origin": "null"},
                {"Origin": "http://127.0.0.1:1"},
                {"Origin": own.replace("http", "https")},
                {"Origin": f"{own}.evil.example"},
                {"Origin": own, "Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "same-site"},
            )
        ]
    explained("\n".join(lines))


def test_a_link_on_another_site_may_be_followed(demo: Demo):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    page, frame = link | {"Sec-Fetch-Dest": "document"}, link | {"Sec-Fetch-Dest": "iframe"}
    with demo.client() as client:
        assert client.get("/", headers=page).status_code == 200
        told(client.get("/", headers=frame), 403)
        told(client.post("/predict", headers=page, content=THREE), 403)


def test_every_answer_has_the_security_headers(demo: Demo):
    with demo.client() as client:
        page = client.get("/").raise_for_status()
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        names = set(page.headers)
        for response, status in (
            (client.post("/predict", content=b""), 400),
            (client.get("/nothing"), 404),
            (client.get("/predict"), 405),
            (client.post("/predict", content=b"\0" * (MAX_BYTES + 1)), 413),
            (client.post("/predict", content=b"no picture"), 422),
        ):
            told(response, status)
            assert names <= set(response.headers)
    for wrong in (b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nHost: HOST\r\nX: " + b"x" * 70_000):
        with demo.connect(wrong) as connection:
            told(answer_on(connection), 400)


def test_chunks_are_refused_unread(demo: Demo, explained: Explained):
    """Of one byte each, they kept the server busy: eight clients made a visitor wait for 27 s."""
    start = b"POST /predict HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n"
    with ExitStack() as stack, demo.client() as client:
        connections = [stack.enter_context(demo.connect(start)) for _ in range(40)]
        explained(told(answer_on(connections[0]), 411))
        for connection in connections[1:]:
            with suppress(ConnectionError):
                connection.sendall(b"1\r\nx\r\n" * 100_000)
        assert client.post("/predict", content=THREE).json()["class"] == "3"


def trickle(connection: socket.socket, byte: bytes) -> tuple[float, bytes]:
    """Send a byte from time to time; return how long that was allowed, and what was answered."""
    start, content = time.monotonic(), b""
    connection.settimeout(0.1)
    while time.monotonic() < start + 15:
        try:
            connection.send(byte)
            if not (block := connection.recv(65_536)):
                break
            content += block
        except TimeoutError:
            pass
        except ConnectionError:
            break
    return time.monotonic() - start, content


def insist(connection: socket.socket) -> float:
    """Ask for more and more, and take none of it; return how long that was allowed."""
    start = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < start + 15:
        try:
            connection.send(b"GET /draw.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1_000)
        except TimeoutError:
            pass
        except ConnectionError:
            break
    return time.monotonic() - start


def test_who_is_slow_is_cut_off(model: Path, tmp_path: Path, explained: Explained):
    """A byte from time to time kept a connection for ever."""
    with (
        attacked(tmp_path, model, seconds=1) as demo,
        ExitStack() as stack,
        ThreadPoolExecutor() as pool,
    ):
        pieces = {
            "nothing": (b"", b""),
            "headers": (b"GET / HTTP/1.1\r\nHost: HOST\r\nX: ", b"x"),
            "next headers": (b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\nGET /", b"x"),
            "body": (upload(1_000), b"x"),
            "body after the answer": (upload(1_000).replace(b"/predict", b"/"), b"x"),
        }
        slow = {
            name: pool.submit(trickle, stack.enter_context(demo.connect(first)), rest)
            for name, (first, rest) in pieces.items()
        }
        greedy = pool.submit(insist, stack.enter_context(demo.connect()))
        ended = {name: one.result()[0] for name, one in slow.items()}
        assert max(ended.values()) < 6, ended  # the limit is 1
        assert greedy.result() < 12  # 4
        explained(told(parsed(slow["body"].result()[1]), 408))


def test_more_connections_than_files_are_turned_away(demo: Demo, explained: Explained):
    """400 of them stopped the service, and wrote 40,000 lines a second."""
    with ExitStack() as stack:
        connections = [stack.enter_context(demo.connect()) for _ in range(FILES + 100)]
        for connection in connections[CONNECTIONS:]:
            explained(told(answer_on(connection), 503))
        assert rest_of(connections[0]) == b""  # its time was over: there is room again
        with demo.client() as client:
            assert client.get("/").status_code == 200


def test_uploads_at_once_are_bounded(tmp_path: Path, model: Path, explained: Explained):
    """200 of nearly 10 MB took 2.6 GB. Here 15 fill what may be held; most of 200 more are refused."""
    with attacked(tmp_path, model, seconds=20) as demo, ExitStack() as stack:
        client = stack.enter_context(demo.client())
        before = memory(demo.process.pid)
        full = [stack.enter_context(demo.connect(upload(MAX_BYTES))) for _ in range(15)]
        for connection in full:
            connection.sendall(b"\0" * (MAX_BYTES - 100))
        more = [stack.enter_context(demo.connect(upload(MAX_BYTES))) for _ in range(200)]
        for connection in more:
            connection.sendall(b"\0" * 2 * SMALL)
        assert client.post("/predict", content=THREE).json()["class"] == "3"
        lines = []
        while len(lines) < 100:  # of those that wait, none is answered for 20 seconds
            for connection in select.select(more, [], [], 15)[0]:
                lines.append(told(answer_on(connection), 503))
                more.remove(connection)
        explained("\n".join(lines))
        assert memory(demo.process.pid) - before < 300_000_000


def memory(process: int) -> int:
    """Return the most bytes that a process has had in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_a_picture_that_takes_for_ever_is_given_up(demo: Demo, explained: Explained):
    """Four pictures of a few hundred bytes made others wait for 74 s."""
    with demo.client() as client, ThreadPoolExecutor() as pool:

        def post(content: bytes) -> httpx.Response:
            return client.post("/predict", content=content)

        endless = [pool.submit(post, b"endless")]
        assert post(THREE).json()["class"] == "3"
        assert not endless[0].done()
        endless += [pool.submit(post, b"endless") for _ in range(5)]  # two are read at a time
        answers = [one.result() for one in endless]
        codes = sorted(one.status_code for one in answers)
        assert codes[0] == 422
        assert codes[-1] == 503
        explained("\n".join(told(one, one.status_code) for one in answers))
        assert post(THREE).json()["class"] == "3"


def test_a_process_that_crashes_costs_one_answer(demo: Demo):
    with demo.client() as client:
        line = told(client.post("/predict", content=b"crash"), 422)
        assert "more memory than there is" in line
        assert client.post("/predict", content=THREE).json()["class"] == "3"


def test_a_fault_of_its_own_is_one_line_for_the_visitor(
    model: Path, tmp_path: Path, explained: Explained
):
    # Gives no numbers for what is neither white nor black, the two images that it is tried on.
    graph = onnx.load(write(tmp_path / "model.onnx", SURE))
    graph.graph.node[-1].output[0] = "sure"
    graph.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]))
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "mean"], ["square"]),
            helper.make_node("Sub", ["square", "mean"], ["negative"]),
            helper.make_node("Sqrt", ["negative"], ["root"]),
            helper.make_node("Unsqueeze", ["root", "one"], ["column"]),
            helper.make_node("Add", ["sure", "column"], ["probabilities"]),
        ]
    )
    onnx.save(graph, tmp_path / "model.onnx")
    with attacked(tmp_path, tmp_path / "model.onnx", seconds=20) as demo, demo.client() as client:
        line = told(client.post("/predict", content=THREE), 500)
        assert "its probabilities are not finite" in line
        assert demo.log.read_text() == ""
        explained(told(client.post("/predict", content=b"fault"), 500))
        assert "ZeroDivisionError" in demo.log.read_text()
        demo.log.write_text("")


def test_ctrl_c_while_it_starts_is_quiet(model: Path):
    for seconds in (0.1, 0.3, 0.5, 0.7, 0.9):
        with subprocess.Popen(
            [sys.executable, "-m", "predict.demo", "--port", "0", "--model", model],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            output = process.stdout.read()
        assert process.returncode == 130, (seconds, output)
        assert output == "" or output.startswith("http://127.0.0.1:"), (seconds, output)
        assert output.count("\n") <= 1, (seconds, output)


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once(model: Path, tmp_path: Path, ended_by: signal.Signals):
    with attacked(tmp_path, model, seconds=20) as demo, ExitStack() as stack:
        readers = psutil.Process(demo.process.pid).children()
        before = computed(readers)
        for sent in (
            b"",
            b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n",
            b"GET /",
            upload(MAX_BYTES),
            upload(7) + b"endless",
        ):
            stack.enter_context(demo.connect(sent))
        while computed(readers) < before + 0.3:  # seconds
            time.sleep(0.05)
        if ended_by == signal.SIGINT:  # a terminal sends it to all of them, in any order
            for reader in readers:
                reader.send_signal(ended_by)
            time.sleep(0.5)
        start = time.monotonic()
        demo.process.send_signal(ended_by)
        code = demo.process.wait(timeout=10)
        assert time.monotonic() - start < 2
        assert code == (130 if ended_by == signal.SIGINT else -ended_by)
        _, alive = psutil.wait_procs(readers, timeout=1)
        assert all(one.status() == psutil.STATUS_ZOMBIE for one in alive)


def computed(processes: list[psutil.Process]) -> float:
    """Return for how many seconds processes have used a processor."""
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def test_too_few_files_are_said_at_once(explained: Explained):
    demo = f"ulimit -n {OTHER_FILES} && exec {sys.executable} -m predict.demo --port 0"
    result = subprocess.run(
        ["sh", "-c", demo], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    explained(result.stderr)
