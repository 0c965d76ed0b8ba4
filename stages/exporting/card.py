"""The model card: what the exported files are, measured, and how to use them."""

import json
import re

from stages.exporting.formats import FORMATS
from stages.exporting.hub import front_matter
from stages.exporting.params import ExportParams
from stages.exporting.torch_files import PROVENANCE
from stages.metrics.scores import Scores

EXAMPLE = """
import numpy
images = numpy.zeros((3, {shape}), "float32")  # three empty images
print(classify(images).argmax(axis=1))"""
SOURCES = {"source": "From", "licence": "Licence", "cite": "To be cited as"}
LAYOUTS = {
    "drawing": "light ink on black, scaled to 20/28 of the sides, centred by its mass.",
    "photo": "the whole picture, scaled to the square, its colours as they are.",
}


def render(provenance: dict, scores: Scores, sizes: list[dict], params: ExportParams) -> bytes:
    """Return the card as Markdown.

    `provenance` is the content of the files' metadata, `scores` the result of `score`, `sizes` the
    content of metrics/export.json, `params` the limits against which the files were checked.
    """
    training, dataset = provenance["training"], provenance["training"]["dataset"]
    kind, metrics = provenance["network"]["kind"].replace("_", "-"), scores.metrics
    classes = dataset["classes"]
    per_class = "\n".join(
        f"| {_cell(row['class'])} | {row['precision']:.2%} | {row['recall']:.2%} | "
        f"{row['recall_low']:.2%} to {row['recall_high']:.2%} | {row['f1']:.4f} | {row['images']} |"
        for row in scores.per_class
    )
    bins = "\n".join(
        f"| {row['bin']} | {row['confidence']:.2%} | {row['accuracy']:.2%} | "
        f"{row['correct'] + row['incorrect']} |"
        for row in scores.calibration
        if row["accuracy"] is not None
    )
    files = "\n".join(
        f"| `{form.file.name}` | {form.description} | {size['bytes']:,} |"
        for form, size in zip(FORMATS, sizes, strict=True)
    )
    shape = ", ".join(map(str, provenance["shape"]))
    example = EXAMPLE.format(shape=shape)
    usage = "\n\n".join(
        f"`{form.file.name}`:\n\n```python\n{form.usage(form.file)}\n{example}\n```"
        for form in FORMATS
    )
    return f"""{front_matter(provenance, metrics)}
# A classifier of images: {dataset["title"]}

The export stage wrote this card from its measurements; `dvc repro` updates it.

A {kind} network that takes images float32 [N, {shape}] in [0, 1] (channels, height, width) and gives
the probabilities float32 [N, {len(classes)}] of {len(classes)} classes, in this order:

```json
{json.dumps(classes, ensure_ascii=False)}
```

## Data

{dataset["name"]}: {training["images"]:,} images for training, {metrics["images"]:,} for the test below,
which had no part in the training. The SHA-256 of all images and labels is
`{dataset["sha256"]}`.
{"".join(f"{chr(10)}- {name}: {dataset[key]}" for key, name in SOURCES.items() if key in dataset)}

## Training

Recipe `{training["recipe"]}`, with these parameters:

```json
{json.dumps({"network": provenance["network"], **training["parameters"]}, indent=2)}
```
{_origin(training)}
## Results on the test set

Accuracy {metrics["accuracy"]:.2%}, loss {metrics["loss"]:.4f} nats, macro F1 {metrics["macro_f1"]:.4f}.

| class | precision | recall | 95 % interval of the recall | F1 | images |
|---|--:|--:|:-:|--:|--:|
{per_class}

### Calibration

Expected calibration error {metrics["calibration_error"]:.4f}: the mean distance of the highest
probability from the accuracy.

| highest probability | its mean | accuracy | images |
|---|--:|--:|--:|
{bins}

## Limits

The model knows images like those of the data above, and nothing else. It assigns one of its classes to
any image, often with confidence. It was not tested on pictures from other sources; do not
let it decide anything about people, money or safety.
{_unsure(training["unsure_below"])}
## Files

| file | format | bytes |
|---|---|--:|
{files}

`model.safetensors` has the weights alone, as `model_weights.pth` has, and `config.json` the labels,
both for Hugging Face's Hub.

The export stage ran each file on the whole test set. The probabilities were within
{params.tolerance:.0e} of the network's, with the same accuracy. The accuracy of int8, which depends on
the processor, was lower by at most {params.max_accuracy_drop:.1%}.

Each file holds its provenance (data, classes, parameters, scores, versions): `{PROVENANCE}.json` among
the extra files of PyTorch's formats, `{PROVENANCE}` in the metadata of ONNX.

Run these lines in the project's folder. A picture needs the form of the data first:
{LAYOUTS[dataset["layout"]]}
`python -m predict PICTURE` does that.

{usage}
""".encode()


def _origin(training: dict) -> str:
    """Return a paragraph on the weights that the training started from, if it was given any."""
    if not (given := training.get("initial_weights")):
        return ""
    random = ", ".join(f"`{name}`" for name in given["random"]) or "nothing"
    return (
        f"\nIt started from the weights in `{given['file']}`, with the SHA-256\n`{given['sha256']}`; "
        f"random was {random}.\n"
    )


def _unsure(below: float | None) -> str:
    """Return a paragraph on predictions that are called unsure, if the threshold is known."""
    if below is None:
        return ""
    return (
        f"\n`predict` and the demo call predictions below {below:.2%} unsure: of the correct ones on "
        "the\nvalidation set, 5 in 100 are.\n"
    )


def _cell(text: str) -> str:
    """Return a text as a cell of a table in Markdown shows it."""
    return re.sub(r"([\\`*_<>|\[\]&])", r"\\\1", text)
