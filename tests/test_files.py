import os
import subprocess
import sys
from pathlib import Path

from common.files import whole_file, whole_folder, write_bytes, write_json

import pytest
from conftest import ROOT

FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "stages")
from common import errors
from common.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
errors.run(lambda: write_bytes(Path(sys.argv[1]), bytes(5000)))
"""


def test_a_file_that_is_not_finished_leaves_the_earlier_one(tmp_path: Path):
    path = tmp_path / "made" / "file"
    write_bytes(path, b"earlier")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"earlier"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_finished_leaves_the_earlier_one(tmp_path: Path):
    path = tmp_path / "folder"
    for content in (b"first", b"second"):
        with whole_folder(path) as temporary:
            temporary.mkdir()
            (temporary / content.decode()).write_bytes(content)
    with pytest.raises(RuntimeError), whole_folder(path) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path):
    path = tmp_path / "file"
    write_bytes(path, b"earlier")
    command = [sys.executable, "-c", FULL_DISK, path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, f"error: {path}: File too large\n")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_json_holds_numbers_that_json_knows(tmp_path: Path):
    write_json(tmp_path / "file", {"loss": 0.5})
    assert (tmp_path / "file").read_text() == '{\n  "loss": 0.5\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert (tmp_path / "file").read_text() == '{\n  "loss": 0.5\n}\n'
