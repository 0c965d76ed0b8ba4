"""The form of Hugging Face's Hub: the front matter of a card, the labels, weights as safetensors."""

import io
from pathlib import Path

import safetensors.torch
import torch
from ruamel.yaml import YAML
from torch import nn

from stages.runtime.outputs import Outputs

CONFIG = Path("models/config.json")
WEIGHTS = Path("models/model.safetensors")


def front_matter(provenance: dict, metrics: dict[str, float]) -> str:
    """Return the lines of YAML at the start of a card, by which the Hub finds and compares models.

    `provenance` is the content of the files' metadata, `metrics` those of the test. Only the model's
    owner can say under which licence others may use it.
    """
    training = provenance["training"]
    dataset = training["dataset"]
    task = {"type": "image-classification", "name": "Image classification"}
    results = [
        {"type": "accuracy", "value": metrics["accuracy"]},
        {"type": "f1", "value": metrics["macro_f1"], "name": "macro F1"},
        {"type": "loss", "value": metrics["loss"], "name": "cross-entropy in nats"},
    ]
    tested = {"type": dataset["name"], "name": dataset["title"], "split": "test"}
    front = {
        "license": "other",
        "library_name": "pytorch",
        "pipeline_tag": task["type"],
        "tags": ["dvc", "onnx", "torchscript", provenance["network"]["kind"]],
        "datasets": [dataset["name"]],
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {
                "name": f"{dataset['name']}-{training['recipe']}",
                "results": [{"task": task, "dataset": tested, "metrics": results}],
            }
        ],
    }
    text = io.StringIO()
    YAML().dump(front, text)
    return f"---\n{text.getvalue()}---\n"


def write(outputs: Outputs, network: nn.Module, provenance: dict) -> None:
    """Write the weights, and the labels of the classes in the Hub's form."""
    classes = provenance["training"]["dataset"]["classes"]
    channels, size, _ = provenance["shape"]
    config = {
        "architectures": [provenance["network"]["kind"]],
        "num_channels": channels,
        "image_size": size,
        "id2label": dict(enumerate(classes)),
        "label2id": {name: label for label, name in enumerate(classes)},
    }
    outputs.write_json(CONFIG, config)
    # Clones, since safetensors takes no views and no tensors that share memory.
    state = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    outputs.write_bytes(WEIGHTS, safetensors.torch.save(state, {"format": "pt"}))
