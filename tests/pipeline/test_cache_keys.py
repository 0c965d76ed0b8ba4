"""Each stage reruns for what can change its result, and for nothing else: every key, every file."""

import io
import shutil
from collections.abc import Callable, Iterator

import networkx
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.project import ROOT, Project, copy_of

# By hand, so that a dependency that is lost from dvc.yaml does not vanish from here too.
ALL = {"prepare", "train", "evaluate", "export"}
NOT_PREPARE = {"train", "evaluate", "export"}
SCORING = {"evaluate", "export"}
FOLLOWING = {
    "prepare": ALL,
    "train": NOT_PREPARE,
    "evaluate": {"evaluate"},
    "export": {"export"},
    "recipes.tutorial": NOT_PREPARE,
    # Of a recipe that is not chosen nothing depends.
    "recipes.fast": set(),
    "recipes.convolutional": set(),
    "recipes.thorough": set(),
}
FEED_FORWARD = {
    "network": "recurrent",
    "hidden_sizes": [64],
    "activations": ["gelu"],
    "dropout": 0.3,
    "epochs": 9,
    "batch_size": 33,
    "learning_rate": 0.002,
    "shards": 3,
}
CONVOLUTIONAL = {
    "network": "recurrent",
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
    "shards": 3,
}
TRAINING = "__init__ addresses distortion feed_forward launch loop meeting parallel resume setup"
# Each leaf of params.yaml, and another value for it.
OTHER_VALUES = {
    "prepare.dataset": "mnist",
    "prepare.validation_size": 100,
    "prepare.seed": 1,
    "prepare.test_share": 0.3,
    "prepare.layout": "resize",
    "prepare.skip_unreadable": True,
    "train.recipe": "fast",
    "train.seed": 1,
    "train.device": "auto",
    **{
        f"recipes.{recipe}.{name}": value
        for recipe, values in {
            "tutorial": FEED_FORWARD,
            "fast": FEED_FORWARD,
            "convolutional": CONVOLUTIONAL,
            "thorough": CONVOLUTIONAL,
        }.items()
        for name, value in values.items()
    },
    "evaluate.batch_size": 999,
    "export.tolerance": 0.0001,
    "export.calibration_images": 999,
    "export.max_accuracy_drop": 0.1,
}
READERS = {
    "stages/__init__.py": ALL,
    "stages/requirements.txt": ALL,
    "stages/prepare.py": {"prepare"},
    "stages/train.py": {"train"},
    "stages/evaluate.py": {"evaluate"},
    "stages/export.py": {"export"},
    **{
        f"stages/{room}/{module}.py": readers
        for room, readers, modules in (
            ("common", ALL, "__init__ errors files frame params processes splits stage"),
            (
                "datasets",
                {"prepare"},
                "__init__ dataset description digits dividing download folder idx layout pictures "
                "summary torchvision_import",
            ),
            ("drawing", {"prepare", "evaluate"}, "__init__ sheet"),
            ("evaluation", {"evaluate"}, "__init__ confusions gallery"),
            ("exporting", {"export"}, "__init__ card formats onnx_files torch_files trial"),
            ("network", NOT_PREPARE, "__init__ checkpoint inference networks kernels pixels"),
            ("scoring", SCORING, "__init__ scores"),
            ("training", {"train"}, TRAINING),
        )
        for module in modules.split()
    },
    "data/digits/dataset.yaml": {"prepare"},
    # What changes no result.
    "data/mnist/dataset.yaml": set(),
    "requirements.txt": set(),
    "requirements-dev.txt": set(),
    "requirements.lock": set(),
    "requirements-dev.lock": set(),
    "Makefile": set(),
    ".dvc/plots/recall.json": set(),
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
    parameters = params
    for section in sections:
        parameters = parameters[section]
    assert parameters[name] != value
    parameters[name] = value
    YAML().dump(params, path)


def test_nothing_has_changed(unchanged: Project):
    assert would_run() == set()


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_parameter_reruns_its_stage_and_what_follows(unchanged: Project, key: str):
    edit_params(unchanged, key, OTHER_VALUES[key])
    assert would_run() == FOLLOWING[key.rpartition(".")[0]]


def test_of_the_recipes_only_the_chosen_one_counts(unchanged: Project):
    edit_params(unchanged, "train.recipe", "fast")
    unchanged.run("dvc", "commit", "--force", "train")
    assert would_run() == set()
    edit_params(unchanged, "recipes.tutorial.epochs", 9)
    assert would_run() == set()
    edit_params(unchanged, "recipes.fast.epochs", 9)
    assert would_run() == NOT_PREPARE


@pytest.mark.parametrize("file", READERS)
def test_a_module_reruns_the_stages_that_read_it_and_what_follows(unchanged: Project, file: str):
    path = unchanged.folder / file
    path.write_bytes(path.read_bytes() + b"# changed\n")
    assert would_run() == set().union(*(FOLLOWING[stage] for stage in READERS[file]))


def test_a_set_of_pictures_reruns_its_stage_where_something_is_learned_from_it(unchanged: Project):
    edit_params(unchanged, "prepare.dataset", "symbols")
    unchanged.run("dvc", "commit", "--force", "prepare")
    assert would_run() == set()
    folder = unchanged.folder / "data/symbols"
    picture = folder / "cross/00.png"
    content = picture.read_bytes()
    for other in (content + b" ", None):
        picture.unlink() if other is None else picture.write_bytes(other)
        assert would_run() == FOLLOWING["prepare"]
        picture.write_bytes(content)
    (folder / "star").mkdir()
    (folder / "star/00.png").write_bytes(content)
    assert would_run() == FOLLOWING["prepare"]
    shutil.rmtree(folder / "star")
    for name in (".DS_Store", "Thumbs.db", "cross/00.png~", "cross/.00.png.swp"):
        (folder / name).write_bytes(b"")
        assert would_run() == set(), name
        (folder / name).unlink()
    # Another set does not count.
    description = unchanged.folder / "data/digits/dataset.yaml"
    description.write_bytes(description.read_bytes() + b"# changed\n")
    assert would_run() == set()


def test_the_tables_name_every_parameter_and_every_module():
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    assert list(OTHER_VALUES) == list(leaves(params))
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stages").rglob("*.py")}
    named = {file for file in READERS if file.startswith("stages/")}
    assert named == files | {"stages/requirements.txt"}


def leaves(values: dict, prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize(
    "name",
    [
        "__pycache__/a.pyc",
        ".ipynb_checkpoints/loop-checkpoint.py",
        ".loop.py.swp",
        "loop.py~",
        ".DS_Store",
        "loop.py.tmp",
    ],
)
def test_what_editors_and_python_leave_in_a_room_reruns_nothing(unchanged: Project, name: str):
    path = unchanged.folder / "stages/training" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"left")
    try:
        assert would_run() == set()
    finally:
        path.unlink()


def test_a_new_module_in_a_room_reruns_the_stages_that_read_it(unchanged: Project):
    path = unchanged.folder / "stages/scoring/more.py"
    path.touch()
    try:
        assert would_run() == SCORING
    finally:
        path.unlink()


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
