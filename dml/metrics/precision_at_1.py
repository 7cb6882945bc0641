"""Precision at 1: is the nearest neighbour of the query's class?"""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "P@1"


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """P@1 = [rank of the nearest positive is 1], (Q,) values of 0 or 1; the same number as Recall@1."""
    return {"precision_at_1": (neighbours.first_ranks == 1).astype(np.float64)}
