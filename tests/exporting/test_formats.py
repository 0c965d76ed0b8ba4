import io
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from stages.exporting.formats import FORMATS
from stages.exporting.torch_files import Classifier
from stages.networks.registry import Network, build
from tests.samples import OURS, RECIPES, SHAPE, recipe_of

INPUTS = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_every_kind_of_network_has_a_recipe():
    """So that tests which run over all recipes (this file, bytes, threads) cover each network."""
    union, _ = get_args(Network)
    kinds = {get_args(config.model_fields["kind"].annotation)[0] for config in get_args(union)}
    assert {recipe["network"]["kind"] for recipe in RECIPES.values()} == kinds


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_written_in_every_format(name: str):
    """The real layers, untrained: the formats' support does not depend on the weights."""
    torch.manual_seed(0)
    eager = nn.Sequential(build(recipe_of(name).network, SHAPE, 10), nn.Softmax(dim=1)).eval()
    classifier = Classifier(eager.requires_grad_(False), {}, INPUTS)
    files = {form.name: form.write(classifier) for form in FORMATS}
    if name in OURS:  # others may have no large matrices
        assert len(files["int8"]) < len(files["onnx"]) / 2
    for count in (1, 3):
        images = INPUTS[:count]
        expected = eager(images).numpy()
        script = torch.jit.load(io.BytesIO(files["torchscript"]))
        np.testing.assert_allclose(script(images).numpy(), expected, atol=1e-6)
        program = torch.export.load(io.BytesIO(files["pt2"])).module()
        np.testing.assert_allclose(program(images).numpy(), expected, atol=1e-6)
        for form, tolerance in (("onnx", 1e-5), ("int8", 0.1)):
            session = onnxruntime.InferenceSession(files[form])
            [probabilities] = session.run(["probabilities"], {"images": images.numpy()})
            np.testing.assert_allclose(probabilities, expected, atol=tolerance)


def test_formats_have_names_and_files_of_their_own():
    exact = {form.name: form.exact for form in FORMATS}
    assert len(exact) == len({form.file for form in FORMATS}) == len(FORMATS)
    ours = {"torchscript": True, "pt2": True, "onnx": True, "int8": False}
    assert exact.items() >= ours.items()
