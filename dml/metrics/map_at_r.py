"""Mean average precision at R: R-Precision that also rewards the order within the R nearest neighbours."""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "MAP@R"


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """MAP@R = (1/R) sum over i = 1..R of [item i is a positive] * (positives among the first i) / i, (Q,) in [0, 1].

    Musgrave, Belongie & Lim 2020, "A Metric Learning Reality Check". The sum is divided by R, not by the
    number of positives found.
    """
    within_r = neighbours.ranks <= np.repeat(neighbours.r, neighbours.r)
    precisions = np.where(within_r, neighbours.hits / neighbours.ranks, 0.0)
    return {"map_at_r": neighbours.sum_per_query(precisions) / neighbours.r}
