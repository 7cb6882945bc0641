"""Training of four folds, beside the trainer of pytorch-metric-learning."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, set_start_method
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from benchmarks import comparing
from benchmarks.topics import losses, pixels
from dml import plugins
from dml.augmentation import normalise
from dml.images import Image, PackedImages, pack
from dml.loading import Loader
from dml.model import Pooling
from dml.protocol import Protocol
from dml.seeds import generator
from dml.splits import folds
from dml.stepping import Stepper
from dml.training import Training, of_classes
from dml.trial import Trial

TITLE = "Training"
ABOUT = """Training steps of the four folds of a study with the settings of the paper: random crops of 227 pixels,
batches of 32, RMSprop. The peer is what its users would write: pytorch-metric-learning's trainer and sampler, JPEG
files read by two worker processes with PIL and torchvision's transforms, the folds one after the other with PyTorch's
threads on all cores. Ours is what the workflow does: as many processes of one thread as cores. The seconds are those of
some steps of each fold, after first ones that are not counted; neither side validates. Both start from random weights;
the pictures are synthetic JPEGs of 500 x 400 pixels."""

NUM_FOLDS, CLASSES, PER_CLASS = 4, 16, 8
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
TRUNKS = {"cpu": "squeezenet1_0_torchvision", "cuda": "bn_inception"}
METHODS = ("contrastive", "normalized_softmax")
GOALS = {"cpu": 2, "cuda": 5}
PROCESSES = {"cpu": CORES, "cuda": 1}
"""Of ours beside the peer."""
MANY, MANY_GOALS = {"cpu": CORES, "cuda": 4}, {"cpu": None, "cuda": 3}
"""Processes beside one: on a GPU they share it."""
STEPS = {"cpu": 1, "cuda": 50}
"""Of each fold in a repetition."""
WARM_UP = {"cpu": 1, "cuda": 8}
"""Steps of each fold that are not counted."""
WORKERS = 2
"""Of the peer, which read images."""
ALIKE_STEPS, ALIKE_LEARNING_RATE = 3, 1e-5
PEER = "MetricLossOnly, torchvision, 2 workers"


@dataclass(frozen=True)
class Job:
    """Training steps of some folds, one after the other, in one process."""

    side: str
    """ours or peer."""
    folder: Path
    method: str
    folds: tuple[int, ...]
    steps: int
    device: str
    threads: int
    changes: dict[str, Any]
    """Of the protocol."""

    @property
    def protocol(self) -> Protocol:
        return Protocol(**{"trunk": TRUNKS[self.device], "batch_size": 32} | self.changes)

    @property
    def trial(self) -> Trial:
        images_per_class = plugins.literal("methods", self.method, "IMAGES_PER_CLASS")
        return Trial(method=self.method, images_per_class=images_per_class, parameters=losses.SETTINGS[self.method])


def measure(repetitions: int) -> pd.DataFrame:
    """One run, of so many more steps the more repetitions are asked for."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder)
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        return comparing.table(row for device in devices for row in rows(folder, repetitions * STEPS[device], device))


draw = comparing.draw


def write_pictures(folder: Path) -> None:
    """The pictures of a trainval half as JPEGs, and packed as the pipeline does it."""
    listed = [
        Image(str(folder), f"{label}_{n}.jpg", f"{label:02}") for label in range(CLASSES) for n in range(PER_CLASS)
    ]
    for number, image in enumerate(listed):
        picture = pixels.picture(generator("picture", number), upright=number % 2 == 1)
        (folder / image.path).write_bytes(picture)
    labels = [int(image.label_name) for image in listed]
    pack(listed, labels, 256, folder / "trainval", upright=False, progress=False)


def rows(folder: Path, steps: int, device: str) -> Iterator[comparing.Row]:
    """Ours beside the peer, many processes beside one, and bfloat16 beside float32."""
    where = f"{CORES} cores" if device == "cpu" else torch.cuda.get_device_name()

    def seconds(side: str, method: str, processes: int, threads: int = 1, **changes: Any) -> float:
        return wall_seconds(Job(side, folder, method, (), steps, device, threads, changes), processes)

    def row(case: str, ours: float, peer: float, peer_is: str, goal: float | None, note: str = "") -> comparing.Row:
        case, note = f"{case}, {TRUNKS[device]}", f"{steps} steps of each fold{note}"
        return comparing.Row(case, where, ours, peer, peer_is, goal=goal, note=note)

    usual = {}
    for method in METHODS:
        usual[method] = seconds("ours", method, PROCESSES[device])
        theirs = seconds("peer", method, 1, CORES)
        note = f"; losses of {ALIKE_STEPS} steps on the same batches differ by {difference(folder, method, device):.0e}"
        title = plugins.literal("methods", method, "TITLE")
        yield row(f"four folds of {title}", usual[method], theirs, PEER, GOALS[device], note)
    method = METHODS[0]
    one = usual[method] if PROCESSES[device] == 1 else seconds("ours", method, 1)
    many = usual[method] if PROCESSES[device] == MANY[device] else seconds("ours", method, MANY[device])
    yield row(f"{MANY[device]} processes beside one", many, one, "ours, one process", MANY_GOALS[device])
    if "precision" in Protocol.model_fields:
        bfloat16 = seconds("ours", method, PROCESSES[device], precision="bfloat16")
        yield row("bfloat16 beside float32", bfloat16, usual[method], "ours, float32", None)


def wall_seconds(job: Job, processes: int) -> float:
    """Of all folds, shared out between processes that work at the same time."""
    context = get_context("spawn")
    jobs = [replace(job, folds=tuple(range(n, NUM_FOLDS, processes))) for n in range(min(processes, NUM_FOLDS))]
    barrier = context.Barrier(len(jobs))
    with ProcessPoolExecutor(len(jobs), context, initializer=_meet_at, initargs=(barrier,)) as pool:
        times = list(pool.map(_work, jobs))
    # Those that are trained at the same time are as fast as the slowest; in the last round there may be fewer.
    rounds = [[own[n] for own in times if n < len(own)] for n in range(len(times[0]))]
    return sum(max(end for _, end in together) - min(begin for begin, _ in together) for together in rounds)


_barrier: Barrier | None = None


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _work(job: Job) -> list[tuple[float, float]]:
    """When the steps of each fold began and ended."""
    torch.set_num_threads(job.threads)
    set_start_method("fork", force=True)  # of the peer's workers, as in a program that was not spawned itself
    times = []
    for fold in job.folds:
        step = {"ours": ours, "peer": peer}[job.side](job, fold)
        for _ in range(WARM_UP[job.device]):
            step()
        _wait_for(job.device)
        if len(times) < NUM_FOLDS // _barrier.parties:  # all processes have one
            _barrier.wait()
        begin = time.monotonic()
        for _ in range(job.steps):
            step()
        _wait_for(job.device)
        times.append((begin, time.monotonic()))
    return times


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ours(job: Job, fold: int) -> Callable[[], object]:
    """A training step of ours."""
    now, step, batches = start(job, fold)
    return lambda: step(*next(batches))


def start(job: Job, fold: int) -> tuple[Training, Stepper, Loader]:
    """A training before its first step, what takes it, and its batches."""
    images, labels = of_classes(PackedImages.open(job.folder / "trainval"), folds(CLASSES, NUM_FOLDS)[fold].train)
    now = Training.start(job.trial, job.protocol, labels, fold, None, job.device)
    now.model.train()
    step = Stepper(now.model, now.method, now.optimizers, now.total, job.device)
    return now, step, Loader(images, labels, now.order, job.protocol, now.crops, job.device)


class Jpegs(Dataset):
    """The JPEG files of some classes as a user of torchvision would read them."""

    def __init__(self, folder: Path, classes: tuple[int, ...], protocol: Protocol, mean: Any, std: Any) -> None:
        self.files = [folder / f"{label}_{n}.jpg" for label in classes for n in range(PER_CLASS)]
        self.labels = np.repeat(np.arange(len(classes)), PER_CLASS)
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(protocol.crop_size, protocol.crop_scale, protocol.crop_ratio),
                transforms.RandomHorizontalFlip(protocol.flip),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with PIL.Image.open(self.files[index]) as picture:
            return self.transform(picture.convert("RGB")), self.labels[index]


def peer(job: Job, fold: int) -> Callable[[], object]:
    """A training step of pytorch-metric-learning's trainer."""
    torch.manual_seed(fold)
    protocol, classes = job.protocol, folds(CLASSES, NUM_FOLDS)[fold].train
    trunk, embedder, loss = peer_model(job, len(classes))
    dataset = Jpegs(job.folder, classes, protocol, pixels.MEAN, pixels.STD)
    trainer = MetricLossOnly(
        models={"trunk": trunk, "embedder": embedder},
        optimizers=peer_optimizers(trunk, embedder, loss, protocol),
        batch_size=protocol.batch_size,
        loss_funcs={"metric_loss": loss.loss},
        dataset=dataset,
        sampler=MPerClassSampler(dataset.labels, job.trial.images_per_class),
        dataloader_num_workers=WORKERS,
        data_device=torch.device(job.device),
        freeze_trunk_batchnorm=True,
    )
    trainer.initialize_dataloader()
    trainer.set_to_train()
    return trainer.forward_and_backward


def peer_model(job: Job, num_classes: int) -> tuple[nn.Module, nn.Module, losses.PML]:
    """Trunk with pooling, linear layer, and loss."""
    plugin, protocol = plugins.load("trunks", job.protocol.trunk), job.protocol
    trunk = nn.Sequential(plugin.build(None), Pooling(protocol.pooling, learns=True))
    embedder = nn.Linear(plugin.WIDTH, protocol.embedding_size)
    loss = losses.PML(job.method, num_classes, protocol.embedding_size, losses.SETTINGS[job.method])
    return tuple(module.to(job.device) for module in (trunk, embedder, loss))


def peer_optimizers(trunk: nn.Module, embedder: nn.Module, loss: nn.Module, protocol: Protocol) -> dict[str, Any]:
    """One for each part that has weights, as the trainer names them."""
    parts = {"trunk": trunk, "embedder": embedder, "metric_loss": loss}
    return {
        f"{name}_optimizer": torch.optim.RMSprop(
            part.parameters(), protocol.learning_rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay
        )
        for name, part in parts.items()
        if any(True for _ in part.parameters())
    }


def difference(folder: Path, method: str, device: str) -> float:
    """Largest relative difference of the losses of ours and of a plain loop in PML's way, on the same small batches.

    ValueError if it is more than rounding makes of it within some steps.
    """
    job = Job("ours", folder, method, (0,), 0, device, 1, {"learning_rate": ALIKE_LEARNING_RATE, "batch_size": 8})
    now, step, batches = start(job, 0)
    trunk, embedder, loss = peer_model(job, len(folds(CLASSES, NUM_FOLDS)[0].train))
    trunk[0].load_state_dict(now.model.trunk.state_dict())
    embedder.load_state_dict(now.model.head.state_dict())
    loss.take_weights(now.method)
    for module in trunk.modules():
        module.train(not isinstance(module, nn.BatchNorm2d))
    optimizers = peer_optimizers(trunk, embedder, loss, job.protocol).values()
    found = []
    for _ in range(ALIKE_STEPS):
        crops, labels = next(batches)
        pictures = normalise(crops.contiguous(), now.model.channels, now.model.mean, now.model.std)
        expected = loss(embedder(trunk(pictures)), labels)
        now.total.zero_()
        step(crops, labels)
        found.append(abs(float(now.total / expected.detach()) - 1))
        for optimizer in optimizers:
            optimizer.zero_grad()
        expected.backward()
        for optimizer in optimizers:
            optimizer.step()
    if not max(found) < 1e-3:
        raise ValueError(f"{method}: the losses of ours and of PML's loop differ by up to {max(found):.1e}")
    return max(found)
