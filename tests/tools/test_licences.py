"""docs/supply-chain.md names each package that a run needs and that is not permissive."""

import importlib.metadata
import re

import pytest

from tests.pipeline.test_pins import normal, pins
from tests.project import ROOT

NOT_PERMISSIVE = re.compile(r"GPL|GNU|MPL|Mozilla|EPL|Eclipse|CDDL|EUPL|CC-BY|Proprietary|NVIDIA")


def licence(name: str) -> str:
    """Return what a package says of its licence: an expression of SPDX's or, in older ones, words."""
    data = importlib.metadata.metadata(name)
    if expression := data.get("License-Expression"):
        return expression
    words = [text for text in data.get_all("Classifier") or [] if text.startswith("License")]
    return " ".join([*(data.get("License") or "").strip().splitlines()[:1], *words])


def named() -> set[str]:
    page = (ROOT / "docs/supply-chain.md").read_text()
    table = page.partition("## Licences")[2].partition("\n\nIn plain words")[0]
    return set(re.findall(r"^\| ([a-z0-9-]+) \| .*(?:GPL|EPL|MPL)", table, re.MULTILINE))


@pytest.mark.parametrize("file", ["stages/requirements.txt", "requirements.txt"])
def test_every_package_says_its_licence(file: str):
    assert [name for name in pins(file) if not licence(name)] == []


def test_the_table_names_what_is_not_permissive():
    names = pins("stages/requirements.txt") | pins("requirements.txt")
    assert named() == {normal(name) for name in names if NOT_PERMISSIVE.search(licence(name))}


def test_the_stages_run_without_the_gpl():
    """So an environment without DVC can be passed on without its terms."""
    licences = {name: licence(name) for name in pins("stages/requirements.txt")}
    assert {name for name, text in licences.items() if re.search("GPL|GNU", text)} == set()
