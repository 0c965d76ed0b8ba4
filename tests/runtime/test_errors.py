import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.runtime.errors import without_secrets
from tests.project import ROOT

FAILURE = """
from stages.runtime.errors import UserError, run_command
def fail():
    raise UserError("long " * 50_000)
run_command(fail)
"""


def test_a_process_reports_its_error_whole(tmp_path: Path):
    """torchrun ends it by SIGTERM in the middle: as soon as another process has failed."""
    report = tmp_path / "error.json"
    os.mkfifo(report)
    variables = {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_ERROR_FILE": str(report)}
    with subprocess.Popen(
        [sys.executable, "-c", FAILURE], cwd=ROOT, env=os.environ | variables
    ) as process:
        with report.open("rb", buffering=0) as file:
            start = file.read(1)  # the pipe holds 64 KiB of the rest, so the process waits
            process.send_signal(signal.SIGTERM)
            content = json.loads(start + file.readall())
        assert process.wait(timeout=60) == 1
    assert content["message"]["message"] == "UserError: " + "long " * 50_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'https://bob:secret@host/a?token=secret'", "'https://host/a?…"),
        ("'//bob:secret@host/a'", "'//host/a'"),
        ("at //host/a?token=secret", "at //host/a?…"),
        ("data/a//b@c?.png: no such file", "data/a//b@c?.png: no such file"),
    ],
)
def test_a_url_is_shown_without_its_secrets(text: str, shown: str):
    assert without_secrets(text) == shown
