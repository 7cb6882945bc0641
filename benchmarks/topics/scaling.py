"""How time and memory grow with the work, and how much more gets done when trainings stand side by side."""

import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks import comparing, limits
from benchmarks.topics.evaluation import Size, ours, retrieval
from dml.images import PackedImages
from dml.plotting import PALETTE
from dml.protocol import Protocol
from dml.splits import folds
from dml.tabulation import MINUS
from dml.training import train
from dml.trial import Trial

TITLE = "Scaling"
ABOUT = """Ours alone. Evaluation (all ranking metrics in one pass, on all cores) against the number of images (128
dimensions, ten images a class), the embedding size and the number of classes (8,000 images); the step of a training
against the batch (a small convolutional network, 32 x 32 pixels, one thread); and trainings side by side, each a
process of one thread, as `snakemake --cores` runs the folds of a study. The exponent is the slope of a curve on
logarithmic axes: 1 where twice as much takes twice as long, 2 where it takes four times as long. The curve of images
ends before a point that would take more than a minute and a half."""

IMAGES = (1000, 2000, 4000, 8000, 16000, 32000, 60000, 120000)
DIMENSIONS = (64, 128, 256, 512, 1024, 2048)
CLASSES = (10, 40, 160, 640, 2000, 4000)
BATCHES = (16, 32, 64, 128, 256)
AT = 8000
"""Images where something else grows."""
NOISE = 2.0
LONGEST = 90.0
"""Seconds that one evaluation may be expected to take."""
STEPS = 40
"""Of one training."""
WORKERS_WAIT = 180
"""Seconds after which a process that does not answer is taken for dead."""
PER_IMAGE, PER_DIMENSION, PER_CLASS = "evaluation, images", "evaluation, dimensions", "evaluation, classes"
PER_BATCH, PER_PROCESS = "training step, batch", "trainings side by side"
SECONDS, MEGABYTES, RATE = "seconds", "megabytes", "steps_per_second"
PANELS = (
    (PER_IMAGE, SECONDS), (PER_DIMENSION, SECONDS), (PER_CLASS, SECONDS), (PER_BATCH, SECONDS),
    (PER_IMAGE, MEGABYTES), (PER_DIMENSION, MEGABYTES), (PER_CLASS, MEGABYTES), (PER_PROCESS, RATE),
)  # fmt: skip
ACROSS = 4
LABELS = {SECONDS: "seconds", MEGABYTES: "extra memory, MB", RATE: "steps/s of all"}


def measure(repetitions: int) -> pd.DataFrame:
    """One row for each point of each curve, with the exponents of the curve."""
    ours(retrieval(Size("", 300, None, 10, NOISE)))  # what is compiled at the first call is there then
    curves = [
        evaluations(PER_IMAGE, [(n, Size("", n, None, n // 10, NOISE, dimensions=128)) for n in IMAGES], repetitions),
        evaluations(
            PER_DIMENSION, [(d, Size("", AT, None, AT // 10, NOISE, dimensions=d)) for d in DIMENSIONS], repetitions
        ),
        evaluations(PER_CLASS, [(c, Size("", AT, None, c, NOISE, dimensions=128)) for c in CLASSES], repetitions),
        training_steps(repetitions),
        trainings_side_by_side(repetitions),
    ]
    return pd.concat([_with_exponents(pd.DataFrame(curve)) for curve in curves], ignore_index=True)


def draw(table: pd.DataFrame) -> Figure:
    """One panel for each curve, logarithmic, with its exponent."""
    down = -(-len(PANELS) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 2.3 * down), layout="constrained")
    for axes, (curve, value) in zip(figure.subplots(down, ACROSS).flat, PANELS, strict=True):
        own = table[table["curve"] == curve]
        _draw_curve(axes, own["size"], own[value])
        slope = comparing.exponent(own["size"], own[value])
        axes.set_title(curve.replace("evaluation, ", "").capitalize(), fontweight="bold")
        axes.set_ylabel(LABELS[value])
        axes.annotate(f"exponent {slope:.2f}".replace("-", MINUS), (0.04, 0.9), xycoords="axes fraction", fontsize=8)
    return figure


def evaluations(curve: str, points: Sequence[tuple[int, Size]], repetitions: int) -> Iterator[dict]:
    """Seconds and memory of our evaluation at each point."""
    before = None
    for size, described in points:
        if curve == PER_IMAGE and before and before[1] * (size / before[0]) ** 2 > LONGEST:
            return
        data = retrieval(described)
        found = comparing.measured({"ours": partial(ours, data)}, repetitions)["ours"]
        before = size, found.seconds
        yield {"curve": curve, "size": size, SECONDS: found.seconds, MEGABYTES: found.megabytes}


def training_steps(repetitions: int) -> Iterator[dict]:
    """Seconds of a step, its share of two small validations included."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in BATCHES:
        taken = comparing.seconds({"ours": small_training(batch)}, repetitions)["ours"]
        yield {"curve": PER_BATCH, "size": batch, SECONDS: taken / STEPS}
    torch.set_num_threads(threads)


def trainings_side_by_side(repetitions: int) -> Iterator[dict]:
    """Steps a second of 1, 2, 4, ... processes together, up to one for each core."""
    counts = [2**i for i in range(limits.cores().bit_length()) if 2**i < limits.cores()] + [limits.cores()]
    for processes in counts:
        taken = _seconds_side_by_side(processes, repetitions)
        yield {"curve": PER_PROCESS, "size": processes, SECONDS: taken, RATE: processes * STEPS / taken}


def small_training(batch: int) -> Callable[[], object]:
    """A training of `STEPS` steps on noise, ready to run."""
    protocol = Protocol(
        trunk="convnet", freeze_batchnorm="nothing", embedding_size=64, resize=36, crop_size=32, batch_size=batch,
        learning_rate=1e-4, epoch_steps=STEPS, max_epochs=1, evaluate_every=1,
    )  # fmt: skip
    trial = Trial(method="contrastive", images_per_class=4, parameters={"pos_margin": 0.0, "neg_margin": 0.6})
    classes = 2 * max(BATCHES) // trial.images_per_class
    images = noise_images(classes, trial.images_per_class, side=36)

    def training() -> None:
        with redirect_stderr(io.StringIO()):  # where its progress goes
            train(trial, protocol, images, folds(classes)[0], seed=0)

    return training


def noise_images(classes: int, per_class: int, side: int) -> PackedImages:
    """Square images of random pixels, in memory."""
    n, length = classes * per_class, 3 * side * side
    pixels = np.random.default_rng(0).integers(0, 256, n * length, dtype=np.uint8)
    sides = np.full(n, side)
    labels = np.repeat(np.arange(classes), per_class)
    return PackedImages(pixels, np.arange(n) * length, sides, sides, labels, np.full(n, ""), "noise")


def _seconds_side_by_side(processes: int, repetitions: int) -> float:
    context = get_context("spawn")
    barrier = context.Barrier(processes + 1, timeout=WORKERS_WAIT)
    workers = [context.Process(target=_train_in_step, args=(barrier, repetitions)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    taken = []
    for _ in range(repetitions):
        barrier.wait()
        begin = time.perf_counter()
        barrier.wait()
        taken.append(time.perf_counter() - begin)
    for worker in workers:
        worker.join()
    return statistics.median(taken)


def _train_in_step(barrier, repetitions: int) -> None:
    """The same training again and again; all processes begin each one together."""
    torch.set_num_threads(1)
    training = small_training(32)
    training()
    for _ in range(repetitions):
        barrier.wait()
        training()
        barrier.wait()


def _with_exponents(curve: pd.DataFrame) -> pd.DataFrame:
    grown = {"exponent": RATE if RATE in curve else SECONDS, "memory_exponent": MEGABYTES}
    for name, column in grown.items():
        if column in curve:
            curve[name] = comparing.exponent(curve["size"], curve[column].astype(float))
    return curve


def _draw_curve(axes: Axes, sizes: pd.Series, values: pd.Series) -> None:
    axes.plot(sizes, values, "o-", color=PALETTE[0], markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    few = sizes if len(sizes) <= 5 else sizes.iloc[:: -(-len(sizes) // 4)]
    axes.set_xticks(few, [f"{size // 1000}k" if size >= 1000 and size % 1000 == 0 else str(size) for size in few])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = values.min(), values.max()
    axes.set_ylim(low / 1.5, max(high, 4 * low) * 2)  # the exponent stands above the curve
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")
