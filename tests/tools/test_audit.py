"""`make audit`, answered by a server in place of the OSV database."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.pipeline.test_pins import FILES, MOBILE, pins
from tests.project import ROOT

PINNED = {name: version for file in (*FILES, MOBILE) for name, version in pins(file).items()}
KNOWN = {"diskcache": "GHSA-w8v5-vhqr-4h9v"}


class Database(ThreadingHTTPServer):
    """A server that speaks OSV's API and knows one vulnerability of each package in `affected`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.affected: dict[str, str] = {}
        self.requested: dict[str, str] = {}


class Handler(BaseHTTPRequestHandler):
    server: Database

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.requested[name] = query["version"]
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]
        affected = [{"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges}]
        identifier = self.server.affected.get(name)  # as in https://ossf.github.io/osv-schema/
        self.answer({"vulns": [{"id": identifier, "affected": affected}] if identifier else []})

    def answer(self, content: dict):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def database() -> Iterator[Database]:
    with Database() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def audit(url: str, code: int = 0) -> str:
    installed = [f"--assume-old=.venv/{name}.installed" for name in ("run", "test")]
    command = ["make", "--no-print-directory", *installed, "audit", f"OSV={url}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_all_pins_are_looked_up_and_the_known_vulnerability_passes(database: Database):
    database.affected = KNOWN
    assert "No known vulnerabilities found, 1 ignored" in audit(database.url)
    assert database.requested == PINNED


def test_any_other_vulnerability_fails(database: Database):
    database.affected = KNOWN | {"torch": "GHSA-0000-0000-0000"}
    assert f"torch {PINNED['torch']} GHSA-0000" in " ".join(audit(database.url, code=2).split())


def test_a_database_that_does_not_answer_is_a_note():
    url = "http://127.0.0.1:9"  # nothing listens there
    assert audit(url) == f"note: {url} does not answer; nothing was audited\n"
