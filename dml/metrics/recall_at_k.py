"""Recall at K as deep metric learning uses the word: is any positive among the K nearest neighbours?"""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "Recall@K"
KS = (1, 2, 4, 8, 10, 20, 30, 40, 50, 100, 1000)


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """R@K = [rank of the nearest positive is at most K], (Q,) values of 0 or 1 for each K of `KS`.

    Jegou, Douze & Schmid 2011, "Product quantization for nearest neighbor search", as adopted by Oh Song et al. 2016,
    "Deep metric learning via lifted structured feature embedding". It is not the share of positives that are found.
    Of a gallery with fewer than K items all are looked at, and the value is 1.
    """
    return {f"recall_at_{k}": (neighbours.first_ranks <= k).astype(np.float64) for k in KS}
