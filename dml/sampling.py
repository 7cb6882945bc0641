"""Which images make a batch: m of each class, as the paper's code draws them."""

from collections.abc import Iterator

import numpy as np

LIST_LENGTH = 100_000
"""The sampler of the paper's code makes a list of about so many indices, then starts a new one."""


def batches(
    labels: np.ndarray, batch_size: int, images_per_class: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Endless batches of indices (batch_size,) into `labels` (N,).

    A pass shuffles the classes and emits `images_per_class` random images of each: without replacement where the class
    has that many, with replacement otherwise. Passes follow one another in a list of about 100,000 indices, which is
    cut into consecutive batches; a rest that fills no batch is dropped. A batch may therefore straddle two passes and
    hold a class twice, unlike in the paper's prose, where classes are drawn for each batch.

    Source: MPerClassSampler of pytorch-metric-learning 0.9.88, which the paper's code used.
    """
    images_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    pass_length = len(images_of) * images_per_class
    passes = max(1, LIST_LENGTH // pass_length, -(-batch_size // pass_length))
    while True:
        waiting = np.empty(0, dtype=np.int64)
        for _ in range(passes):
            waiting = np.concatenate([waiting, _one_pass(images_of, images_per_class, rng)])
            while len(waiting) >= batch_size:
                yield waiting[:batch_size]
                waiting = waiting[batch_size:]


def _one_pass(images_of: list[np.ndarray], images_per_class: int, rng: np.random.Generator) -> np.ndarray:
    chosen = [
        rng.choice(images_of[c], images_per_class, replace=len(images_of[c]) < images_per_class)
        for c in rng.permutation(len(images_of))
    ]
    return np.concatenate(chosen)
