"""Losses of all pairs of a batch at once, beside pytorch-metric-learning and in their limits."""

from itertools import product

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity, LpDistance
from pytorch_metric_learning.losses import (
    AngularLoss,
    GeneralizedLiftedStructureLoss,
    HistogramLoss,
    NPairsLoss,
    NTXentLoss,
    RankedListLoss,
)
from pytorch_metric_learning.miners import BatchEasyHardMiner
from pytorch_metric_learning.reducers import DoNothingReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from torch.nn import functional as F

from dml import pairs
from dml.methods.angular import Angular
from dml.methods.ephn import EPHN
from dml.methods.epshn import EPSHN
from dml.methods.generalized_lifted import GeneralizedLifted
from dml.methods.histogram import Histogram
from dml.methods.n_pairs import NPairs
from dml.methods.ranked_list import RankedList

BATCHES = {"8 classes x 4": [8, 4], "16 classes x 2": [16, 2]}


def batch(num_classes=8, images_per_class=4, dtype=torch.float64, size=16):
    """Embeddings of classes that overlap, and labels, in no order."""
    draws = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(num_classes).repeat(images_per_class)
    labels = labels[torch.randperm(len(labels), generator=draws)]
    centres = torch.randn(num_classes, size, generator=draws, dtype=dtype)
    embeddings = centres[labels] + 0.8 * torch.randn(len(labels), size, generator=draws, dtype=dtype)
    return embeddings.requires_grad_(), labels


def assert_same_loss(ours, theirs, embeddings, tolerance=1e-9):
    found, expected = ((loss, *torch.autograd.grad(loss, embeddings)) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert expected[1].abs().max() > 1e-4


def test_n_pairs_is_that_of_pml_in_expectation_over_who_is_the_positive():
    embeddings, labels = batch(num_classes=5, images_per_class=2)
    theirs = NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False), reducer=DoNothingReducer())
    images = [torch.nonzero(labels == label).flatten() for label in range(5)]
    of_anchor = [[] for _ in labels]
    for roles in product([0, 1], repeat=5):
        a, p = torch.stack([pair.roll(role) for pair, role in zip(images, roles, strict=True)]).T
        rows = theirs(embeddings, labels, (a, p, a, p))["loss"]
        for anchor, row in zip(rows["indices"], rows["losses"], strict=True):
            of_anchor[anchor].append(row.exp())
    expected = torch.stack([torch.stack(shares).mean().log() for shares in of_anchor]).mean()
    assert_same_loss(NPairs(5, 16, l2_weight=0.0)(embeddings, labels), expected, embeddings)


@pytest.mark.parametrize("kind", BATCHES)
def test_angular_half_is_that_of_pml_on_normalised_embeddings(kind):
    embeddings, labels = batch(*BATCHES[kind])
    ours = Angular(8, 16, alpha=42.0, angular_weight=1.0, l2_weight=0.1)
    angular_half = ours(embeddings, labels) - NPairs(8, 16, l2_weight=0.1)(embeddings, labels)
    assert_same_loss(angular_half, AngularLoss(alpha=42)(F.normalize(embeddings), labels), embeddings)


@pytest.mark.parametrize("kind", BATCHES)
def test_generalized_lifted_is_that_of_pml(kind):
    embeddings, labels = batch(*BATCHES[kind])
    theirs = GeneralizedLiftedStructureLoss(
        neg_margin=0.7, distance=LpDistance(normalize_embeddings=False), embedding_regularizer=LpRegularizer(),
        embedding_reg_weight=0.2,
    )  # fmt: skip
    ours = GeneralizedLifted(8, 16, margin=0.7, norm_weight=0.2)
    assert_same_loss(ours(embeddings, labels), theirs(embeddings, labels), embeddings)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("num_bins", [2, 16, 64])  # exact in float32, in which PML has its nodes
@pytest.mark.parametrize("kind", BATCHES)
def test_histogram_is_that_of_pml(kind, num_bins):
    embeddings, labels = batch(*BATCHES[kind])
    ours = Histogram(8, 16, num_bins=num_bins)(embeddings, labels)
    assert_same_loss(ours, HistogramLoss(n_bins=num_bins)(embeddings, labels), embeddings)


@pytest.mark.parametrize(("method", "strategy"), [(EPHN, "hard"), (EPSHN, "semihard")])
@pytest.mark.parametrize("kind", BATCHES)
def test_easy_positives_are_those_of_pml(kind, method, strategy):
    embeddings, labels = batch(*BATCHES[kind])
    mined = BatchEasyHardMiner("easy", strategy, distance=CosineSimilarity())(embeddings, labels)
    ours = method(8, 16, temperature=0.1)(embeddings, labels)
    assert_same_loss(ours, NTXentLoss(temperature=0.1)(embeddings, labels, mined), embeddings)


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn")
@pytest.mark.parametrize("kind", BATCHES)
def test_ranked_list_has_the_value_of_pml(kind):
    """Not its gradient, and PML adds 1e-5 for each image to what it divides by."""
    embeddings, labels = batch(*BATCHES[kind])
    ours = RankedList(8, 16, alpha=1.2, margin=0.4, temperature=10.0, imbalance=0.3)(embeddings, labels)
    theirs = RankedListLoss(margin=0.4, Tn=10, imbalance=0.3, alpha=1.2)(embeddings, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)


def test_inner_products_of_long_embeddings():
    embeddings, labels = batch(dtype=torch.float32)
    method = NPairs(8, 16, l2_weight=0.005)
    long = (300 * embeddings.detach()).requires_grad_()
    exact = long.detach().double().requires_grad_()
    found, expected = method(long, labels), method(exact, labels)
    found.backward(), expected.backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(long.grad.double(), exact.grad, rtol=1e-3, atol=1e-3 * float(exact.grad.abs().max()))


def test_separate_histograms_cost_nothing_and_exchanged_ones_everything():
    labels, apart = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert Histogram(2, 2, num_bins=10)(apart, labels) == 0
    # each class at two opposite points: no negative is less similar than a positive
    assert Histogram(2, 2, num_bins=10)(apart, torch.tensor([0, 1, 0, 1])) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 64, 2048])
def test_copies_among_others_are_at_distance_zero(size, dtype):
    embeddings = torch.randn(64, size, generator=torch.Generator().manual_seed(size), dtype=dtype)
    distance = pairs.distances(embeddings.requires_grad_(), embeddings[16:48].detach())
    distance.sum().backward()
    copies = torch.eye(64, dtype=torch.bool)[:, 16:48]
    assert (distance[copies] == 0).all() and (distance[~copies] > 0).all()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("is_constant", [False, True])
def test_distances_to_others(is_constant):
    embeddings, _ = batch()
    some, others = embeddings[:20], embeddings[20:]
    weights = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pairs.distances(some, others.detach() if is_constant else others)
    z = F.normalize(embeddings)
    expected = torch.cdist(z[:20], z[20:].detach() if is_constant else z[20:])
    assert_same_loss((weights * found).sum(), (weights * expected).sum(), embeddings)
