"""R-Precision: the share of positives among the R nearest neighbours, R being the number of positives."""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "R-Precision"


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """RP = (positives among the R nearest) / R, (Q,) values in [0, 1].

    Musgrave, Belongie & Lim 2020, "A Metric Learning Reality Check". R leaves the query itself out.
    """
    within_r = neighbours.ranks <= np.repeat(neighbours.r, neighbours.r)
    return {"r_precision": neighbours.sum_per_query(within_r.astype(np.float64)) / neighbours.r}
