"""What the space of embeddings looks like: how tight classes are, how far apart, how many directions are used.

Roth et al. 2020, "Revisiting Training Strategies and Generalization Performance in Deep Metric Learning" (ICML), by
their code. They find that the spectral decay goes with Recall@1 on the test classes: the flatter the spectrum of the
training images, the better.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dml.embedding import normalise_rows
from dml.finished import Finished
from dml.images import PackedImages
from dml.record import of_models, provenance, space_code, write_json
from dml.splits import read_folds

TITLES = {
    "pi_intra": "pi intra",
    "pi_inter": "pi inter",
    "pi_ratio": "pi ratio",
    "rho_1": "rho@1",
    "rho_2": "rho@2",
    "rho_10": "rho@10",
    "rho_minus_1": "rho@-1",
}
SPECTRA = {"rho_1": 1, "rho_2": 2, "rho_10": 10, "rho_minus_1": -1}
SMALLEST_INTER = 1e-8
RESOLUTION = 2.0**-23
"""That of float32, in which embeddings come: smaller singular values, relative to the largest, are rounding error."""


def measure_space(
    models: Sequence[Path], records: Sequence[dict[str, Any]], trainval: Path, folds: Path, output: Path, device: str,
    threads: int,
) -> None:  # fmt: skip
    """The geometry of the embeddings of each final model's own training classes, as JSON.

    Of the L2-normalised embeddings of centre crops, as in the test. Roth et al. normalise those of most methods, too,
    but not those of N-Pair, Angular and Generalised Lifted, whose pi_inter and rho are then others.
    Rows as those of `dml.evaluation.measure_seed`, with the embedding `training`. A training that failed has none.
    """
    import torch

    from dml.runs import resolve_device
    from dml.training import of_classes

    started = time.monotonic()
    torch.set_num_threads(threads)
    device, images, rows = resolve_device(device), PackedImages.open(trainval), []
    for model, record in zip(models, records, strict=True):
        if record["failure"] is not None:
            continue
        own, labels = of_classes(images, read_folds(folds)[record["fold"]].train)
        found = describe(Finished(model, record, device).embed(own), labels)
        place = {"embedding": "training", "retrieval": "", "fold": record["fold"], "n_queries": len(labels)}
        rows += [place | {"metric": name, "value": value} for name, value in found.items()]
    made = of_models(records) | {
        "metrics": rows,
        "data": images.fingerprint,
        "code": space_code(),
        "seconds": round(time.monotonic() - started, 3),
        "provenance": provenance(device, torch.get_num_threads()),
    }
    write_json(output, made)


def describe(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of `TITLES` of embeddings (N, D) with labels (N,), by name.

    - pi_intra: mean cosine distance, 1 - cosine, of two images of a class, then the mean over classes. In [0, 2],
      lower is tighter.
    - pi_inter: mean cosine distance of the directions of two classes' mean embeddings. Higher is further apart.
    - pi_ratio: pi_intra / max(pi_inter, 1e-8), their embedding density.
    - rho_1, their rho(Phi): the `spectral_decay` of the singular values. rho_2 leaves out the largest one (the paper's
      figures show this one), rho_10 the nine largest; rho_minus_1 is rho_1 with the divergence turned round. A variant
      that would leave out all values is not among the results.

    Departures: classes of one image have no pi_intra and are left out of it (their code means to give those the largest
    one, but looks for it among the first two classes only); all singular values are taken, exactly (theirs takes D - 1
    of them by a randomised method, unless it is told to evaluate on a GPU). Embeddings are taken as they come:
    pi_intra does not depend on their lengths, the other two kinds do.

    Time is O(N D) for pi and O(N D^2) for the singular values, 7 s for 60,000 x 512 on two cores; memory three copies
    in float64. ValueError for embeddings that are NaN or infinite, and if there is only one class, or no class of two.
    """
    embeddings, labels = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != (len(embeddings),):
        raise ValueError(f"embeddings {embeddings.shape} and labels {labels.shape}; expected (N, D) and (N,)")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings: some are NaN or infinite; expected finite numbers")
    _, of_image, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise ValueError(f"labels: {len(sizes)} classes, the largest of {max(sizes, default=0)}; expected 2, one of 2")

    embeddings, starts = embeddings[np.argsort(of_image, kind="stable")], np.cumsum(sizes) - sizes
    pi_intra, pi_inter = _intra(embeddings, starts, sizes), _inter(embeddings, starts)
    values = np.linalg.svd(embeddings, compute_uv=False)
    rho = {name: spectral_decay(values, k) for name, k in SPECTRA.items() if abs(k) <= len(values)}
    return {"pi_intra": pi_intra, "pi_inter": pi_inter, "pi_ratio": pi_intra / max(pi_inter, SMALLEST_INTER)} | rho


def spectral_decay(values: np.ndarray, k: int) -> float:
    """rho@k in nats of singular values (D,), largest first, of an (N, D) matrix of embeddings that is not centred.

    The first |k| - 1 values are left out and the other n divided by their sum: S. rho = KL(U || S), the sum of
    u log(u / S) with u = 1/n, is 0 for a flat spectrum; with negative k it is KL(S || U). With fewer images than
    dimensions there are only as many values as images.

    KL(U || S) is infinite where a value is zero, and anything where it is rounding error. So values below `RESOLUTION`
    times the largest of all count as zero, and under the logarithm a share below `RESOLUTION` counts as that. A
    collapsed embedding then has a large but finite rho, also where its one direction is left out. None exceeds
    15.94 - log(n), which is 9.7 for 512 values.
    """
    values = np.where(values < RESOLUTION * values[0], 0.0, values)[abs(k) - 1 :]
    shares = values / max(values.sum(), np.finfo(np.float64).tiny)
    uniform = 1 / len(shares)
    logarithms = np.log(np.maximum(shares, RESOLUTION) / uniform)
    return float((shares * logarithms).sum()) if k < 0 else float(-uniform * logarithms.sum())


def _intra(embeddings: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> float:
    """pi_intra of embeddings that lie class by class: the pairs' cosines are summed up in the length of the sum."""
    units = normalise_rows(embeddings)
    sums = np.add.reduceat(units, starts)
    cosines = np.square(sums).sum(axis=1) - np.add.reduceat(np.square(units).sum(axis=1), starts)
    several = sizes > 1
    distances = 1 - cosines[several] / (sizes * (sizes - 1))[several]
    return float(np.maximum(distances, 0).mean())


def _inter(embeddings: np.ndarray, starts: np.ndarray) -> float:
    """pi_inter, in the same way, of the classes' sums, which have the directions of their means."""
    directions = normalise_rows(np.add.reduceat(embeddings, starts))
    n = len(directions)
    cosines = np.square(directions.sum(axis=0)).sum() - np.square(directions).sum()
    return max(0.0, float(1 - cosines / (n * (n - 1))))
