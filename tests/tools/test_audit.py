"""What `make audit` makes of the answers of a server in the place of the OSV database's."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.pipeline.test_pins import FILES, pins
from tests.project import ROOT
from tools.audit import KNOWN, judge

CVE = "CVE-2025-69872"
PINNED = {name: version for file in FILES for name, version in pins(file).items()}
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`: nothing listens


def vulnerability(package: str, number: str, *aliases: str, mended: str = "") -> dict:
    """As in https://ossf.github.io/osv-schema/."""
    events = [{"introduced": "0"}, *([{"fixed": mended}] if mended else [])]
    return {
        "schema_version": "1.6.0",
        "id": number,
        "aliases": aliases,
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": package},
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
        ],
    }


OF_DISKCACHE = vulnerability("diskcache", "GHSA-w8v5-vhqr-4h9v", CVE)
OF_TORCH = vulnerability("torch", "GHSA-0000-0000-0000", "CVE-2027-1", mended="99.1")


class Database:
    """A server that is asked as OSV's is; it answers with what is set here."""

    def __init__(self):
        self.status, self.vulnerabilities, self.raw = 200, [], None
        self.asked: dict[str, str] = {}
        database = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = query["package"]["name"]
                database.asked[name] = query["version"]
                affecting = [
                    each
                    for each in database.vulnerabilities
                    if each["affected"][0]["package"]["name"] == name
                ]
                answer = database.raw or json.dumps({"vulns": affecting} if affecting else {})
                self.send_response(database.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def database():
    served = Database()
    thread = threading.Thread(target=served.server.serve_forever)
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


def audit(url: str, code: int = 0, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tools.audit"],
        cwd=ROOT,
        env=os.environ | {"PIP_AUDIT_OSV_URL": url} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def test_it_asks_for_each_pin_and_names_what_we_live_with(database: Database):
    database.vulnerabilities = [OF_DISKCACHE]
    first, *others = audit(database.url).splitlines()
    assert first == f"audit: {len(PINNED)} pinned packages, no vulnerability but what we know of:"
    assert others == [f"  {CVE}: {KNOWN[CVE]}"]
    assert database.asked == PINNED


def test_any_other_vulnerability_is_an_error(database: Database, explained: Callable[[str], None]):
    database.vulnerabilities = [OF_DISKCACHE, OF_TORCH]
    output = audit(database.url, code=1)
    torch = f"torch {PINNED['torch']}: CVE-2027-1, GHSA-0000-0000-0000"
    assert output == f"error: {torch}; mended in 99.1\n"
    explained(output)


def test_a_database_that_knows_nothing_is_no_good_news(
    database: Database, explained: Callable[[str], None]
):
    output = audit(database.url, code=1)
    assert output.startswith(f"error: {CVE}: is not reported any more; remove it from KNOWN in ")
    explained(output)


def unavailable(database: Database) -> str:
    database.status = 503
    return database.url


def something_else(database: Database) -> str:
    database.raw = "<html>Log in to this network</html>"
    return database.url


@pytest.mark.parametrize("url", [unavailable, something_else, lambda _: NOWHERE])
def test_a_database_that_cannot_be_reached_is_said_in_one_line(
    database: Database, url: Callable[[Database], str], explained: Callable[[str], None]
):
    output = audit(url(database))
    assert output.startswith("audit: the OSV database gave no answer (")
    assert output.endswith("): nothing is audited\n")
    assert output.count("\n") == 1
    explained(output)


def test_a_pip_audit_that_fails_otherwise_is_an_error(explained: Callable[[str], None]):
    output = audit(NOWHERE, code=1, PIP_AUDIT_LOGLEVEL="no level")
    assert "ValueError: Unknown level" in output
    assert output.endswith("\nerror: pip-audit has failed (see above); nothing is audited\n")
    explained(output)


def test_what_was_not_audited_is_an_error(explained: Callable[[str], None]):
    """As pip-audit leaves out what its database does not know, and files that a file includes."""
    report = {
        "dependencies": [
            {
                "name": "diskcache",
                "version": "5",
                "vulns": [{"id": CVE, "aliases": [], "fix_versions": []}],
            },
            {"name": "numpy", "skip_reason": "Dependency not found"},
        ]
    }
    faults, found = judge(report, {"diskcache": "5", "numpy": "2", "torch": "3"})
    assert faults == ["numpy 2: was not audited", "torch 3: was not audited"]
    assert found == [CVE]
    explained(f"error: {faults[0]}")
