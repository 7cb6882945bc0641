"""The protocol: everything that is equal for all methods of a study. The defaults are those of the paper.

"The paper" is A Metric Learning Reality Check (Musgrave, Belongie and Lim, ECCV 2020); where its prose and its code
differ we follow the code and the key's description says so.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dml import plugins
from dml.checked import Checked

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class Weights(Checked):
    """Where the trunk's weights come from. Without it the trunk starts from random weights."""

    file: str = Field(pattern="^[^/]+$", description="name of the file; looked for in the mirrors first")
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{8,64}$",
        description="its SHA-256, checked before use; its first 8 digits or more will do",
    )
    sha1: str | None = Field(
        default=None, pattern="^[0-9a-f]{40}$", description="its SHA-1, where no SHA-256 is published"
    )
    urls: list[str] = Field(
        default=[], description="addresses or paths of it, tried in order; a .zip that holds it will do"
    )

    def identity(self) -> str:
        """Which weights these are: the first digits of a checksum; without one, where they come from."""
        checksum = self.sha256 or self.sha1
        return checksum[:8] if checksum else " ".join([self.file, *self.urls])


WeightsOrTrunksOwn = Annotated[
    Weights | None,
    # Changes nothing; it tells the schema for editors what `_trunks_own` takes in the place of weights.
    BeforeValidator(lambda weights: weights, json_schema_input_type=Weights | Literal["pretrained"] | None),
]


class Protocol(Checked):
    """One study's protocol. All steps count training iterations of one batch."""

    # the model
    trunk: str = Field(description="the network before the embedding: a file of dml/trunks/ (paper: BN-Inception)")
    weights: WeightsOrTrunksOwn = Field(
        default=None,
        description="pretrained weights of the trunk (paper: ImageNet); `pretrained` takes those that the trunk's file "
        "names",
    )
    pooling: Literal["average", "max", "average_max", "gem", "token"] | None = Field(
        default=None,
        description="how the trunk's last feature map becomes one vector: average, max, average_max (their sum), gem "
        "(generalised mean with a learnt power), token (the class token of a transformer); null: the trunk's own way",
    )
    head_layernorm: bool = Field(
        default=False, description="layer normalisation, without weights of its own, between pooling and head"
    )
    head_bias: bool = Field(default=True, description="whether the linear head has a bias")
    embedding_size: int = Field(default=128, ge=1, description="outputs of the linear head that follows the pooling")
    freeze_batchnorm: Literal["nothing", "statistics", "everything"] = Field(
        default="statistics",
        description="what of the trunk's batch normalisation stays as it is: its running statistics (the paper's code: "
        "scale and shift are still trained, with weight decay), everything (the paper's prose), or nothing",
    )

    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="of products and convolutions in trunk and head: float32 (the paper's), tf32 (GPUs only: inputs "
        "rounded to 10 bits after the point) or bfloat16 (autocast: 7 bits); weights, losses and metrics stay float32",
    )

    # the pixels
    resize: int = Field(default=256, ge=1, description="shorter side of every image, pixels")
    crop_size: int = Field(default=227, ge=1, description="side of the square that the trunk sees, pixels")
    crop_scale: Pair | None = Field(
        default=[0.16, 1.0],
        description="area of a training crop as a share of the image (the paper's code; its prose gives side lengths); "
        "null: crops of crop_size pixels at random places, which are not resized",
    )
    crop_ratio: Pair = Field(default=[0.75, 1.33], description="width / height of a training crop")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip in training")

    # the optimiser
    optimizer: Literal["rmsprop", "sgd", "adam", "adamw"] = Field(
        default="rmsprop", description="of trunk, head and the loss's weights (paper: RMSprop)"
    )
    learning_rate: float = Field(default=1e-6, gt=0, description="of trunk and head")
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="of trunk, head and the loss's weights; of Adam its first beta"
    )
    decay_epochs: list[int] = Field(
        default=[], description="after so many epochs all learning rates are multiplied by `decay` (paper: never)"
    )
    decay: float = Field(default=0.1, gt=0, lt=1, description="what learning rates are multiplied by")
    warmup_epochs: int = Field(
        default=0, ge=0, description="epochs in the beginning in which only the head and the loss's weights are trained"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="of trunk, head and the loss's weights")
    batch_size: int = Field(default=32, ge=2, description="images in a batch: classes x images per class")
    batch_part: int | None = Field(
        default=None,
        ge=1,
        description="images that go through the network at once: larger batches go through it twice, for the loss of "
        "all, then part by part for the gradient, which is the same; null: the whole batch",
    )

    # length and early stopping
    epoch_steps: int = Field(default=100, ge=1, description="steps in what the paper calls an epoch")
    max_epochs: int = Field(default=1000, ge=1, description="longest training, epochs")
    evaluate_every: int = Field(
        default=2, ge=1, description="epochs from one validation to the next (CUB 2, Cars 5, SOP 20)"
    )
    patience: int = Field(
        default=9,
        ge=0,
        description="stop once more than this many epochs have passed since the best validation, the untrained model "
        "included (paper: CUB 9, Cars 14, SOP 39)",
    )

    # the search and the final runs
    folds: int = Field(default=4, ge=2, description="class-disjoint folds of the trainval classes")
    trials: int = Field(default=50, ge=1, description="hyperparameter settings tried for each method and data set")
    sobol_trials: int = Field(
        default=5, ge=1, description="so many first trials from a Sobol sequence, the rest by Gaussian process"
    )
    trials_per_round: int = Field(
        default=1, ge=1, description="trials proposed at once; 1 is the paper's sequential search, more suits a cluster"
    )
    seeds: int = Field(default=10, ge=1, description="reproductions of the best trial, each trains every fold anew")
    seed: int = Field(default=0, ge=0, description="root of all random draws of the study")

    @model_validator(mode="before")
    @classmethod
    def _trunks_own(cls, values: Any) -> Any:
        """`weights: pretrained` and a pooling of null stand for what the trunk's file says."""
        trunk = values.get("trunk") if isinstance(values, dict) else None
        if trunk not in plugins.names("trunks"):
            return values  # which is refused
        if values.get("pooling") is None:
            values = values | {"pooling": plugins.literal("trunks", trunk, "POOLING")}
        if isinstance(values.get("weights"), str):
            weights = plugins.literal("trunks", trunk, "WEIGHTS")
            if values["weights"] != "pretrained":
                raise ValueError(f"weights: expected pretrained, or file, sha256 and urls, not '{values['weights']}'")
            if weights is None:
                raise ValueError(f"weights: dml/trunks/{trunk}.py names none: give file, sha256 and urls instead")
            values = values | {"weights": weights}
        return values

    @field_validator("trunk")
    @classmethod
    def _trunk_exists(cls, trunk: str) -> str:
        plugins.source_path("trunks", trunk)
        return trunk

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ordered(cls, pair: list[float] | None) -> list[float] | None:
        if pair is not None and not 0 < pair[0] <= pair[1]:
            raise ValueError(f"expected two numbers with 0 < low <= high, not {pair}")
        return pair

    @field_validator("decay_epochs")
    @classmethod
    def _ascending(cls, epochs: list[int]) -> list[int]:
        if any(epoch < 1 for epoch in epochs) or sorted(set(epochs)) != epochs:
            raise ValueError(f"expected ascending numbers from 1 on, not {epochs}")
        return epochs

    @model_validator(mode="after")
    def _sensible(self) -> "Protocol":
        if self.crop_size > self.resize:
            raise ValueError(f"crop_size {self.crop_size} is larger than resize {self.resize}: make resize larger")
        patch = plugins.literal("trunks", self.trunk, "PATCH", 1)
        if self.crop_size % patch:
            raise ValueError(
                f"crop_size {self.crop_size}: {self.trunk} cuts images into patches: a multiple of {patch}"
            )
        if self.pooling == "token" and plugins.literal("trunks", self.trunk, "POOLING") != "token":
            raise ValueError(f"pooling: {self.trunk} has no class token: choose average, max, average_max or gem")
        if self.crop_scale and self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale {self.crop_scale} is a share of the image's area: at most 1")
        if self.batch_part and self.batch_part < self.batch_size and self.freeze_batchnorm == "nothing":
            raise ValueError(
                f"batch_part {self.batch_part}: the parts of a batch of {self.batch_size} would have other statistics "
                "than the whole: set freeze_batchnorm to statistics or everything"
            )
        if self.max_epochs < self.evaluate_every:
            raise ValueError(
                f"max_epochs {self.max_epochs} is below evaluate_every {self.evaluate_every}: no validation at all"
            )
        if self.warmup_epochs >= self.max_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs}: training ends after max_epochs {self.max_epochs}, so the trunk "
                "would never be trained"
            )
        if self.decay_epochs and self.decay_epochs[-1] >= self.max_epochs:
            raise ValueError(
                f"decay_epochs {self.decay_epochs}: training ends after max_epochs {self.max_epochs}: leave out those "
                "from there on"
            )
        return self

    def training_values(self) -> dict:
        """The part that decides what one training gives: a change of the rest retrains nothing."""
        values = self.model_dump(exclude={"trials", "trials_per_round", "sobol_trials", "seeds"})
        return values | {"weights": self.weights and self.weights.identity()}

    def trunk_code(self) -> str:
        """A hash of the trunk's code; where its weights are found does not count, they have a hash of their own."""
        return plugins.fingerprint("trunks", self.trunk, leave_out={"WEIGHTS"})

    def fingerprint(self) -> str:
        """A short hash of `training_values`."""
        return hashlib.sha256(json.dumps(self.training_values(), sort_keys=True).encode()).hexdigest()[:16]


TRAINING_CODE = [
    Path(__file__).parent / f"{name}.py"
    for name in ("augmentation", "counting", "counting_on_gpu", "embedding", "images", "loading", "method", "mining",
                 "model", "neighbours", "optimizers", "pairs", "runs", "sampling", "search", "seeds", "splits",
                 "stepping", "training", "metrics/map_at_r")
]  # fmt: skip
"""Files that every search and training runs through; results of different versions never stand in one table."""
