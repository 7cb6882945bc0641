"""Exact nearest neighbours of every query, reduced to what retrieval metrics need: the ranks of the query's positives.

A *positive* of a query is a gallery item of the query's class. Ranks start at 1 and follow three stated rules:

- **distance**: squared Euclidean, computed in float64 and rounded to float32, so that equal vectors get equal distances
  whatever order sums are taken in. Distances below `RESOLUTION` times the query's length count as that: they
  are rounding error, not geometry. The embeddings are ranked as they come; normalising them is the caller's business.
- **ties**: of two gallery items at the same distance, the one with the lower gallery index comes first.
- **self**: without a gallery, every item is ranked against all the others and excluded from its own ranking by its
  index, never by its distance, so that a duplicate of the query stays in.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Self

import numpy as np

BLOCK_BYTES = 128 * 2**20
RESOLUTION = 2.0**-22
KMEANS_ITERATIONS = 20
_BYTES_PER_DISTANCE = 12  # float64, then float32
SMALLEST_TILE, TILE_OF_FEW, TILE_OF_MANY = 256, 1024, 2048
"""Queries, and as many items, compared at once. Their float32 products, 4 MB, stay in a processor's cache; where a
query has many positives the work that each row of a tile takes, whatever its length, weighs more."""
DEPTH = 128
"""Dimensions that the float32 product sums up before it adds to the sum of those before."""


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
    threads: int | None = None,
    device: str = "cpu",
) -> Neighbours:
    """Rank the gallery (G, D) for every query (N, D) and keep the ranks of the positives.

    Without a gallery, the embeddings are their own gallery, each query excluded by its index. Labels are one value per
    embedding, (N,) and (G,), of any type that sorts. `seed` is the clustering's.

    Neither `device`, where the ranks are found, nor `threads` changes a result (on a GPU float64 sums in another order,
    which can matter where two distances are equal to float32's last digit); of threads there are OMP_NUM_THREADS,
    or as many as the process has cores, if not given. Memory beyond the arguments: two copies of gallery and queries,
    12 bytes for each positive of a query, and at most 16 MB a thread; on a GPU about 1 GB.

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

    classes = _Classes.of(labels, gallery_labels)
    n_positives = classes.sizes[classes.of_query] - gallery_is_queries
    queries = np.flatnonzero(n_positives > 0)
    if len(queries) == 0:
        raise ValueError("labels: no query has another item of its class in the gallery; expected at least one")
    offsets = np.concatenate([[0], np.cumsum(n_positives)])
    found = Neighbours(
        np.empty(offsets[-1], np.int32),
        offsets[np.append(queries, len(labels))],  # those left out have no places between
        queries,
        len(labels) - len(queries),
        embeddings,
        labels,
        seed,
    )
    scaled = _scaled(embeddings, gallery, gallery_is_queries)
    others = None
    if device != "cpu":
        others = _count_on_gpu(*scaled, offsets, classes, gallery_is_queries, device)
    if others is None:
        others = _count(*scaled, offsets, classes, gallery_is_queries, threads or _usable_cores())
    np.add(others, found.hits, out=found.ranks)  # before the k-th positive there are k - 1 others, and those counted
    return found


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


@dataclass(frozen=True)
class _Classes:
    """The gallery indices of each class, ascending, one class after the other, and the class of each query."""

    by_class: np.ndarray
    offsets: np.ndarray
    of_query: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, gallery_labels: np.ndarray) -> Self:
        classes, class_of_item = np.unique(gallery_labels, return_inverse=True)
        place = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        of_query = np.where(classes[place] == labels, place, len(classes))  # the last class is of those without any
        sizes = np.bincount(class_of_item, minlength=len(classes) + 1)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        return cls(np.argsort(class_of_item, kind="stable"), offsets, of_query)

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)


def _usable_cores() -> int:
    """As many as the process was told to use, as all numerical libraries are told it."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(told) if told else len(os.sched_getaffinity(0))


def _scaled(embeddings: np.ndarray, gallery: np.ndarray, gallery_is_queries: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both multiplied by a power of two, which is exact, so that squares of very large and very small ones are none."""
    if embeddings.shape[1] != gallery.shape[1]:
        raise ValueError(f"gallery: {gallery.shape[1]} dimensions; expected {embeddings.shape[1]} as in embeddings")
    largest = max(np.abs(embeddings).max(), np.abs(gallery).max())
    exponent = -int(np.frexp(np.float64(largest))[1])
    scaled = [
        np.ascontiguousarray(np.ldexp(each.astype(np.promote_types(each.dtype, np.float32), copy=False), exponent))
        for each in ([gallery] if gallery_is_queries else [embeddings, gallery])
    ]
    return scaled[0], scaled[-1]


def _count(
    embeddings: np.ndarray,
    gallery: np.ndarray,
    offsets: np.ndarray,
    classes: _Classes,
    gallery_is_queries: bool,
    threads: int,
) -> np.ndarray:
    """How many items of other classes come before each positive of each query: (offsets[-1],) int32.

    The product of a tile of queries with one of items is taken in float32, and tells for nearly all items on which side
    of a positive they are; what its rounding error leaves in doubt is computed anew in float64. The bound of that error
    is rigorous: n u / (1 - n u) for sums of n products (Higham 2002, "Accuracy and Stability of Numerical Algorithms",
    section 3.1). Products of `DEPTH` dimensions are added up, so that n is small. Without a gallery a tile serves both
    its rows and its columns.
    """
    from threadpoolctl import threadpool_limits

    from dml import counting

    given = [gallery] if gallery_is_queries else [embeddings, gallery]
    sides = [counting.Side(vectors, counting.half_norms(vectors)) for vectors in given]
    slices = [_slices(vectors) for vectors in given]
    positives = counting.Positives(offsets, np.empty(offsets[-1], np.float32), np.empty(offsets[-1], np.int32))
    counts = np.zeros(offsets[-1], np.int32)
    rounded = 2  # both vectors, where they were not float32
    summed = min(DEPTH, embeddings.shape[1]) + len(slices[0]) + rounded
    error = summed * 2.0**-24 / (1 - summed * 2.0**-24)
    largest = TILE_OF_FEW if offsets[-1] < counting.MANY * len(embeddings) else TILE_OF_MANY
    side = min(largest, max(SMALLEST_TILE, -(-len(gallery) // (2 * threads))))
    starts, item_starts = range(0, len(embeddings), side), range(0, len(gallery), side)
    locks = [Lock() for _ in starts]

    def find_positives(start: int) -> None:
        end = min(start + side, len(embeddings))
        counting.find_positives(
            start, end, sides[0], sides[-1], classes.by_class, classes.offsets, classes.of_query, gallery_is_queries,
            RESOLUTION, positives,
        )  # fmt: skip

    def compare(tile: tuple[int, int]) -> None:
        rows, columns = tile
        products = _products(slices[0], slices[-1], slice(rows, rows + side), slice(columns, columns + side))
        uses = [(False, rows, columns), (True, columns, rows)]
        for transposed, query, item in uses if gallery_is_queries and rows != columns else uses[:1]:
            with locks[query // side]:
                counting.count(
                    products,
                    transposed,
                    query,
                    item,
                    sides[0],
                    sides[-1],
                    positives,
                    gallery_is_queries,
                    error,
                    RESOLUTION,
                    counts,
                )

    tiles = [(query, item) for query in starts for item in item_starts if item >= query or not gallery_is_queries]
    tiles.sort(key=lambda tile: (tile[1] - tile[0]) % len(gallery))  # those that are compared together share no rows
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for work, parts in ((find_positives, starts), (compare, tiles)):
            for _ in pool.map(work, parts):
                pass
    return counts


def _count_on_gpu(
    embeddings: np.ndarray,
    gallery: np.ndarray,
    offsets: np.ndarray,
    classes: _Classes,
    gallery_is_queries: bool,
    device: str,
) -> np.ndarray | None:
    """The same; None where the CPU is the better place."""
    import torch

    from dml import counting_on_gpu

    positives = counting_on_gpu.positives_of(
        classes.of_query, classes.by_class, np.append(classes.offsets, classes.offsets[-1]), gallery_is_queries
    )
    try:
        return counting_on_gpu.count(embeddings, gallery, offsets, positives, gallery_is_queries, RESOLUTION, device)
    except torch.OutOfMemoryError:
        return None


def _slices(vectors: np.ndarray) -> list[np.ndarray]:
    """Their dimensions, `DEPTH` at a time, float32."""
    return [
        np.ascontiguousarray(vectors[:, start : start + DEPTH], dtype=np.float32)
        for start in range(0, vectors.shape[1], DEPTH)
    ]


def _products(
    queries: Sequence[np.ndarray], items: Sequence[np.ndarray], which_queries: slice, which_items: slice
) -> np.ndarray:
    """The dot products of some queries with some items, float32."""
    first, *others = zip(queries, items, strict=True)
    products = first[0][which_queries] @ first[1][which_items].T
    part = np.empty_like(products)
    for a, b in others:
        np.matmul(a[which_queries], b[which_items].T, out=part)
        products += part
    return products


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


def _first(k: int, distances: np.ndarray) -> np.ndarray:
    """The indices (k,) of the k smallest distances (G,), in order."""
    candidates = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1])
    return candidates[np.argsort(distances[candidates], kind="stable")[:k]]
