"""Variants of params.yaml, made by hypothesis: each works, or is refused in one line before any work.

FUZZ_EXAMPLES=4000 tries more of them than CI does.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.params import ConvolutionalRecipe, Params, load_params, read_yaml
from stages.common.stage import Inputs
from stages.datasets.dataset import Dataset
from stages.datasets.dividing import divide
from stages.network.inference import predict_batches
from stages.network.networks import build
from stages.train import check_finite
from stages.training import feed_forward, loop
from stages.training.parallel import Group
from tests.project import ROOT, Project
from tests.samples import random_images, split_of

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
DOCUMENT = read_yaml(ROOT / "params.yaml")
PIPELINE = """
stages:
  any:
    deps: ["data/${prepare.dataset}"]
    params: [prepare, train, "recipes.${train.recipe}", evaluate, export]
"""
MOST_LETTERS = 3000  # of a line
SMALL = 300_000  # weights of a network that is trained for an epoch
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "260")),  # of each of four tests
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a stage would stand, with a file that it has written before."""
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "models").mkdir()
    (folder / "models/model_weights.pth").write_text("earlier")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        yield folder


def tried(content: bytes) -> str:
    """Begin a stage with this params.yaml; return the line of its refusal, "" if it is accepted."""
    Path("params.yaml").write_bytes(content)
    try:
        params = load_params()
        inputs = Inputs("any")
    except UserError as error:
        line = str(error)
        assert line.startswith("params.yaml: ")
        assert line.isprintable()
        assert len(line) < MOST_LETTERS
    else:
        line = ""
        inputs.check()
        work(params)
    found = {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert found.pop("params.yaml") == content
    assert found == {"dvc.yaml": PIPELINE.encode(), "models/model_weights.pth": b"earlier"}
    return line


IMAGES = random_images(60)
LABELS = torch.arange(60) % 10
DATASET = Dataset(
    IMAGES.numpy(), LABELS.numpy(), None, {"name": "a", "classes": list("0123456789")}
)
TRAINING = split_of(IMAGES, LABELS)
GROUP = Group()


def work(params: Params) -> None:
    """Do what the parameters say, with little data; a line of ours may refuse them still."""
    try:
        parts = divide(DATASET, params.prepare)
    except UserError:  # the set is too small for that
        pass
    else:
        assert sorted(np.concatenate(parts)) == list(range(60))
    recipe, steps = params.recipe, params.recipe.epochs * 100
    with torch.device("meta"):  # takes no memory
        network = build(recipe.architecture, 10)
        optimizer, schedule = loop.optimizer_of(loop.learner_of(network), recipe, steps)
    for step in {0, 1, steps // 2, steps - 1}:
        for factor in schedule.lr_lambdas:
            assert 0 <= factor(step) <= 1
    assert all(math.isfinite(group["lr"]) for group in optimizer.param_groups)
    weights = sum(one.numel() for one in network.parameters())
    if weights > SMALL or recipe.shards > 8:
        return
    torch.manual_seed(params.train.seed)
    network = build(recipe.architecture, 10)
    convolutional = isinstance(recipe, ConvolutionalRecipe)
    try:
        if convolutional or recipe.shards > 1:
            training = loop.Training(network, TRAINING, recipe, params.train.seed, GROUP)
        else:
            training = feed_forward.Training(network, TRAINING, recipe, params.train.seed)
        result = training.epoch(1)
        check_finite(network, [result.loss], 1, params)
    except UserError as error:
        assert re.match(r"params\.yaml: (shards|recipes\.\S+\.learning_rate): ", str(error))
        return
    outputs = predict_batches(network, IMAGES, params.evaluate.batch_size)
    assert outputs.shape == (60, 10)


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of each value in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inside in items:
        yield from places(inside, (*path, key))


PLACES = sorted((path for path in places(DOCUMENT) if path), key=str)
OFTEN = [
    path
    for path in PLACES
    if path[0] != "recipes" or path[1:2] in ((), ("tutorial",), ("convolutional",))
]
EDGES = [0, 1, 2, 3, 10, 27, 28, 29, 64, 255, 256, 257, 4096, 4097, 65_536, 65_537]
EDGES += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64, 10**30, 10**400]
integers = st.sampled_from(EDGES + [-edge for edge in EDGES]) | st.integers()
reals = (
    st.floats()
    | st.floats(0, 1)
    | st.sampled_from([1e-300, 5e-324, 1 - 2**-53, 1e308, 180.0, 28.0])
)
WORDS = "mnist digits auto cpu resize tanh gelu tutorial convolutional fast feed_forward"
ODD = [
    "",
    "~",
    "null",
    ".nan",
    "1e3",
    "0x10",
    "<<",
    "${train.seed}",
    "a\nb",
    "\x1b[2J",
    "x" * 10_000,
]
ODD += ["https://bob:secret@host/?token=secret", "../..", "\ud800", "\0", "é", "\ufeff"]
words = st.sampled_from(WORDS.split() + ODD)
scalars = st.none() | st.booleans() | integers | reals | words | st.text(max_size=20)
keys = words | st.text(max_size=5) | integers | st.booleans() | st.none()
values = st.recursive(
    scalars,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(keys, inside, max_size=3),
    max_leaves=8,
)
lists = st.lists(st.sampled_from([1, 2, 3, 5, 28, 96, 4096, 65_536]), max_size=6)
long_lists = st.builds(
    lambda one, count: [one] * count, st.sampled_from([1, "tanh"]), st.integers(90, 300)
)


def dumped(document: object) -> bytes:
    return yaml.dump(
        document, Dumper=yaml.SafeDumper, allow_unicode=False, sort_keys=False
    ).encode()


def changed(value: object, path: tuple, change: Callable[[Any, Any], None]) -> object:
    """Return a copy of a document in which `change` was called with the parent and key at `path`."""
    copy = deepcopy(value)
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return copy


def chosen(document: Any, recipe: str) -> Any:
    """Choose the recipe whose values were changed, so that it is what the work is done by."""
    if isinstance(document.get("train"), dict) and "recipe" in document["train"]:
        document["train"]["recipe"] = recipe
    return document


@fuzz
@given(path=st.sampled_from(OFTEN), value=values | scalars | lists | long_lists | integers | reals)
def test_any_value_in_any_place(path: tuple, value: object):
    def put(parent: Any, key: Any) -> None:
        parent[key] = value

    document = changed(DOCUMENT, path, put)
    if path[0] == "recipes" and len(path) > 2:
        document = chosen(document, path[1])
    line = tried(dumped(document))
    assert "secret" not in line
    if line:
        assert [key for key in path if isinstance(key, str)][-1] in line
        if value is None or type(value) in (bool, float):
            assert repr(value) in line


def remove(parent: Any, key: Any, new: object) -> None:
    del parent[key]


def rename(parent: Any, key: Any, new: object) -> None:
    if isinstance(parent, dict):
        parent[new] = parent.pop(key)
    else:
        parent.insert(0, new)


def add(parent: Any, key: Any, new: object) -> None:
    if isinstance(parent, dict):
        parent[new] = parent[key]
    else:
        parent.append(parent[key])


def nest(parent: Any, key: Any, new: object) -> None:
    parent[key] = {new: parent[key]}


def double(parent: Any, key: Any, new: object) -> None:
    parent[key] = [parent[key], parent[key]]


@fuzz
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from([remove, rename, add, nest, double]), st.sampled_from(PLACES), keys
        ),
        min_size=1,
        max_size=4,
    )
)
def test_missing_unknown_and_misplaced_keys(changes: list):
    document: Any = DOCUMENT
    for change, path, new in changes:
        try:
            document = changed(document, path, partial(change, new=new))
        except (KeyError, IndexError, TypeError, AttributeError):  # an earlier one took it away
            continue
    tried(dumped(document))


LINES = TEXT.splitlines(keepends=True)
SCRAPS = [
    *("\t", "\t- ", "  ", "- ", ": ", "? ", "#", "'", '"', "[", "]", "{", "}", ",", "|\n", ">-\n"),
    *("---\n", "...\n", "%YAML 1.1\n", "%TAG ! !\n", "!", "!!python/object:os.system ", "@", "`"),
    *(
        "&a ",
        "*a",
        "&a [*a]",
        "&a {b: *a}",
        "<<: *a\n",
        "<<: {seed: 1}\n",
        "&tutorial ",
        "*tutorial",
    ),
    *(
        f"!!{tag} "
        for tag in ("int", "float", "bool", "null", "str", "map", "seq", "set", "binary")
    ),
    *(f'!!{tag} ""' for tag in ("int", "float", "bool", "null", "str", "map", "seq", "timestamp")),
    *(f"!!{tag} [[a]]" for tag in ("int", "float", "bool", "map", "seq", "str")),
    *("0x" + "f" * 5000, "9" * 5000, "1e999", "-.inf", ".NaN", "0o17", "0b1", "1_000", "12:30:45"),
    *(
        "\0",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\ufffe",
        "\ud800",
        "\U0001f600",
        "\r",
        "\r\n",
        "\x1b",
    ),
]


@st.composite
def edited_texts(draw: st.DrawFn) -> str:
    """Return the text of params.yaml after a few slips of an editor's."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        scrap = draw(st.sampled_from(SCRAPS) | st.text(max_size=3))
        line = lines[place]
        column = draw(st.integers(0, len(line)) | st.just(line.find(": ") + 2))
        match draw(st.sampled_from(["put", "put", "value", "drop", "twice", "swap", "end"])):
            case "put":
                lines[place] = line[:column] + scrap + line[column:]
            case "value":
                lines[place] = f"{line.partition(':')[0]}: {scrap}\n"
            case "drop":
                lines[place] = ""
            case "twice":
                lines[place] = line * 2
            case "swap":
                lines[place], lines[-1] = lines[-1], line
            case "end":
                del lines[place + 1 :]
                lines[place] = line[:column]
    return "".join(lines)


ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1"]


@fuzz
@given(text=edited_texts(), encoding=st.sampled_from(ENCODINGS))
def test_slips_of_an_editor(text: str, encoding: str):
    tried(text.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace"))


@fuzz
@given(content=st.binary(max_size=100), place=st.integers(0, len(TEXT)), alone=st.booleans())
def test_bytes_that_are_no_text(content: bytes, place: int, alone: bool):
    text = TEXT.encode()
    tried(content if alone else text[:place] + content + text[place:])


def laughs(levels: int) -> str:
    """Return a few lines that stand for 9 ** levels values."""
    lines = ["a0: &a0 [" + ", ".join("x" * 9) + "]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 9) + "]")
    return "\n".join(lines)


WHOLE = {
    "empty": "",
    "a comment": "# nothing\n",
    "a list": "- prepare\n",
    "a number": "1\n",
    "a string": "prepare\n",
    "null": "null\n",
    "two documents": f"{TEXT}---\n{TEXT}",
    "sections without values": "prepare:\ntrain:\nrecipes:\nevaluate:\nexport:\n",
    "sections that are lists": "prepare: []\ntrain: []\nrecipes: []\nevaluate: []\nexport: []\n",
    "nothing but tabs": "\t\t\n",
    "5,000 lists": "a: " + "[" * 5000 + "]" * 5000,
    "5,000 mappings": "".join("  " * level + "a:\n" for level in range(5000)),
    "5,000 open lists": "[" * 5000,
    "100 lists": "a: " + "[" * 100 + "]" * 100,
    "a billion": laughs(12),
    "a billion in a value": TEXT.replace("layout:  ", "layout: *a11") + laughs(12),
    "a billion in a value, before": laughs(12) + "\n" + TEXT.replace("layout:  ", "layout: *a11"),
    "an alias of itself": TEXT.replace("layout:  ", "layout: &a [*a]"),
    "a recipe of itself": TEXT.replace("  fast: ", "  fast: &a {network: *a}\n  a:"),
    "a train of itself": TEXT.replace(
        "train:  ", "train: &a {recipe: *a, seed: 0, device: cpu}\nx:"
    ),
    "a million keys": "".join(f"a{number}: 1\n" for number in range(20_000)),
    "a long line": f"prepare: {'x' * 10**6}\n",
    "a huge recipe": TEXT.replace("recipe: tutorial", f"recipe: 0x{'f' * 5000}"),
    "a huge key": f"{TEXT}0x{'f' * 5000}: 1\n",
    "networks that no memory holds": TEXT.replace(
        "    - 96\n    - 256\n", "    - 65536\n    - 65536\n"
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_another_kind(name: str, explained: Callable[[str], None]):
    line = tried(WHOLE[name].encode())
    assert line
    if name == "a billion":
        explained(f"error: {line}")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "epochs: 10\n",
            f"epochs: 0x{'f' * 5000}\n",
            r"epochs: a number of thousands of digits is",
        ),
        ("device: cpu ", "device: !!int '' ", r"not valid YAML: a value is not of its type"),
        (
            "    - 96\n    - 256\n",
            "    - 65536\n    - 65536\n",
            r"hidden_sizes: \[65536, 65536\] make",
        ),
        (
            "    - 16\n    - 32\n    - 128\n",
            "    - 4096\n    - 4096\n    - 4096\n",
            r"channels: \[",
        ),
        (
            "dataset: mnist ",
            f"dataset: {'x' * 999}/ ",
            r"dataset: 'x{149} … x{38}/' is not allowed",
        ),
        ("export:\n", '"a\\nb": 1\nexport:\n', r"a\\nb: unknown key"),
        (
            "layout:  ",
            "layout: &a [*a]",
            r"stands for more than 100,000 values; write it without al",
        ),
    ],
)
def test_such_a_value_is_named(old: str, new: str, line: str, explained: Callable[[str], None]):
    assert old in TEXT
    told = tried(TEXT.replace(old, new, 1).encode())
    assert re.match(rf"params\.yaml: .*{line}", told)
    if "hidden_sizes" in line:
        explained(f"error: {told}")


@pytest.mark.parametrize("content", ["utf-16", "deep", "huge", "itself", "bad value"])
def test_a_stage_in_a_process_of_its_own_changes_nothing(project: Project, content: str):
    """The frame reads the parameters before any module of the stage is imported."""
    contents = {
        "utf-16": TEXT.encode("utf-16"),
        "deep": WHOLE["5,000 lists"].encode(),
        "huge": WHOLE["a huge recipe"].encode(),
        "itself": WHOLE["a train of itself"].encode(),
        "bad value": TEXT.replace("epochs: 10\n", "epochs: .inf\n").encode(),
    }
    (project.folder / "params.yaml").write_bytes(contents[content])
    weights = project.folder / "models/model_weights.pth"
    weights.write_text("earlier")
    output = project.run("python", "-m", "stages.train", fails=True)
    assert re.fullmatch(r"error: params\.yaml: [^\n]+\n", output)
    assert weights.read_text() == "earlier"
    assert project.git_status() == " M params.yaml\n"
