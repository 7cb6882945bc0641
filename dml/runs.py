"""One fold of one run: from the files of a data set to a model and its record."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dml.checkpoint import Checkpoint
from dml.downloading import check_file
from dml.embedding import BATCH_SIZE
from dml.images import PackedImages
from dml.leasing import lease_of_this_process
from dml.model import Model, load_model, save_checkpoints
from dml.protocol import Protocol
from dml.record import provenance, read_json, training_code
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
    state: Path | None = None, failure: str | None = None, searched_with: Mapping[str, str | None] | None = None,
    teacher: Path | None = None, checkpoints: Path | None = None,
) -> tuple[Model, dict[str, Any]]:  # fmt: skip
    """Train one fold; give its model and everything there is to know about how it came about.

    `run` is ("search", trial) or ("final", seed): with the fold it names the seed, which is the same for all methods,
    so that they can be compared in pairs. `state` is the file from which an interrupted training goes on. With a
    `failure` nothing is trained and the record says why. `teacher` is the file of the finished model that the method
    learns from; where that one failed, nothing is trained either. `checkpoints` is where the models of all validations
    are written, if they are wanted; the record has the file's checksum. ValueError if a search was made with other
    code, data, weights or protocol (`searched_with`) than the training would be.
    """
    torch.set_num_threads(threads)
    with naming_what_needs_memory("a process", "", "cuda"):
        device = resolve_device(device)
    if protocol.weights:
        check_file(data.weights, sha256=protocol.weights.sha256, sha1=protocol.weights.sha1)
    seed = derive_seed(protocol.seed, *run, fold)
    made_by = {
        "code": training_code(),
        "data": data.trainval.fingerprint,
        "weights": data.weights_sha256,
        "protocol": protocol.fingerprint(),
        "trunk": protocol.trunk_code(),
        "method": trial.code(),
    }
    for what, value in (searched_with or {}).items():
        if value != made_by[what]:
            raise ValueError(
                f"{data.dataset}, {trial.method}: its search was made with other {what} than there is now: delete the "
                "search's folder and run again"
            )
    of_teacher = read_json(teacher.with_name("record.json")) if teacher else None
    if of_teacher and of_teacher["failure"]:
        failure = failure or f"its teacher {of_teacher['method']} failed: {of_teacher['failure']}"
    if failure is None:
        identity = made_by | {"trial": trial.fingerprint(), "fold": fold, "seed": seed, "torch": str(torch.__version__)}
        identity |= {"teacher": of_teacher and of_teacher["model"], "keep": checkpoints is not None}
        what = f"batches of {protocol.batch_size} images (in validation {BATCH_SIZE})"
        what += f" {of_pixels(protocol.crop_size, protocol.trunk)}"
        with naming_what_needs_memory(what, "lower batch_size or crop_size", device):
            outcome = train(
                trial, protocol, data.trainval, data.folds[fold], seed, data.weights, device,
                Checkpoint(state, identity), load_model(teacher, of_teacher) if of_teacher else None,
                checkpoints is not None,
            )  # fmt: skip
    else:
        torch.manual_seed(derive_seed(seed, "model"))
        model = Model(protocol, method_class_of(trial).trains, data.weights)
        outcome = Outcome(model, None, 0, 0, [], failure, 0.0, [])
    kept = None if checkpoints is None else save_checkpoints(outcome.kept, checkpoints)
    return outcome.model, {
        "dataset": data.dataset,
        "method": trial.method,
        "plugin": trial.plugin,
        "fold": fold,
        "parameters": trial.parameters,
        "trial_fingerprint": trial.fingerprint(),
        "score": None if outcome.failure else outcome.score,
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "curve": outcome.curve,
        "failure": outcome.failure,
        "seconds": round(outcome.seconds, 3),
        "resumed": outcome.resumed,
        "random_seed": seed,
        "embedding_size": outcome.model.embedding_size,
        "protocol": protocol.training_values(),
        "made_by": made_by,
        "teacher": of_teacher and of_teacher["model"],
        "checkpoints": kept,
        "provenance": provenance(device, torch.get_num_threads()),
    }


def of_pixels(crop_size: int, trunk: str) -> str:
    """The size of images and the network, as an error names what needs memory."""
    return f"of {crop_size} x {crop_size} pixels in {trunk}"


@contextmanager
def naming_what_needs_memory(what: str, remedy: str, device: str) -> Iterator[None]:
    """Where memory is exhausted, a ValueError that says for what, and what to lower in the study, if anything."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        words = ("out of memory", "can't allocate memory", "_ALLOC_FAILED")  # only some have a type of their own
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        remedies = [f"{remedy} in the study"] if remedy else []
        if device == "cpu":
            remedies += ["give the job more memory (mem_mb)"]
        else:
            remedies += ["lower trainings_per_gpu in config.yaml", "take a GPU with more memory"]
        raise ValueError(f"out of memory on {device} with {what}: {', or '.join(remedies)}") from error


def resolve_device(device: str) -> str:
    """'auto' is a GPU if there is one, else the CPU; a GPU not named by its number is one that this process leases."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= found:
        gpus = {0: "no GPU", 1: "only the GPU cuda:0"}.get(found, f"only the GPUs cuda:0 to cuda:{found - 1}")
        raise ValueError(f"device {device}: PyTorch finds {gpus} here; set `device` in config.yaml to auto or cpu")
    if device in ("auto", "cuda"):
        device = f"cuda:{lease_of_this_process(found).gpu}" if found else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)  # whatever names no GPU would start the first one as well, which others use
    return device
