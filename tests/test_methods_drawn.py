"""Losses of drawn triplets and quadruplets: the draws, and PML's losses of the same triplets."""

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers, regularizers
from torch.nn import functional as F

from dml import mining, pairs, plugins
from dml.method import Method

EMBEDDING_SIZE = 16
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0, 0, 5])
NUM_CLASSES = 6


def build(name, **hyperparameters):
    return plugins.load_class("methods", name, Method)(NUM_CLASSES, EMBEDDING_SIZE, **hyperparameters).double()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), EMBEDDING_SIZE, generator=generator, dtype=torch.float64, requires_grad=True)


def distances_and_masks(seed=0):
    return pairs.distances(batch(seed).detach()), *pairs.positives_and_negatives(LABELS)


def assert_frequencies(hits, expected, draws):
    """Within five standard deviations, for each of some outcomes of independent draws."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((hits / draws - expected).abs() <= 5 * deviation).all()


# ----------------------------------------------------------------------------------------------------------- the draws


def test_draws_follow_their_weights():
    torch.manual_seed(0)
    weights = torch.tensor([0.0, 1.0, 0.5, 1e-3, 0.0, 3.0])
    drawn = mining.draw(weights.expand(200_000, -1))
    assert_frequencies(drawn.bincount(minlength=6), weights / weights.sum(), 200_000)


def test_all_under_a_mask_are_drawn_alike():
    torch.manual_seed(0)
    mask = torch.tensor([False, True, True, False, True])
    drawn = mining.draw_one(mask.expand(50_000, -1), torch.zeros(1))
    assert_frequencies(drawn.bincount(minlength=5), mask / 3, 50_000)


def test_rows_are_drawn_independently():
    torch.manual_seed(0)
    first, second = mining.draw(torch.ones(50_000, 2, 3).flatten(0, 1)).view(-1, 2).unbind(dim=1)
    assert_frequencies((3 * first + second).bincount(minlength=9), [1 / 9] * 9, 50_000)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_the_only_one_is_drawn_whatever_the_number(number, monkeypatch):
    monkeypatch.setattr(mining, "uniform", lambda *shape, like: torch.full(shape, number, dtype=like.dtype))
    weights = torch.diag(torch.tensor([1.0, 1e-30, 1.0, 0.5]))
    assert mining.draw(weights).tolist() == [0, 1, 2, 3]


def test_what_happens_has_its_probability():
    torch.manual_seed(0)
    like = torch.zeros(50_000, 2)
    assert_frequencies(mining.happens(0.15, like).sum(), 0.15, 50_000)
    assert not mining.happens(0.0, like).any() and mining.happens(1.0, like).all()


@pytest.mark.parametrize("dimensions", [2, 3, 4, 128])
def test_weights_by_distance_equal_the_formula(dimensions):
    generator = torch.Generator().manual_seed(dimensions)
    distance = 1.99 * torch.rand(6, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 9, generator=generator) < 0.6
    mask[2] = False
    found = mining.weights_by_distance(distance, mask, dimensions)
    for row, candidates, weights in zip(distance.tolist(), mask.tolist(), found.tolist(), strict=True):
        at_least = [max(d, 0.5) for d in row]
        density = [d ** (dimensions - 2) * (1 - d * d / 4) ** ((dimensions - 3) / 2) for d in at_least]
        expected = [1 / q if candidate else 0.0 for q, candidate in zip(density, candidates, strict=True)]
        largest = max(expected) or 1.0
        assert weights == pytest.approx([weight / largest for weight in expected], rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimensions", [2, 3, 4, 64, 2048])
def test_weights_by_distance_are_finite_at_the_ends(dimensions, dtype):
    distance = torch.tensor([[0.0, 1e-30, 0.5, 1.0, 2.0, 2.000001], [0.0] * 6, [2.0] * 6, [1.0] * 6], dtype=dtype)
    weights = mining.weights_by_distance(distance, torch.ones(4, 6, dtype=torch.bool), dimensions)
    assert weights.isfinite().all() and (weights >= 0).all()
    assert (weights.amax(dim=1) == 1).all()
    assert (mining.weights_by_distance(distance, torch.zeros(4, 6, dtype=torch.bool), dimensions) == 0).all()


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_weighted_by_distance_all_distances_are_equally_likely(dimensions):
    """Of points that are uniform on the sphere."""
    points = torch.randn(400_000, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = (F.normalize(points) - torch.eye(dimensions, dtype=torch.float64)[0]).norm(dim=1)[None]
    weights = mining.weights_by_distance(distance, distance < 1.8, dimensions)[0]
    bins = ((distance[0] - 0.5) / 0.13).floor().long()
    in_bins = torch.stack([weights[bins == b].sum() for b in range(10)])
    torch.testing.assert_close(in_bins, in_bins.mean().expand(10), rtol=0.06, atol=0)


def some_triplets(draw, **settings):
    """The distances and masks of 40 batches, and what is drawn of each."""
    torch.manual_seed(0)
    for seed in range(40):
        distance, positives, negatives = distances_and_masks(seed)
        yield distance, positives, negatives, draw(distance, positives, negatives, **settings)


DRAWS = {
    "random": (mining.random_triplets, {}),
    "semihard": (mining.semihard_triplets, {"margin": 0.1}),
    "softhard": (mining.softhard_triplets, {}),
    "by distance": (mining.triplets_by_distance, {"dimensions": EMBEDDING_SIZE}),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_triplet_is_of_two_classes_and_exists_where_both_are_there(kind):
    draw, settings = DRAWS[kind]
    alone = LABELS == 5
    for _, positives, negatives, drawn in some_triplets(draw, **settings):
        assert (drawn.exist == ~alone).all()
        assert mining.picked(positives, drawn.positives)[~alone].all()
        assert mining.picked(negatives, drawn.negatives)[~alone].all()
    one_class = torch.ones(4, 4, dtype=torch.bool)
    assert not draw(torch.ones(4, 4), one_class, ~one_class, **settings).exist.any()


def test_semihard_negatives():
    kinds = set()
    for distance, _, negatives, drawn in some_triplets(mining.semihard_triplets, margin=0.1):
        for anchor in drawn.exist.nonzero()[:, 0].tolist():
            near, far = distance[anchor, drawn.positives[anchor]], distance[anchor, drawn.negatives[anchor]]
            others = distance[anchor][negatives[anchor]]
            semihard = others[(others > near) & (others < near + 0.1)]
            assert far in (semihard if len(semihard) else others)
            kinds.add(len(semihard))
    assert {0, 1, 2} <= kinds


def test_softhard_positives_and_negatives():
    kinds = set()
    for distance, positives, negatives, drawn in some_triplets(mining.softhard_triplets):
        for anchor in drawn.exist.nonzero()[:, 0].tolist():
            own, others = distance[anchor][positives[anchor]], distance[anchor][negatives[anchor]]
            hard_own, hard_others = own[own > others.min()], others[others < own.max()]
            assert distance[anchor, drawn.positives[anchor]] in (hard_own if len(hard_own) else own)
            assert distance[anchor, drawn.negatives[anchor]] in (hard_others if len(hard_others) else others)
            kinds.add((len(hard_own) > 0, len(own) > len(hard_own) > 0, len(others) > len(hard_others) > 0))
    assert {(False, False, False), (True, True, True), (True, False, True)} <= kinds


def test_rho_puts_the_positive_in_the_place_of_the_negative():
    torch.manual_seed(0)
    count = 20_000
    drawn = mining.Triplets(torch.arange(count) + 1, torch.arange(count) + 2, torch.ones(count, dtype=torch.bool))
    regularised = mining.rho_regularised(drawn, 0.3, torch.zeros(count))
    switched = regularised.positives == torch.arange(count)
    assert_frequencies(switched.sum(), 0.3, count)
    assert (regularised.negatives[switched] == drawn.positives[switched]).all()
    assert (regularised.positives[~switched] == drawn.positives[~switched]).all()
    assert (regularised.negatives[~switched] == drawn.negatives[~switched]).all()


# ---------------------------------------------------------------------------------------------------------- the losses


def value_and_gradients(loss, inputs):
    return loss, *torch.autograd.grad(loss, inputs)


def triplet_of_pml():
    return losses.TripletMarginLoss(margin=0.4, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer())


def contrastive_of_pml():
    return losses.ContrastiveLoss(pos_margin=0.9, neg_margin=1.3, reducer=reducers.MeanReducer())


def margin_of_pml():
    return losses.MarginLoss(margin=0.2, beta=1.2, learn_beta=True, num_classes=NUM_CLASSES)


def snr_of_pml(**regularizer):
    return losses.TripletMarginLoss(margin=0.4, distance=distances.SNRDistance(), **regularizer)


PML = {
    "triplet_random": ({"margin": 0.4}, triplet_of_pml()),
    "triplet_semihard": ({"margin": 0.4}, triplet_of_pml()),
    "triplet_softhard": ({"margin": 0.4}, triplet_of_pml()),
    "triplet_distance_weighted": ({"margin": 0.4}, triplet_of_pml()),
    "r_triplet": ({"margin": 0.4, "rho": 0.5}, triplet_of_pml()),
    "contrastive_distance_weighted": ({"pos_margin": 0.9, "neg_margin": 1.3}, contrastive_of_pml()),
    "r_contrastive": ({"pos_margin": 0.9, "neg_margin": 1.3, "rho": 0.5}, contrastive_of_pml()),
    "margin_distance_weighted": ({"margin": 0.2, "beta": 1.2}, margin_of_pml()),
    "r_margin": ({"margin": 0.2, "beta": 1.2, "rho": 0.5}, margin_of_pml()),
    "snr_distance_weighted": ({"margin": 0.4}, snr_of_pml()),
    "r_snr": (
        {"margin": 0.4, "rho": 0.5},
        snr_of_pml(embedding_regularizer=regularizers.ZeroMeanRegularizer(), embedding_reg_weight=0.005),
    ),
}


@pytest.mark.fidelity("Losses and miners: value and gradients", "pytorch-metric-learning, in float64", "relative")
@pytest.mark.parametrize("name", PML)
def test_equals_pml_of_the_same_triplets(name, monkeypatch, deviates):
    hyperparameters, theirs = PML[name]
    ours, theirs, embeddings, drawn = build(name, **hyperparameters), theirs.double(), batch(), []
    draw = ours.draw
    monkeypatch.setattr(ours, "draw", lambda *of: drawn.append(draw(*of)) or drawn[-1])
    torch.manual_seed(0)
    found = value_and_gradients(ours(embeddings, LABELS), [embeddings, *ours.parameters()])
    anchors = drawn[0].exist.nonzero()[:, 0]
    tuples = anchors, drawn[0].positives[anchors], drawn[0].negatives[anchors]
    # PML's zero-mean term would see embeddings as they are
    value = theirs(F.normalize(embeddings), LABELS, tuples)
    expected = value_and_gradients(value, [embeddings, *theirs.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    both = zip(found, expected, strict=True)
    deviates(max(float(((a - b).abs() / b.abs().clamp(min=1)).max().detach()) for a, b in both))


@pytest.mark.parametrize("name", ["triplet", "contrastive", "margin", "snr"])
def test_without_rho_it_is_the_loss_that_is_regularised(name):
    embeddings, settings = batch(), dict(PML[f"{name}_distance_weighted"][0])
    not_centred = {"regularizer_weight": 0.0} if name == "snr" else {}
    torch.manual_seed(0)
    plain = build(f"{name}_distance_weighted", **settings)(embeddings, LABELS)
    torch.manual_seed(0)
    regularised = build(f"r_{name}", **settings, rho=0.0, **not_centred)(embeddings, LABELS)
    assert plain > 0 and regularised == plain


@pytest.mark.parametrize("name", ["triplet", "contrastive", "margin", "snr"])
def test_by_default_it_differs_in_rho_alone(name):
    plain, regularised = (
        plugins.literal("methods", found, "DEFAULTS") for found in (f"{name}_distance_weighted", f"r_{name}")
    )
    assert regularised == plain | {"rho": regularised["rho"]}


def test_with_rho_always_a_class_is_only_pushed_apart():
    embeddings = batch()
    method = build("r_triplet", margin=5.0, rho=1.0)
    (gradient,) = torch.autograd.grad(method(embeddings, LABELS), embeddings)
    distance, positives, _ = distances_and_masks()
    after = pairs.distances((embeddings - 0.1 * gradient).detach())
    assert after[positives].mean() > distance[positives].mean()
    assert (gradient[LABELS == 5] == 0).all()


def test_two_classes_have_no_quadruplet():
    labels = LABELS % 2
    with_second, without = (build("quadruplet", margin=0.3, second_margin=margin) for margin in (1.0, 0.0))
    torch.manual_seed(0)
    value = with_second(batch(), labels)
    torch.manual_seed(0)
    assert value == without(batch(), labels) > 0


def test_the_fourth_is_of_a_third_class():
    """Three classes of one point each: negative and fourth must be of the two that the anchor is not of."""
    corners = torch.randn(3, EMBEDDING_SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(12) % 3
    method = build("quadruplet", margin=0.0, second_margin=2.0)
    between_two = F.pdist(F.normalize(corners)).mean()
    for seed in range(20):
        torch.manual_seed(seed)
        assert float(method(corners[labels], labels)) == pytest.approx(2 - float(between_two))
