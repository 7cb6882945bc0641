"""Slow, obvious definitions of ranking and of every metric: plain loops, the oracle of the fast ones."""

import math
from collections import Counter

import numpy as np


def ranking(query, gallery, without=None):
    """Gallery indices, nearest first: float64 squared distances rounded to float32, lower index first among equals."""
    candidates = [index for index in range(len(gallery)) if index != without]
    return sorted(candidates, key=lambda index: (squared_distance(query, gallery[index]), index))


def squared_distance(x, y):
    return float(np.float32(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))))


def relevance(embeddings, labels, gallery=None, gallery_labels=None):
    """For each query, in order: is the item at rank 1, 2, ... of its class?"""
    itself = gallery is None
    if itself:
        gallery, gallery_labels = embeddings, labels
    return [
        [
            gallery_labels[item] == labels[query]
            for item in ranking(embeddings[query], gallery, query if itself else None)
        ]
        for query in range(len(embeddings))
    ]


def retrieval_metrics(embeddings, labels, gallery=None, gallery_labels=None):
    """Name -> one value per query that has a positive, in the order of the queries."""
    kept = [row for row in relevance(embeddings, labels, gallery, gallery_labels) if any(row)]
    values = {
        "precision_at_1": [float(row[0]) for row in kept],
        "r_precision": [sum(row[: sum(row)]) / sum(row) for row in kept],
        "map_at_r": [sum_of_precisions(row, depth=sum(row)) / sum(row) for row in kept],
        "mean_average_precision": [sum_of_precisions(row, depth=len(row)) / sum(row) for row in kept],
        "map_at_c": [sum_of_precisions(row, depth=sum(row) + 1) / (sum(row) + 1) for row in kept],
        "map_at_1000": [sum_of_precisions(row, depth=1000) / (sum(row) + 1) for row in kept],
    }
    return values | {
        f"recall_at_{k}": [float(any(row[:k])) for row in kept] for k in (1, 2, 4, 8, 10, 20, 30, 40, 50, 100, 1000)
    }


def sum_of_precisions(row, depth):
    total = 0.0
    for rank in range(1, min(depth, len(row)) + 1):
        if row[rank - 1]:
            total += sum(row[:rank]) / rank
    return total


def normalised_mutual_information(clusters, labels):
    mean_entropy = (entropy(clusters) + entropy(labels)) / 2
    return 1.0 if mean_entropy == 0 else mutual_information(clusters, labels) / mean_entropy


def adjusted_mutual_information(clusters, labels):
    mean_entropy = (entropy(clusters) + entropy(labels)) / 2
    expected = expected_mutual_information(clusters, labels)
    return (mutual_information(clusters, labels) - expected) / (mean_entropy - expected)


def entropy(values):
    return -sum(count / len(values) * math.log(count / len(values)) for count in Counter(values).values())


def mutual_information(clusters, labels):
    n = len(labels)
    of_cluster, of_label = Counter(clusters), Counter(labels)
    return sum(
        count / n * math.log(n * count / (of_cluster[cluster] * of_label[label]))
        for (cluster, label), count in Counter(zip(clusters, labels, strict=True)).items()
    )


def expected_mutual_information(clusters, labels):
    """Mean mutual information of random clusters of the same sizes: cell counts are hypergeometric."""
    n, total = len(labels), 0.0
    for a in Counter(clusters).values():
        for b in Counter(labels).values():
            for both in range(max(1, a + b - n), min(a, b) + 1):
                probability = math.comb(b, both) * math.comb(n - b, a - both) / math.comb(n, a)
                total += both / n * math.log(n * both / (a * b)) * probability
    return total


def pair_counting_f1(clusters, labels):
    """Of all pairs, one by one: twice those together in both, by those together in either, counted twice if in both."""
    pairs = [(i, j) for i in range(len(labels)) for j in range(i)]
    same_class = [labels[i] == labels[j] for i, j in pairs]
    same_cluster = [clusters[i] == clusters[j] for i, j in pairs]
    both = sum(c and k for c, k in zip(same_class, same_cluster, strict=True))
    return 2 * both / (sum(same_class) + sum(same_cluster))
