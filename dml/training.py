"""Training of one fold: the same function for the search and for the final runs."""

import copy
import inspect
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dml import plugins
from dml.checkpoint import Checkpoint
from dml.embedding import embed_batches
from dml.images import PackedImages
from dml.loading import CentreCrops, Loader
from dml.method import Method
from dml.model import Model, set_precision
from dml.neighbours import neighbours
from dml.optimizers import OPTIMIZERS, Optimizer
from dml.pml import build_pml_method
from dml.protocol import Protocol
from dml.record import hardware
from dml.sampling import HIERARCHICAL, Batches, HierarchicalBatches
from dml.seeds import derive_seed, generator
from dml.splits import Fold
from dml.stepping import Stepper
from dml.trial import OPTIMISER, Trial


@dataclass
class Outcome:
    """What a training gives: the model at its best validation, and how it went."""

    model: Model
    score: float | None
    """Best validation MAP@R; None if the training failed before its first one."""
    best_step: int
    steps: int
    curve: list[dict]
    """One entry a validation: step, loss (mean since the last one; None at step 0), map_at_r."""
    failure: str | None
    seconds: float
    """Of all processes that worked on it, but for what was lost where one was killed."""
    resumed: list[dict]
    """Where it went on after an interruption: step, and host and device of the part before."""
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """The model's tensors at each validation after the first step, by step, if they were to be kept."""


def train(
    trial: Trial,
    protocol: Protocol,
    trainval: PackedImages,
    fold: Fold,
    seed: int,
    weights: Path | None = None,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    teacher: Model | None = None,
    keep: bool = False,
) -> Outcome:
    """Train on a fold's train classes, validate on its validation classes, stop early, keep the best.

    Validation is MAP@R on the validation classes, every `evaluate_every` epochs and before the first step. A later
    validation is better only if strictly greater. The untrained model counts when deciding to stop (training ends once
    more than `patience` epochs have passed since the best) but is neither the score nor the model returned, as in
    A Metric Learning Reality Check. A loss that is not finite ends the training with a `failure`.

    Equal arguments give equal results, bit for bit, on the same CPU with the same number of threads. With a
    `checkpoint` the state is saved at each validation and when a signal asks the process to stop; a later call goes on
    from there and gives the same results as one that was never interrupted. A `teacher` is the finished model that a
    method with a TEACHER learns from. With `keep` the models of all validations are kept.
    """
    checkpoint = checkpoint or Checkpoint()
    train_images, train_labels = of_classes(trainval, fold.train)
    validation_images, validation_labels = of_classes(trainval, fold.validation)
    now = Training.start(trial, protocol, train_labels, fold.super_classes, seed, weights, device)
    batches = Loader(train_images, train_labels, now.order, protocol, now.crops, device)
    validation_crops = CentreCrops(validation_images, protocol.crop_size, device, keep=True)

    def validate() -> float:
        embeddings = embed_batches(now.model, validation_crops, method_class_of(trial).retrieval)
        if not np.isfinite(embeddings).all():
            return math.nan
        return float(np.mean(map_at_r(neighbours(embeddings, validation_labels, device=device))["map_at_r"]))

    saved = checkpoint.load()
    if saved is None:
        now.course = Course.of_untrained(validate(), method_class_of(trial).trains)
    else:
        now.load_state_dict(saved)
    course = now.course
    if teacher is not None:
        teacher = teacher.to(device).eval()
    step = Stepper(now.model, now.method, now.optimizers, now.total, device, protocol.batch_part, teacher)
    now.begin_epoch(course.step // protocol.epoch_steps)

    every = protocol.evaluate_every * protocol.epoch_steps
    last_step = protocol.max_epochs // protocol.evaluate_every * every
    bar = tqdm(None, trial.method, last_step, initial=course.step, unit="step", mininterval=10, disable=course.ended)
    with checkpoint, bar, batches:
        while not course.ended:
            now.model.train()
            for _ in range(course.curve[-1]["step"] + every - course.step):
                if course.step % protocol.epoch_steps == 0 and now.begin_epoch(course.step // protocol.epoch_steps):
                    step.forget_graph()
                step(*next(batches))
                course.step += 1
                bar.update()
                checkpoint.stop_if_asked(now.state_dict)
            mean_loss, map_now = float(now.total) / every, validate()
            now.total.zero_()
            if course.note(mean_loss, map_now, every, protocol):
                now.best_model = copy.deepcopy(now.model.state_dict())
            if keep and course.failure is None:
                state = now.model.state_dict()
                now.kept[course.step] = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
            bar.set_postfix(loss=f"{mean_loss:.4g}", map_at_r=f"{map_now:.4f}")
            course.ended |= course.step == last_step
            checkpoint.stop_if_asked(now.state_dict)
            checkpoint.save(now.state_dict())

    now.model.load_state_dict(now.best_model)
    return Outcome(
        now.model, course.score, course.best_step, course.step, course.curve, course.failure, now.seconds(),
        course.resumed, now.kept,
    )  # fmt: skip


@dataclass
class Course:
    """How far a training is, in plain values: see `Outcome`."""

    curve: list[dict]
    best_for_stopping: float
    """Best validation MAP@R so far, the untrained model's included."""
    score: float | None
    failure: str | None
    ended: bool
    best_epoch: int = 0
    best_step: int = 0
    step: int = 0
    seconds: float = 0.0
    """Of the processes before this one."""
    resumed: list[dict] = field(default_factory=list)

    @classmethod
    def of_untrained(cls, map_at_r: float, trains: bool) -> Self:
        """The course before the first step. One that `trains` nothing has ended already."""
        if not math.isfinite(map_at_r):
            return cls([], map_at_r, None, "the embeddings of the untrained model are not finite", ended=True)
        curve = [{"step": 0, "loss": None, "map_at_r": map_at_r}]
        return cls(curve, map_at_r, None if trains else map_at_r, None, ended=not trains)

    def note(self, mean_loss: float, map_now: float, every: int, protocol: Protocol) -> bool:
        """Take note of a validation, which may end the course. Whether the model is the best so far."""
        if not math.isfinite(mean_loss) or not math.isfinite(map_now):
            what = f"loss {mean_loss}" if not math.isfinite(mean_loss) else "embeddings not finite"
            self.failure = f"diverged: {what} between steps {self.step - every} and {self.step}"
            self.ended = True
            return False
        self.curve.append({"step": self.step, "loss": mean_loss, "map_at_r": map_now})
        epoch = self.step // protocol.epoch_steps
        is_best = self.score is None or map_now > self.score
        if is_best:
            self.score, self.best_step = map_now, self.step
        if map_now > self.best_for_stopping:
            self.best_for_stopping, self.best_epoch = map_now, epoch
        self.ended = epoch - self.best_epoch > protocol.patience
        return is_best


@dataclass
class Training:
    """Everything that changes while a model is trained."""

    model: Model
    method: Method
    optimizers: list[Optimizer]
    order: Batches | HierarchicalBatches
    crops: np.random.Generator
    device: str
    total: Tensor
    """Sum of the losses since the last validation."""
    best_model: dict[str, Tensor]
    protocol: Protocol
    rates: list[float]
    """The learning rates of the optimisers in the beginning."""
    course: Course | None = None
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(
        cls,
        trial: Trial,
        protocol: Protocol,
        labels: np.ndarray,
        super_classes: Sequence[str],
        seed: int,
        weights: Path | None,
        device: str,
    ) -> Self:
        """As it is before the first step; each part has random draws of its own, derived from the seed."""
        set_precision(protocol.precision)
        torch.manual_seed(derive_seed(seed, "model"))
        model = Model(protocol, method_class_of(trial).trains, weights).to(device)
        torch.manual_seed(derive_seed(seed, "loss"))
        method = build_method(trial, len(np.unique(labels)), model.embedding_size, model.trunk_width).to(device)
        optimizers = build_optimizers(model, method, trial, protocol)
        order = batches_of(trial, protocol, labels, super_classes, generator(seed, "batches"))
        torch.manual_seed(derive_seed(seed, "training"))
        total, untrained = torch.zeros((), device=device), copy.deepcopy(model.state_dict())
        rates = [optimizer.learning_rate for optimizer in optimizers]
        crops = generator(seed, "crops")
        return cls(model, method, optimizers, order, crops, device, total, untrained, protocol, rates)

    def begin_epoch(self, epoch: int) -> bool:
        """Set learning rates, and what waits, as the protocol has it for an epoch, from 0. Whether that changes any."""
        before = [(optimizer.learning_rate, optimizer.waits) for optimizer in self.optimizers]
        factor = self.protocol.decay ** sum(epoch >= milestone for milestone in self.protocol.decay_epochs)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.learning_rate = rate * factor
        if self.protocol.warmup_epochs:
            self.optimizers[0].waits = epoch < self.protocol.warmup_epochs
        return before != [(optimizer.learning_rate, optimizer.waits) for optimizer in self.optimizers]

    def seconds(self) -> float:
        """Of work so far, in all processes."""
        return self.course.seconds + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        """All of it as tensors and plain values, and where it was worked on; of one that ended what is left to use."""
        state = {
            "course": asdict(self.course) | {"seconds": self.seconds()},
            "best_model": self.best_model,
            "kept": self.kept,
            "where": hardware(self.device),
        }
        if self.course.ended:
            return state
        return state | {
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "total": self.total,
            "order": self.order.state_dict(),
            "crops": self.crops.bit_generator.state,
            # layers such as dropout draw from PyTorch's own generators
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.startswith("cuda") else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, and note that it is so."""
        self.course = Course(**state["course"])
        self.best_model, self.kept = state["best_model"], state["kept"]
        if self.course.ended:
            print(f"was trained to its end, step {self.course.step}, before", file=sys.stderr)
            return
        self.model.load_state_dict(state["model"])
        self.method.load_state_dict(state["method"])
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self.total = state["total"].to(self.device)
        self.order.load_state_dict(state["order"])
        self.crops.bit_generator.state = state["crops"]
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self.device.startswith("cuda"):
            torch.cuda.set_rng_state(state["cuda"], self.device)
        print(f"goes on from step {self.course.step}", file=sys.stderr)
        self.course.resumed.append({"step": self.course.step} | state["where"])


def of_classes(images: PackedImages, classes: tuple[int, ...]) -> tuple[PackedImages, np.ndarray]:
    """The images of some classes, and their labels renumbered 0..len(classes)-1 in the order of `classes`."""
    renumber = {label: position for position, label in enumerate(classes)}
    indices = np.flatnonzero(np.isin(images.labels, classes))
    labels = np.array([renumber[int(label)] for label in images.labels[indices]], dtype=np.int64)
    return images.subset(indices), labels


def method_class_of(trial: Trial) -> type[Method]:
    """The class of a trial's method."""
    return plugins.load_class("methods", trial.plugin, Method) if trial.plugin else Method


def batches_of(
    trial: Trial, protocol: Protocol, labels: np.ndarray, super_classes: Sequence[str], rng: np.random.Generator
) -> Batches | HierarchicalBatches:
    """The batches that a method wants."""
    sizes = protocol.batch_size, trial.images_per_class
    if trial.plugin and plugins.literal("methods", trial.plugin, "BATCHES") == HIERARCHICAL:
        return HierarchicalBatches(labels, super_classes, *sizes, rng)
    return Batches(labels, *sizes, rng)


def build_method(trial: Trial, num_classes: int, embedding_size: int, trunk_width: int) -> Method:
    """The method with a trial's hyperparameters, its own weights as the global random state gives them."""
    parameters = {k: v for k, v in (trial.fixed | trial.parameters).items() if k not in OPTIMISER}
    if trial.pml_loss:
        return build_pml_method(num_classes, embedding_size, trial.pml_loss, trial.pml_miner, parameters)
    method_class = method_class_of(trial)
    if "trunk_width" in inspect.signature(method_class).parameters:
        parameters["trunk_width"] = trunk_width
    return method_class(num_classes, embedding_size, **parameters)


def build_optimizers(model: Model, method: Method, trial: Trial, protocol: Protocol) -> list[Optimizer]:
    """One for the model, and one for the loss's weights, whose learning rate belongs to the trial.

    Where the head is trained alone first, trunk and head have one each.
    """

    def optimizer(weights: Iterable[Tensor], learning_rate: float, decay: float) -> Optimizer:
        return OPTIMIZERS[protocol.optimizer](list(weights), learning_rate, protocol.momentum, decay)

    of_trunk = [p for p in model.trunk.parameters() if p.requires_grad]
    of_head = [p for part in (model.pooling, model.norm, model.head) for p in part.parameters() if p.requires_grad]
    groups = [of_trunk, of_head] if protocol.warmup_epochs else [[p for p in model.parameters() if p.requires_grad]]
    optimizers = [optimizer(group, protocol.learning_rate, protocol.weight_decay) for group in groups]
    weights: list[Tensor] = list(method.parameters())
    if weights:
        own = trial.fixed | trial.parameters
        learning_rate = own.get("loss_lr", protocol.learning_rate)
        decay = protocol.weight_decay if method.loss_weight_decay is None else method.loss_weight_decay
        optimizers.append(optimizer(weights, learning_rate, own.get("loss_weight_decay", decay)))
    return optimizers


def map_at_r(found) -> dict:
    """The metric that selects: see `dml/metrics/map_at_r.py`."""
    return plugins.load("metrics", "map_at_r").scores(found)
