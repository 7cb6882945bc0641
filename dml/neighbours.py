"""Exact nearest neighbours of every query, reduced to what retrieval metrics need: the ranks of the query's positives.

A *positive* of a query is a gallery item of the query's class. Ranks start at 1 and follow three stated rules:

- **distance**: squared Euclidean, computed in float64 and rounded to float32, so that equal vectors get equal distances
  whatever order the matrix product sums in. Distances below `RESOLUTION` times the query's length count as that: they
  are rounding error, not geometry. The embeddings are ranked as they come; normalising them is the caller's business.
- **ties**: of two gallery items at the same distance, the one with the lower gallery index comes first.
- **self**: without a gallery, every item is ranked against all the others and excluded from its own ranking by its
  index, never by its distance, so that a duplicate of the query stays in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLOCK_BYTES = 128 * 2**20
RESOLUTION = 2.0**-22
KMEANS_ITERATIONS = 20
_BYTES_PER_DISTANCE = 16  # float64, then float32, then float32 sorted
_MANY_TIES = 32  # from about here on, sorting all items is faster than looking up each tied distance


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The ranks of the positives of Q queries, with what clustering metrics need beside them."""

    ranks: np.ndarray
    """(sum of R,) int32: the 1-based ranks of each query's positives, ascending, one query after the other."""
    offsets: np.ndarray
    """(Q + 1,) int64: the ranks of the q-th query are `ranks[offsets[q]:offsets[q + 1]]`."""
    queries: np.ndarray
    """(Q,) int64: the positions, among the embeddings given, of the queries that have a positive."""
    n_left_out: int
    """How many queries have no positive in the gallery; they have no place in `ranks`."""
    embeddings: np.ndarray
    """(Q + n_left_out, D): the embeddings of all queries, as given."""
    labels: np.ndarray
    """(Q + n_left_out,): their labels, as given."""
    seed: int
    """The seed of the clustering."""

    @property
    def n_queries(self) -> int:
        """Q, the number of queries that a per-query metric is a mean over."""
        return len(self.queries)

    @cached_property
    def r(self) -> np.ndarray:
        """(Q,) int64: R, the number of positives of each query; at least 1."""
        return np.diff(self.offsets)

    @cached_property
    def hits(self) -> np.ndarray:
        """(sum of R,) int64: 1 for the first positive of its query, 2 for the second, ...; R for the last."""
        return np.arange(len(self.ranks)) - np.repeat(self.offsets[:-1], self.r) + 1

    @cached_property
    def first_ranks(self) -> np.ndarray:
        """(Q,) int32: the rank of each query's nearest positive."""
        return self.ranks[self.offsets[:-1]]

    @cached_property
    def clusters(self) -> tuple[np.ndarray, np.ndarray]:
        """The k-means cluster and the true label of every query, left-out ones included: two (Q + n_left_out,) arrays.

        k-means of faiss with k = number of classes among the queries, 20 iterations and `seed`. Departure from faiss's
        defaults, and so from PML: classes of more than 256 images are not subsampled.
        """
        import faiss

        points = np.ascontiguousarray(self.embeddings, dtype=np.float32)
        n_points, n_dimensions = points.shape
        kmeans = faiss.Kmeans(
            n_dimensions,
            len(np.unique(self.labels)),
            niter=KMEANS_ITERATIONS,
            seed=self.seed,
            min_points_per_centroid=1,
            max_points_per_centroid=n_points,
        )
        kmeans.train(points)
        return kmeans.index.search(points, 1)[1][:, 0], self.labels

    def sum_per_query(self, values: np.ndarray) -> np.ndarray:
        """Sums of values given per positive, like `ranks`: (sum of R,) -> (Q,)."""
        return np.add.reduceat(values, self.offsets[:-1])


def neighbours(
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> Neighbours:
    """Rank the gallery (G, D) for every query (N, D) and keep the ranks of the positives.

    Without a gallery, the embeddings are their own gallery, each query excluded by its index. Labels are one value per
    embedding, (N,) and (G,), of any type that sorts. `seed` is the clustering's. Memory beyond the arguments: the
    gallery and the queries in float64, and blocks of distances of `BLOCK_BYTES`.

    ValueError for lengths or widths that do not fit together, for NaN or infinite embeddings, and if no query at all
    has a positive.
    """
    embeddings, labels = _checked("embeddings", embeddings, "labels", labels)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together: give both, or neither for self-retrieval")
    gallery_is_queries = gallery is None
    if gallery_is_queries:
        gallery, gallery_labels = embeddings, labels
    else:
        gallery, gallery_labels = _checked("gallery", gallery, "gallery_labels", gallery_labels)

    members = _members(labels, gallery_labels)
    n_positives = np.array([len(positives) for positives in members]) - gallery_is_queries
    queries = np.flatnonzero(n_positives > 0)
    if len(queries) == 0:
        raise ValueError("labels: no query has another item of its class in the gallery; expected at least one")

    offsets = np.concatenate([[0], np.cumsum(n_positives[queries])])
    ranks = np.empty(offsets[-1], dtype=np.int32)
    done = 0
    for block, distances in _distance_blocks(queries, embeddings, gallery, gallery_is_queries):
        ascending = np.sort(distances, axis=1)
        for query, row, ascending_row in zip(block, distances, ascending, strict=True):
            positives = members[query]
            if gallery_is_queries:
                positives = positives[positives != query]
            ranks[offsets[done] : offsets[done + 1]] = _ranks(positives, row, ascending_row)
            done += 1

    return Neighbours(ranks, offsets, queries, len(labels) - len(queries), embeddings, labels, seed)


def nearest(embeddings: np.ndarray, queries: np.ndarray, k: int, gallery: np.ndarray | None = None) -> np.ndarray:
    """The gallery indices (len(queries), k) of the k nearest items of some queries, nearest first.

    `queries` are positions in `embeddings` (N, D). Distance, ties and self-retrieval follow the rules of `neighbours`.
    ValueError if the gallery holds fewer than k items besides the query.
    """
    embeddings = _checked_embeddings("embeddings", embeddings)
    gallery_is_queries = gallery is None
    gallery = embeddings if gallery_is_queries else _checked_embeddings("gallery", gallery)
    if not 1 <= k <= len(gallery) - gallery_is_queries:
        raise ValueError(f"k: {k} neighbours asked for; expected 1 to {len(gallery) - gallery_is_queries}")

    blocks = _distance_blocks(np.asarray(queries, dtype=np.int64), embeddings, gallery, gallery_is_queries)
    found = [_first(k, row) for _, distances in blocks for row in distances]
    return np.array(found, dtype=np.int64).reshape(-1, k)


def _checked(name: str, embeddings: np.ndarray, labels_name: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = _checked_embeddings(name, embeddings), np.asarray(labels)
    if labels.shape != (len(embeddings),):
        raise ValueError(f"{labels_name}: shape {labels.shape}; expected one per row of {name}, ({len(embeddings)},)")
    return embeddings, labels


def _checked_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.dtype.kind != "f":
        embeddings = embeddings.astype(np.float64)
    if embeddings.ndim != 2 or embeddings.size == 0:
        raise ValueError(f"{name}: shape {embeddings.shape}; expected (items, dimensions), both at least 1")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name}: {np.count_nonzero(~finite)} of {len(finite)} rows hold NaN or infinity, the first is row "
            f"{np.argmin(finite)}; expected finite numbers"
        )
    return embeddings


def _members(labels: np.ndarray, gallery_labels: np.ndarray) -> list[np.ndarray]:
    """For each query, the ascending gallery indices of its class (the query's own among them in self-retrieval)."""
    classes, class_of_item = np.unique(gallery_labels, return_inverse=True)
    by_class = np.argsort(class_of_item, kind="stable")
    ends = np.cumsum(np.bincount(class_of_item, minlength=len(classes)))
    members = dict(zip(classes.tolist(), np.split(by_class, ends[:-1]), strict=True))
    nothing = np.empty(0, dtype=np.int64)
    return [members.get(label, nothing) for label in labels.tolist()]


def _distance_blocks(
    queries: np.ndarray, embeddings: np.ndarray, gallery: np.ndarray, gallery_is_queries: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some queries (b,) at a time and their squared distances (b, G), float32, to the gallery; infinite to themselves.

    The squares |x|^2 + |y|^2 - 2xy cancel for near neighbours, hence float64. Scaling by a power of two is exact and
    keeps squares of very large and very small embeddings within float32.
    """
    if embeddings.shape[1] != gallery.shape[1]:
        raise ValueError(f"gallery: {gallery.shape[1]} dimensions; expected {embeddings.shape[1]} as in embeddings")
    largest = max(np.abs(embeddings).max(), np.abs(gallery).max())
    exponent = -int(np.frexp(np.float64(largest))[1])
    gallery = np.ldexp(gallery.astype(np.float64), exponent)
    embeddings = gallery if gallery_is_queries else np.ldexp(embeddings.astype(np.float64), exponent)
    gallery_norms = np.einsum("ij,ij->i", gallery, gallery)

    size = max(1, BLOCK_BYTES // (_BYTES_PER_DISTANCE * len(gallery)))
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        vectors = embeddings[block]
        norms = np.einsum("ij,ij->i", vectors, vectors)
        squares = vectors @ gallery.T
        squares *= -2
        squares += gallery_norms
        squares += norms[:, None]
        distances = squares.astype(np.float32)
        np.maximum(distances, (RESOLUTION**2 * norms).astype(np.float32)[:, None], out=distances)
        if gallery_is_queries:
            distances[np.arange(len(block)), block] = np.inf
        yield block, distances


def _ranks(positives: np.ndarray, distances: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """The ascending 1-based ranks of the positives (R,) of one query, given its distances (G,), also sorted."""
    of_positives = distances[positives]
    ordered = np.sort(of_positives)
    before = np.searchsorted(ascending, ordered, side="left")
    tied = np.unique(ordered[np.searchsorted(ascending, ordered, side="right") - before > 1])
    if len(tied) > _MANY_TIES:
        is_positive = np.zeros(len(distances), dtype=bool)
        is_positive[positives] = True
        return np.flatnonzero(is_positive[np.argsort(distances, kind="stable")]) + 1
    for distance in tied:
        items = np.flatnonzero(distances == distance)
        before[ordered == distance] += np.searchsorted(items, positives[of_positives == distance])
    return before + 1


def _first(k: int, distances: np.ndarray) -> np.ndarray:
    """The indices (k,) of the k smallest distances (G,), in order."""
    candidates = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1])
    return candidates[np.argsort(distances[candidates], kind="stable")[:k]]
