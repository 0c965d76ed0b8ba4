import ast
from itertools import pairwise

import pytest

from tests.project import ROOT
from tests.troubleshooting import PAGE, Row, rows


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.line[:40])
def test_each_row_is_looked_up_by_the_test_that_it_names(row: Row):
    file, _, name = row.test.partition("::")
    module = ast.parse((ROOT / file).read_text())
    functions = {part.name: part for part in ast.walk(module) if isinstance(part, ast.FunctionDef)}
    assert name in functions, f"{row.test}: no such test"
    assert "explained(" in ast.unparse(functions[name]), f"{row.test} does not look its row up"


def test_each_row_is_in_a_table():
    lines = PAGE.read_text().splitlines()
    for above, line in pairwise(lines):
        assert not line.startswith("| `") or above.startswith("|"), line
