"""The rows of docs/troubleshooting.md, which the tests that make such a line look up."""

import re
from typing import NamedTuple

from tests.project import ROOT

PAGE = ROOT / "docs/troubleshooting.md"


class Row(NamedTuple):
    line: str  # with … for what differs
    test: str


def rows() -> list[Row]:
    page = PAGE.read_text()
    found = re.findall(r"^\| `+(.+?)`+ \|.*\| `(tests/\S+)` \|$", page, re.MULTILINE)
    return [Row(line, test) for line, test in found]


def explain(output: str, test: str) -> None:
    """Fail unless each row that names `test` stands for a line of an output."""
    lines, wanted = (
        output.splitlines(),
        [row.line for row in rows() if row.test.endswith(f"::{test}")],
    )
    assert wanted, f"docs/troubleshooting.md has no row that names {test}"
    for line in wanted:
        pattern = ".*".join(map(re.escape, line.split("…")))
        assert any(re.fullmatch(pattern, told) for told in lines), f"no {line!r} in {output}"
