"""Each stage reruns for what can change its result, and for nothing else: every key, every file."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import networkx
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.runtime.config import lookup
from tests.pipeline.test_rooms import MODULES, PARAMS, PIPELINE, all_imports
from tests.project import ROOT, Project, copy_of
from tests.samples import set_value

FOLLOWING = {  # a stage, and the stages that use its outputs
    "prepare": {"prepare", "train", "evaluate", "export"},
    "train": {"train", "evaluate", "export"},
    "evaluate": {"evaluate"},
    "export": {"export"},
}
READERS = {path: {stage for stage in PIPELINE if path in all_imports(stage)} for path in MODULES}
# The files in stages/, and one of each room, which is one dependency to DVC.
EDITED = [path for path in MODULES if path.parent == ROOT / "stages"]
EDITED += {path.parent: path for path in MODULES if path not in EDITED}.values()
# Files that change no result.
OTHERS = ["requirements.txt", "requirements.lock", "requirements-dev.txt", "requirements-dev.lock"]
OTHERS += ["data/mnist/dataset.yaml", "Makefile", "README.md", ".dvc/plots/recall.json"]
CHOICES = {"prepare.dataset": "symbols", "train.recipe": "fast"}  # of what exists


def leaves(values: dict, prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


CHOSEN = f"recipes.{PARAMS['train']['recipe']}."
KEYS = [key for key in leaves(PARAMS) if key.startswith(CHOSEN) or not key.startswith("recipes.")]
OTHER_KEYS = [key for key in leaves(PARAMS) if key not in KEYS]  # of recipes that are not chosen


def another(key: str) -> object:
    """Return another value for a key."""
    match value := lookup(PARAMS, key):
        case bool():
            return not value
        case int() | float():
            return value + 1
        case list():
            return [*value, "more"]
    return CHOICES.get(key, f"another {value}")


@pytest.fixture(scope="module")
def project(on_digits: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_of(on_digits[0], tmp_path_factory.mktemp("cache keys") / "project")
    project.run("git", "commit", "--quiet", "--all", "--message=Run on the digits")
    return project


@pytest.fixture
def unchanged(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project in which nothing has changed; what a test changes is undone."""
    monkeypatch.chdir(project.folder)
    yield project
    project.run("git", "checkout", "--quiet", "--", ".")
    project.run("git", "clean", "--quiet", "--force", "-d")


def would_run() -> set[str]:
    """Return the stages that `dvc repro` would run if each of them gave another result."""
    with Repo() as repo:
        changed = set(repo.status())
        names = networkx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
        return changed.union(*(networkx.ancestors(names, stage) for stage in changed))


def follow(stages: set[str]) -> set[str]:
    return set().union(*(FOLLOWING[stage] for stage in stages))


def append(file: Path | str) -> None:
    """Change a file's content."""
    with Path(file).open("ab") as opened:
        opened.write(b"\n")


def edit_params(key: str, value: object) -> None:
    params = YAML(typ="safe").load(Path("params.yaml"))
    set_value(params, key, value)
    YAML().dump(params, Path("params.yaml"))


def test_dvc_sees_every_module_and_no_change(unchanged: Project):
    with Repo() as repo:
        ignored = [path for path in MODULES if repo.dvcignore.is_ignored_file(str(path))]
    assert ignored == []
    assert would_run() == set()


@pytest.mark.parametrize("key", KEYS)
def test_a_parameter_reruns_its_stage_and_those_that_follow(unchanged: Project, key: str):
    edit_params(key, another(key))
    section = key.partition(".")[0]
    assert would_run() == FOLLOWING["train" if section == "recipes" else section]


def test_only_the_chosen_recipe_counts(unchanged: Project):
    for key in OTHER_KEYS:
        edit_params(key, another(key))
    assert would_run() == set()
    edit_params("train.recipe", "fast")
    unchanged.run("dvc", "commit", "--force", "train")
    assert would_run() == set()
    edit_params("recipes.tutorial.epochs", 9)
    assert would_run() == set()
    edit_params("recipes.fast.epochs", 9)
    assert would_run() == FOLLOWING["train"]


@pytest.mark.parametrize("path", EDITED, ids=lambda path: path.name)
def test_a_module_reruns_the_stages_that_import_it_and_those_that_follow(
    unchanged: Project, path: Path
):
    append(path.relative_to(ROOT))
    assert would_run() == follow(READERS[path])


def test_the_schema_of_a_recipe_does_not_rerun_prepare(unchanged: Project):
    for path in ("stages/training/recipe.py", *map(str, Path("stages/networks").glob("*.py"))):
        append(path)
    assert would_run() == FOLLOWING["train"]


def test_packages_rerun_all_stages_and_other_files_none(unchanged: Project):
    for file in OTHERS:
        append(file)
    assert would_run() == set()
    append("stages/requirements.txt")
    assert would_run() == FOLLOWING["prepare"]


def test_only_the_chosen_set_of_pictures_counts(unchanged: Project):
    edit_params("prepare.dataset", "symbols")
    unchanged.run("dvc", "commit", "--force", "prepare")
    assert would_run() == set()
    folder = Path("data/symbols")
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
        (folder / name).touch()
    append("data/digits/dataset.yaml")
    assert would_run() == set()


def test_files_of_editors_and_python_rerun_nothing(unchanged: Project):
    room = Path("stages/training")
    for name in ("__pycache__/a.pyc", ".ipynb_checkpoints/a.py", ".loop.py.swp", "loop.py~"):
        (room / name).parent.mkdir(exist_ok=True)
        (room / name).touch()
    for name in (".DS_Store", "loop.py.tmp"):
        (room / name).touch()
    unchanged.run("python", "-m", "compileall", "-q", "stages")
    assert would_run() == set()


def test_a_new_module_reruns_the_stages_that_read_its_room(unchanged: Project):
    Path("stages/metrics/more.py").touch()
    assert would_run() == {"evaluate", "export"}


def reordered(text: str) -> str:
    """Return the same values in another order, with other white space and without comments."""
    params = YAML(typ="safe").load(text)
    stream = io.StringIO()
    yaml = YAML()
    yaml.indent(mapping=6, sequence=4, offset=2)
    yaml.dump({name: dict(reversed(params[name].items())) for name in reversed(params)}, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"# A comment\n{text}",
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("1.0e-3", "0.001").replace("1.0e-5", "1e-5"),
        lambda text: f"{text}\nof_another_tool:\n  level: 3\n",
        reordered,
    ],
    ids=["comment", "blank lines", "spelling", "another section", "order"],
)
def test_the_same_values_in_another_form_rerun_nothing(
    unchanged: Project, change: Callable[[str], str]
):
    text = Path("params.yaml").read_text()
    changed = change(text)
    assert changed != text
    Path("params.yaml").write_text(changed)
    assert would_run() == set()
