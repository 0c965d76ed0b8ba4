"""The metrics of each epoch, in DVCLive's files, which DVC and its editors' extensions show.

DVCLive itself would import DVC into the training, and ask Git and Studio about it.
"""

from pathlib import Path

from common.files import write_json


class History:
    """Writes metrics.json, the last epoch's values, and plots/metrics/<name>.tsv, all epochs'."""

    def __init__(self, folder: Path):
        self._folder = folder

    def log(self, epoch: int, values: dict[str, dict[str, float]]) -> None:
        """Add one epoch's `values`: section → name → value."""
        for section, named in values.items():
            for name, value in named.items():
                path = self._folder / "plots" / "metrics" / section / f"{name}.tsv"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"step\t{name}\n")
                with path.open("a") as file:
                    file.write(f"{epoch}\t{value}\n")
        write_json(self._folder / "metrics.json", {**values, "step": epoch})
