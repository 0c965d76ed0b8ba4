"""The model card: what the exported files are, measured, and how to use them."""

import json

from stages.common.params import ExportParams
from stages.exporting.formats import FORMATS
from stages.exporting.torch_files import PROVENANCE

EXAMPLE = """
import numpy
images = numpy.zeros((3, 1, 28, 28), "float32")  # three empty images
print(classify(images).argmax(axis=1))"""


def render(provenance: dict, scores: dict, sizes: list[dict], params: ExportParams) -> bytes:
    """Return the card as Markdown.

    `provenance` is what the files hold, `scores` is `scores.score`'s, `sizes` what stands in
    metrics/export.json, `params` what the files were checked against.
    """
    training, dataset = provenance["training"], provenance["training"]["dataset"]
    kind = provenance["network"]["network"].replace("_", "-")
    per_class = "\n".join(
        f"| {row['class']} | {row['precision']:.2%} | {row['recall']:.2%} | "
        f"{row['recall_low']:.2%} to {row['recall_high']:.2%} | {row['f1']:.4f} | {row['images']} |"
        for row in scores["per_class"]
    )
    bins = "\n".join(
        f"| {row['bin']} | {row['confidence']:.2%} | {row['accuracy']:.2%} | "
        f"{row['right'] + row['wrong']} |"
        for row in scores["calibration"]
        if row["accuracy"] is not None
    )
    files = "\n".join(
        f"| `{form.file.name}` | {form.description} | {size['bytes']:,} |"
        for form, size in zip(FORMATS, sizes, strict=True)
    )
    usage = "\n\n".join(
        f"`{one.file.name}`:\n\n```python\n{one.usage(one.file)}\n{EXAMPLE}\n```" for one in FORMATS
    )
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

| file | format | bytes |
|---|---|--:|
{files}

Before they were written here, each was run on the whole test set. The probabilities were within
{params.tolerance:.0e} of the network's, and the accuracy the same; that of int8, which depends on the
processor, was lower by at most {params.max_accuracy_drop:.1%}.

Each file holds its provenance (data, parameters, scores, versions): `{PROVENANCE}.json` among the extra
files of PyTorch's formats, `{PROVENANCE}` in the metadata of ONNX.

Run these lines in the project's folder. A picture of a digit has first to be brought to the form of the
data: light ink on black, scaled into a box of 20 by 20 pixels, centred by its mass in 28 by 28.
`python -m predict PICTURE` does that.

{usage}
""".encode()
