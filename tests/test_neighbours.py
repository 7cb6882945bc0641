import tracemalloc

import numpy as np
import pytest
import reference_ranking as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from dml import counting_on_gpu
from dml import neighbours as module
from dml.neighbours import nearest, neighbours


def drawn(kind, n, dimensions, rng):
    """Embeddings of a kind: without ties, with many, with duplicate images, or all the same."""
    if kind == "random":
        return rng.standard_normal((n, dimensions)).astype(np.float32)
    if kind == "tied":
        return rng.integers(-1, 2, (n, dimensions)).astype(np.float32)
    if kind == "duplicates":
        return rng.standard_normal((max(1, n // 3), dimensions))[rng.integers(0, max(1, n // 3), n)].astype(np.float32)
    return np.tile(rng.standard_normal(dimensions), (n, 1)).astype(np.float32)


KINDS = ("random", "tied", "duplicates", "collapsed")


@st.composite
def retrievals(draw):
    """Arguments of `neighbours`: with and without a gallery; with few labels, so that some classes have one image."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind, dimensions, n_classes = draw(st.sampled_from(KINDS)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    n_queries, n_gallery = draw(st.integers(1, 16)), draw(st.just(0) | st.integers(1, 16))
    points = drawn(kind, n_queries + n_gallery, dimensions, rng)
    labels = rng.integers(0, n_classes, n_queries + n_gallery)
    queries = points[:n_queries], labels[:n_queries]
    return queries if n_gallery == 0 else (*queries, points[n_queries:], labels[n_queries:])


@settings(deadline=None, max_examples=200)
@given(retrievals())
def test_ranks_are_those_of_sorting(arguments):
    relevance = reference.relevance(*arguments)
    expected = [[rank for rank, correct in enumerate(row, 1) if correct] for row in relevance]
    if not any(expected):
        with pytest.raises(ValueError, match="no query has another item"):
            neighbours(*arguments)
        return
    found = neighbours(*arguments)
    assert found.queries.tolist() == [query for query, ranks in enumerate(expected) if ranks]
    assert found.n_queries + found.n_left_out == len(expected)
    assert found.ranks.tolist() == [rank for ranks in expected for rank in ranks]
    assert found.r.tolist() == [len(ranks) for ranks in expected if ranks]
    assert found.hits.tolist() == [hit for ranks in expected for hit in range(1, len(ranks) + 1)]
    assert found.first_ranks.tolist() == [ranks[0] for ranks in expected if ranks]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 30])
def test_ranks_of_larger_sets(kind, n_classes):
    rng = np.random.default_rng(n_classes)
    embeddings, labels = drawn(kind, 150, 3, rng), rng.integers(0, n_classes, 150)
    relevance = reference.relevance(embeddings, labels)
    assert neighbours(embeddings, labels).ranks.tolist() == [r for row in relevance for r in np.flatnonzero(row) + 1]


@settings(deadline=None, max_examples=50)
@given(retrievals(), st.data())
def test_nearest_are_the_first_of_the_ranking(arguments, data):
    embeddings, gallery = arguments[0], arguments[2] if len(arguments) == 4 else None
    most = len(embeddings) - 1 if gallery is None else len(gallery)
    if most == 0:
        with pytest.raises(ValueError, match="1 neighbours asked for"):
            nearest(embeddings, [0], 1)
        return
    k = data.draw(st.integers(1, most))
    queries = data.draw(st.lists(st.integers(0, len(embeddings) - 1), max_size=4))
    expected = [
        reference.ranking(embeddings[q], embeddings if gallery is None else gallery, q if gallery is None else None)[:k]
        for q in queries
    ]
    found = nearest(embeddings, queries, k, gallery)
    assert found.shape == (len(queries), k)
    assert found.tolist() == expected


def test_collapsed_embeddings_rank_by_index_alone():
    labels = np.array([0, 1, 0, 1, 0])
    embeddings = np.full((5, 512), 1 / np.sqrt(512), dtype=np.float32)
    found = neighbours(embeddings, labels)
    assert np.split(found.ranks, found.offsets[1:-1])[2].tolist() == [1, 4]
    by_index = [rank for q in range(5) for p in range(5) if p != q and labels[p] == labels[q] for rank in [p + (p < q)]]
    assert found.ranks.tolist() == by_index
    assert neighbours(embeddings, labels, embeddings, labels).ranks.tolist() == [1, 3, 5, 2, 4, 1, 3, 5, 2, 4, 1, 3, 5]


def test_a_duplicate_of_the_query_stays_in_its_ranking():
    rng = np.random.default_rng(0)
    embeddings = np.repeat(rng.standard_normal((30, 64)), 2, axis=0)
    assert (neighbours(embeddings, np.repeat(np.arange(30), 2)).ranks == 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [3, 60])  # positives by bucket, one by one
def test_tiles_and_threads_change_nothing(kind, n_classes, monkeypatch):
    rng = np.random.default_rng(3)
    embeddings, labels = drawn(kind, 211, 131, rng), rng.integers(0, n_classes, 211)
    expected = ranks_by_sorting(embeddings, labels)
    np.testing.assert_array_equal(neighbours(embeddings, labels).ranks, expected)
    for side, depth, part, threads in ((20, 50, 7, 1), (33, 131, 33, 2), (210, 130, 64, 5)):
        monkeypatch.setattr(module, "SMALLEST_TILE", side)
        for tiling in ("OF_FEW", "OF_MANY"):
            monkeypatch.setattr(module, tiling, module._Tiling(side, depth, part))
        np.testing.assert_array_equal(neighbours(embeddings, labels, threads=threads).ranks, expected)
        found = neighbours(embeddings, labels, embeddings[50:], labels[50:], threads=threads)
        np.testing.assert_array_equal(found.ranks, ranks_by_sorting(embeddings, labels, embeddings[50:], labels[50:]))


@settings(deadline=None, max_examples=100)
@given(retrievals())
def test_the_gpus_way_gives_the_same_ranks(arguments):
    try:
        expected = neighbours(*arguments)
    except ValueError:
        return
    np.testing.assert_array_equal(neighbours(*arguments, device="cpu:0").ranks, expected.ranks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_bytes", [20_000, 2**29])
@pytest.mark.parametrize("n_classes", [3, 60])
def test_the_gpus_blocks_change_nothing(kind, n_classes, block_bytes, monkeypatch):
    rng = np.random.default_rng(9)
    embeddings, labels = drawn(kind, 211, 131, rng), rng.integers(0, n_classes, 211)
    monkeypatch.setattr(counting_on_gpu, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(counting_on_gpu, "DOUBTFUL", np.inf)  # nothing is left to the CPU
    monkeypatch.delattr(module, "_count")
    for gallery in ((), (embeddings[50:], labels[50:])):
        found = neighbours(embeddings, labels, *gallery, device="cpu:0")
        np.testing.assert_array_equal(found.ranks, ranks_by_sorting(embeddings, labels, *gallery))


def test_the_gpu_leaves_collapsed_embeddings_to_the_cpu():
    rng = np.random.default_rng(9)
    embeddings, labels = drawn("collapsed", 211, 131, rng), rng.integers(0, 3, 211)
    assert module._count_on_gpu(*_counting_arguments(embeddings, labels), "cpu:0") is None
    found = neighbours(embeddings, labels, device="cpu:0")
    np.testing.assert_array_equal(found.ranks, ranks_by_sorting(embeddings, labels))


def _counting_arguments(embeddings, labels):
    classes = module.Classes.of(labels, labels)
    offsets = np.concatenate([[0], np.cumsum(classes.sizes[classes.of_query] - 1)])
    return embeddings, embeddings, offsets, classes, True


@pytest.mark.parametrize("block_bytes", [1, 5_000, 40_000])
@pytest.mark.parametrize("kind", KINDS)
def test_block_size_changes_nothing(kind, block_bytes, monkeypatch):
    embeddings = drawn(kind, 211, 131, np.random.default_rng(3))
    whole = nearest(embeddings, np.arange(211), 210)
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    np.testing.assert_array_equal(nearest(embeddings, np.arange(211), 210), whole)


def ranks_by_sorting(embeddings, labels, gallery=None, gallery_labels=None):
    """By all distances in float64, from differences, rounded as the rule says."""
    itself = gallery is None
    gallery, gallery_labels = (embeddings, labels) if itself else (gallery, gallery_labels)
    found = []
    for query, (vector, label) in enumerate(zip(embeddings, labels, strict=True)):
        squares = np.square(vector.astype(np.float64) - gallery).sum(axis=1).astype(np.float32)
        order = np.argsort(squares, kind="stable")
        found.append(np.flatnonzero(gallery_labels[order[order != query] if itself else order] == label) + 1)
    return np.concatenate(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("jitter", [1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("n_classes", [2, 10, 100])
def test_what_float32_cannot_tell_apart_is_ranked_as_float64_has_it(jitter, n_classes, dtype):
    rng = np.random.default_rng(8)
    few = rng.standard_normal((20, 300))
    points = ((few[rng.integers(0, 20, 400)] + jitter * rng.standard_normal((400, 300))) / np.sqrt(300)).astype(dtype)
    labels = rng.integers(0, n_classes, 400)
    np.testing.assert_array_equal(neighbours(points, labels).ranks, ranks_by_sorting(points, labels))


@pytest.mark.parametrize("dimensions", [2, 127, 128, 129, 400, 600])
@pytest.mark.parametrize("n_classes", [3, 200])
def test_ranks_are_those_of_sorting_in_any_dimension(dimensions, n_classes):
    rng = np.random.default_rng(dimensions)
    embeddings = rng.standard_normal((500, dimensions)).astype(np.float32) * rng.lognormal(size=(500, 1), sigma=0.3)
    labels = rng.integers(0, n_classes, 500)
    np.testing.assert_array_equal(neighbours(embeddings, labels).ranks, ranks_by_sorting(embeddings, labels))


def test_memory_is_that_of_a_tile(monkeypatch):
    for tiling in ("OF_FEW", "OF_MANY"):
        monkeypatch.setattr(module, tiling, module._Tiling(256, 512, 256))
    rng = np.random.default_rng(0)
    embeddings, labels = rng.standard_normal((3000, 4)), rng.integers(0, 300, 3000)
    neighbours(embeddings, labels)  # compiles
    tracemalloc.start()
    neighbours(embeddings, labels, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000**2 / 2, "less than half a byte per pair"


def test_order_of_the_gallery_does_not_matter_without_ties():
    rng = np.random.default_rng(1)
    queries, gallery = rng.standard_normal((40, 16)), rng.standard_normal((90, 16))
    labels, gallery_labels = rng.integers(0, 9, 40), rng.integers(0, 9, 90)
    order = rng.permutation(90)
    expected = neighbours(queries, labels, gallery, gallery_labels)
    found = neighbours(queries, labels, gallery[order], gallery_labels[order])
    np.testing.assert_array_equal(found.ranks, expected.ranks)


@pytest.mark.parametrize("factor", [2.0**-90, 1e-25, 0.37, 3.0, 1e25])
def test_scale_does_not_matter(factor):
    rng = np.random.default_rng(2)
    embeddings, labels = rng.standard_normal((120, 16)), rng.integers(0, 12, 120)
    np.testing.assert_array_equal(neighbours(factor * embeddings, labels).ranks, neighbours(embeddings, labels).ranks)


def test_embeddings_may_be_read_only_and_part_of_a_larger_array():
    rng = np.random.default_rng(2)
    embeddings, labels = rng.uniform(-0.9, 0.9, (120, 16)).astype(np.float32), rng.integers(0, 12, 120)
    part = np.repeat(embeddings, 2, axis=1)[:, ::2]
    part.setflags(write=False)
    before = part.copy()
    np.testing.assert_array_equal(neighbours(part, labels).ranks, neighbours(embeddings, labels).ranks)
    np.testing.assert_array_equal(part, before)
    taken, _ = module._scaled(part, part, True)
    assert taken.flags.c_contiguous and taken.flags.writeable  # as what is compiled, and PyTorch, would have it


def test_rotation_does_not_matter():
    rng = np.random.default_rng(4)
    embeddings, labels = rng.standard_normal((120, 16)), rng.integers(0, 12, 120)
    rotation = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    np.testing.assert_array_equal(neighbours(embeddings @ rotation, labels).ranks, neighbours(embeddings, labels).ranks)


def test_geometry_of_nearly_collapsed_embeddings_is_resolved_down_to_rounding():
    rng = np.random.default_rng(5)
    centre = rng.standard_normal(64) / 8
    offsets, labels = rng.standard_normal((50, 64)) / 8, rng.integers(0, 5, 50)
    geometry, collapsed = neighbours(offsets, labels).ranks, neighbours(np.tile(centre, (50, 1)), labels).ranks
    assert not np.array_equal(geometry, collapsed)
    np.testing.assert_array_equal(neighbours(centre + 1e-4 * offsets, labels).ranks, geometry)
    np.testing.assert_array_equal(neighbours(centre + 1e-9 * offsets, labels).ranks, collapsed)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8])
def test_any_number_type_gives_the_same_ranks(dtype):
    rng = np.random.default_rng(6)
    embeddings, labels = rng.integers(0, 100, (60, 8)), rng.integers(0, 6, 60)
    expected = neighbours(embeddings.astype(np.float32), labels).ranks
    np.testing.assert_array_equal(neighbours(embeddings.astype(dtype), labels).ranks, expected)


def test_labels_may_be_names_and_classes_may_miss_on_either_side():
    points = np.arange(4.0)[:, None]
    found = neighbours(
        points, np.array(["hen", "owl", "auk", "owl"]), points + 0.25, np.array(["owl", "emu", "owl", "auk"])
    )
    assert found.queries.tolist() == [1, 2, 3]
    assert found.n_left_out == 1
    assert found.ranks.tolist() == [2, 3, 3, 2, 4]


def test_clusters_cover_all_queries_and_follow_the_seed():
    rng = np.random.default_rng(7)
    embeddings, labels = rng.standard_normal((200, 8)).astype(np.float32), np.append(rng.integers(0, 10, 199), 99)
    found = neighbours(embeddings, labels, seed=1)
    clusters, true_labels = found.clusters
    assert found.n_left_out == 1
    assert clusters.shape == (200,) and set(clusters) <= set(range(11))
    np.testing.assert_array_equal(true_labels, labels)
    np.testing.assert_array_equal(neighbours(embeddings, labels, seed=1).clusters[0], clusters)
    assert not np.array_equal(neighbours(embeddings, labels, seed=2).clusters[0], clusters)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused(value):
    embeddings, labels = np.zeros((6, 2)), np.zeros(6, dtype=int)
    broken = embeddings.copy()
    broken[[3, 5], 1] = value
    with pytest.raises(ValueError, match="embeddings: 2 of 6 rows hold NaN or infinity, the first is row 3"):
        neighbours(broken, labels)
    with pytest.raises(ValueError, match="gallery: 2 of 6 rows"):
        neighbours(embeddings, labels, broken, labels)
    with pytest.raises(ValueError, match="embeddings: 2 of 6 rows"):
        nearest(broken, [0], 1)


def test_shapes_that_do_not_fit_are_refused():
    points, labels = np.zeros((6, 2)), np.zeros(6, dtype=int)
    with pytest.raises(ValueError, match=r"labels: shape \(5,\)"):
        neighbours(points, labels[:5])
    with pytest.raises(ValueError, match=r"gallery_labels: shape \(6, 1\)"):
        neighbours(points, labels, points, labels[:, None])
    with pytest.raises(ValueError, match="belong together"):
        neighbours(points, labels, points)
    with pytest.raises(ValueError, match="gallery: 3 dimensions; expected 2"):
        neighbours(points, labels, np.zeros((6, 3)), labels)
    with pytest.raises(ValueError, match=r"embeddings: shape \(6,\)"):
        neighbours(points[:, 0], labels)
    with pytest.raises(ValueError, match=r"embeddings: shape \(0, 2\)"):
        neighbours(points[:0], labels[:0])
    with pytest.raises(ValueError, match="6 neighbours asked for; expected 1 to 5"):
        nearest(points, [0], 6)
    with pytest.raises(ValueError, match="0 neighbours asked for"):
        nearest(points, [0], 0)
