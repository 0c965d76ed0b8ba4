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
    "prepare": {"prepare", "train", "evaluate", "export"},
    "train": {"train", "evaluate", "export"},
    "evaluate": {"evaluate"},
    "export": {"export"},
}
# Each leaf of params.yaml, and another value for it.
OTHER_VALUES = {
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
    "evaluate.batch_size": 999,
    "export.tolerance": 0.0001,
}
ALL = set(FOLLOWING)
NOT_PREPARE = {"train", "evaluate", "export"}
READERS = {
    "requirements.txt": ALL,
    "stages/prepare.py": {"prepare"},
    "stages/train.py": {"train"},
    "stages/evaluate.py": {"evaluate"},
    "stages/export.py": {"export"},
    "stages/common/__init__.py": ALL,
    "stages/common/arrays.py": ALL,
    "stages/common/determinism.py": NOT_PREPARE,
    "stages/common/digits.py": {"prepare"},
    "stages/common/errors.py": ALL,
    "stages/common/files.py": ALL,
    "stages/common/inference.py": NOT_PREPARE,
    "stages/common/mnist.py": {"prepare"},
    "stages/common/networks.py": NOT_PREPARE,
    "stages/common/params.py": ALL,
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
    before = {file: project.read(file) for file in ["params.yaml", *READERS]}
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
    section, name = key.split(".")
    assert params[section][name] != value
    params[section][name] = value
    YAML().dump(params, path)


def test_nothing_has_changed(unchanged: Project):
    assert would_run() == set()


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_parameter_reruns_its_stage_and_what_follows(unchanged: Project, key: str):
    edit_params(unchanged, key, OTHER_VALUES[key])
    assert would_run() == FOLLOWING[key.split(".", maxsplit=1)[0]]


@pytest.mark.parametrize("file", READERS)
def test_a_module_reruns_the_stages_that_read_it_and_what_follows(unchanged: Project, file: str):
    path = unchanged.folder / file
    path.write_bytes(path.read_bytes() + b"# changed\n")
    assert would_run() == set().union(*(FOLLOWING[stage] for stage in READERS[file]))


def test_the_tables_name_every_parameter_and_every_module():
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    assert list(OTHER_VALUES) == [f"{s}.{name}" for s, values in params.items() for name in values]
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stages").rglob("*.py")}
    assert set(READERS) == {"requirements.txt"} | modules


def reorder(text: str) -> str:
    """The same values in another order, with other white space and without comments."""
    params = YAML(typ="safe").load(text)
    reversed_params = {
        section: dict(reversed(params[section].items())) for section in reversed(params)
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
