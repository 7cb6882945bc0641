import numpy as np
import pytest
import reference_ranking as reference
import torch
from hypothesis import given, settings
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import FaissKMeans
from sklearn.metrics.cluster import pair_confusion_matrix
from test_neighbours import KINDS, drawn, retrievals

from dml import plugins
from dml.measuring import measure
from dml.neighbours import neighbours
from dml.plugins import load

RETRIEVAL = (
    "precision_at_1", "r_precision", "map_at_r", "mean_average_precision", "map_at_c", "map_at_1000", "recall_at_k",
)  # fmt: skip
CLUSTERING = ("nmi", "ami", "f1")
FAISS_DEFAULT_SEED = 1234
PML_NAMES = {
    "precision_at_1": "precision_at_1",
    "r_precision": "r_precision",
    "map_at_r": "mean_average_precision_at_r",
    "mean_average_precision": "mean_average_precision",
}


def retrieval_scores(*arguments):
    found = neighbours(*arguments)
    return {key: value for name in RETRIEVAL for key, value in load("metrics", name).scores(found).items()}


def test_the_folder_is_what_is_measured():
    assert plugins.names("metrics") == sorted(RETRIEVAL + CLUSTERING)
    found = neighbours(np.arange(12.0)[:, None], np.arange(12) // 3)
    separately = [load("metrics", name).scores(found) for name in plugins.names("metrics")]
    assert sum(map(len, separately)) == len(measure(found)) == 20
    for name in plugins.names("metrics"):
        assert plugins.literal("metrics", name, "TITLE")


@settings(deadline=None, max_examples=200)
@given(retrievals())
def test_every_query_has_the_value_of_the_definition(arguments):
    expected = reference.retrieval_metrics(*arguments)
    if not expected["precision_at_1"]:
        return
    found = retrieval_scores(*arguments)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-12, err_msg=name)
        assert values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_clustering_scores_have_the_value_of_the_definition(kind):
    rng = np.random.default_rng(0)
    found = neighbours(drawn(kind, 60, 5, rng), rng.integers(0, 7, 60))
    clusters, labels = (values.tolist() for values in found.clusters)
    values = measure(found)
    assert values["nmi"] == pytest.approx(reference.normalised_mutual_information(clusters, labels), abs=1e-10)
    assert values["ami"] == pytest.approx(reference.adjusted_mutual_information(clusters, labels), abs=1e-10)
    assert values["f1"] == pytest.approx(reference.pair_counting_f1(clusters, labels), abs=1e-12)
    assert 0 <= values["nmi"] <= 1 and -1 <= values["ami"] <= 1 and 0 <= values["f1"] <= 1


@pytest.mark.parametrize("n_classes", [2, 40, 400])
def test_f1_is_that_of_scikit_learns_pairs(n_classes):
    rng = np.random.default_rng(n_classes)
    labels = rng.integers(0, n_classes, 500)
    found = neighbours(rng.standard_normal((n_classes, 6))[labels] + 0.8 * rng.standard_normal((500, 6)), labels)
    clusters, _ = found.clusters
    (_, only_cluster), (only_class, both) = pair_confusion_matrix(labels, clusters)
    expected = 2 * both / (2 * both + only_cluster + only_class)
    assert load("metrics", "f1").scores(found)["f1"] == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


def test_f1_takes_names_and_queries_without_any_pair():
    points = np.array([[0.0], [1.0], [10.0], [11.0]])
    names = np.array(["owl", "owl", "hen", "auk"])
    found = neighbours(points, names, seed=1)
    assert found.clusters[0].tolist() != [0, 0, 0, 0]
    assert load("metrics", "f1").scores(found)["f1"] == reference.pair_counting_f1(*map(list, found.clusters))
    alone = neighbours(points, np.arange(4), points, np.arange(4))
    assert load("metrics", "f1").scores(alone) == {"f1": 1.0}


def on_a_grid(kind, n, dimensions, rng):
    """Embeddings whose squared distances are exact in float32 too, so that faiss and we see the same distances."""
    return np.round(np.clip(drawn(kind, n, dimensions, rng), -3, 3) * 64) / 64


def pml_accuracy(*arguments):
    calculator = AccuracyCalculator(k=None, device=torch.device("cpu"))
    tensors = [torch.from_numpy(np.asarray(argument)) for argument in arguments]
    if len(tensors) == 2:
        return calculator.get_accuracy(*tensors, *tensors, ref_includes_query=True)
    return calculator.get_accuracy(*tensors)


@pytest.mark.fidelity("Metrics", "pytorch-metric-learning's AccuracyCalculator", "share")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gallery", [False, True])
@pytest.mark.parametrize("n_classes", [1, 8, 60])
def test_means_agree_with_pytorch_metric_learning(kind, gallery, n_classes, deviates):
    """On a grid of 1/64, where the order of ties is the same too.

    PML's ranking is faiss's, and PML 2.9 also removes the query by its index. On exactly equal distances an exhaustive
    search of faiss 1.15 on a CPU puts the lower index first, as we do (measured for 5 to 3,000 items, complete rankings
    and short ones). But it computes distances in float32: of 1,000 random unit vectors in 128 dimensions, each there
    twice, equal vectors get unequal distances in 4 of 5 rankings. On the grid both compute without rounding, so random,
    tied, duplicate and collapsed embeddings all have to agree. With 60 classes many have one image; both leave it out.
    """
    rng = np.random.default_rng(n_classes)
    points, labels = on_a_grid(kind, 130, 6, rng), rng.integers(0, n_classes, 130)
    arguments = (points[:50], labels[:50], points[50:], labels[50:]) if gallery else (points, labels)
    theirs = pml_accuracy(*arguments)
    ours = measure(neighbours(*arguments, seed=FAISS_DEFAULT_SEED))
    for name, pml_name in PML_NAMES.items():
        assert ours[name].mean() == pytest.approx(theirs[pml_name], abs=1e-6), name
        deviates(abs(ours[name].mean() - theirs[pml_name]))
    assert ours["nmi"] == pytest.approx(theirs["NMI"], abs=1e-6)
    assert ours["ami"] == pytest.approx(theirs["AMI"], abs=1e-6)


def test_clusters_are_those_of_pytorch_metric_learning():
    rng = np.random.default_rng(0)
    points, labels = rng.standard_normal((300, 8)).astype(np.float32), rng.integers(0, 12, 300)
    theirs = FaissKMeans(niter=20)(torch.from_numpy(points), 12).numpy()
    np.testing.assert_array_equal(neighbours(points, labels, seed=FAISS_DEFAULT_SEED).clusters[0], theirs)


def test_recall_at_1_is_precision_at_1_and_recall_grows_with_k():
    rng = np.random.default_rng(1)
    values = retrieval_scores(rng.standard_normal((400, 3)), rng.integers(0, 80, 400))
    np.testing.assert_array_equal(values["recall_at_1"], values["precision_at_1"])
    recalls = [values[f"recall_at_{k}"].mean() for k in (1, 2, 4, 8, 10, 100, 1000)]
    assert recalls[:-1] == sorted(set(recalls[:-1])) and recalls[-1] == 1


def test_a_perfect_embedding_scores_1_or_nearly_so_where_the_query_counts_in_its_class():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 8)
    for name, values in measure(neighbours(10 * np.eye(5)[labels] + 1e-3 * rng.random((40, 5)), labels)).items():
        expected = 7 / 8 if name in ("map_at_c", "map_at_1000") else 1  # their classes have 8 images, not 7
        assert np.min(values) == np.max(values) == pytest.approx(expected, abs=1e-12), name


def test_by_hand():
    """One query, three positives at ranks 1, 3 and 6 of a gallery of 6."""
    values = retrieval_scores(np.zeros((1, 1)), [7], np.arange(1.0, 7.0)[:, None], [7, 0, 7, 1, 2, 7])
    assert values["precision_at_1"] == [1]
    assert values["r_precision"] == pytest.approx([2 / 3], abs=1e-15)
    assert values["map_at_r"] == pytest.approx([(1 + 2 / 3) / 3], abs=1e-15)
    assert values["mean_average_precision"] == pytest.approx([(1 + 2 / 3 + 3 / 6) / 3], abs=1e-15)
    assert values["map_at_c"] == pytest.approx([(1 + 2 / 3) / 4], abs=1e-15)
    assert values["map_at_1000"] == pytest.approx([(1 + 2 / 3 + 3 / 6) / 4], abs=1e-15)


def test_map_at_c_looks_one_item_further_than_map_at_r():
    """Two positives, at ranks 2 and 3 of a gallery of 4."""
    values = retrieval_scores(np.zeros((1, 1)), [7], np.arange(1.0, 5.0)[:, None], [0, 7, 7, 1])
    assert values["map_at_r"] == pytest.approx([1 / 2 / 2], abs=1e-15)
    assert values["map_at_c"] == pytest.approx([(1 / 2 + 2 / 3) / 3], abs=1e-15)


def test_map_at_1000_ends_there():
    labels = np.zeros(1200, dtype=int)
    labels[[0, 999, 1000, 1199]] = 7
    values = retrieval_scores(np.zeros((1, 1)), [7], np.arange(1.0, 1201.0)[:, None], labels)
    assert values["map_at_1000"] == pytest.approx([(1 + 2 / 1000) / 5], abs=1e-15)


def test_maps_of_the_class_size_are_never_less_than_their_share_of_the_others():
    rng = np.random.default_rng(4)
    points, labels = rng.standard_normal((300, 4)), rng.integers(0, 40, 300)
    values, r = retrieval_scores(points, labels), neighbours(points, labels).r
    assert (values["map_at_c"] >= values["map_at_r"] * r / (r + 1) - 1e-12).all()
    np.testing.assert_allclose(values["map_at_1000"], values["mean_average_precision"] * r / (r + 1), atol=1e-12)


def test_figure_1_of_the_reality_check():
    """Musgrave et al. 2020, Figure 1: three toy embeddings that P@1 and NMI cannot tell apart, and MAP@R can.

    Strips of equal height; widths, gaps and height measured from the figure. Its number of points and random draw are
    not published; the tolerance covers the spread over draws of 500 points per class.
    """
    strips = {
        1: [(0, 0, 46), (0, 88, 134), (1, 134, 180), (1, 222, 268)],
        2: [(0, 0, 134), (1, 134, 268)],
        3: [(0, 0, 92), (1, 177, 269)],
    }
    published = {1: (0.990, 0.774, 0.714), 2: (0.998, 0.833, 0.779), 3: (1.000, 0.998, 0.998)}
    means = {}
    for example, rectangles in strips.items():
        values = measure(neighbours(*points_in(rectangles, height=110, per_class=500)))
        means[example] = [np.mean(values[name]) for name in ("precision_at_1", "r_precision", "map_at_r")]
        assert values["nmi"] > 0.75
        np.testing.assert_allclose(means[example], published[example], rtol=0, atol=0.04)
    assert means[1][2] + 0.03 < means[2][2] < means[3][2] - 0.15
    assert means[3][0] - means[1][0] < 0.02


def points_in(rectangles, height, per_class):
    rng = np.random.default_rng(0)
    labels = np.array([label for label, _, _ in rectangles])
    each = per_class * len(set(labels)) // len(rectangles)
    x = np.concatenate([rng.uniform(low, high, each) for _, low, high in rectangles])
    return np.stack([x, rng.uniform(0, height, len(x))], axis=1), np.repeat(labels, each)
