"""The model card: what the exported files are, measured, and how to use them."""

import json

from common.formats import FILES

BY_TORCH = """import torch
model = {load}
images = torch.zeros(3, 1, 28, 28)
probabilities = model(images)
print(probabilities.argmax(dim=1))"""
BY_ONNX_RUNTIME = """import numpy, onnxruntime
model = {load}
images = numpy.zeros((3, 1, 28, 28), "float32")
[probabilities] = model.run(["probabilities"], {{"images": images}})
print(probabilities.argmax(axis=1))"""
# Of each format: what it is, the lines that use it, and how they load the file.
USES = {
    "torchscript": (
        "TorchScript, for PyTorch in Python and C++",
        BY_TORCH,
        'torch.jit.load("{file}")',
    ),
    "pt2": ("torch.export, for PyTorch 2.13", BY_TORCH, 'torch.export.load("{file}").module()'),
    "onnx": (
        "ONNX, for ONNX Runtime and many others; needs no PyTorch",
        BY_ONNX_RUNTIME,
        'onnxruntime.InferenceSession("{file}")',
    ),
    "int8": (
        "ONNX whose matrices and convolutions calculate in int8",
        BY_ONNX_RUNTIME,
        'onnxruntime.InferenceSession("{file}")',
    ),
}


def render(provenance: dict, scores: dict, exports: list[dict]) -> bytes:
    """Return the card as Markdown.

    `provenance` is what the files hold, `scores` is `scores.score`'s, `exports` a row for each
    format, as in metrics/export.json.
    """
    training, dataset = provenance["training"], provenance["training"]["dataset"]
    kind = provenance["network"]["network"].replace("_", "-")
    per_class = "\n".join(
        f"| {row['class']} | {row['precision']:.2%} | {row['recall']:.2%} | "
        f"{row['recall_low']:.2%} to {row['recall_high']:.2%} | {row['f1']:.4f} | {row['images']} |"
        for row in scores["per_class"]
    )
    bins = "\n".join(
        f"| {row['bin']} | {row['confidence']:.2%} | {row['accuracy']:.2%} | {row['images']} |"
        for row in scores["calibration"]
    )
    files, loading = [], []
    for row in exports:
        file, (what, lines, load) = FILES[row["format"]], USES[row["format"]]
        code = lines.format(load=load.format(file=file))
        files.append(
            f"| `{file.name}` | {what} | {row['bytes']:,} | {row['accuracy']:.2%} | "
            f"{row['max_difference']:.1e} |"
        )
        loading.append(f"`{file.name}`:\n\n```python\n{code}\n```")
    files, loading = "\n".join(files), "\n\n".join(loading)
    return f"""# A classifier of single handwritten digits

Written by the export stage from what it measured; `dvc repro` writes it anew.

A {kind} network that takes images float32 [N, 1, 28, 28] in [0, 1] (0 is paper, 1 is ink; one digit,
centred as in MNIST) and gives the probabilities float32 [N, 10] of the digits 0 to 9.

## Data

{dataset["name"]}: {training["images"]:,} images for training, {scores["images"]:,} for the test below,
which had no part in the training. The SHA-256 of all images and labels is
`{dataset["sha256"]}`.

## Training

Recipe `{training["recipe"]}`, with these parameters:

```json
{json.dumps({"network": provenance["network"], **training["parameters"]}, indent=2)}
```

## Results on the test set

Accuracy {scores["accuracy"]:.2%}, loss {scores["loss"]:.4f} nats, macro F1 {scores["macro_f1"]:.4f}.

| digit | precision | recall | 95 % interval of the recall | F1 | images |
|---|--:|--:|:-:|--:|--:|
{per_class}

### Calibration

Expected calibration error {scores["calibration_error"]:.4f}: how far, on average, the highest
probability is from the share of the answers that are right.

| highest probability | its mean | right | images |
|---|--:|--:|--:|
{bins}

## Limits

It knows single, centred, upright digits written by pen, in the form of the data above, and nothing
else. Whatever it is shown, a letter or an empty page, it calls a digit, often with confidence. It was
not tried on other writers, pens or cameras than those of the data; do not let it decide anything about
people, money or safety.

## Files

| file | format | bytes | test accuracy | largest difference of a probability |
|---|---|--:|--:|--:|
{files}

Each file holds its provenance (data, parameters, scores, versions): `provenance.json` among the extra
files of PyTorch's formats, `provenance` in the metadata of ONNX.

In the project's folder, for three empty images (a picture of a digit has first to be brought to the
form of the data, as `python -m predict PICTURE` does: light ink on black, in a box of 20 by 20
pixels, centred by its mass in 28 by 28):

{loading}
""".encode()
