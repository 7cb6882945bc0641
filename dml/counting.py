"""Compiled loops of `dml/neighbours.py`: how many items lie before each positive of a query."""

from typing import NamedTuple

import numpy as np
from numba import njit

CHUNK = 128
"""Items compared with a positive at once, before anybody asks whether one of them was too close to call."""
COLUMNS = 16
"""Columns of a tile that are turned into rows at once: a cache line of float32."""
MANY = 48
"""From so many positives on, sorting items into buckets is faster than comparing all items with each."""
BUCKETS = 1024
FEW = 8
"""Comparisons of an item with positives that cost less than to sort the items."""
ROUNDING = 2.0**-21
"""Bound of what float32 makes of lengths, differences and thresholds, in units of (length + length)^2."""

UNDERFLOW = 2.0**-100
"""More than all products that float32 makes zero."""

compiled = njit(cache=True, nogil=True)
# What may be done to sums and minima so that they are taken many terms at a time. No number here is NaN.
vectorised = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "nnan"})


class Side(NamedTuple):
    """Queries, or gallery items: none of their entries exceeds 1."""

    vectors: np.ndarray
    """(N, D) float32 or float64; what is computed of them is computed in float64."""
    half_norms: np.ndarray
    """(N,) float64: half their squared lengths."""


class Positives(NamedTuple):
    """The positives of each query, one query after the other, nearest first."""

    offsets: np.ndarray
    """(queries + 1,): those of query q are at `offsets[q]:offsets[q + 1]` of the others."""
    distances: np.ndarray
    """Squared, float32."""
    items: np.ndarray
    """Which gallery items they are."""


@vectorised
def product(a: np.ndarray, b: np.ndarray) -> float:
    """The dot product of two vectors, in float64."""
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@compiled
def half_norms(vectors: np.ndarray) -> np.ndarray:
    """Half the squared length of each row."""
    found = np.empty(len(vectors), np.float64)
    for i in range(len(vectors)):
        found[i] = 0.5 * product(vectors[i], vectors[i])
    return found


@vectorised
def squared_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors, in float64."""
    total = 0.0
    for i in range(len(a)):
        difference = np.float64(a[i]) - np.float64(b[i])
        total += difference * difference
    return total


@compiled
def distance(queries: Side, gallery: Side, query: int, item: int, resolution: float) -> np.float32:
    """The squared distance of a query and an item, by the rule of `neighbours`."""
    squared = np.float32(squared_distance(queries.vectors[query], gallery.vectors[item]))
    return max(squared, np.float32(2.0 * queries.half_norms[query] * resolution**2))


@compiled
def find_positives(
    first: int,
    end: int,
    queries: Side,
    gallery: Side,
    by_class: np.ndarray,
    class_offsets: np.ndarray,
    class_of_query: np.ndarray,
    itself: bool,
    resolution: float,
    positives: Positives,
) -> None:
    """Fill in the positives of the queries first..end-1.

    The items of class c are `by_class[class_offsets[c]:class_offsets[c + 1]]`, ascending. With `itself`, a query is no
    positive of its own.
    """
    for q in range(first, end):
        begin, count = positives.offsets[q], positives.offsets[q + 1] - positives.offsets[q]
        if count == 0:
            continue
        items, distances = np.empty(count, np.int32), np.empty(count, np.float32)
        k = 0
        for place in range(class_offsets[class_of_query[q]], class_offsets[class_of_query[q] + 1]):
            if not (itself and by_class[place] == q):
                items[k] = by_class[place]
                distances[k] = distance(queries, gallery, q, items[k], resolution)
                k += 1
        order = np.argsort(distances, kind="mergesort")  # stable: the lower index first among equals
        for k in range(count):
            positives.distances[begin + k] = distances[order[k]]
            positives.items[begin + k] = items[order[k]]


@compiled
def count(
    tile: np.ndarray,
    transposed: bool,
    first_query: int,
    first_item: int,
    queries: Side,
    gallery: Side,
    positives: Positives,
    itself: bool,
    error: float,
    resolution: float,
    counts: np.ndarray,
) -> None:
    """Add to `counts` how many items of a tile, but for positives, come before each positive of its queries.

    The tile holds dot products in float32, of the queries (rows; columns if `transposed`) from `first_query` on with
    the items from `first_item` on. Each is true to `error` times the lengths of both. What that leaves in doubt is
    computed anew from the vectors.
    """
    n_queries, n_items = (tile.shape[1], tile.shape[0]) if transposed else (tile.shape[0], tile.shape[1])
    n_chunks = -(-n_items // CHUNK)
    filled = n_chunks * CHUNK
    halves = gallery.half_norms[first_item : first_item + n_items].astype(np.float32)
    longest = np.sqrt(2.0 * gallery.half_norms[first_item : first_item + n_items].max())
    rows = np.empty((COLUMNS, filled + COLUMNS), np.float32)  # longer by a cache line: else their ends share one place
    rows[:, n_items:] = np.inf  # what fills the last chunk comes after everything
    known = np.empty(filled, np.float32)
    for start in range(0, n_queries, COLUMNS):
        width = min(COLUMNS, n_queries - start)
        if transposed:
            for j in range(n_items):
                for i in range(width):
                    rows[i, j] = halves[j] - tile[j, start + i]
        else:
            for i in range(width):
                for j in range(n_items):
                    rows[i, j] = halves[j] - tile[start + i, j]
        for i in range(width):
            q = first_query + start + i
            begin, end = positives.offsets[q], positives.offsets[q + 1]
            if begin == end:
                continue
            if itself and first_item <= q < first_item + n_items:
                rows[i, q - first_item] = np.inf
            for place in range(begin, end):
                if first_item <= positives.items[place] < first_item + n_items:
                    rows[i, positives.items[place] - first_item] = np.inf
            length = np.sqrt(2.0 * queries.half_norms[q])
            doubt = error * length * longest + ROUNDING * (length + longest) ** 2 + UNDERFLOW
            # Half the squared distance less half the query's squared length, as the rows hold it.
            middles = 0.5 * positives.distances[begin:end].astype(np.float64) - queries.half_norms[q]
            lows, highs = (middles - doubt).astype(np.float32), (middles + doubt).astype(np.float32)
            known[:] = -1.0
            row, own = rows[i][:filled], counts[begin:end]
            distances, items = positives.distances[begin:end], positives.items[begin:end]
            if end - begin < MANY:
                _one_by_one(row, known, lows, highs, q, first_item, queries, gallery, resolution, distances, items, own)
            else:
                _by_bucket(row, known, lows, highs, q, first_item, queries, gallery, resolution, distances, items, own)


@compiled
def _one_by_one(row, known, lows, highs, query, first_item, queries, gallery, resolution, distances, items, counts):
    """Compare every positive with every item, a chunk of them at a time, but for those after the farthest positive."""
    n_positives = len(counts)
    for start in range(0, len(row), CHUNK):
        chunk = row[start : start + CHUNK]
        _, near = _before(chunk, lows[-1], highs[-1])
        if near == 0:
            continue
        doubtful = 0
        for k in range(n_positives):
            surely, perhaps = _before(chunk, lows[k], highs[k])
            counts[k] += surely
            doubtful += perhaps - surely
        if doubtful > FEW * CHUNK:
            for k in range(n_positives):
                counts[k] -= _before(chunk, lows[k], highs[k])[0]
            _one_after_the_other(
                chunk, known[start : start + CHUNK], query, first_item + start, queries, gallery, resolution, distances,
                items, counts,
            )  # fmt: skip
        elif doubtful > 0:
            for j in range(start, start + CHUNK):
                if row[j] <= highs[-1]:
                    for k in range(n_positives):
                        if lows[k] <= row[j] <= highs[k]:
                            counts[k] += _is_before(
                                j, known, query, first_item, queries, gallery, resolution, distances[k], items[k]
                            )


@compiled
def _by_bucket(
    row, known, lows, highs, query, first_item, queries, gallery, resolution, distances, items, counts
):  # fmt: skip
    """Sort the items into buckets, and compare every positive with the items of its own."""
    nearest, farthest = lows[0], highs[-1]
    width = np.float32(BUCKETS - 2) / max(farthest - nearest, np.float32(1e-30))
    buckets = np.empty(len(row), np.int16)
    if not _find_buckets(row, nearest, farthest, width, buckets):
        return
    starts = np.zeros(BUCKETS + 1, np.int16)
    for bucket in buckets:
        starts[bucket + 1] += 1
    for bucket in range(BUCKETS):
        starts[bucket + 1] += starts[bucket]
    ends, sorted_items = starts[:-1].copy(), np.empty(len(row), np.int16)
    for j in range(len(row)):
        sorted_items[ends[buckets[j]]] = j
        ends[buckets[j]] += 1
    compared = 0
    for k in range(len(counts)):
        compared += ends[_bucket(highs[k], nearest, width)] - starts[_bucket(lows[k], nearest, width)]
    if compared > FEW * len(row):
        _one_after_the_other(row, known, query, first_item, queries, gallery, resolution, distances, items, counts)
        return
    for k in range(len(counts)):
        begin, end = starts[_bucket(lows[k], nearest, width)], ends[_bucket(highs[k], nearest, width)]
        before = np.int32(begin)
        for j in sorted_items[begin:end]:
            if row[j] < lows[k]:
                before += 1
            elif row[j] <= highs[k]:
                before += _is_before(j, known, query, first_item, queries, gallery, resolution, distances[k], items[k])
        counts[k] += before


@vectorised
def _find_buckets(row, nearest, farthest, width, buckets):
    """The bucket of each item, the first for those before `nearest`, the last for those after `farthest`.

    False if all are after it.
    """
    near = np.int32(0)
    for j in range(len(row)):
        near = np.int32(near + np.int32(row[j] <= farthest))
    if near == 0:
        return False
    for j in range(len(row)):
        buckets[j] = _bucket(row[j], nearest, width)
    return True


@compiled  # to the letter: items and thresholds must be rounded alike
def _bucket(value, nearest, width):
    """Rises with the value, from 0 to BUCKETS - 1."""
    place = (value - nearest) * width + np.float32(1)
    place = place if place > np.float32(0) else np.float32(0)
    return np.int32(place if place < np.float32(BUCKETS - 1) else np.float32(BUCKETS - 1))


@compiled
def _one_after_the_other(row, known, query, first_item, queries, gallery, resolution, distances, items, counts):
    """Compute all distances of a row anew and sort them: where most are too close to call."""
    for j in range(len(row)):
        if row[j] == np.inf:
            known[j] = np.inf
        elif known[j] < 0:
            known[j] = distance(queries, gallery, query, first_item + j, resolution)
    order = np.argsort(known, kind="mergesort")
    before = 0
    for k in range(len(counts)):
        while before < len(row) and _is_before(
            order[before], known, query, first_item, queries, gallery, resolution, distances[k], items[k]
        ):
            before += 1
        counts[k] += before


@compiled
def _is_before(j, known, query, first_item, queries, gallery, resolution, positive_distance, positive):
    """Whether the j-th item of a chunk comes before a positive: nearer, or as near and of a lower index."""
    item = first_item + j
    if known[j] < 0:
        known[j] = distance(queries, gallery, query, item, resolution)
    return int(known[j] < positive_distance or (known[j] == positive_distance and item < positive))


@vectorised
def _before(chunk, low, high):
    """How many of CHUNK numbers are below `low`, and how many not above `high`."""
    surely, perhaps = np.int32(0), np.int32(0)
    for j in range(CHUNK):
        surely = np.int32(surely + np.int32(chunk[j] < low))
        perhaps = np.int32(perhaps + np.int32(chunk[j] <= high))
    return surely, perhaps
