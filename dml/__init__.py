"""Deep metric learning under one fair protocol: losses, training, search, evaluation and reports."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dml.exported import Exported


def load(folder: str | Path, device: str | None = None) -> "Exported":
    """Open a folder that `python -m dml.export` wrote: `load(folder).embed(images)`, see `dml.exported.Exported`.

    `device` is PyTorch's name of one, such as cpu or cuda:1; by default a GPU if there is one.
    """
    from dml.exported import Exported  # here: planning a study imports `dml`, and must not wait for PyTorch

    return Exported(folder, device)
