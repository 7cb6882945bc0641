import tracemalloc

import numpy as np
import pytest
import reference_ranking as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from test_neighbours import KINDS, drawn, retrievals

from dml import neighbours as plain
from dml import reranking as module
from dml.metrics import map_at_r
from dml.neighbours import neighbours
from dml.reranking import reranked


def ranks_by_definition(embeddings, labels, gallery=None, gallery_labels=None, k1=20, k2=6, weight=0.3):
    """For each query the ranks of its positives: all distances, all encodings, sets of items, written down densely."""
    itself = gallery is None
    gallery, gallery_labels = (embeddings, labels) if itself else (gallery, gallery_labels)
    items = list(embeddings) if itself else [*embeddings, *gallery]
    first = 0 if itself else len(embeddings)
    everything = range(len(items))
    squares = [[reference.squared_distance(p, g) for g in items] for p in items]
    relative = [[square / (max(row) or 1) for square in row] for row in squares]
    others = [sorted((g for g in everything if g != p), key=lambda g: (squares[p][g], g)) for p in everything]

    def nearest(p, k):
        return [p, *others[p][:k]]

    def reciprocal(p, k):
        return {q for q in nearest(p, k) if p in nearest(q, k)}

    def expanded_set(p):
        found = reciprocal(p, k1)
        for q in reciprocal(p, k1):
            candidates = reciprocal(q, round(k1 / 2))
            if 3 * len(candidates & reciprocal(p, k1)) > 2 * len(candidates):
                found = found | candidates
        return found

    def encoding(p):
        members = expanded_set(p)
        weights = np.array([np.exp(-relative[p][g]) if g in members else 0.0 for g in everything])
        return weights / weights.sum()

    encodings = [encoding(p) for p in everything]
    expanded = [np.mean([encodings[q] for q in nearest(p, k2 - 1)], axis=0) for p in everything]

    def final(p, g):
        similarity = np.minimum(expanded[p], expanded[g]).sum() / np.maximum(expanded[p], expanded[g]).sum()
        return (1 - weight) * (1 - float(np.float32(similarity))) + weight * relative[p][g]

    found = []
    for query in range(len(embeddings)):
        candidates = [item for item in range(len(gallery)) if not (itself and item == query)]
        order = sorted(candidates, key=lambda item: (final(query, first + item), item))
        found.append([rank for rank, item in enumerate(order, 1) if gallery_labels[item] == labels[query]])
    return found


def halves(points, labels, gallery):
    """The arguments of a ranking of all points, or of their first third in the rest."""
    n = len(points) // 3
    return (points[:n], labels[:n], points[n:], labels[n:]) if gallery else (points, labels)


@settings(deadline=None, max_examples=100)
@given(retrievals(), st.integers(1, 8), st.integers(1, 8), st.sampled_from([0, 0.3, 1]))
def test_ranks_are_those_of_the_definition(arguments, k1, k2, weight):
    expected = ranks_by_definition(*arguments, k1=k1, k2=k2, weight=weight)
    if not any(expected):
        with pytest.raises(ValueError, match="no query has another item"):
            reranked(*arguments, k1=k1, k2=k2, weight=weight)
        return
    found = reranked(*arguments, k1=k1, k2=k2, weight=weight)
    assert found.ranks.tolist() == [rank for ranks in expected for rank in ranks]
    assert found.queries.tolist() == [query for query, ranks in enumerate(expected) if ranks]
    assert found.r.tolist() == [len(ranks) for ranks in expected if ranks]
    assert found.n_queries + found.n_left_out == len(expected)


@pytest.mark.parametrize("gallery", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_of_larger_sets_with_the_papers_values(kind, gallery):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 12, 150)
    points = drawn(kind, 150, 3, rng)
    if kind == "random":
        points += 1.5 * drawn(kind, 12, 3, rng)[labels]
    arguments = halves(points, labels, gallery)
    expected = [rank for ranks in ranks_by_definition(*arguments) for rank in ranks]
    assert reranked(*arguments).ranks.tolist() == expected
    if kind == "random":
        assert expected != neighbours(*arguments).ranks.tolist()


@pytest.mark.parametrize("weight", [0, 0.3])
@pytest.mark.parametrize("k1, k2", [(3, 1), (7, 3), (9, 4), (11, 2), (20, 6)])
def test_on_a_grid_what_is_equally_similar_is_ranked_by_index(k1, k2, weight):
    """There sums of the same encodings in another order have other last digits."""
    points = np.stack(np.meshgrid(np.arange(8.0), np.arange(9.0)), axis=-1).reshape(-1, 2)
    arguments = points, np.random.default_rng(k1).integers(0, 4, len(points))
    expected = [rank for ranks in ranks_by_definition(*arguments, k1=k1, k2=k2, weight=weight) for rank in ranks]
    assert reranked(*arguments, k1=k1, k2=k2, weight=weight).ranks.tolist() == expected


@pytest.mark.parametrize("gallery", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_with_all_weight_on_the_distance_the_ranking_is_the_plain_one(kind, gallery):
    rng = np.random.default_rng(2)
    arguments = halves(drawn(kind, 211, 20, rng), rng.integers(0, 40, 211), gallery)
    expected, found = neighbours(*arguments, seed=3), reranked(*arguments, weight=1, seed=3)
    for field in ("ranks", "offsets", "queries", "embeddings", "labels"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)
        assert getattr(found, field).dtype == getattr(expected, field).dtype
    assert (found.n_left_out, found.seed) == (expected.n_left_out, expected.seed)


def test_without_the_distance_what_shares_nothing_is_ranked_by_index():
    """Two groups far from each other: an item shares neighbours with its own group only."""
    points = np.array([0, 1000, 1, 1002, 2.5, 1003.5])[:, None]
    found = reranked(points, np.array([0, 1, 1, 0, 1, 1]), k1=2, k2=2, weight=0)
    of_first, of_second = np.split(found.ranks, found.offsets[1:-1])[:2]
    assert of_first.tolist() == [4], "behind 2 and 4 come 1, 3, 5"
    assert of_second.tolist() == [2, 4, 5], "behind 3 and 5 come 0, 2, 4"


def test_a_duplicate_of_the_query_stays_in_its_ranking():
    rng = np.random.default_rng(4)
    embeddings = np.repeat(rng.standard_normal((30, 16)), 2, axis=0)
    assert (reranked(embeddings, np.repeat(np.arange(30), 2)).ranks == 1).all()


def test_collapsed_embeddings_rank_by_index_beyond_the_neighbours():
    for points in (np.full((60, 8), 0.3), np.zeros((60, 8))):
        found = reranked(points, np.zeros(60, dtype=int), k1=3, k2=2)
        assert found.ranks.tolist() == list(range(1, 60)) * 60


def test_what_rounding_made_is_no_geometry():
    rng = np.random.default_rng(12)
    centre, labels = rng.standard_normal(64) / 8, rng.integers(0, 5, 60)
    jitter = 1e-9 * rng.standard_normal((60, 64)) / 8
    collapsed = reranked(np.tile(centre, (60, 1)), labels, k1=5, k2=3).ranks
    np.testing.assert_array_equal(reranked(centre + jitter, labels, k1=5, k2=3).ranks, collapsed)


def test_it_tells_overlapping_classes_apart():
    """Of two images of a class the neighbours are common ones, also where others are nearer."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(20), 20)
    points = rng.standard_normal((20, 16))[labels] + 0.8 * rng.standard_normal((400, 16))
    before, after = (map_at_r.scores(f(points, labels))["map_at_r"].mean() for f in (neighbours, reranked))
    assert before < 0.9 and after > before + 0.1


def test_it_depends_on_all_queries():
    rng = np.random.default_rng(6)
    points, labels = rng.standard_normal((90, 3)), rng.integers(0, 4, 90)
    gallery = points[60:], labels[60:]
    few, many = reranked(points[:5], labels[:5], *gallery), reranked(points[:60], labels[:60], *gallery)
    assert few.ranks.tolist() != many.ranks[: len(few.ranks)].tolist()


@pytest.mark.parametrize("gallery", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_change_nothing(kind, gallery, monkeypatch):
    rng = np.random.default_rng(7)
    arguments = halves(drawn(kind, 150, 20, rng), rng.integers(0, 12, 150), gallery)
    expected = reranked(*arguments).ranks
    for block_bytes, pairs in ((1, 1), (5_000, 100), (40_000, 17)):
        monkeypatch.setattr(plain, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(module, "PAIRS", pairs)
        np.testing.assert_array_equal(reranked(*arguments).ranks, expected)


def test_memory_is_not_that_of_all_pairs(monkeypatch):
    monkeypatch.setattr(plain, "BLOCK_BYTES", 2**18)
    rng = np.random.default_rng(8)
    embeddings, labels = rng.standard_normal((1500, 4)), rng.integers(0, 150, 1500)
    tracemalloc.start()
    reranked(embeddings, labels, k1=5, k2=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1500**2, "less than a byte per pair"


def test_order_of_the_gallery_does_not_matter_without_ties():
    rng = np.random.default_rng(9)
    queries, gallery = rng.standard_normal((40, 16)), rng.standard_normal((90, 16))
    labels, gallery_labels = rng.integers(0, 9, 40), rng.integers(0, 9, 90)
    order = rng.permutation(90)
    expected = reranked(queries, labels, gallery, gallery_labels)
    found = reranked(queries, labels, gallery[order], gallery_labels[order])
    np.testing.assert_array_equal(found.ranks, expected.ranks)


@pytest.mark.parametrize("factor", [2.0**-90, 1e-25, 0.37, 3.0, 1e25])
def test_scale_does_not_matter(factor):
    rng = np.random.default_rng(10)
    embeddings, labels = rng.standard_normal((120, 16)), rng.integers(0, 12, 120)
    np.testing.assert_array_equal(reranked(factor * embeddings, labels).ranks, reranked(embeddings, labels).ranks)


def test_labels_may_be_names_and_classes_may_miss_on_either_side():
    points = np.arange(4.0)[:, None]
    found = reranked(
        points, np.array(["hen", "owl", "auk", "owl"]), points + 0.25, np.array(["owl", "emu", "owl", "auk"]), weight=1
    )
    assert found.queries.tolist() == [1, 2, 3]
    assert found.n_left_out == 1
    assert found.ranks.tolist() == [2, 3, 3, 2, 4]


def test_what_does_not_fit_is_refused():
    points, labels = np.zeros((6, 2)), np.zeros(6, dtype=int)
    for values in ({"k1": 0}, {"k2": 0}, {"weight": -0.1}, {"weight": 1.1}, {"weight": np.nan}):
        with pytest.raises(ValueError, match="expected at least 1, at least 1, and 0 to 1"):
            reranked(points, labels, **values)
    for gallery in ((points,), (None, labels)):
        with pytest.raises(ValueError, match="belong together"):
            reranked(points, labels, *gallery)
    with pytest.raises(ValueError, match="gallery: 3 dimensions; expected 2"):
        reranked(points, labels, np.zeros((6, 3)), labels)
    with pytest.raises(ValueError, match=r"labels: shape \(5,\)"):
        reranked(points, labels[:5])
    with pytest.raises(ValueError, match="embeddings: 6 of 6 rows hold NaN"):
        reranked(points + np.nan, labels)
    with pytest.raises(ValueError, match="gallery: 6 of 6 rows hold NaN"):
        reranked(points, labels, points + np.nan, labels)
    with pytest.raises(ValueError, match="no query has another item"):
        reranked(points, np.arange(6))
