"""config.yaml: what to run and where. Nothing in it changes a number."""

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dml import plugins
from dml.checked import Checked


class Settings(Checked):
    """The keys of config.yaml, each of which `--config key=value` can replace."""

    study: str = Field(description="a file of workflow/studies/, or the path of one")
    images: str | list[str] | None = Field(default=None, description="your own folders or zips of images")
    copies: dict[str, str] | None = Field(
        default=None, description="data sets you have already: name -> folder or archive, nothing is downloaded"
    )
    data: Annotated[str, AfterValidator(os.path.expanduser)] = Field(
        default="data", description="where archives and packed pixels are kept"
    )
    mirror: str | list[str] | None = Field(default=None, description="folder or URL tried first for every download")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where trainings run")
    trainings_per_gpu: int = Field(default=1, ge=1, description="trainings that share a GPU of this machine")
    folds_per_job: Literal["all", 1] = Field(default="all", description="trainings of one job: all folds, or 1")

    def check_copies(self) -> None:
        """ValueError naming the entry of `copies` that is no data set of ours, or that does not exist."""
        for name, path in (self.copies or {}).items():
            if name not in plugins.names("datasets") or name == "folder":
                known = ", ".join(other for other in plugins.names("datasets") if other != "folder")
                raise ValueError(f"config.yaml: copies: '{name}' is no data set of dml/datasets/; choose from: {known}")
            if not os.path.exists(os.path.expanduser(path)):
                raise ValueError(f"config.yaml: copies: {name}: {path} does not exist")
