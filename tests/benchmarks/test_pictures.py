import io
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.drawn_pictures import SETS, draw, jpegs
from benchmarks.picture_contenders import plain_network
from benchmarks.pictures import ROWS, table
from stages.networks.registry import build
from stages.runtime.config import section
from stages.training.recipe import Recipe
from tests.project import ROOT, clean_environment

Features = Callable[[Image.Image], np.ndarray]


def run_rows(folder: Path, output: Path, *options: str, fails: bool = False) -> str:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.pictures",
            folder,
            "--quick",
            "--output",
            output,
            *options,
        ],
        cwd=ROOT,
        env=clean_environment(output),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode != 0) == fails, result.stderr
    return result.stderr


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_drawn_the_same_each_time(tmp_path: Path, name: str):
    drawings = []
    for time in ("first", "second"):
        draw(name, tmp_path / time, 3, 2)
        files = {
            path.relative_to(tmp_path / time): path for path in tmp_path.rglob(f"{time}/*/*/*")
        }
        drawings.append({place: path.read_bytes() for place, path in files.items()})
    assert drawings[0] == drawings[1]
    assert len(set(drawings[0].values())) == 5 * len(
        SETS[name]
    )  # training and test pictures differ
    for content in drawings[0].values():
        width, height = Image.open(io.BytesIO(content)).size
        assert width != height and {width, height} <= set(range(64, 121))


def hues(picture: Image.Image) -> np.ndarray:
    """Return a histogram of the hues in the middle, weighted by how strong they are."""
    width, height = picture.size
    picture = picture.crop((width // 3, height // 3, 2 * width // 3, 2 * height // 3))
    _, blue, red = np.asarray(picture.convert("YCbCr"), float).reshape(-1, 3).T - 128
    strength = np.hypot(blue, red)
    hue = np.arctan2(red, blue)
    return np.histogram(hue, 20, (-np.pi, np.pi), weights=strength)[0] / strength.sum()


def greys(picture: Image.Image) -> np.ndarray:
    """Return a histogram of the grey values."""
    return np.histogram(np.asarray(picture.convert("L")), 20, (0, 255), density=True)[0] * 255


def frequencies(picture: Image.Image) -> np.ndarray:
    """Return how strong each spatial frequency of the grey picture is, in any direction."""
    grey = np.asarray(picture.convert("L").resize((64, 64)), float)
    spectrum = np.abs(np.fft.fft2(grey - gaussian_filter(grey, 10)))
    x, y = np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64))
    rings = np.hypot(x, y).astype(int).ravel()
    power = np.bincount(rings, spectrum.ravel(), 32)[:32]
    peak = np.sort(spectrum.ravel())[-8:] / spectrum.sum()
    return np.concatenate([power / power.sum(), peak])


@pytest.mark.parametrize(
    "name, decisive, alike", [("colours", hues, greys), ("textures", frequencies, hues)]
)
def test_the_classes_differ_only_in_what_the_set_is_named_after(
    name: str, decisive: Features, alike: Features
):
    labels, found = {}, {}
    for seed, count in ((0, 40), (1, 20)):  # of the training and of the test pictures
        contents = [jpegs(name, label, count, seed) for label in range(len(SETS[name]))]
        pictures = [Image.open(io.BytesIO(content)) for content in chain(*contents)]
        labels[seed] = np.repeat(np.arange(len(SETS[name])), count)
        for features in (decisive, alike):
            found[features, seed] = [features(picture) for picture in pictures]
    accuracies = [
        KNeighborsClassifier(5)
        .fit(found[features, 0], labels[0])
        .score(found[features, 1], labels[1])
        for features in (decisive, alike)
    ]
    assert accuracies[0] > 0.6, accuracies
    assert accuracies[1] < 2 / len(SETS[name])  # twice that of chance


def test_the_usual_loop_trains_the_network_of_the_recipe():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe = section(params, "recipes.photo", Recipe)
    ours = build(recipe.network, (3, 32, 32), 10)
    plain = plain_network(params["recipes"]["photo"]["network"], 10)
    states = [network.state_dict() for network in (ours, plain)]
    assert [value.shape for value in states[0].values()] == [v.shape for v in states[1].values()]
    plain.load_state_dict(dict(zip(states[1], states[0].values(), strict=True)))
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain(images), ours(images))


def test_rows_are_stored_one_by_one_and_only_missing_ones_are_measured(tmp_path: Path):
    folder = tmp_path / "textures of mine"
    draw("textures", folder, 6, 3)
    run_rows(folder, tmp_path, "--rows=svc")
    first = json.loads((tmp_path / "pictures.json").read_text())["sets"][folder.name]
    printed = run_rows(folder, tmp_path, "--rows=svc,cnn-28-grey", "--missing")
    assert "cnn-28-grey" in printed and "svc" not in printed
    both = json.loads((tmp_path / "pictures.json").read_text())["sets"][folder.name]
    assert both["rows"]["svc"] == first["rows"]["svc"]
    assert both["train"] == 36 and both["test"] == 18
    assert both["rows"]["cnn-28-grey"]["cpu_seconds"] >= 1  # the budget
    assert 0 <= both["rows"]["cnn-28-grey"]["accuracy"] <= 1


@pytest.mark.slow
def test_every_kind_of_row_is_measured(tmp_path: Path):
    folder = tmp_path / "few"
    draw("textures", folder, 24, 4)  # a batch of 64
    kinds = ["photo", "convolutional", "svc", "cnn-28", "epoch"]  # others have other numbers only
    run_rows(folder, tmp_path, f"--rows={','.join(kinds)}")
    rows = json.loads((tmp_path / "pictures.json").read_text())["sets"]["few"]["rows"]
    assert [*rows] == kinds
    runs = [rows[row] for row in rows if row != "epoch"]
    assert all(0 <= run["accuracy"] <= 1 for run in runs)
    assert rows["convolutional"]["layout"] in ("drawing", "photo")
    timed = rows["epoch"]
    assert timed["size"] == 64 and timed["prepared_per_second"] > 0
    runs += [timed["photo"], timed["loop"]]
    assert all(run["seconds"] > 0 and run["cpu_seconds"] > 0 for run in runs)
    text = (tmp_path / "pictures.md").read_text()
    assert all(f"| {ROWS[row][0]} |" in text for row in kinds[:-1])


def test_a_folder_without_test_pictures_is_refused_in_one_line(tmp_path: Path):
    draw("textures", tmp_path / "few", 1, 0)
    printed = run_rows(tmp_path / "few", tmp_path, fails=True)
    assert printed.splitlines() == [
        f"error: {tmp_path}/few: no pictures in test/CLASS/; move them into train/CLASS/ and "
        "test/CLASS/, since all rows are tested on the same pictures"
    ]


def test_the_tables_have_a_column_for_each_set_and_mark_other_work():
    run = {"seconds": 3.4, "cpu_seconds": 6.1, "date": "2026-01-31", "others": 0.0}
    epoch = {
        "size": 32,
        "prepared_per_second": 4321.0,
        "photo": run,
        "loop": run | {"seconds": 6.8},
    }
    quiet = {"photo": run | {"accuracy": 0.875, "layout": None}, "epoch": run | epoch}
    busy = {"photo": run | {"accuracy": 0.5, "layout": "photo", "others": 0.5}}
    sets = {
        "one": {"train": 1200, "test": 300, "rows": quiet},
        "other": {"train": 60, "test": 30, "rows": busy},
    }
    about = {"cores": 2, "cpu": "a processor", "python": "3", "torch": "2", "scikit-learn": "1"}
    lines = table({"machine": about, "sets": sets}).splitlines()
    assert lines[0] == "| training and test pictures | `one`: 1,200, 300 | `other`: 60, 30 |"
    assert lines[2].endswith("| 87.5%; 3 s; 6 s | 50.0% (photo); 3 s; 6 s \\* |")
    epoch_row = "| `one`: 1,200 of 32 x 32 | 3.4 s; 6.1 s | 6.8 s; 6.1 s | 2.00; 1.00 | 4,321 |"
    assert lines[6] == epoch_row
    assert "2026-01-31. \\* Other processes" in lines[-1]
