"""Whether docs/troubleshooting.md explains the lines that tests provoke."""

import re

from tests.project import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
PREFIXES = ("error: ", "note: ", "warning: ")


def rows() -> list[str]:
    """Return the first cell of each row: a line, with … for what varies."""
    return re.findall(r"^\| `+(.+?)`+ \| .+ \|$", PAGE.read_text(), re.MULTILINE)


def is_explained(line: str) -> bool:
    return any(re.fullmatch(re.escape(row).replace("…", ".*"), line) for row in rows())


def assert_explained(output: str) -> None:
    """Fail unless the page has a row for an output, and for each of its errors, notes and warnings."""
    lines = output.splitlines()
    unexplained = [line for line in lines if not is_explained(line)]
    assert len(unexplained) < len(lines), f"{PAGE} explains no line of: {output}"
    missing = [line for line in unexplained if line.startswith(PREFIXES)]
    assert not missing, f"{PAGE} has no row for: {missing}"
