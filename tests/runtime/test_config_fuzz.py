"""Variants of params.yaml, made by hypothesis: each trains, or is refused in one line.

FUZZ_EXAMPLES=4000 tries more of them than CI does.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st

from stages import train
from stages.networks.registry import build
from stages.runtime.config import PARAMS, parse_yaml, read_checked, read_yaml
from stages.runtime.errors import UserError
from stages.runtime.inputs import Inputs
from stages.runtime.splits import TRAIN, VALIDATION
from stages.training.recipe import Recipe
from tests.project import ROOT, default_params
from tests.samples import random_images, run_stage, store
from tools import check

TEXT = default_params()
DOCUMENT = parse_yaml(PARAMS, TEXT.encode())
PIPELINE = """
stages:
  any:
    deps: ["data/${prepare.dataset}"]
    params: [prepare, train, "recipes.${train.recipe}", evaluate, export]
"""
MAX_LETTERS = 3000  # of a line
MAX_WEIGHTS = 100_000  # of a network that is trained
# Of a refusal that several values together caused.
REASONS = (" weights are not allowed: ", " led to losses of ", " cannot be trained on: ")
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")),  # of each test
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The folder of a pipeline, whose prepared images are few."""
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("project"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        Path("dvc.yaml").write_text(PIPELINE)
        shutil.copytree(ROOT / "weights", "weights")
        for path, count in ((TRAIN, 60), (VALIDATION, 20)):
            store(path, random_images(count), torch.arange(count) % 10)
        for name in "ab":
            picture = Path("data", DOCUMENT["prepare"]["dataset"], name, "0.png")
            picture.parent.mkdir(parents=True)
            picture.touch()
        yield


def outcome(content: bytes) -> str:
    """Check this params.yaml, and train by it; return the line of its refusal, "" if it trains."""
    PARAMS.write_bytes(content)
    try:
        check.main()
        Inputs("any").check()
        params = read_checked(PARAMS, check.Params)
        recipe = params.recipes[params.train.recipe]
        if is_small(recipe):
            document: Any = read_yaml(PARAMS)
            document["recipes"][params.train.recipe]["epochs"] = 1
            PARAMS.write_bytes(dumped(document))
            run_stage(train.main)
    except UserError as error:
        line = str(error)
        assert line.startswith("params.yaml: ")
        assert line.isprintable()
        assert len(line) < MAX_LETTERS
        return line
    finally:
        torch.set_flush_denormal(False)  # hypothesis needs denormal numbers
    return ""


def is_small(recipe: Recipe) -> bool:
    with torch.device("meta"):  # takes no memory
        try:
            network = build(recipe.network, (1, 28, 28), 10)
        except ValueError:  # refused at once
            return True
    weights = sum(values.numel() for values in network.parameters())
    return weights < MAX_WEIGHTS and recipe.shards <= 8


def dumped(document: object) -> bytes:
    text = yaml.dump(document, Dumper=yaml.SafeDumper, allow_unicode=False, sort_keys=False)
    return text.encode()


def paths(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of each value in a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inside in enumerate(value) if isinstance(value, list) else items:
        yield from paths(inside, (*path, key))


def changed(document: object, path: tuple, change: Callable[[Any, Any], None]) -> Any:
    """Return a copy of a document in which `change` was called with the parent and key at `path`."""
    copy = deepcopy(document)
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return copy


PATHS = sorted(paths(DOCUMENT), key=str)
EDGES = [0, 1, 2, 3, 10, 27, 28, 29, 64, 255, 256, 257, 4096, 65_536, 65_537]
EDGES += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64, 10**30, 10**400]
integers = st.sampled_from(EDGES + [-edge for edge in EDGES]) | st.integers()
reals = (
    st.floats(allow_subnormal=False)
    | st.floats(0, 1, allow_subnormal=False)
    | st.sampled_from([1e-300, 1 - 2**-53, 1e308, 180.0])
)
WORDS = "mnist digits auto cpu photo tanh gelu tutorial convolutional fast feed_forward cosine sgd"
ODD = ["", "~", "null", ".nan", "1e3", "0x10", "<<", "${train.seed}", "a\nb", "\x1b[2J", "\0", "é"]
ODD += ["https://bob:secret@host/?token=secret", "../..", "\ufeff"]
words = st.sampled_from(WORDS.split() + ODD)
long = st.just("x" * 10_000 + "/")
scalars = st.none() | st.booleans() | integers | reals | words | long | st.text(max_size=20)
keys = words | st.text(max_size=5) | integers | st.booleans() | st.none()
values = st.recursive(
    scalars,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(keys, inside, max_size=3),
    max_leaves=8,
)
lists = st.lists(st.sampled_from([1, 2, 3, 5, 28, 96, 4096, 65_536, "tanh"]), max_size=6)


@fuzz
@given(path=st.sampled_from(PATHS), value=values | scalars | lists | integers | reals)
def test_any_value_in_any_place(path: tuple, value: object):
    def put(parent: Any, key: Any) -> None:
        parent[key] = value

    document = changed(DOCUMENT, path, put)
    if path[0] == "recipes" and len(path) > 2:
        document["train"]["recipe"] = path[1]
    line = outcome(dumped(document))
    assert "secret" not in line
    if line:
        *_, section, key = ("", *(key for key in path if isinstance(key, str)))
        # Another kind lacks keys, or has others, of the same section.
        named = key in line or (key == "kind" and f".{section}." in line)
        assert named or any(reason in line for reason in REASONS)
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


changes = st.tuples(st.sampled_from([remove, rename, add, nest]), st.sampled_from(PATHS), keys)


@fuzz
@given(st.lists(changes, min_size=1, max_size=4))
def test_missing_unknown_and_misplaced_keys(changes: list):
    document: Any = DOCUMENT
    for change, path, new in changes:
        try:
            document = changed(document, path, partial(change, new=new))
        except (KeyError, IndexError, TypeError, AttributeError):  # an earlier one removed it
            continue
    outcome(dumped(document))


SCRAPS = [
    *("\t", "\t- ", "  ", "- ", ": ", "? ", "#", "'", '"', "[", "]", "{", "}", ",", "|\n", ">-\n"),
    *("---\n", "...\n", "%YAML 1.1\n", "!", "@", "`", "&a ", "*a", "<<: {seed: 1}\n"),
    *("1e999", "-.inf", ".NaN", "0o17", "0b1", "1_000", "12:30:45", "2026-01-01"),
    *("\0", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f600", "\r", "\r\n", "\x1b"),
]
ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]


@st.composite
def edited_texts(draw: st.DrawFn) -> str:
    """Return the text of params.yaml after a few slips in an editor."""
    lines = TEXT.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        line, scrap = lines[number], draw(st.sampled_from(SCRAPS) | st.text(max_size=3))
        column = draw(st.integers(0, len(line)) | st.just(line.find(": ") + 2))
        match draw(st.sampled_from(["insert", "insert", "value", "drop", "twice", "swap", "end"])):
            case "insert":
                lines[number] = line[:column] + scrap + line[column:]
            case "value":
                lines[number] = f"{line.partition(':')[0]}: {scrap}\n"
            case "drop":
                lines[number] = ""
            case "twice":
                lines[number] = line * 2
            case "swap":
                lines[number], lines[-1] = lines[-1], line
            case "end":
                lines[number:] = [line[:column]]
    return "".join(lines)


@fuzz
@given(text=edited_texts(), encoding=st.sampled_from(ENCODINGS))
def test_slips_in_an_editor(text: str, encoding: str):
    outcome(text.encode(encoding, "replace"))


@fuzz
@given(content=st.binary(max_size=100), position=st.integers(0, len(TEXT)), alone=st.booleans())
def test_bytes_that_are_not_text(content: bytes, position: int, alone: bool):
    text = TEXT.encode()
    outcome(content if alone else text[:position] + content + text[position:])
