"""Losses of rankings and groups: their limits, their invariances, and PML's where it has them."""

from itertools import permutations

import pytest
import reference_lists
import torch
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory, NTXentLoss, SmoothAPLoss
from pytorch_metric_learning.reducers import SumReducer
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from dml import mining
from dml.method import Outputs
from dml.methods.deep_spectral import DeepSpectral
from dml.methods.hyp import Hyp
from dml.methods.irt_r import IRTR
from dml.methods.recall_at_k import RecallAtK
from dml.methods.recall_at_k_simix import RecallAtKSiMix
from dml.methods.rkd import RKD
from dml.methods.roadmap import Roadmap
from dml.methods.smooth_ap import SmoothAP
from dml.methods.sph import Sph

SIZE = 8


def batch(num_classes, images_per_class, seed=0, size=SIZE, spread=0.8):
    """Embeddings of classes that overlap, and labels, those of a class beside each other."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(images_per_class)
    centres = torch.randn(num_classes, size, generator=draws, dtype=torch.float64)
    noise = torch.randn(len(labels), size, generator=draws, dtype=torch.float64)
    return (centres[labels] + spread * noise).requires_grad_(), labels


def value_and_gradient(loss, embeddings):
    return loss, *torch.autograd.grad(loss, embeddings)


def assert_same(found, expected, embeddings, tolerance=1e-9):
    for ours, theirs in zip(*(value_and_gradient(loss, embeddings) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def cosines(embeddings):
    units = F.normalize(embeddings.detach())
    return units @ units.T


# ------------------------------------------------------------------------------------------------------------ rankings


@pytest.fixture
def float64():
    """PML's Smooth-AP makes its sums in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_smooth_ap_equals_that_of_pml_where_there_are_as_many_classes_as_images_of_each(temperature):
    embeddings, labels = batch(4, 4)
    ours = SmoothAP(4, SIZE, temperature)(embeddings, labels)
    assert_same(ours, SmoothAPLoss(temperature)(embeddings, labels), embeddings)


def missing_average_precision(embeddings, labels):
    """1 - what scikit-learn makes of each image's list, itself included."""
    found = zip(labels[:, None] == labels, cosines(embeddings), strict=True)
    return 1 - sum(average_precision_score(*list_of_one) for list_of_one in found) / len(labels)


@pytest.mark.parametrize("sizes", [(3, 4), (6, 2), (2, 5)])
def test_smooth_ap_becomes_the_average_precision(sizes):
    embeddings, labels = batch(*sizes, spread=2.0)
    exact = missing_average_precision(embeddings, labels)
    assert SmoothAP(6, SIZE, 1e-6)(embeddings, labels).item() == pytest.approx(exact, abs=1e-9)
    assert exact > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_sup_ap_is_an_upper_bound(seed):
    embeddings, labels = batch(3, 4, seed, spread=2.0)
    bound = Roadmap(3, SIZE, rho=0.0, calibration_weight=0.0, pos_margin=0.9, neg_margin=0.6, temperature=0.01)
    exact = missing_average_precision(embeddings, labels)
    assert 0.1 < exact < bound(embeddings, labels).item() < 1.5 * exact


def test_sup_ap_becomes_the_average_precision_where_a_negative_counts_for_one_and_a_half():
    embeddings, labels = batch(3, 4, spread=2.0)
    values = [cosines(embeddings), labels[:, None] == labels]
    precisions = []
    for s, relevant in zip(*values, strict=True):
        for j in relevant.nonzero()[:, 0]:
            found, missed = (int((mask & (s > s[j])).sum()) for mask in (relevant, ~relevant))
            precisions.append((1 + found) / (1 + found + 1.5 * missed))
    sup_ap = Roadmap(3, SIZE, 0.0, 0.0, 0.9, 0.6, temperature=1e-6)(embeddings, labels)
    assert sup_ap.item() == pytest.approx(1 - sum(precisions) / len(precisions), abs=1e-9)


def test_sup_ap_sees_a_negative_that_is_far_ahead():
    """Where the sigmoid of Smooth-AP is flat."""
    turns = torch.tensor([0.0, 0.9, 0.3, 1.4], dtype=torch.float64)
    embeddings = torch.stack([turns.cos(), turns.sin()], dim=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    losses = SmoothAP(2, 2, 0.003), Roadmap(2, 2, 100.0, 0.0, 0.9, 0.6)
    slopes = [value_and_gradient(loss(embeddings, labels), embeddings)[1].norm() for loss in losses]
    assert slopes[0] < 1e-4 and slopes[1] > 0.1


def test_calibration_equals_the_contrastive_loss_of_pml():
    embeddings, labels = batch(5, 3)
    ours = Roadmap(5, SIZE, 100.0, calibration_weight=1.0, pos_margin=0.9, neg_margin=0.1)(embeddings, labels)
    assert_same(ours, ContrastiveLoss(0.9, 0.1, distance=DotProductSimilarity())(embeddings, labels), embeddings)


def ranks_of_the_only_positives(embeddings, labels):
    s = cosines(embeddings).fill_diagonal_(-2)
    order = s.argsort(dim=1, descending=True)
    return 1 + (labels[order] == labels[:, None]).double().argmax(dim=1)


def test_recall_at_k_becomes_recall_at_k():
    embeddings, labels = batch(20, 2)
    ranks, ks = ranks_of_the_only_positives(embeddings, labels), (1, 2, 4, 8, 16)
    within = RecallAtK(20, SIZE, 1e-6, 1e-6, ks=[k + 0.5 for k in ks])(embeddings, labels)
    exact = [(ranks <= k).double().mean().item() for k in ks]
    assert within.item() == pytest.approx(1 - sum(exact) / len(ks), abs=1e-9)
    assert 0 < exact[0] < exact[1] < exact[4] < 1
    at = RecallAtK(20, SIZE, 1e-6, 1e-3)(embeddings, labels)  # rank k counts as half
    halves = [((ranks <= k).double() + (ranks < k).double()).mean().item() / 2 for k in ks]
    assert at.item() == pytest.approx(1 - sum(halves) / len(ks), abs=1e-9)


@pytest.mark.parametrize("loss", [RecallAtK, RecallAtKSiMix])
def test_recall_at_k_moves_embeddings_that_begin_alike(loss):
    """As those of a network that nothing has trained: every positive then is about as far back as half the batch."""
    embeddings, labels = batch(28, 4, size=64)
    embeddings = (1 + 0.1 * F.normalize(embeddings.detach()) * 64**0.5).requires_grad_()
    alike = cosines(embeddings)[~torch.eye(112, dtype=torch.bool)]
    assert alike.mean() == pytest.approx(0.99, abs=0.001) and alike.std() < 0.002
    torch.manual_seed(0)
    _, gradient = value_and_gradient(loss(28, 64, 0.01, 1.0)(embeddings, labels), embeddings)
    assert (gradient.norm(dim=1) > 1e-5).all()


def test_simix_without_pairs_to_mix_learns_nothing():
    embeddings, labels = batch(6, 1)
    loss, gradient = value_and_gradient(RecallAtKSiMix(6, SIZE, 0.01, 1.0)(embeddings, labels), embeddings)
    assert loss == 0 and (gradient == 0).all()


def test_simix_is_recall_at_k_of_what_it_makes(monkeypatch):
    """With two images of a class, each other's partners, and the middle between them as the virtual embeddings."""
    embeddings, labels = batch(6, 2)
    monkeypatch.setattr(mining, "uniform", lambda *shape, like: torch.full(shape, 0.5, dtype=like.dtype))
    ours = RecallAtKSiMix(6, SIZE, 0.01, 1.0)(embeddings, labels)
    units = F.normalize(embeddings)
    middles = (units[::2] + units[1::2]).repeat_interleave(2, dim=0) / 2
    items = torch.cat([units, middles])
    expected = RecallAtK(6, SIZE, 0.01, 1.0).missing_recall(
        items @ items.T, labels.repeat(2), torch.ones(len(items), dtype=torch.bool)
    )
    assert_same(ours, expected, embeddings)


# --------------------------------------------------------------------------------------------------------------- views


def test_sph_of_two_images_a_class_equals_the_nt_xent_of_pml():
    embeddings, labels = batch(10, 2)
    assert_same(Sph(10, SIZE, 0.1)(embeddings, labels), NTXentLoss(0.1)(embeddings, labels), embeddings)


@pytest.mark.parametrize("images_per_class", [2, 3, 5])
def test_sph_is_the_mean_over_pairs_of_views(images_per_class, monkeypatch):
    """As the authors go about it: the matching class among all of the other view and the others of the same view."""
    embeddings, labels = batch(7, images_per_class)
    numbers = torch.rand(len(labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    monkeypatch.setattr(mining, "uniform", lambda *shape, like: numbers)
    ours = Sph(7, SIZE, 0.1)(embeddings, labels)
    order = numbers.view(7, -1).argsort(dim=1)
    views = F.normalize(embeddings).view(7, images_per_class, SIZE).gather(1, order[:, :, None].expand(-1, -1, SIZE))
    losses = []
    for u, v in permutations(range(images_per_class), 2):
        within = (views[:, u] @ views[:, u].T).masked_fill(torch.eye(7, dtype=torch.bool), -torch.inf)
        logits = torch.cat([views[:, u] @ views[:, v].T, within], dim=1) / 0.1
        losses.append(F.cross_entropy(logits, torch.arange(7)))
    assert_same(ours, torch.stack(losses).mean(), embeddings)


def test_views_far_from_each_other_lose_nothing(monkeypatch):
    """In float32, where e^-200 beside 1 is nothing: of the first class's first image, the negatives of its positive's
    view are on the other side, those of the third view beside it."""
    turns = torch.tensor([[0.0, 3.1, 0.1], [3.0, 3.2, 0.2], [2.9, 3.3, -0.1]])
    embeddings, labels = torch.stack([turns.cos(), turns.sin()], dim=2).flatten(0, 1), torch.arange(9) // 3
    numbers = torch.arange(9.0) / 9
    monkeypatch.setattr(mining, "uniform", lambda *shape, like: numbers)
    expected = reference_lists.sph(embeddings.double(), labels, 0.01, [numbers]).item()
    assert Sph(3, 2, 0.01)(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("curvature", [0.01, 0.1, 1.0])
def test_hyperbolic_distance_equals_that_by_moebius_addition(curvature):
    embeddings, _ = batch(5, 3)
    method = Hyp(5, SIZE, 0.2, curvature, radius=2.3)
    lengths = embeddings.norm(dim=1, keepdim=True)
    clipped = embeddings * (2.3 / lengths).clamp(max=1)
    assert 0 < (lengths > 2.3).double().mean() < 1
    root = curvature**0.5
    points = (root * clipped.norm(dim=1, keepdim=True)).tanh() / root * F.normalize(clipped)
    g, h = -points[:, None], points
    inner, of_g, of_h = ((a * b).sum(dim=-1, keepdim=True) for a, b in ((g, h), (g, g), (h, h)))
    numerator = (1 + 2 * curvature * inner + curvature * of_h) * g + (1 - curvature * of_g) * h
    difference = numerator / (1 + 2 * curvature * inner + curvature**2 * of_g * of_h)
    distance = 2 / root * torch.atanh(root * difference.norm(dim=-1))
    torch.testing.assert_close(-method.similarities(embeddings), distance.fill_diagonal_(0), rtol=1e-9, atol=1e-9)


def test_on_one_sphere_the_hyperbolic_order_is_that_of_angles():
    embeddings, _ = batch(6, 4)
    long = 100 * embeddings.detach()
    hyperbolic = Hyp(6, SIZE, 0.2, curvature=0.1, radius=2.3).similarities(long)
    assert torch.equal(hyperbolic.argsort(dim=1), cosines(long).argsort(dim=1))


# -------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("sizes", [(4, 6), (6, 4), (3, 20)])
def test_deep_spectral_has_the_value_and_gradient_of_the_pseudo_inverse(sizes):
    embeddings, labels = batch(*sizes, spread=2.0)
    num_classes, num_images = sizes[0], len(labels)
    same = (labels[:, None] == labels).double()
    inverse, wanted = torch.linalg.pinv(embeddings), same / same.sum(dim=1)
    expected = 1 - (wanted * (embeddings @ inverse)).sum() / num_classes
    ours = DeepSpectral(num_classes, SIZE)(embeddings, labels)
    assert_same(ours, expected, embeddings, 1e-6)
    closed = -2 / num_classes * (torch.eye(num_images) - embeddings @ inverse) @ wanted @ inverse.T
    torch.testing.assert_close(torch.autograd.grad(ours, embeddings)[0], closed, rtol=1e-5, atol=1e-8)


def test_deep_spectral_sees_no_linear_map_of_the_embeddings():
    embeddings, labels = batch(6, 4, spread=2.0)
    linear = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss, mapped = (DeepSpectral(6, SIZE)(x, labels) for x in (embeddings, embeddings @ linear))
    assert mapped.item() == pytest.approx(loss.item(), abs=1e-5) and loss > 0.1


def test_deep_spectral_has_nothing_to_learn_from_few_images():
    embeddings, labels = batch(SIZE // 2, 2, spread=2.0)
    loss, gradient = value_and_gradient(DeepSpectral(SIZE // 2, SIZE)(embeddings, labels), embeddings)
    assert abs(loss) < 1e-5 and gradient.abs().max() < 1e-5


# ---------------------------------------------------------------------------------------------------- memory, teacher


def test_contrastive_part_of_irt_r_equals_that_of_pml():
    embeddings, labels = batch(6, 4)
    contrastive = ContrastiveLoss(1.0, 0.5, distance=CosineSimilarity(), reducer=SumReducer())
    ours = IRTR(6, SIZE, margin=0.5, koleo_weight=0.0).double()(embeddings, labels)
    assert_same(ours, contrastive(embeddings, labels) / len(labels), embeddings)


@pytest.mark.parametrize("memory_size", [7, 30, 100])
def test_irt_r_remembers_as_pml_does(memory_size):
    """PML's memory holds the batch too: with what is before it, as many more images as the batch has. Below a
    margin of 0 what is empty must not count."""
    contrastive = ContrastiveLoss(1.0, -0.2, distance=CosineSimilarity(), reducer=SumReducer())
    ours = IRTR(5, SIZE, -0.2, koleo_weight=0.0, memory_size=memory_size).double()
    theirs = CrossBatchMemory(contrastive, SIZE, memory_size + 12)
    theirs.embedding_memory = theirs.embedding_memory.double()
    for seed in range(12):
        embeddings, labels = batch(4, 3, seed)
        expected = theirs(embeddings, labels + seed % 2) / len(labels)
        found = ours(embeddings, labels + seed % 2)
        assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_irt_r_learns_from_the_batch_before_as_from_constants():
    (first, labels), (second, _) = batch(4, 3), batch(4, 3, seed=1)
    method = IRTR(4, SIZE, margin=0.2, koleo_weight=0.7).double()
    method(first, labels)
    before, now = F.normalize(first.detach()), F.normalize(second)
    same = labels[:, None] == labels
    s, to_memory = now @ now.T, now @ before.T
    per_pair = torch.where(same, 1 - s, (s - 0.2).relu()) + torch.where(same, 1 - to_memory, (to_memory - 0.2).relu())
    nearest = torch.cdist(now, now, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = (nearest + 9 * torch.eye(len(now))).amin(dim=1)
    assert_same(method(second, labels), per_pair.sum() / 12 - 0.7 * nearest.log().mean(), second)


def test_irt_r_forgets_the_oldest():
    method = IRTR(9, SIZE, 0.5, 0.7, memory_size=10).double()
    batches = [batch(3, 2, seed) for seed in range(4)]
    for number, (embeddings, labels) in enumerate(batches):
        method(embeddings, labels + number)
    newest = torch.cat([F.normalize(embeddings.detach()) for embeddings, _ in batches])[-10:]
    numbered = torch.cat([labels + number for number, (_, labels) in enumerate(batches)])[-10:]
    kept = (method.memory[:, None] - newest).abs().amax(dim=2) < 1e-12
    assert (kept.sum(dim=0) == 1).all() and (kept.sum(dim=1) == 1).all()
    assert torch.equal(method.memory_labels, numbered[kept.long().argmax(dim=1)])


def distilled(student, teacher):
    return RKD(4, SIZE, angle_weight=2.0).objective(Outputs(student, student, None, teacher), torch.zeros(len(teacher)))


def test_rkd_is_content_with_a_copy_of_the_teacher_that_is_scaled_and_turned_but_not_moved():
    teacher, _ = batch(4, 3)
    turn, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    teacher = teacher.detach()
    student = (7 * teacher @ turn).requires_grad_()
    loss, gradient = value_and_gradient(distilled(student, teacher), student)
    assert loss < 1e-20 and gradient.abs().max() < 1e-10
    moved = F.normalize(teacher) @ turn + 3  # all distances and angles are the teacher's, and all cosines near 1
    assert cosines(moved).min() > 0.9 and distilled(moved, teacher) > 1e-3
