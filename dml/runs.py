"""One fold of one run: from the files of a data set to a model and its record."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dml.downloading import check_file
from dml.images import PackedImages
from dml.model import Model
from dml.protocol import Protocol
from dml.record import provenance, training_code
from dml.seeds import derive_seed
from dml.splits import Fold, read_folds
from dml.training import Outcome, method_class_of, train
from dml.trial import Trial


@dataclass(frozen=True)
class Data:
    """What a training sees of a data set: its trainval half. There is no way from here to the test half."""

    dataset: str
    stem: Path
    folds_file: Path
    weights: Path | None

    @cached_property
    def trainval(self) -> PackedImages:
        return PackedImages.open(self.stem)

    @cached_property
    def weights_sha256(self) -> str | None:
        """Of the trunk's weight file, as it is."""
        return None if self.weights is None else hashlib.sha256(self.weights.read_bytes()).hexdigest()

    @cached_property
    def folds(self) -> list[Fold]:
        return read_folds(self.folds_file)


def run_fold(
    trial: Trial, protocol: Protocol, data: Data, fold: int, run: tuple[str, int], device: str, threads: int,
    failure: str | None = None,
) -> tuple[Model, dict[str, Any]]:  # fmt: skip
    """Train one fold; give its model and everything there is to know about how it came about.

    `run` is ("search", trial) or ("final", seed): with the fold it names the seed, which is the same for all methods,
    so that they can be compared in pairs. With a `failure` nothing is trained and the record says why.
    """
    torch.set_num_threads(threads)
    device = resolve_device(device)
    if protocol.weights:
        check_file(data.weights, sha256=protocol.weights.sha256, sha1=protocol.weights.sha1)
    seed = derive_seed(protocol.seed, *run, fold)
    if failure is None:
        outcome = train(trial, protocol, data.trainval, data.folds[fold], seed, data.weights, device)
    else:
        torch.manual_seed(derive_seed(seed, "model"))
        model = Model(protocol, method_class_of(trial).trains, data.weights)
        outcome = Outcome(model, None, 0, 0, [], failure, 0.0)
    return outcome.model, {
        "dataset": data.dataset,
        "method": trial.method,
        "fold": fold,
        "parameters": trial.parameters,
        "trial_fingerprint": trial.fingerprint(),
        "score": None if outcome.failure else outcome.score,
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "curve": outcome.curve,
        "failure": outcome.failure,
        "seconds": round(outcome.seconds, 3),
        "random_seed": seed,
        "embedding_size": outcome.model.embedding_size,
        "protocol": protocol.training_values(),
        "made_by": {
            "code": training_code(),
            "data": data.trainval.fingerprint,
            "weights": data.weights_sha256,
            "protocol": protocol.fingerprint(),
            "trunk": protocol.trunk_code(),
            "method": trial.code(),
        },
        "provenance": provenance(device),
    }


def resolve_device(device: str) -> str:
    """'auto' is the GPU if there is one, else the CPU."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device}: PyTorch finds no GPU here; set `device` in config.yaml to auto or cpu")
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
