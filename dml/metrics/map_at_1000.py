"""Mean average precision over the first 1,000 items, as Roth et al. measure it."""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "mAP@1000"
DEPTH = 1000


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """mAP@1000 = (1/n) sum over i = 1..1000 of [item i is a positive] * (positives among the first i) / i, in [0, 1).

    (Q,) values. Roth et al. 2020, "Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning", by their code. n = R + 1 is the size of the query's class with the query itself, as in mAP@C, and with
    the same slip: a perfect ranking has R / (R + 1). Of classes of more than 1,000 images not all can be found.

    Of MAP@R it has neither the depth nor the divisor: positives far behind the R-th place still count. Where none comes
    after the 1,000th item it is the usual mAP * R / (R + 1).
    """
    n = neighbours.r + 1
    precisions = np.where(neighbours.ranks <= DEPTH, neighbours.hits / neighbours.ranks, 0.0)
    return {"map_at_1000": neighbours.sum_per_query(precisions) / n}
