"""Export the model for ExecuTorch, in float32 and in int8, and check both files on the test set."""

# ruff: noqa: E402  the imports would warn

import json
import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path

warnings.simplefilter("ignore")  # of deprecated calls within torch and ExecuTorch
logging.disable(logging.WARNING)

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open
from torch import Tensor, nn
from torchao.quantization.pt2e import MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

ROOT = Path("..")  # the project whose model this is
MODEL, PICTURES = ROOT / "models/model.pt2", Path("pictures")
FILES = Path("models/model.pte"), Path("models/model.int8.pte")
MAX_BATCH = 64  # ExecuTorch reserves the memory for this number of images


class Classifier(nn.Module):
    """A network under a name, since ExecuTorch refuses parameters whose names start with a digit."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def load_split(name: str) -> tuple[Tensor, Tensor, list[str]]:
    """Return a split's images uint8 [N, C, H, W], labels int64 [N], and the names of the classes."""
    with safe_open(ROOT / f"data/prepared/{name}.safetensors", "pt") as file:
        dataset = json.loads(file.metadata()["about"])["dataset"]
        return file.get_tensor("images"), file.get_tensor("labels"), dataset["classes"]


def spread(images: Tensor, count: int) -> Tensor:
    """Return at most `count` of the images, at equal distances: they may be in order of classes."""
    count = min(count, len(images))
    return images[torch.arange(count) * len(images) // count]


def quantise(network: nn.Module, images: Tensor) -> nn.Module:
    """Return the network in int8. The ranges of its values are those over images uint8 [N, C, H, W].

    Processors round sums differently, so the ranges are computed in float64 and rounded to float32.
    """
    config = get_symmetric_quantization_config(is_per_channel=True)
    observer = MinMaxObserver.with_args(eps=2**-12)  # as the configuration's own, which is slower
    values = replace(config.input_activation, observer_or_fake_quant_ctr=observer)
    config = replace(config, input_activation=values, output_activation=values)
    prepared = prepare_pt2e(network, XNNPACKQuantizer().set_global(config)).double()
    for batch in images.split(MAX_BATCH):
        prepared(batch.double() / 255)
    return convert_pt2e(prepared.float())


def write(network: nn.Module, image: Tensor, path: Path) -> None:
    """Write a file of ExecuTorch's that takes 1 to MAX_BATCH images, such as float32 [1, C, H, W].

    The example has MAX_BATCH images, since PyTorch convolves fewer than 16 by other code, and would
    allow only so many if the example had no more.
    """
    example = image.repeat(MAX_BATCH, 1, 1, 1)
    number = torch.export.Dim("N", max=MAX_BATCH)
    program = torch.export.export(Classifier(network), (example,), dynamic_shapes=({0: number},))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def draw(images: Tensor, labels: Tensor, classes: list[str]) -> None:
    """Write two test pictures of each class; a pixel divided by 255 is the network's input."""
    PICTURES.mkdir(exist_ok=True)
    for label, name in enumerate(classes):
        for number in (labels == label).nonzero().flatten()[:2].tolist():
            pixels = images[number].permute(1, 2, 0).squeeze(2).numpy()
            # Uncompressed, as zlib's output depends on the processor.
            Image.fromarray(pixels).save(PICTURES / f"{name}-{number}.png", compress_level=0)


@torch.inference_mode()
def main() -> None:
    params = YAML(typ="safe").load(ROOT / "params.yaml")["export"]
    program = torch.export.load(MODEL)
    network = program.module(check_guards=False)
    images, labels, classes = load_split("test")
    training, _, _ = load_split("train")

    def accuracy(probabilities: Tensor) -> float:
        return (probabilities.argmax(dim=1) == labels).double().mean().item()

    expected = torch.cat([network(batch / 255) for batch in images.split(MAX_BATCH)])
    calibration = spread(training, params["calibration_images"])
    quantised = quantise(program.module(check_guards=False), calibration)
    for path, source in zip(FILES, (network, quantised), strict=True):
        write(source, images[:1] / 255, path)
        method = Runtime.get().load_program(path).load_method("forward")
        outputs = [method.execute([batch / 255])[0].clone() for batch in images.split(MAX_BATCH)]
        probabilities = torch.cat(outputs)
        difference = (probabilities - expected).abs().max().item()
        print(
            f"{path}: {path.stat().st_size:,} bytes, accuracy {accuracy(probabilities):.2%}, at most "
            f"{difference:.1e} from {MODEL.name} over {len(images):,} images"
        )
        drop = accuracy(expected) - accuracy(probabilities)
        if source is network and not difference <= params["tolerance"]:  # "not <=" refuses nan too
            sys.exit(
                f"error: {path}: a probability is {difference:.1e} from {MODEL.name}'s, "
                f"../params.yaml: export.tolerance allows {params['tolerance']:.1e}"
            )
        if not drop <= params["max_accuracy_drop"]:
            sys.exit(
                f"error: {path}: test accuracy is {drop:.4f} below {MODEL.name}'s, ../params.yaml: "
                f"export.max_accuracy_drop allows {params['max_accuracy_drop']}"
            )
    draw(images, labels, classes)
    sizes = {path.name: {"bytes": path.stat().st_size} for path in FILES}
    Path("metrics.json").write_text(json.dumps(sizes, indent=2) + "\n")


if __name__ == "__main__":
    main()
