"""Training of one fold: the same function for the search and for the final runs."""

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dml import plugins
from dml.augmentation import train_batch
from dml.embedding import embed
from dml.images import PackedImages
from dml.method import Method
from dml.model import Model
from dml.neighbours import neighbours
from dml.pml import build_pml_method
from dml.protocol import Protocol
from dml.sampling import batches
from dml.seeds import derive_seed, generator
from dml.splits import Fold
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


def train(
    trial: Trial,
    protocol: Protocol,
    trainval: PackedImages,
    fold: Fold,
    seed: int,
    weights: Path | None = None,
    device: str = "cpu",
) -> Outcome:
    """Train on a fold's train classes, validate on its validation classes, stop early, keep the best.

    Validation is MAP@R on the validation classes, every `evaluate_every` epochs and before the first step. A later
    validation is better only if strictly greater. The untrained model counts when deciding to stop (training ends once
    more than `patience` epochs have passed since the best) but is neither the score nor the model returned, as in
    A Metric Learning Reality Check. A loss that is not finite ends the training with a `failure`.

    Equal arguments give equal results, bit for bit, on the same machine with the same number of threads.
    """
    started = time.monotonic()
    train_images, train_labels = of_classes(trainval, fold.train)
    validation_images, validation_labels = of_classes(trainval, fold.validation)

    torch.manual_seed(derive_seed(seed, "model"))
    method_class = method_class_of(trial)
    model = Model(protocol, method_class.trains, weights).to(device)
    torch.manual_seed(derive_seed(seed, "loss"))
    method = build_method(trial, len(fold.train), model.embedding_size).to(device)

    def validate() -> float:
        embeddings = embed(model, validation_images, protocol.crop_size, device)
        if not np.isfinite(embeddings).all():
            return math.nan
        return float(np.mean(map_at_r(neighbours(embeddings, validation_labels))["map_at_r"]))

    untrained = validate()
    curve = [{"step": 0, "loss": None, "map_at_r": untrained}]
    if not math.isfinite(untrained):
        failure = "the embeddings of the untrained model are not finite"
        return Outcome(model, None, 0, 0, [], failure, time.monotonic() - started)
    if not method_class.trains:
        return Outcome(model, untrained, 0, 0, curve, None, time.monotonic() - started)

    optimizers = build_optimizers(model, method, trial, protocol)
    order = batches(train_labels, protocol.batch_size, trial.images_per_class, generator(seed, "batches"))
    crops_rng = generator(seed, "crops")
    targets = torch.from_numpy(train_labels)
    torch.manual_seed(derive_seed(seed, "training"))

    every = protocol.evaluate_every * protocol.epoch_steps
    last_step = protocol.max_epochs // protocol.evaluate_every * every
    best_for_stopping, best_epoch = untrained, 0
    score, best_step, best_state, failure, step = None, 0, copy.deepcopy(model.state_dict()), None, 0
    with tqdm(total=last_step, unit="step", desc=trial.method, mininterval=10) as progress:
        while step < last_step:
            model.train()
            total = torch.zeros((), device=device)
            for _ in range(every):
                indices = next(order)
                crops = train_batch(
                    train_images, indices, protocol.crop_size, protocol.crop_scale, protocol.crop_ratio,
                    protocol.flip, crops_rng,
                )  # fmt: skip
                loss = method.objective(model(crops.to(device)), targets[indices].to(device))
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                total += loss.detach()  # read once a validation: reading it each step would make the device wait
            step += every
            progress.update(every)
            mean_loss = float(total) / every
            map_now = validate()
            if not math.isfinite(mean_loss) or not math.isfinite(map_now):
                what = f"loss {mean_loss}" if not math.isfinite(mean_loss) else "embeddings not finite"
                failure = f"diverged: {what} between steps {step - every} and {step}"
                break
            curve.append({"step": step, "loss": mean_loss, "map_at_r": map_now})
            progress.set_postfix(loss=f"{mean_loss:.4g}", map_at_r=f"{map_now:.4f}")
            epoch = step // protocol.epoch_steps
            if score is None or map_now > score:
                score, best_step, best_state = map_now, step, copy.deepcopy(model.state_dict())
            if map_now > best_for_stopping:
                best_for_stopping, best_epoch = map_now, epoch
            if epoch - best_epoch > protocol.patience:
                break

    model.load_state_dict(best_state)
    return Outcome(model, score, best_step, step, curve, failure, time.monotonic() - started)


def of_classes(images: PackedImages, classes: tuple[int, ...]) -> tuple[PackedImages, np.ndarray]:
    """The images of some classes, and their labels renumbered 0..len(classes)-1 in the order of `classes`."""
    renumber = {label: position for position, label in enumerate(classes)}
    indices = np.flatnonzero(np.isin(images.labels, classes))
    labels = np.array([renumber[int(label)] for label in images.labels[indices]], dtype=np.int64)
    return images.subset(indices), labels


def method_class_of(trial: Trial) -> type[Method]:
    """The class of a trial's method."""
    return Method if trial.pml_loss else plugins.load_class("methods", trial.method, Method)


def build_method(trial: Trial, num_classes: int, embedding_size: int) -> Method:
    """The method with a trial's hyperparameters, its own weights as the global random state gives them."""
    parameters = {k: v for k, v in (trial.fixed | trial.parameters).items() if k not in OPTIMISER}
    if trial.pml_loss:
        return build_pml_method(num_classes, embedding_size, trial.pml_loss, trial.pml_miner, parameters)
    return method_class_of(trial)(num_classes, embedding_size, **parameters)


def build_optimizers(model: Model, method: Method, trial: Trial, protocol: Protocol) -> list[torch.optim.Optimizer]:
    """RMSprop for the model, and one of its own for the loss's weights, whose learning rate belongs to the trial."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizers = [_rmsprop(trained, protocol.learning_rate, protocol.weight_decay, protocol)]
    weights: list[Tensor] = list(method.parameters())
    if weights:
        own = trial.fixed | trial.parameters
        learning_rate = own.get("loss_lr", protocol.learning_rate)
        decay = protocol.weight_decay if method.loss_weight_decay is None else method.loss_weight_decay
        decay = own.get("loss_weight_decay", decay)
        optimizers.append(_rmsprop(weights, learning_rate, decay, protocol))
    return optimizers


def _rmsprop(parameters, learning_rate: float, weight_decay: float, protocol: Protocol) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        parameters, lr=learning_rate, momentum=protocol.momentum, weight_decay=weight_decay, foreach=True
    )


def map_at_r(found) -> dict:
    """The metric that selects: see `dml/metrics/map_at_r.py`."""
    return plugins.load("metrics", "map_at_r").scores(found)
