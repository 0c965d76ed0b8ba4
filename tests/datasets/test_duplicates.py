import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from stages.datasets.duplicates import _nearest, near_duplicates
from stages.datasets.layout import read_picture
from tests.samples import random_pictures


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return io.BytesIO(buffer.getvalue())


def read(source: io.BytesIO) -> np.ndarray:
    return read_picture(source, "photo", (3, 32, 32))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, "JPEG", quality=85),
        lambda image: encoded(image.resize((96, 96)), "WEBP", quality=90),
        lambda image: encoded(image.point(lambda level: min(255, level + 3))),
    ],
    ids=["recompressed", "resized", "brighter"],
)
def test_near_duplicates_are_found_among_other_pictures(
    change: Callable[[Image.Image], io.BytesIO],
):
    pictures = random_pictures(200)
    originals = [read(encoded(picture)) for picture in pictures]
    copies = [read(change(picture)) for picture in pictures[:100:10]]
    pairs = near_duplicates(np.stack(originals + copies), np.arange(100, 210), np.arange(100))
    assert pairs == [(200 + number, 10 * number) for number in range(10)]


def test_a_picture_that_is_clearly_brighter_is_another():
    image = read(encoded(random_pictures(1)[0])) // 2
    assert near_duplicates(np.stack([image, image + 4]), np.array([1]), np.array([0]))
    assert not near_duplicates(np.stack([image, image + 5]), np.array([1]), np.array([0]))


def test_images_with_little_ink_are_no_duplicates():
    """They differ by two grey levels."""
    images = np.full((20, 1, 64, 64), 255, np.uint8)
    for number in range(20):
        images[number, 0, 3 * number + 2, 10:26] = 0
    assert near_duplicates(images, np.arange(10), np.arange(10, 20)) == []


def test_the_nearest_is_exact():
    """Float32 does not round: not even of the largest numbers, far from and near each other."""
    rng = np.random.default_rng(0)
    others = rng.choice(np.array([-128, 127], np.int8), (5000, 192))
    others[4000:] = others[:1000]
    others[4000:4500, 0] ^= 1
    test = others[rng.permutation(5000)[:100]].copy()
    test[:50, 5] ^= 1
    expected = [
        np.square(others.astype(int) - row).sum(axis=1).argmin() for row in test.astype(int)
    ]
    assert _nearest(test, others).tolist() == expected
