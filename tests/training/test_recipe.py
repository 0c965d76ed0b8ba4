import pytest

from tests.samples import recipe_of


@pytest.mark.parametrize(
    ("changes", "images", "batches", "epochs"),
    [
        ({}, 100, 4, 10),
        ({"drop_last": True}, 100, 3, 10),
        ({"drop_last": True}, 10, 1, 10),
        ({"min_steps": 40}, 100, 4, 10),
        ({"min_steps": 41}, 100, 4, 11),
        ({"min_steps": 1000}, 100, 4, 250),
    ],
)
def test_small_sets_take_more_epochs(changes: dict, images: int, batches: int, epochs: int):
    recipe = recipe_of("tutorial", **changes)
    assert recipe.batches(images) == batches
    assert recipe.for_images(images, 0).epochs == epochs
