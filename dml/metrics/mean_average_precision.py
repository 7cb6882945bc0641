"""Mean average precision over the whole ranking."""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "mAP"


def scores(neighbours: Neighbours) -> dict[str, np.ndarray]:
    """AP = (1/R) sum over the R positives of (positives up to and including it) / (its rank), (Q,) values in (0, 1].

    The non-interpolated average precision of information retrieval (Manning, Raghavan & Schuetze 2008, "Introduction to
    Information Retrieval", section 8.4), over the complete gallery; a mean over queries, not over classes.
    """
    return {"mean_average_precision": neighbours.sum_per_query(neighbours.hits / neighbours.ranks) / neighbours.r}
