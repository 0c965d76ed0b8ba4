"""Export the trained network as one file that loads without this project."""

import io
from pathlib import Path

from common import errors
from common.arrays import load_split
from common.determinism import fix_arithmetic
from common.errors import UserError
from common.files import whole_file, write_json
from common.inference import accuracy, predict_batches
from common.params import load_params
from common.weights import load_network

import torch
from torch import nn

TORCHSCRIPT = Path("models/model.pth")
METRICS = Path("metrics/export.json")
BATCH_SIZE = 1000  # bounds memory only


def to_torchscript(classifier: nn.Module) -> bytes:
    """Trace `classifier`, in eval mode, and return the TorchScript file's bytes.

    Its input is float32 [N, 1, 28, 28] in [0, 1], any N; its output probabilities float32 [N, 10].
    """
    traced = torch.jit.trace(classifier, torch.zeros(1, 1, 28, 28))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return without_source_paths(buffer.getvalue())


def without_source_paths(archive: bytes) -> bytes:
    """Copy a TorchScript file without its debug records.

    They map the code to lines of torch's source under absolute paths, so that the same model would
    have other bytes in another folder. Only error messages use them.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    copy = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(copy)
    for name in reader.get_all_records():
        # The writer adds the version and the id of what it wrote by itself.
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return copy.getvalue()


def check(metrics: dict, eager_accuracy: float, tolerance: float) -> None:
    """Refuse an exported model that is not the eager one.

    Raises:
        UserError: a probability is off by more than `tolerance`, or the accuracy is another one.
    """
    if not metrics["max_difference"] <= tolerance:  # "not <=" refuses nan too
        raise UserError(
            f"{TORCHSCRIPT}: a probability is {metrics['max_difference']:.1e} from the eager "
            f"network's, params.yaml: export.tolerance allows {tolerance:.1e}; not exported"
        )
    if metrics["accuracy"] != eager_accuracy:
        raise UserError(
            f"{TORCHSCRIPT}: test accuracy {metrics['accuracy']} is not the eager network's "
            f"{eager_accuracy}; not exported"
        )


def main() -> None:
    params = load_params().export
    fix_arithmetic(threads=1)
    classifier = nn.Sequential(load_network(), nn.Softmax(dim=1)).eval().requires_grad_(False)
    test = load_split("test")
    expected = predict_batches(classifier, test, BATCH_SIZE)

    with whole_file(TORCHSCRIPT) as unchecked:
        unchecked.write_bytes(to_torchscript(classifier))
        exported = predict_batches(torch.jit.load(unchecked), test, BATCH_SIZE)
        metrics = {
            "accuracy": accuracy(exported, test.labels),
            "max_difference": (exported - expected).abs_().max().item(),
            "bytes": unchecked.stat().st_size,
        }
        check(metrics, accuracy(expected, test.labels), params.tolerance)
    write_json(METRICS, {"torchscript": metrics})
    print(
        f"{TORCHSCRIPT}: {metrics['bytes']:,} bytes, accuracy {metrics['accuracy']:.2%}, at most "
        f"{metrics['max_difference']:.1e} from the eager network over {len(test):,} images"
    )


if __name__ == "__main__":
    errors.run(main)
