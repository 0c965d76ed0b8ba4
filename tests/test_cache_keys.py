"""Each stage reruns for what can change its result, and for nothing else: every key, every file."""

import io
from collections.abc import Callable, Iterator

import networkx
import pytest
from conftest import ROOT, Project, copy_of
from dvc.repo import Repo
from ruamel.yaml import YAML

# By hand, so that a dependency that is lost from dvc.yaml does not vanish from here too.
FOLLOWING = {
    "recipe": {"train", "evaluate", "export"},
    "prepare": {"prepare", "train", "evaluate", "export"},
    "train": {"train", "evaluate", "export"},
    "evaluate": {"evaluate"},
    "export": {"export"},
    # Of a recipe that is not chosen nothing depends.
    "fast": set(),
    "convolutional": set(),
    "thorough": set(),
}
# Each leaf of params.yaml, and another value for it.
OTHER_VALUES = {
    "recipe": "fast",
    "prepare.dataset": "mnist",
    "prepare.validation_size": 100,
    "prepare.seed": 1,
    "train.hidden_sizes": [96, 128],
    "train.activations": ["tanh", "relu"],
    "train.dropout": 0.3,
    "train.epochs": 9,
    "train.batch_size": 33,
    "train.learning_rate": 0.002,
    "train.seed": 1,
    "train.threads": 2,
    "train.device": "auto",
    "fast.hidden_sizes": [64],
    "fast.activations": ["tanh"],
    "fast.dropout": 0.3,
    "fast.epochs": 9,
    "fast.batch_size": 33,
    "fast.learning_rate": 0.002,
    "fast.seed": 1,
    "fast.threads": 2,
    "fast.device": "auto",
    **{
        f"{recipe}.{name}": value
        for recipe in ("convolutional", "thorough")
        for name, value in {
            "channels": [4, 8, 16],
            "kernel_sizes": [3, 3, 3],
            "pool_sizes": [1, 1, 1],
            "epochs": 9,
            "batch_size": 33,
            "learning_rate": 0.002,
            "warmup": 0.2,
            "weight_decay": 0.1,
            "rotation": 5.0,
            "scaling": 0.2,
            "shear": 0.2,
            "shift": 1.0,
            "bend": 0.1,
            "seed": 1,
            "threads": 3,
            "device": "auto",
        }.items()
    },
    "evaluate.batch_size": 999,
    "export.formats": ["torchscript"],
    "export.tolerance": 0.0001,
    "export.calibration_images": 999,
    "export.max_accuracy_drop": 0.1,
}
ALL = {"prepare", "train", "evaluate", "export"}
NOT_PREPARE = {"train", "evaluate", "export"}
READERS = {
    "requirements.txt": ALL,
    "stages/prepare.py": {"prepare"},
    "stages/train.py": {"train"},
    "stages/evaluate.py": {"evaluate"},
    "stages/export.py": {"export"},
    "stages/common/__init__.py": ALL,
    "stages/common/arrays.py": ALL,
    "stages/common/convolutional.py": {"train"},
    "stages/common/determinism.py": NOT_PREPARE,
    "stages/common/digits.py": {"prepare"},
    "stages/common/errors.py": ALL,
    "stages/common/feed_forward.py": {"train"},
    "stages/common/files.py": ALL,
    "stages/common/formats.py": {"export"},
    "stages/common/history.py": {"train"},
    "stages/common/inference.py": NOT_PREPARE,
    "stages/common/mistakes.py": {"evaluate"},
    "stages/common/mnist.py": {"prepare"},
    "stages/common/mnist_form.py": {"prepare"},
    "stages/common/model_card.py": {"export"},
    "stages/common/networks.py": NOT_PREPARE,
    "stages/common/params.py": ALL,
    "stages/common/run_exported.py": {"export"},
    "stages/common/scores.py": {"evaluate", "export"},
    "stages/common/torchvision_import.py": {"prepare"},
    "stages/common/weights.py": NOT_PREPARE,
}


@pytest.fixture(scope="module")
def project(on_digits: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_of(on_digits[0], tmp_path_factory.mktemp("cache keys") / "project")


@pytest.fixture
def unchanged(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project in which nothing has changed, and nothing will have after the test."""
    monkeypatch.chdir(project.folder)
    before = {file: project.read(file) for file in ["params.yaml", "dvc.lock", *READERS]}
    yield project
    for file, content in before.items():
        (project.folder / file).write_bytes(content)


def would_run() -> set[str]:
    """Return the stages that `dvc repro` would run if each of them gave another result."""
    with Repo() as repo:
        changed = set(repo.status())
        names = networkx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
        return changed.union(*(networkx.ancestors(names, stage) for stage in changed))


def edit_params(project: Project, key: str, value: object) -> None:
    path = project.folder / "params.yaml"
    params = YAML(typ="safe").load(path)
    *sections, name = key.split(".")
    parameters = params[sections[0]] if sections else params
    assert parameters[name] != value
    parameters[name] = value
    YAML().dump(params, path)


def test_nothing_has_changed(unchanged: Project):
    assert would_run() == set()


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_parameter_reruns_its_stage_and_what_follows(unchanged: Project, key: str):
    edit_params(unchanged, key, OTHER_VALUES[key])
    assert would_run() == FOLLOWING[key.split(".", maxsplit=1)[0]]


def test_of_the_recipes_only_the_chosen_one_counts(unchanged: Project):
    edit_params(unchanged, "recipe", "fast")
    unchanged.run("dvc", "commit", "--force", "train")
    assert would_run() == set()
    edit_params(unchanged, "train.epochs", 9)
    assert would_run() == set()
    edit_params(unchanged, "fast.epochs", 9)
    assert would_run() == {"train", "evaluate", "export"}


@pytest.mark.parametrize("file", READERS)
def test_a_module_reruns_the_stages_that_read_it_and_what_follows(unchanged: Project, file: str):
    path = unchanged.folder / file
    path.write_bytes(path.read_bytes() + b"# changed\n")
    assert would_run() == set().union(*(FOLLOWING[stage] for stage in READERS[file]))


def test_the_tables_name_every_parameter_and_every_module():
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    leaves = [
        f"{section}.{name}" if name else section
        for section, values in params.items()
        for name in (values if isinstance(values, dict) else [None])
    ]
    assert list(OTHER_VALUES) == leaves
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stages").rglob("*.py")}
    assert set(READERS) == {"requirements.txt"} | modules


def reorder(text: str) -> str:
    """The same values in another order, with other white space and without comments."""
    params = YAML(typ="safe").load(text)
    reversed_params = {
        section: dict(reversed(values.items())) if isinstance(values, dict) else values
        for section, values in reversed(params.items())
    }
    stream = io.StringIO()
    yaml = YAML()
    yaml.indent(mapping=6, sequence=4, offset=2)
    yaml.dump(reversed_params, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"# A comment\n{text}",
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("1.0e-3", "0.001").replace("1.0e-5", "1e-5"),
        lambda text: f"{text}\nof_another_tool:\n  level: 3\n",
        reorder,
    ],
    ids=["comment", "blank lines", "spelling", "another section", "order"],
)
def test_what_cannot_alter_a_result_reruns_nothing(
    unchanged: Project, change: Callable[[str], str]
):
    text = unchanged.read("params.yaml").decode()
    changed = change(text)
    assert changed != text
    (unchanged.folder / "params.yaml").write_text(changed)
    assert would_run() == set()


def test_a_cached_file_or_bytecode_beside_a_module_reruns_nothing(unchanged: Project):
    unchanged.run("python", "-m", "compileall", "-q", "stages")
    assert would_run() == set()
