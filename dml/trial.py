"""One trial: a method and one setting of its hyperparameters. It names no split, seed, path or device."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field

from dml import plugins
from dml.checked import Checked

OPTIMISER = ("loss_lr", "loss_weight_decay")
"""Hyperparameters of the optimiser of a loss's own weights: they are not handed to the loss."""

SIZES = ("num_classes", "embedding_size", "trunk_width")
"""What a method is built with besides its hyperparameters; the last only if its constructor asks for it."""


class Trial(Checked):
    """What a training needs to know about its method."""

    method: str = Field(description="a file of dml/methods/, or a free name where `file` or pml_loss is given")
    file: str | None = Field(default=None, description="a file of dml/methods/, where the name is another")
    images_per_class: int = Field(ge=1, description="images of a class in a batch")
    parameters: dict[str, Any] = Field(default={}, description="searched hyperparameters")
    fixed: dict[str, Any] = Field(default={}, description="hyperparameters the study holds constant")
    pml_loss: dict[str, Any] | None = Field(default=None, description="a loss of pytorch-metric-learning")
    pml_miner: dict[str, Any] | None = Field(default=None, description="a miner of pytorch-metric-learning")

    def fingerprint(self) -> str:
        """A short hash of all values."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def plugin(self) -> str | None:
        """The file of dml/methods/; None where the loss is one of pytorch-metric-learning."""
        return None if self.pml_loss else self.file or self.method

    def code(self) -> str:
        """A hash of the method's code: a real change of it makes another method, a comment does not."""
        if self.pml_loss:
            package = Path(plugins.__file__).parent
            return plugins.code_hash([package / "pml.py", package / "pml_arguments.py"])
        return plugins.fingerprint(
            "methods", self.plugin, leave_out={"TITLE", "RANGES", "DEFAULTS", "IMAGES_PER_CLASS"}
        )


class BestTrial(Checked):
    """The trial that won a search, and is trained again. With a `failure`, because every trial failed, it is not."""

    number: int = Field(ge=0, description="of the trial in the search")
    trial: Trial
    failure: str | None = None
    made_by: dict[str, str | None] = Field(default={}, description="fingerprints of what the search was made with")
