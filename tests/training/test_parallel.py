"""How the work is divided, and how processes are compared; test_processes.py runs them."""

import pytest
import torch

from stages.runtime.errors import UserError
from stages.runtime.processes import LAUNCHED
from stages.training import parallel
from stages.training.parallel import Group


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_rows_are_gathered_in_their_order(threads: int):
    def compute(number: int, row: torch.Tensor) -> None:
        row.fill_(number)

    rows = Group(threads).gather(compute, 5, torch.zeros(2))
    assert rows.tolist() == [[number, number] for number in range(5)]


def place(rank: int, **changes: object) -> dict:
    usual = {"host": f"10.9.0.{rank + 1}", "first": False}
    return usual | {"fingerprint": {"code": "a", "seed": "0"}} | changes


def test_the_main_process_is_on_the_host_of_the_stage_whatever_its_rank(
    monkeypatch: pytest.MonkeyPatch,
):
    by_torchrun = [place(0, first=True), place(1), place(2, first=True)]
    assert parallel.find_main(by_torchrun) == 0
    monkeypatch.setenv(LAUNCHED, "1")
    assert parallel.find_main([place(0), place(1, first=True), place(2)]) == 1
    with pytest.raises(UserError, match=r"^every host runs `make worker`"):
        parallel.find_main([place(0), place(1)])
    with pytest.raises(UserError, match=r"^10\.9\.0\.1 and 10\.9\.0\.3 both run the stage"):
        parallel.find_main(by_torchrun)


def test_a_difference_is_named():
    parallel.compare([place(0), place(1)], 0)
    other = place(1, fingerprint={"code": "b", "seed": "0", "more": "1"})
    with pytest.raises(UserError, match=r"^10\.9\.0\.1 and 10\.9\.0\.2 .* differ in code, more; "):
        parallel.compare([place(0), other], 0)


def test_another_recipe_is_named_before_its_parameters():
    fast = {"params.yaml: recipes.fast.epochs": "2", "params.yaml: train.recipe": "'fast'"}
    tutorial = {
        "params.yaml: recipes.tutorial.epochs": "10",
        "params.yaml: train.recipe": "'tutorial'",
    }
    with pytest.raises(UserError, match=r"they differ in params\.yaml: train\.recipe, "):
        parallel.compare([place(0, fingerprint=fast), place(1, fingerprint=tutorial)], 0)
