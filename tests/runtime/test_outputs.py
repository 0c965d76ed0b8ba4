import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.runtime.outputs import all_or_none
from tests.project import ROOT
from tests.samples import write

FULL_DISK = """
import resource, sys
from pathlib import Path
from stages.runtime.errors import run_command
from stages.runtime.outputs import all_or_none
def write():
    with all_or_none() as outputs:
        outputs.write_bytes(Path(sys.argv[1]), bytes(5000))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
run_command(write)
"""

NO_TEMPORARY_FOLDER = """
import resource
from stages.runtime.errors import run_command
from stages.runtime.outputs import temporary_folder
def use():
    with temporary_folder():
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
run_command(use)
"""

TABLE = """
import sys
from pathlib import Path
from stages.runtime.outputs import all_or_none
with all_or_none() as outputs:
    rows = [(chr(0xD6), 0.1), ("x", None)]
    outputs.write_csv(Path(sys.argv[1]), ("name", "share"), rows)
"""


def test_an_unfinished_file_leaves_the_earlier_one(tmp_path: Path):
    path = tmp_path / "made" / "file"
    write(lambda outputs: outputs.write_bytes(path, b"earlier"))
    with pytest.raises(RuntimeError), all_or_none() as outputs, outputs.file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"earlier"
    assert list(path.parent.iterdir()) == [path]


def test_all_files_are_published_or_none(tmp_path: Path):
    first, second = tmp_path / "b", tmp_path / "a" / "file"
    first.write_bytes(b"earlier")
    with pytest.raises(RuntimeError), all_or_none() as outputs:
        outputs.write_bytes(first, b"new")
        outputs.write_bytes(second, b"new")
        assert first.read_bytes() == b"earlier"
        raise RuntimeError
    assert first.read_bytes() == b"earlier"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [first]
    with all_or_none() as outputs:
        outputs.write_bytes(first, b"new")
        outputs.write_bytes(second, b"new")
    assert first.read_bytes() == second.read_bytes() == b"new"
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [second, first]


def test_a_table_is_utf_8_in_any_locale_and_none_is_an_empty_cell(tmp_path: Path):
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", TABLE, tmp_path / "file"]
    subprocess.run(command, cwd=ROOT, env=os.environ | locale, check=True)
    assert (tmp_path / "file").read_bytes() == "name,share\nÖ,0.1\nx,\n".encode()


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path):
    path = tmp_path / "file"
    write(lambda outputs: outputs.write_bytes(path, b"earlier"))
    command = [sys.executable, "-c", FULL_DISK, path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, f"error: {path}: File too large\n")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_no_folder_for_temporary_files_is_one_line(explained: Callable[[str], None]):
    """Python tries TMPDIR, /tmp and others; its own error names no file, and was a traceback."""
    command = [sys.executable, "-c", NO_TEMPORARY_FOLDER]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    explained(result.stderr)


def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write(lambda outputs: outputs.write_bytes(tmp_path / "file", b""))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_json_holds_finite_numbers(tmp_path: Path):
    write(lambda outputs: outputs.write_json(tmp_path / "file", {"loss": 0.5}))
    assert (tmp_path / "file").read_text() == '{\n  "loss": 0.5\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(lambda outputs: outputs.write_json(tmp_path / "file", {"loss": float("nan")}))
    assert (tmp_path / "file").read_text() == '{\n  "loss": 0.5\n}\n'


def test_a_folder_of_an_outputs_name_is_refused_before_anything_is_published(tmp_path: Path):
    """The earlier outputs were replaced already, and the error named a temporary file."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"earlier")
    second.mkdir()
    with pytest.raises(IsADirectoryError) as caught, all_or_none() as outputs:
        outputs.write_bytes(first, b"new")
        outputs.write_bytes(second, b"new")
    assert caught.value.filename == str(second)
    assert first.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_an_error_while_publishing_names_the_output(tmp_path: Path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError) as caught, all_or_none() as outputs:
        outputs.write_bytes(path, b"new")
        next(tmp_path.glob(".file.*.tmp")).unlink()
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_while_publishing_takes_effect_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """The first outputs were new, and the others were removed."""
    number, rename = signal.Signals[name], Path.replace

    def rename_and_signal(temporary: Path, path: Path) -> None:
        rename(temporary, path)
        # As from outside: the system may hand it to any thread.
        sender = threading.Thread(target=os.kill, args=(os.getpid(), number))
        sender.start()
        sender.join()

    monkeypatch.setattr(Path, "replace", rename_and_signal)
    before = signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with pytest.raises(SystemExit, match=str(128 + number)), all_or_none() as outputs:
            outputs.write_bytes(tmp_path / "a", b"new")
            outputs.write_bytes(tmp_path / "b", b"new")
    finally:
        signal.signal(number, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
