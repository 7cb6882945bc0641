"""k-reciprocal re-ranking: items that share their mutual neighbours with the query come before those that do not.

Zhong, Zheng, Cao & Li 2017, "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR), by the authors'
code. It is **transductive**: every ranking depends on all queries and the whole gallery, so what is measured on it is
no property of the embedding alone and has to be reported apart from what is measured without.

S are all items: the queries and the gallery, or, where the queries are their own gallery, these once. d is the squared
Euclidean distance by the rule of `dml.neighbours`, and d'(p, g) = d(p, g) / (the largest d(p, x) of all x in S).
N(p, k) is p itself and the k other items nearest to it, of equals the lower index first, queries before the gallery.

1. R(p, k), the k-reciprocal neighbours: the items of N(p, k) that have p in their own N(., k). p is one of them.
2. R*(p): R(p, k1), and with it R(q, k1 / 2) of each q in R(p, k1) that has more than two thirds of its R(q, k1 / 2) in
   R(p, k1). Half of k1 is rounded, to even.
3. V(p), p's encoding: exp(-d'(p, g)) for g in R*(p), divided by their sum; 0 for all others.
4. Local query expansion: V(p) becomes the mean of the encodings of p and the k2 - 1 items nearest to it.
5. d_J(p, g), the Jaccard distance: 1 - (sum of min(V(p), V(g))) / (sum of max(V(p), V(g))). Encodings have sum 1, so
   the maxima have 2 less the sum of the minima. It is 1 where nothing is shared, as for nearly all pairs.
6. The gallery is ranked by (1 - weight) d_J(p, g) + weight d'(p, g).

In 1 to 4 an item is its own neighbour, as in the code, also where the queries are the gallery; it is left out of its
own ranking only, by its index. (The code, given such queries as a gallery too, would have each item twice.)

The paper and its code, which we follow, differ in two points: the paper asks for at least two thirds in 2, and does not
divide by the sum in 3. We differ from the code where it leaves something to chance. p always comes first in N(p, k),
while sorting may put a duplicate of it there. Sums are float64, and the Jaccard similarity 1 - d_J is rounded to
float32, so that equals are equal whatever order sums are taken in. Of items at the same final distance the one with the
lower gallery index comes first.
"""

import numpy as np
from scipy import sparse

from dml.neighbours import RESOLUTION, Classes, Neighbours, checked, distance_blocks, first_of

PAIRS = 2**12
"""Pairs of items whose differences are taken at once."""


def reranked(
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    seed: int = 0,
) -> Neighbours:
    """As `dml.neighbours.neighbours`, with the ranks of the positives in the re-ranked gallery.

    Embeddings (N, D) and labels (N,) of the queries; of the gallery (G, D) and (G,), without which the queries are
    their own. `k1`, `k2` and `weight` have the paper's values. With `weight` 1 the ranking is the plain one. Where
    there are fewer items than k1 + 1 or k2, N(p, k) are all of them. Clusters are those of the embeddings as they are.

    Time: two products of all pairs in float64, and for each query sorting the gallery as far as its last positive.
    Memory beyond the arguments: S three times in float64, about 200 MB, and a few kB for each item. 60,502 x 512 take
    about three minutes on two cores, and 1.4 GB with everything.

    ValueError as in `neighbours`, and for k1 or k2 below 1 or a weight outside [0, 1].
    """
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(f"k1 {k1}, k2 {k2}, weight {weight}; expected at least 1, at least 1, and 0 to 1")
    gallery_is_queries = gallery is None and gallery_labels is None
    embeddings, labels = checked("embeddings", embeddings, "labels", labels)
    if gallery_is_queries:
        items, gallery_labels, first = embeddings, labels, 0
    else:
        items, gallery_labels = _joined(embeddings, gallery, gallery_labels)
        first = len(embeddings)
    classes = Classes.of(labels, gallery_labels)
    n_positives = classes.sizes[classes.of_query] - gallery_is_queries
    queries = np.flatnonzero(n_positives > 0)
    if len(queries) == 0:
        raise ValueError("labels: no query has another item of its class in the gallery; expected at least one")

    items = _in_float64(items)
    lists, farthest = _nearest_and_farthest(items, min(max(k1 + 1, k2), len(items)))
    encodings = _expanded(_encodings(items, farthest, _reciprocal_sets(lists, k1)), lists[:, :k2])
    by_neighbour = encodings[first:].tocsc()
    ranks = []
    for block, distances in distance_blocks(queries, items, items[first:], gallery_is_queries=False):
        for query, row in zip(block, distances, strict=True):
            plain = row / farthest[query]
            final = (1 - weight) * (1 - _similarities(encodings, query, by_neighbour)) + weight * plain
            group = classes.of_query[query]
            positives = classes.by_class[classes.offsets[group] : classes.offsets[group + 1]]
            if gallery_is_queries:
                final[query], positives = np.inf, positives[positives != query]
            ranks.append(_ranks(final, positives))
    return Neighbours(
        np.concatenate(ranks),
        np.concatenate([[0], np.cumsum(n_positives[queries])]),
        queries,
        len(labels) - len(queries),
        embeddings,
        labels,
        seed,
    )


def _joined(
    embeddings: np.ndarray, gallery: np.ndarray | None, gallery_labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """All items (N + G, D) and the labels (G,) of the gallery."""
    if gallery is None or gallery_labels is None:
        raise ValueError("gallery and gallery_labels belong together: give both, or neither for self-retrieval")
    gallery, gallery_labels = checked("gallery", gallery, "gallery_labels", gallery_labels)
    if embeddings.shape[1] != gallery.shape[1]:
        raise ValueError(f"gallery: {gallery.shape[1]} dimensions; expected {embeddings.shape[1]} as in embeddings")
    return np.concatenate([embeddings, gallery]), gallery_labels


def _in_float64(items: np.ndarray) -> np.ndarray:
    """Multiplied by a power of two so that no entry exceeds 1: distances of pairs and of blocks then have one scale."""
    exponent = np.frexp(np.float64(np.abs(items).max()))[1]
    return np.ldexp(items.astype(np.float64), -exponent)


def _nearest_and_farthest(items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """N(p, k - 1) of each item p: (N, k) indices, p itself first; and the largest of its distances, (N,) float64."""
    lists, farthest = np.empty((len(items), k), np.int64), np.empty(len(items))
    for block, distances in distance_blocks(np.arange(len(items)), items, items, gallery_is_queries=False):
        farthest[block] = distances.max(axis=1)
        distances[np.arange(len(block)), block] = -1
        lists[block] = [first_of(k, row) for row in distances]
    return lists, np.maximum(farthest, np.finfo(np.float32).tiny)  # of nothing but zeros no distance is above 0


def _reciprocal_sets(lists: np.ndarray, k1: int) -> sparse.csr_array:
    """R*(p) of each item p: (N, N), with something other than zero in row p and column g where g is in R*(p)."""
    near, nearer = _reciprocal(lists[:, : k1 + 1]), _reciprocal(lists[:, : round(k1 / 2) + 1])
    common = (near @ nearer).multiply(near).tocoo()  # |R(p, k1) and R(q, k1 / 2)|, as R is symmetric
    p, q = common.coords
    joins = 3 * common.data > 2 * nearer.sum(axis=1)[q]
    joined = sparse.csr_array((common.data[joins], (p[joins], q[joins])), shape=common.shape)
    return near + joined @ nearer


def _reciprocal(lists: np.ndarray) -> sparse.csr_array:
    """Of N(p, k) as rows (N, k + 1), R(p, k): 1 in row p and column q (N, N) where each is in the other's."""
    members = _members(lists)
    return members.multiply(members.T).tocsr()


def _members(lists: np.ndarray) -> sparse.csr_array:
    """1 where the item of the column is in the list of the row: (N, N) of (N, k)."""
    n, k = lists.shape
    starts = np.arange(0, n * k + 1, k)
    return sparse.csr_array((np.ones(n * k, np.int32), np.sort(lists, axis=1).ravel(), starts), shape=(n, n))


def _encodings(items: np.ndarray, farthest: np.ndarray, sets: sparse.csr_array) -> sparse.csr_array:
    """V(p) of each item p before expansion: (N, N) float64 with rows of sum 1."""
    sets.sort_indices()
    sizes = np.diff(sets.indptr)
    p = np.repeat(np.arange(len(items)), sizes)
    weights = np.exp(-_distances(items, p, sets.indices) / farthest[p])
    sums = np.add.reduceat(weights, sets.indptr[:-1])
    return sparse.csr_array((weights / np.repeat(sums, sizes), sets.indices, sets.indptr), shape=sets.shape)


def _distances(items: np.ndarray, p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """d(p, g) of pairs of items, (pairs,) float32."""
    squares = np.empty(len(p), np.float32)
    for start in range(0, len(p), PAIRS):
        pairs = slice(start, start + PAIRS)
        squares[pairs] = np.square(items[p[pairs]] - items[g[pairs]]).sum(axis=1)
    resolved = RESOLUTION**2 * np.square(items).sum(axis=1)
    return np.maximum(squares, resolved.astype(np.float32)[p])


def _expanded(encodings: sparse.csr_array, lists: np.ndarray) -> sparse.csr_array:
    """The mean encoding of the items of each list (N, k2)."""
    expanded = _members(lists) @ encodings
    expanded.data /= lists.shape[1]
    expanded.sort_indices()
    return expanded


def _similarities(encodings: sparse.csr_array, query: int, by_neighbour: sparse.csc_array) -> np.ndarray:
    """The Jaccard similarity 1 - d_J of one query with each item of the gallery, (G,) in [0, 1]."""
    own = slice(*encodings.indptr[query : query + 2])
    others = by_neighbour[:, encodings.indices[own]]
    minima = np.minimum(others.data, np.repeat(encodings.data[own], np.diff(others.indptr)))
    sums = np.bincount(others.indices, minima, minlength=by_neighbour.shape[0])
    return (sums / (2 - sums)).astype(np.float32).astype(np.float64)


def _ranks(distances: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The ranks (R,) of the positives, ascending, by distances (G,) and index."""
    candidates = np.flatnonzero(distances <= distances[positives].max())
    order = candidates[np.argsort(distances[candidates], kind="stable")]
    is_positive = np.zeros(len(distances), bool)
    is_positive[positives] = True
    return (np.flatnonzero(is_positive[order]) + 1).astype(np.int32)
