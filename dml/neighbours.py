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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock
from typing import NamedTuple, Self

import numpy as np
from threadpoolctl import ThreadpoolController

BLOCK_BYTES = 128 * 2**20
RESOLUTION = 2.0**-22
KMEANS_ITERATIONS = 20
_BYTES_PER_DISTANCE = 12  # float64, then float32
PORTION = 256
"""Queries whose positives are found at once."""
SMALLEST_TILE = 256
"""Queries of a tile, at least, where so few are compared that every thread should get some."""


class _Tiling(NamedTuple):
    """How the products of queries and items are taken, a tile at a time."""

    side: int
    """Queries, and as many items, at most."""
    depth: int
    """Dimensions that the float32 product sums up before it adds to the sum of those before."""
    part: int
    """Items that are multiplied with a tile's queries at once."""


OF_FEW = _Tiling(1024, 512, 1024)
"""4 MB, which stay in a processor's cache while the positives of a query are compared with its row one by one."""
OF_MANY = _Tiling(2048, 128, 256)
"""For many positives a query: what each row takes, whatever its length, weighs more; and more items are close to one of
them, where less depth is less error."""
NOT_SMALL = 20
"""Powers of two below 1 at which squares are nowhere near the smallest float32."""


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
    or as many as the process has cores, if not given. Memory beyond the arguments: at most two copies of both sides,
    12 bytes for each positive of a query, and at most 24 MB a thread; on a GPU about 1 GB.

    ValueError for lengths or widths that do not fit together, for NaN or infinite embeddings, and if no query at all
    has a positive.
    """
    embeddings, labels = checked("embeddings", embeddings, "labels", labels)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together: give both, or neither for self-retrieval")
    gallery_is_queries = gallery is None
    if gallery_is_queries:
        gallery, gallery_labels = embeddings, labels
    else:
        gallery, gallery_labels = checked("gallery", gallery, "gallery_labels", gallery_labels)

    classes = Classes.of(labels, gallery_labels)
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
        others = _count(*scaled, offsets, classes, gallery_is_queries, threads or usable_cores())
    np.add(others, found.hits, out=found.ranks)  # before the k-th positive there are k - 1 others, and those counted
    return found


def nearest(embeddings: np.ndarray, queries: np.ndarray, k: int, gallery: np.ndarray | None = None) -> np.ndarray:
    """The gallery indices (len(queries), k) of the k nearest items of some queries, nearest first.

    `queries` are positions in `embeddings` (N, D). Distance, ties and self-retrieval follow the rules of `neighbours`.
    ValueError if the gallery holds fewer than k items besides the query.
    """
    embeddings = checked_embeddings("embeddings", embeddings)
    gallery_is_queries = gallery is None
    gallery = embeddings if gallery_is_queries else checked_embeddings("gallery", gallery)
    if not 1 <= k <= len(gallery) - gallery_is_queries:
        raise ValueError(f"k: {k} neighbours asked for; expected 1 to {len(gallery) - gallery_is_queries}")

    blocks = distance_blocks(np.asarray(queries, dtype=np.int64), embeddings, gallery, gallery_is_queries)
    found = [first_of(k, row) for _, distances in blocks for row in distances]
    return np.array(found, dtype=np.int64).reshape(-1, k)


def checked(name: str, embeddings: np.ndarray, labels_name: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = checked_embeddings(name, embeddings), np.asarray(labels)
    if labels.shape != (len(embeddings),):
        raise ValueError(f"{labels_name}: shape {labels.shape}; expected one per row of {name}, ({len(embeddings)},)")
    return embeddings, labels


def checked_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
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
class Classes:
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


def usable_cores() -> int:
    """As many as the process was told to use, as all numerical libraries are told it."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(told) if told else len(os.sched_getaffinity(0))


def _scaled(embeddings: np.ndarray, gallery: np.ndarray, gallery_is_queries: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both multiplied by a power of two, which is exact, so that squares of very large and very small ones are none."""
    if embeddings.shape[1] != gallery.shape[1]:
        raise ValueError(f"gallery: {gallery.shape[1]} dimensions; expected {embeddings.shape[1]} as in embeddings")
    largest = max(max(each.max(), -each.min()) for each in (embeddings, gallery))
    exponent = -int(np.frexp(np.float64(largest))[1])
    given = [gallery] if gallery_is_queries else [embeddings, gallery]
    scaled = [each.astype(np.promote_types(each.dtype, np.float32), copy=False) for each in given]
    if not 0 <= exponent <= NOT_SMALL:
        scaled = [np.ldexp(each, exponent) for each in scaled]
    scaled = [np.require(each, requirements=["C", "W"]) for each in scaled]  # what is compiled, is for these
    return scaled[0], scaled[-1]


def _count(
    embeddings: np.ndarray,
    gallery: np.ndarray,
    offsets: np.ndarray,
    classes: Classes,
    gallery_is_queries: bool,
    threads: int,
) -> np.ndarray:
    """How many items of other classes come before each positive of each query: (offsets[-1],) int32.

    The product of a tile of queries with one of items is taken in float32, and tells for nearly all items on which side
    of a positive they are; what its rounding error leaves in doubt is computed anew in float64. The bound of that error
    is rigorous: n u / (1 - n u) for sums of n products (Higham 2002, "Accuracy and Stability of Numerical Algorithms",
    section 3.1). Sums of `depth` products are added up, so that n is small. Without a gallery a tile serves both
    its rows and its columns.
    """
    from dml import counting

    given = [gallery] if gallery_is_queries else [embeddings, gallery]
    sides = [counting.Side(vectors, counting.half_norms(vectors)) for vectors in given]
    single = [vectors.astype(np.float32, copy=False) for vectors in given]
    positives = counting.Positives(offsets, np.empty(offsets[-1], np.float32), np.empty(offsets[-1], np.int32))
    counts = np.zeros(offsets[-1], np.int32)
    few = offsets[-1] < counting.MANY * len(embeddings)
    tiling = OF_FEW if few else OF_MANY
    dimensions = embeddings.shape[1]
    rounded = 2  # both vectors, where they were not float32
    summed = min(tiling.depth, dimensions) + -(-dimensions // tiling.depth) + rounded
    error = summed * 2.0**-24 / (1 - summed * 2.0**-24)
    side = min(tiling.side, max(SMALLEST_TILE, -(-len(gallery) // (2 * threads))))
    starts, item_starts = range(0, len(embeddings), side), range(0, len(gallery), side)
    locks = [Lock() for _ in starts]

    portions = [slice(start, min(start + PORTION, len(embeddings))) for start in range(0, len(embeddings), PORTION)]

    def find_positives(rows: slice) -> None:
        counting.find_positives(
            rows.start, rows.stop, sides[0], sides[-1], classes.by_class, classes.offsets, classes.of_query,
            gallery_is_queries, RESOLUTION, positives,
        )  # fmt: skip

    def sort_positives(rows: slice) -> None:
        counting.sort_positives(rows.start, rows.stop, positives)

    def compare(tile: tuple[int, int]) -> None:
        first_row, first_column = tile
        rows, columns = slice(first_row, first_row + side), slice(first_column, first_column + side)
        itself_with_itself = gallery_is_queries and rows == columns
        products = _multiply(single[0][rows], single[-1][columns], tiling, itself_with_itself)
        uses = [(False, first_row, first_column)]
        if gallery_is_queries and not itself_with_itself:
            uses.append((True, first_column, first_row))
        if first_row // side % 2:
            uses.reverse()  # threads that compare tiles of common columns begin with different ones
        uses.sort(key=lambda use: locks[use[1] // side].locked())
        for transposed, query, item in uses:
            with locks[query // side]:
                counting.count(
                    products, transposed, query, item, sides[0], sides[-1], positives, gallery_is_queries, error,
                    RESOLUTION, counts,
                )  # fmt: skip

    tiles = [(query, item) for query in starts for item in item_starts if item >= query or not gallery_is_queries]
    # The quickest, of the same queries and items, come last: threads end at about the same time.
    tiles.sort(key=lambda tile: (tile[0] - tile[1]) % len(gallery), reverse=True)
    with _matrix_products().limit(limits=1), ThreadPoolExecutor(threads) as pool:
        for work, parts in ((find_positives, portions), (sort_positives, portions), (compare, tiles)):
            for _ in pool.map(work, parts):
                pass
    return counts


def _count_on_gpu(
    embeddings: np.ndarray,
    gallery: np.ndarray,
    offsets: np.ndarray,
    classes: Classes,
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


@cache
def _matrix_products() -> ThreadpoolController:
    """The libraries that multiply matrices: to look for them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def _multiply(queries: np.ndarray, items: np.ndarray, tiling: _Tiling, symmetric: bool) -> np.ndarray:
    """The dot products (rows, columns) of some queries (rows, D) with some items (columns, D), float32.

    Where both are the same, half of them are multiplied.
    """
    products = np.empty((len(queries), len(items)), np.float32)
    for start in range(0, len(items), tiling.part):
        columns = slice(start, min(start + tiling.part, len(items)))
        rows = slice(0, columns.stop if symmetric else None)
        _multiply_part(queries[rows], items[columns].T, tiling.depth, products[rows, columns])
        if symmetric:
            products[columns, :start] = products[:start, columns].T
    return products


def _multiply_part(a: np.ndarray, b: np.ndarray, depth: int, out: np.ndarray) -> None:
    """Of two matrices, the products of so many dimensions at a time added up."""
    *firsts, last = (slice(start, start + depth) for start in range(0, len(b), depth))
    if not firsts:
        np.matmul(a, b, out=out)
        return
    total = a[:, firsts[0]] @ b[firsts[0]]
    part = np.empty_like(total)
    for some in firsts[1:]:
        total += np.matmul(a[:, some], b[some], out=part)
    np.add(total, np.matmul(a[:, last], b[last], out=part), out=out)


def distance_blocks(
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


def first_of(k: int, distances: np.ndarray) -> np.ndarray:
    """The indices (k,) of the k smallest distances (G,), in order."""
    candidates = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1])
    return candidates[np.argsort(distances[candidates], kind="stable")[:k]]
