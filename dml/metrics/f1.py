"""Pair-counting F1 of k-means clusters and classes: are images of one class in one cluster, and only they?"""

import numpy as np

from dml.neighbours import Neighbours

TITLE = "F1"
OF_CLUSTERS = True


def scores(neighbours: Neighbours) -> dict[str, float]:
    """F1 = 2 TP / (pairs of one class + pairs of one cluster), one number in [0, 1] for all queries together.

    TP are the pairs of images that are of one class and in one cluster: the harmonic mean of their share among pairs of
    one cluster (precision) and of one class (recall). Manning, Raghavan & Schuetze 2008, "Introduction to
    Information Retrieval", section 16.3, and Roth et al. 2020, "Revisiting Training Strategies and Generalization
    Performance in Deep Metric Learning". Pairs are counted from the cells of the table of clusters and classes. Where
    nothing makes a pair, neither by class nor by cluster, both say the same, and F1 is 1.

    Clusters of `Neighbours.clusters`. Departure: Roth et al. always make as many as there are training classes. Like
    NMI it depends on the clustering's seed.
    """
    clusters, labels = neighbours.clusters
    _, clusters = np.unique(clusters, return_inverse=True)
    classes, labels = np.unique(labels, return_inverse=True)
    both = _pairs(clusters * len(classes) + labels)
    either = _pairs(labels) + _pairs(clusters)
    return {"f1": 2 * both / either if either else 1.0}


def _pairs(groups: np.ndarray) -> int:
    """How many pairs of the items (N,) are of one group."""
    _, sizes = np.unique(groups, return_counts=True)
    return int((sizes * (sizes - 1) // 2).sum())
