import numpy as np
import pytest

from stages.datasets.drawings import to_mnist_form


@pytest.mark.parametrize(
    ("shape", "box"),
    [((40, 10), (20, 5)), ((10, 40), (5, 20)), ((3, 3), (20, 20)), ((200, 1), (20, 1))],
)
def test_a_digit_of_any_shape_fills_the_box(shape: tuple[int, int], box: tuple[int, int]):
    image = np.pad(np.full(shape, 255, dtype=np.uint8), ((3, 0), (0, 9)))
    field = to_mnist_form(image)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == box
    assert field.max() == 255
    # A box of even size lies half a pixel off the centre.
    assert abs(rows.mean() - 14) <= 0.5
    assert abs(columns.mean() - 14) <= 0.5
