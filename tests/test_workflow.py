"""The GitHub workflow is valid, pinned, and allowed no more than it needs."""

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.project import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_workflow_follows_githubs_schema(path: Path):
    subprocess.run(
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", path], check=True
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_permissions_least(path: Path):
    workflow = YAML(typ="safe").load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        steps = job["steps"]
        for step in steps:
            assert re.fullmatch(r"actions/\w[\w-]*@[0-9a-f]{40}|", step.get("uses", ""))
            # The author of a pull request must not be able to change a script.
            assert "${{" not in step.get("run", "")
        if "permissions" in job:
            code = "checkout" in str(steps)
            assert not code, f"{name} may write, so it must not run the code of a pull request"
