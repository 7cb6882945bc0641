"""From embeddings to metrics, beside pytorch-metric-learning's AccuracyCalculator."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import faiss
import numpy as np
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from benchmarks import comparing, limits
from benchmarks.comparing import Measured, Row
from dml import plugins
from dml.neighbours import Neighbours, neighbours

TITLE = "Evaluation"
ABOUT = """All ranking metrics of a study in one pass (P@1, R-Precision, MAP@R, mAP, Recall@K for eleven K), beside
pytorch-metric-learning's `AccuracyCalculator`. "Default" is `k=None`, which ranks everything, with P@1, R-Precision,
MAP@R and mAP; "tuned" is `k="max_bin_count"`, the shortest ranking that gives P@1, R-Precision and MAP@R.
Random float32 embeddings of unit length, 512 dimensions, with the sizes and the number of classes of each test set:
class centres and noise, as much as gives about the MAP@R of a trained network. All values are compared with PML's in
every run. The limit is the matrix product at the highest rate measured here, once per pair: without a gallery
the matrix of similarities is symmetric and half of it is enough. A further goal: SOP in less than 2 GB of memory beyond
its embeddings."""

METRICS = ("precision_at_1", "r_precision", "map_at_r", "mean_average_precision", "recall_at_k")
CLUSTERING = ("nmi", "ami")
TUNED = {
    "precision_at_1": "precision_at_1",
    "r_precision": "r_precision",
    "map_at_r": "mean_average_precision_at_r",
}
DEFAULT = TUNED | {"mean_average_precision": "mean_average_precision"}
"""Our names and PML's."""
CLUSTERED = {"nmi": "NMI", "ami": "AMI"}
PEERS = {
    "default": "PML: AccuracyCalculator(k=None), P@1, R-Precision, MAP@R, mAP",
    "tuned": 'PML: AccuracyCalculator(k="max_bin_count"), P@1, R-Precision, MAP@R',
}
FAISS_SEED = 1234
"""The default of faiss, which PML takes."""
SHARE = 0.85
"""Of the free memory may be filled; who needs more is not run."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Size:
    """A test set: its name, numbers of images and classes, and how much noise there is for a centre of length 1."""

    name: str
    queries: int
    gallery: int | None
    classes: int
    noise: float
    goals: dict[str, float | None] = field(default_factory=dict)
    """Beside which of `PEERS` it is put, and the ratio aimed at."""
    dimensions: int = 512


SIZES = (
    Size("CUB, 5,924", 5924, None, 100, 3.05, {"default": None, "tuned": None}),
    Size("Cars, 8,131", 8131, None, 98, 3.05, {"default": 30, "tuned": 1.5}),
    Size("In-Shop, 14,218 x 12,612", 14218, 12612, 3985, 2.15, {"default": 30, "tuned": 1.5}),
    Size("SOP, 60,502", 60502, None, 11316, 2.15, {"tuned": 1.7}),
)
GPU_GOAL_SECONDS = 2.0
"""Of SOP."""


@dataclass(frozen=True)
class Retrieval:
    """Queries and gallery; without a gallery each query is ranked against the others."""

    embeddings: np.ndarray
    labels: np.ndarray
    gallery: np.ndarray | None = None
    gallery_labels: np.ndarray | None = None

    @property
    def arrays(self) -> list[np.ndarray]:
        """As `neighbours` takes them."""
        arrays = [self.embeddings, self.labels, self.gallery, self.gallery_labels]
        return [array for array in arrays if array is not None]

    @property
    def operations(self) -> float:
        """Multiplications and additions of the smallest matrix product that gives every similarity."""
        n, dimensions = self.embeddings.shape
        return float(n * n * dimensions if self.gallery is None else 2 * n * len(self.gallery) * dimensions)


def measure(repetitions: int) -> pd.DataFrame:
    """Ranking at every size, then clustering; what takes seconds is run once."""
    tiny = retrieval(Size("", 300, None, 10, 2.0))
    ours(tiny), pml(tiny, "tuned", DEFAULT)  # what is compiled or loaded at the first call is there then
    rows = []
    for size in SIZES:
        data = retrieval(size)
        rows += rank(size, data, repetitions)
        if gpu_is_used():
            rows.append(rank_on_gpu(size, data, repetitions))
        if size.gallery is None:
            rows.append(cluster(size, data, repetitions))
    rows.sort(key=lambda row: (row.device.startswith("gpu"), row.case.startswith("NMI")))
    return comparing.table(rows)


draw: Callable[[pd.DataFrame], Figure] = comparing.draw


def rank(size: Size, data: Retrieval, repetitions: int) -> Iterator[Row]:
    """Ours beside each of PML's ways."""
    needed = {peer: pml_megabytes(size, data, peer) for peer in size.goals}
    free = psutil.virtual_memory().available / 2**20
    sides: dict[str, Callable] = {"ours": partial(ours, data)}
    sides |= {
        peer: partial(pml, data, peer, DEFAULT if peer == "default" else TUNED)
        for peer in size.goals
        if needed[peer] < SHARE * free
    }
    found = comparing.measured(sides, repetitions)
    for peer, goal in size.goals.items():
        yield Row(
            case=f"{size.name}, {peer}",
            device=limits.all_threads(),
            **pair(found, peer),
            peer_is=PEERS[peer],
            limit=data.operations / limits.peak(),
            limit_is=limit_is(data),
            goal=goal,
            note=note(found, peer) if peer in found else f"PML not run: it needs some {needed[peer] / 1024:.0f} GiB",
        )


def rank_on_gpu(size: Size, data: Retrieval, repetitions: int) -> Row:
    """Both on the GPU; PML tuned, as its default ranks more items than its GPU search can and does it on the CPU."""
    sides = {
        "ours": partial(ours, data, device="cuda"),
        "tuned": partial(pml, data, "tuned", TUNED, device="cuda"),
    }
    found = comparing.measured(sides, repetitions, device="cuda")
    seconds = found["ours"].seconds
    goal = f"; goal: under {GPU_GOAL_SECONDS:.0f} s" if size.name.startswith("SOP") else ""
    return Row(
        case=f"{size.name}, tuned",
        device="gpu",
        **pair(found, "tuned"),
        peer_is=PEERS["tuned"] + ", on the GPU",
        limit=data.operations / limits.gpu_peak(),
        limit_is=limit_is(data) + ", on the GPU",
        note=f"{note(found, 'tuned')}; {seconds:.2f} s{goal}",
    )


def cluster(size: Size, data: Retrieval, repetitions: int) -> Row:
    """k-means by faiss and scikit-learn's scores, on both sides."""
    ranked = neighbours(*data.arrays, seed=FAISS_SEED)
    sides = {"ours": partial(clustering, ranked), "PML": partial(pml, data, "default", CLUSTERED)}
    found = comparing.measured(sides, repetitions)
    return Row(
        case=f"NMI and AMI, {size.name}",
        device=limits.all_threads(),
        **pair(found, "PML"),
        peer_is="PML: AccuracyCalculator, NMI and AMI; like ours k-means of faiss, scores of scikit-learn",
        note=difference(found, "PML"),
    )


def ours(data: Retrieval, device: str = "cpu") -> dict[str, float]:
    """The mean of every ranking metric."""
    found = neighbours(*data.arrays) if device == "cpu" else neighbours(*data.arrays, device=device)
    scores = [plugins.load("metrics", name).scores(found) for name in METRICS]
    return {name: float(values.mean()) for part in scores for name, values in part.items()}


def clustering(ranked: Neighbours) -> dict[str, float]:
    """NMI and AMI, with k-means run anew."""
    fresh = dataclasses.replace(ranked)
    scores = [plugins.load("metrics", name).scores(fresh) for name in CLUSTERING]
    return {name: value for part in scores for name, value in part.items()}


def pml(data: Retrieval, peer: str, names: dict[str, str], device: str = "cpu") -> dict[str, float]:
    """The same of PML, by our names."""
    k = None if peer == "default" else "max_bin_count"
    calculator = AccuracyCalculator(include=tuple(names.values()), k=k, device=torch.device(device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = calculator.get_accuracy(*data.arrays)
    return {name: values[theirs] for name, theirs in names.items()}


def pml_megabytes(size: Size, data: Retrieval, peer: str) -> float:
    """About what PML takes, measured: 60 bytes a pair of images where it ranks all, 9.5 a class and image where not."""
    n_gallery = len(data.gallery if data.gallery is not None else data.embeddings)
    entries = 60 * size.queries * n_gallery if peer == "default" else 9.5 * size.classes * n_gallery
    return entries / 2**20


def pair(found: dict[str, Measured], peer: str) -> dict[str, float | int | None]:
    """The fields of a row that were measured."""
    other = found.get(peer)
    return {
        "ours": found["ours"].seconds, "ours_mb": found["ours"].megabytes,
        "peer": other and other.seconds, "peer_mb": other and other.megabytes,
        "repetitions": min(side.repetitions for side in (found["ours"], other) if side),
    }  # fmt: skip


def note(found: dict[str, Measured], peer: str) -> str:
    """How well both agree, and on what."""
    return f"MAP@R {100 * found['ours'].result['map_at_r']:.1f} %; {difference(found, peer)}"


def difference(found: dict[str, Measured], peer: str) -> str:
    """The largest difference of a mean from the peer's. ValueError if it is too large: they did other work."""
    mine, theirs = found["ours"].result, found[peer].result
    largest = max(abs(mine[name] - value) for name, value in theirs.items())
    if not largest <= TOLERANCE:
        raise ValueError(f"not the same values: ours {mine}, PML's {theirs}")
    return f"the {len(theirs)} values differ by at most {largest:.1e}" if largest else "equal values"


def limit_is(data: Retrieval) -> str:
    """In words."""
    half = "half of the products of all pairs" if data.gallery is None else "the products of all pairs"
    return f"{half}, float32, at {limits.peak() / 1e9:.0f} × 10⁹ operations/s"


def gpu_is_used() -> bool:
    """Whether there is a GPU, and `neighbours` takes a device."""
    return torch.cuda.is_available() and "device" in inspect.signature(neighbours).parameters


def retrieval(size: Size) -> Retrieval:
    """Random embeddings of a size."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((size.classes, size.dimensions), dtype=np.float32)
    parts = [embedded(n, size, centres, rng) for n in (size.queries, size.gallery) if n]
    return Retrieval(*(array for part in parts for array in part))


def embedded(n: int, size: Size, centres: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n unit vectors and their labels; every class has at least one, two where there is no gallery."""
    fewest = 1 if size.gallery else 2
    labels = np.concatenate([np.tile(np.arange(size.classes), fewest), rng.integers(0, size.classes, n)])[:n]
    rng.shuffle(labels)
    vectors = centres[labels] + np.float32(size.noise) * rng.standard_normal((n, size.dimensions), dtype=np.float32)
    faiss.normalize_L2(vectors)
    return vectors, labels
