import pytest

from tests.troubleshooting import PAGE, assert_explained, rows


def test_each_row_has_a_line_and_an_action():
    table_lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows()) == len(table_lines) > 0


@pytest.mark.parametrize(
    "output",
    ["", "no line of the page", "error: models/x: No space left on device\nerror: unknown"],
)
def test_what_the_page_does_not_explain_fails(output: str):
    with pytest.raises(AssertionError):
        assert_explained(output)
