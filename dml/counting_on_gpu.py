"""What `dml/counting.py` does, on a GPU: how many items lie before each positive of a query."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from dml.counting import ROUNDING, UNDERFLOW

BLOCK_BYTES = 512 * 2**20
"""Of a block of products, and of vectors whose distances are computed anew."""
DOUBTFUL = 64
"""So many items a query that are too close to call, times its positives, are as well left to the CPU, which sorts."""


def count(
    queries: np.ndarray,
    gallery: np.ndarray,
    offsets: np.ndarray,
    positives: np.ndarray,
    itself: bool,
    resolution: float,
    device: str,
) -> np.ndarray | None:
    """How many items of other classes come before each positive, nearest first: (offsets[-1],) int32.

    Of query q the positives are the gallery items `positives[offsets[q]:offsets[q + 1]]`, ascending. The rule and the
    bounds are those of `neighbours`; the products are taken in float32 proper, whatever the process allows elsewhere.
    None where too many distances are too close to call.
    """
    on_device = [torch.from_numpy(vectors).to(device) for vectors in (queries, gallery)]
    queries_there, gallery_there = on_device if not itself else (on_device[1], on_device[1])
    single = queries_there.float(), gallery_there.float()
    norms = [vectors.double().square().sum(dim=1) for vectors in (queries_there, gallery_there)]
    floors = (norms[0] * resolution**2).float()

    def exact(of_query: Tensor, items: Tensor) -> Tensor:
        """The distances (pairs,) of queries and items, float32."""
        size = max(1, BLOCK_BYTES // (16 * queries_there.shape[1]))
        parts = [
            (queries_there[q].double() - gallery_there[i].double()).square().sum(dim=1).float()
            for q, i in zip(of_query.split(size), items.split(size), strict=True)
        ]
        return torch.maximum(torch.cat(parts), floors[of_query])

    starts = torch.from_numpy(offsets).to(device)
    of_query = torch.repeat_interleave(torch.arange(len(queries), device=device), starts.diff())
    items = torch.from_numpy(positives).to(device)
    distances, items = _nearest_first(exact(of_query, items), of_query, items)

    longest = norms[1].max().sqrt()
    lengths = norms[0].sqrt()
    summed = (queries.shape[1] + 3) * 2.0**-24
    doubts = summed / (1 - summed) * lengths * longest + ROUNDING * (lengths + longest) ** 2 + UNDERFLOW
    middles = 0.5 * distances.double() - 0.5 * norms[0][of_query]
    lows, highs = ((middles + sign * doubts[of_query]).float() for sign in (-1, 1))
    halves = (0.5 * norms[1]).float()
    counts = torch.zeros(len(items), dtype=torch.int32, device=device)
    with _float32_proper():
        for first, end in _blocks(len(queries), len(gallery)):
            begin, stop = int(offsets[first]), int(offsets[end])
            if begin == stop:
                continue
            block = halves - single[0][first:end] @ single[1].T
            rows = of_query[begin:stop] - first
            block[rows, items[begin:stop]] = torch.inf  # of each other they are in order already
            if itself:
                block.diagonal(first).fill_(torch.inf)
            longest_list = int(np.diff(offsets[first : end + 1]).max())
            doubtful = _count_block(block, offsets[first : end + 1] - begin, longest_list, lows[begin:stop],
                                    highs[begin:stop], counts[begin:stop])  # fmt: skip
            if int(doubtful.sum()) > DOUBTFUL * (stop - begin):
                return None
            for places, near in _too_close(block, rows, doubtful, lows[begin:stop], highs[begin:stop]):
                places = begin + places
                found = exact(of_query[places], near)
                before = (found < distances[places]) | ((found == distances[places]) & (near < items[places]))
                counts.index_add_(0, places, before.int())
    return counts.cpu().numpy()


def positives_of(
    classes_of_queries: np.ndarray, by_class: np.ndarray, class_offsets: np.ndarray, itself: bool
) -> np.ndarray:
    """The positives of all queries, one query after the other, ascending: see `count`."""
    sizes = np.diff(class_offsets)[classes_of_queries]
    ends = np.cumsum(sizes)
    places = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes) + np.repeat(class_offsets[classes_of_queries], sizes)
    items = by_class[places]
    return items[items != np.repeat(np.arange(len(sizes)), sizes)] if itself else items


def _nearest_first(distances: Tensor, of_query: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted within each query; the lower index first among equals."""
    order = distances.argsort(stable=True)
    order = order[of_query[order].argsort(stable=True)]
    return distances[order], items[order]


def _blocks(n_queries: int, n_items: int) -> Iterator[tuple[int, int]]:
    size = max(1, BLOCK_BYTES // (4 * n_items))
    for first in range(0, n_queries, size):
        yield first, min(first + size, n_queries)


def _count_block(
    block: Tensor, offsets: np.ndarray, longest_list: int, lows: Tensor, highs: Tensor, counts: Tensor
) -> Tensor:
    """Add what is sure to `counts`, and give for each positive how many items are in doubt: one pass a positive."""
    sizes = torch.from_numpy(np.diff(offsets)).to(block.device)
    starts = torch.from_numpy(offsets[:-1]).to(block.device)
    doubtful = torch.zeros_like(counts)
    for k in range(longest_list):
        rows = sizes > k
        places = (starts + k).clamp(max=len(lows) - 1)
        # a query with fewer positives takes part in vain: -inf is after nothing
        low = torch.where(rows, lows[places], -torch.inf)
        high = torch.where(rows, highs[places], -torch.inf)
        surely = (block < low[:, None]).sum(dim=1, dtype=torch.int32)
        perhaps = (block <= high[:, None]).sum(dim=1, dtype=torch.int32)
        counts.index_add_(0, places, surely * rows)
        doubtful.index_add_(0, places, (perhaps - surely) * rows)
    return doubtful


def _too_close(
    block: Tensor, rows: Tensor, doubtful: Tensor, lows: Tensor, highs: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The positives and the items that are in doubt: pairs of places among the block's positives and of items."""
    for places in doubtful.nonzero()[:, 0].split(max(1, BLOCK_BYTES // (8 * block.shape[1]))):
        values = block[rows[places]]
        which, items = ((values >= lows[places, None]) & (values <= highs[places, None])).nonzero(as_tuple=True)
        yield places[which], items


@contextmanager
def _float32_proper() -> Iterator[None]:
    """Matrix products in float32 without TensorFloat-32, whose error the bounds do not know."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
