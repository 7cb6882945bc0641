"""Compiled loops of `dml/neighbours.py`: how many items lie before each positive of a query."""

from typing import NamedTuple

import numpy as np
from numba import njit

CHUNK = 128
"""Items compared with a positive at once, before anybody asks whether one of them was too close to call."""
COLUMNS = 64
"""Columns of a tile that are turned into rows at once."""
CACHE_LINE, CACHE_PERIOD = 16, 1024
"""In float32: what a processor's cache loads at once, and how far apart what competes for one place of it is."""
MANY = 10
"""From so many positives on, counting the items of buckets is faster than comparing all items with each."""
LAST, SPREAD = 1023, 16
BUCKETS = LAST + SPREAD
"""From LAST on they hold what comes after everything, spread: a processor waits that counts in one place."""
FEW = 8
"""Comparisons of an item with positives that cost less than to sort the items."""
ROUNDING = 2.0**-21
"""Bound of what float32 makes of lengths, differences and thresholds, in units of (length + length)^2."""

UNDERFLOW = 2.0**-100
"""More than all products that float32 makes zero."""

compiled = njit(cache=True, nogil=True)
# What may be done to sums and counts so that they are taken many terms at a time. No number here is NaN.
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


class Row(NamedTuple):
    """A query beside the items of a tile."""

    products: np.ndarray
    """(items,) float32."""
    halves: np.ndarray
    """(items,) float32: half the squared lengths. Less the products, they are the values by which items are ordered."""
    first_item: int
    query: int
    queries: Side
    gallery: Side
    itself: bool
    resolution: float
    distances: np.ndarray
    """Those of the query's positives, as in `Positives`."""
    positives: np.ndarray


class Scratch(NamedTuple):
    """Room for what is found of a row: of its positives, of its items, of the buckets."""

    lows: np.ndarray
    highs: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    values: np.ndarray
    buckets: np.ndarray
    shared: np.ndarray
    sizes: np.ndarray
    shared_from: np.ndarray
    shared_to: np.ndarray


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
    return _at_least(squared_distance(queries.vectors[query], gallery.vectors[item]), queries, query, resolution)


@compiled
def _at_least(squared, queries, query, resolution):
    return max(np.float32(squared), np.float32(2.0 * queries.half_norms[query] * resolution**2))


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
    """Fill in the positives of the queries first..end-1, in no order yet.

    The items of class c are `by_class[class_offsets[c]:class_offsets[c + 1]]`, ascending. With `itself`, queries and
    items are the same: a query is no positive of its own, and its distance to an item after it is that item's to it.
    """
    for q in range(first, end):
        if positives.offsets[q] == positives.offsets[q + 1]:
            continue
        items = by_class[class_offsets[class_of_query[q]] : class_offsets[class_of_query[q] + 1]]
        own = np.searchsorted(items, q) if itself else -1
        for k in range(own + 1, len(items)):
            squared = squared_distance(queries.vectors[q], gallery.vectors[items[k]])
            place = positives.offsets[q] + k - itself
            positives.items[place] = items[k]
            positives.distances[place] = _at_least(squared, queries, q, resolution)
            if itself:
                place = positives.offsets[items[k]] + own
                positives.items[place] = q
                positives.distances[place] = _at_least(squared, queries, items[k], resolution)


@compiled
def sort_positives(first: int, end: int, positives: Positives) -> None:
    """Put those of the queries first..end-1 into their order."""
    for q in range(first, end):
        begin, stop = positives.offsets[q], positives.offsets[q + 1]
        order = np.argsort(positives.distances[begin:stop], kind="mergesort")  # stable: the lower index first
        positives.distances[begin:stop] = positives.distances[begin:stop][order]
        positives.items[begin:stop] = positives.items[begin:stop][order]


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
    halves = gallery.half_norms[first_item : first_item + n_items].astype(np.float32)
    longest = np.sqrt(2.0 * gallery.half_norms[first_item : first_item + n_items].max())
    most = 0
    for q in range(first_query, first_query + n_queries):
        most = max(most, positives.offsets[q + 1] - positives.offsets[q])
    scratch = Scratch(
        np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.int32), np.empty(most, np.int32),
        np.full(-(-n_items // CHUNK) * CHUNK, np.float32(np.inf)), np.empty(n_items, np.uint16),
        np.empty(n_items, np.int32), np.empty(BUCKETS, np.int32), np.empty(BUCKETS, np.int32),
        np.empty(BUCKETS, np.int32),
    )  # fmt: skip
    # Their beginnings, written at once, have places of their own in the cache.
    columns = np.empty((COLUMNS, -(-n_items // CACHE_PERIOD) * CACHE_PERIOD + CACHE_LINE), np.float32)
    for start in range(0, n_queries, COLUMNS):
        width = min(COLUMNS, n_queries - start)
        if transposed:
            _turn(tile[:, start : start + width], columns)
        for i in range(width):
            q = first_query + start + i
            begin, end = positives.offsets[q], positives.offsets[q + 1]
            if begin < end:
                row = Row(
                    columns[i, :n_items] if transposed else tile[start + i],
                    halves, first_item, q, queries, gallery, itself, resolution, positives.distances[begin:end],
                    positives.items[begin:end],
                )  # fmt: skip
                length = np.sqrt(2.0 * queries.half_norms[q])
                doubt = error * length * longest + ROUNDING * (length + longest) ** 2 + UNDERFLOW
                lows, highs = scratch.lows[: end - begin], scratch.highs[: end - begin]
                _find_windows(row.distances, queries.half_norms[q], doubt, lows, highs)
                if end - begin < MANY:
                    _one_by_one(row, lows, highs, scratch, counts[begin:end])
                else:
                    _by_bucket(row, lows, highs, scratch, counts[begin:end])


@compiled
def _find_windows(distances, half_norm, doubt, lows, highs):
    """What is surely nearer and what is not surely farther than each positive.

    As values: half the squared distance less half the query's squared length.
    """
    for k in range(len(distances)):
        middle = 0.5 * np.float64(distances[k]) - half_norm
        lows[k], highs[k] = middle - doubt, middle + doubt


@compiled
def _turn(some_columns, rows):
    """Write columns as rows: twice as fast where their number is known to the compiler."""
    full = some_columns.shape[1] == COLUMNS
    for j in range(len(some_columns)):
        items = some_columns[j]
        if full:
            for i in range(COLUMNS):
                rows[i, j] = items[i]
        else:
            for i in range(len(items)):
                rows[i, j] = items[i]


@compiled
def _find_values(halves, products, values):
    for j in range(len(products)):
        values[j] = halves[j] - products[j]


@compiled  # to the letter: items and thresholds must be rounded alike
def _find_buckets(halves, products, nearest, scale, buckets):
    for j in range(len(products)):
        bucket = _bucket(halves[j] - products[j], nearest, scale)
        buckets[j] = bucket if bucket < LAST else LAST + j % SPREAD


@compiled
def _leave_out(row, of_items, last):
    """Put the query itself and its positives after everything."""
    n_items = len(row.products)
    if row.itself and row.first_item <= row.query < row.first_item + n_items:
        of_items[row.query - row.first_item] = last
    for item in row.positives:
        if row.first_item <= item < row.first_item + n_items:
            of_items[item - row.first_item] = last


@compiled
def _one_by_one(row, lows, highs, scratch, counts):
    """Compare every positive with every item, a chunk of them at a time, but for those after the farthest positive."""
    values = scratch.values  # what fills the last chunk comes after everything
    _find_values(row.halves, row.products, values)
    _leave_out(row, values[: len(row.products)], np.float32(np.inf))
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        _, near = _before(chunk, lows[-1], highs[-1])
        if near == 0:
            continue
        doubtful = 0
        for k in range(len(counts)):
            surely, perhaps = _before(chunk, lows[k], highs[k])
            counts[k] += surely
            doubtful += perhaps - surely
        if doubtful > FEW * CHUNK:
            for k in range(len(counts)):
                counts[k] -= _before(chunk, lows[k], highs[k])[0]
            _one_after_the_other(row, start, chunk <= highs[-1], counts)
        elif doubtful > 0:
            for j in range(CHUNK):
                if chunk[j] <= highs[-1]:
                    _settle(row, start + j, chunk[j], lows, highs, 0, len(counts), counts)


@compiled
def _by_bucket(row, lows, highs, scratch, counts):
    """Count the items of each bucket, and compare with a positive only those that share its bucket."""
    firsts, lasts = scratch.firsts[: len(lows)], scratch.lasts[: len(lows)]
    buckets, sizes, shared_from, shared_to = scratch.buckets, scratch.sizes, scratch.shared_from, scratch.shared_to
    nearest, scale = lows[0], np.float32(LAST - 2) / max(highs[-1] - lows[0], np.float32(1e-30))
    _find_buckets(row.halves, row.products, nearest, scale, buckets)
    _leave_out(row, buckets, np.uint16(LAST))
    for k in range(len(lows)):
        firsts[k], lasts[k] = _bucket(lows[k], nearest, scale), _bucket(highs[k], nearest, scale)
    if (lasts - firsts).sum() > FEW * BUCKETS:
        _one_after_the_other(row, 0, buckets < LAST, counts)
        return
    _find_shared(firsts, lasts, shared_from, shared_to)
    n_shared = _count_buckets(buckets, shared_to, sizes, scratch.shared)
    if _comparisons(firsts, lasts, sizes) > FEW * len(buckets):
        _one_after_the_other(row, 0, buckets < LAST, counts)
        return
    bucket, before = 0, 0
    for k in range(len(firsts)):
        while bucket < firsts[k]:
            before += sizes[bucket]
            bucket += 1
        counts[k] += before
    shared = scratch.shared[:n_shared]
    n_doubtful = _compare(shared, row.halves, row.products, buckets, shared_from, shared_to, lows, highs, counts)
    for j in shared[:n_doubtful]:
        value, bucket = row.halves[j] - row.products[j], buckets[j]
        _settle(row, j, value, lows, highs, shared_from[bucket], shared_to[bucket], counts)


@compiled
def _find_shared(firsts, lasts, shared_from, shared_to):
    """Which positives, from one to before another, share each bucket."""
    shared_to[:] = 0
    for k in range(len(firsts)):
        for bucket in range(firsts[k], lasts[k] + 1):
            if shared_to[bucket] == 0:
                shared_from[bucket] = k
            shared_to[bucket] = k + 1


@compiled
def _count_buckets(buckets, shared_to, sizes, shared):
    """Count the items of each bucket, and list those of buckets that are shared. How many those are."""
    sizes[:] = 0
    n_shared = 0
    for j in range(len(buckets)):
        bucket = np.intp(buckets[j])
        sizes[bucket] += 1
        shared[n_shared] = j
        n_shared += np.intp(shared_to[bucket] > 0)
    return n_shared


@compiled
def _comparisons(firsts, lasts, sizes):
    """Of positives with the items that share their buckets."""
    n = 0
    for k in range(len(firsts)):
        for bucket in range(firsts[k], lasts[k] + 1):
            n += sizes[bucket]
    return n


@compiled
def _compare(items, halves, products, buckets, shared_from, shared_to, lows, highs, counts):
    """Count some items for the positives that they share buckets with. Move those in doubt to the front; how many."""
    n_doubtful = 0
    for j in items:
        value, bucket, doubtful = halves[j] - products[j], np.intp(buckets[j]), np.intp(0)
        for k in range(shared_from[bucket], shared_to[bucket]):
            counts[k] += np.int32(value < lows[k])
            doubtful |= np.intp((value >= lows[k]) & (value <= highs[k]))
        items[n_doubtful] = j
        n_doubtful += doubtful
    return n_doubtful


@compiled  # to the letter: items and thresholds must be rounded alike
def _bucket(value, nearest, scale):
    """Rises with the value: 0 before `nearest`, LAST after the farthest."""
    place = (value - nearest) * scale + np.float32(1)
    place = place if place > np.float32(0) else np.float32(0)
    return np.int32(place if place < np.float32(LAST) else np.float32(LAST))


@compiled
def _settle(row, j, value, lows, highs, first, end, counts):
    """Compare an item anew with those of the positives first..end-1 that it is too close to."""
    known = np.float32(-1)
    for k in range(first, end):
        if lows[k] <= value <= highs[k]:
            if known < 0:
                known = _distance_of(row, j)
            counts[k] += _is_before(row, j, known, k)


@compiled
def _one_after_the_other(row, start, near, counts):
    """Compute the distances of all near items and sort them: where most are too close to call."""
    known = np.full(len(near), np.float32(np.inf))
    for j in range(len(near)):
        if near[j]:
            known[j] = _distance_of(row, start + j)
    order = np.argsort(known, kind="mergesort")
    before = 0
    for k in range(len(counts)):
        while before < len(order) and _is_before(row, start + order[before], known[order[before]], k):
            before += 1
        counts[k] += before


@compiled
def _distance_of(row, j):
    return distance(row.queries, row.gallery, row.query, row.first_item + j, row.resolution)


@compiled
def _is_before(row, j, distance_of_j, k):
    """Whether the j-th item comes before the k-th positive: nearer, or as near and of a lower index."""
    distance_of_k = row.distances[k]
    return int(
        distance_of_j < distance_of_k or (distance_of_j == distance_of_k and row.first_item + j < row.positives[k])
    )


@vectorised
def _before(chunk, low, high):
    """How many of CHUNK numbers are below `low`, and how many not above `high`."""
    surely, perhaps = np.int32(0), np.int32(0)
    for j in range(CHUNK):
        surely = np.int32(surely + np.int32(chunk[j] < low))
        perhaps = np.int32(perhaps + np.int32(chunk[j] <= high))
    return surely, perhaps
