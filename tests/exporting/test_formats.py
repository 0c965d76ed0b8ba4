import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from stages.common.params import load_params
from stages.exporting.formats import FORMATS
from stages.exporting.torch_files import Classifier
from stages.network.networks import build
from tests.project import ROOT

RECIPES = load_params(ROOT / "params.yaml").recipes
INPUTS = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_written_in_every_format(name: str):
    """The real layers, untrained: what the formats support does not depend on the weights."""
    torch.manual_seed(0)
    network = nn.Sequential(build(RECIPES[name].architecture, 10), nn.Softmax(dim=1)).eval()
    classifier = Classifier(network.requires_grad_(False), {}, INPUTS)
    files = {form.name: form.write(classifier) for form in FORMATS}
    assert len(files["int8"]) < len(files["onnx"]) / 2
    for count in (1, 3):
        images = INPUTS[:count]
        expected = network(images).numpy()
        script = torch.jit.load(io.BytesIO(files["torchscript"]))
        np.testing.assert_allclose(script(images).numpy(), expected, atol=1e-6)
        program = torch.export.load(io.BytesIO(files["pt2"])).module()
        np.testing.assert_allclose(program(images).numpy(), expected, atol=1e-6)
        for form, tolerance in (("onnx", 1e-5), ("int8", 0.1)):
            session = onnxruntime.InferenceSession(files[form])
            [found] = session.run(["probabilities"], {"images": images.numpy()})
            np.testing.assert_allclose(found, expected, atol=tolerance)


def test_formats_have_names_and_files_of_their_own():
    assert len({form.name for form in FORMATS}) == len({form.file for form in FORMATS}) == 4
    assert [form.name for form in FORMATS if not form.exact] == ["int8"]
