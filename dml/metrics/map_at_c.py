"""Mean average precision at the class size, which Roth et al. report as mAP."""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "mAP@C"


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """mAP@C = (1/n) sum over i = 1..n of [item i is a positive] * (positives among the first i) / i, (Q,) in [0, 1).

    Roth et al. 2020, "Revisiting Training Strategies and Generalization Performance in Deep Metric Learning", by
    their code. n = R + 1 is the size of the query's class with the query itself; with a gallery apart, its images there
    and the query.

    A slip that we keep, as it is their definition: the query counts in n but is never found, so a perfect ranking has
    R / (R + 1), which is 1/2 in classes of two. MAP@R is the same with R in the place of n: it looks at one item less
    and reaches 1, and mAP@C is at least MAP@R * R / (R + 1).
    """
    n = neighbours.r + 1
    within_n = neighbours.ranks <= np.repeat(n, neighbours.r)
    precisions = np.where(within_n, neighbours.hits / neighbours.ranks, 0.0)
    return {"map_at_c": neighbours.sum_per_query(precisions) / n}
