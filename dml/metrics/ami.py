"""Adjusted mutual information between k-means clusters and classes."""

from dml.neighbours import Neighbours

TITLE = "AMI"
OF_CLUSTERS = True


def scores(neighbours: Neighbours) -> dict[str, float]:
    """AMI = (I - E[I]) / ((H(clusters) + H(classes)) / 2 - E[I]), one number, at most 1, for all queries together.

    Vinh, Epps & Bailey 2010, "Information theoretic measures for clusterings comparison", with the arithmetic mean, as
    scikit-learn and PML have it. E[I] is the mutual information expected of random clusters of the same sizes, so
    chance gives about 0 and may give slightly less. Clusters of `Neighbours.clusters`.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    clusters, labels = neighbours.clusters
    return {"ami": float(adjusted_mutual_info_score(labels, clusters))}
