"""Normalised mutual information between k-means clusters and classes."""

from dml.neighbours import Neighbours

TITLE = "NMI"
OF_CLUSTERS = True


def scores(neighbours: Neighbours) -> dict[str, float]:
    """NMI = 2 I(clusters; classes) / (H(clusters) + H(classes)), one number in [0, 1] for all queries together.

    Arithmetic mean of the entropies, scikit-learn's and PML's convention; clusters of `Neighbours.clusters`. It depends
    on the clustering's seed and rises with the number of classes, so nothing is ever selected by it.
    """
    from sklearn.metrics import normalized_mutual_info_score

    clusters, labels = neighbours.clusters
    return {"nmi": float(normalized_mutual_info_score(labels, clusters))}
