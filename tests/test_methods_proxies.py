"""What the tests of any method do not reach in those with proxies, classifiers or networks of their own."""

import math

import pytest
import torch
from pytorch_metric_learning import losses
from test_methods import (
    CLASSES,
    EMBEDDING_SIZE,
    TRUNK_WIDTH,
    assert_equal,
    batch,
    batch_of_outputs,
    largest_difference,
    num_classes_of,
    value_and_gradients,
)
from torch.nn import functional as F


def of_batch(name, kind="8 classes x 4", **settings):
    embeddings, labels = batch(kind, torch.float64)
    torch.manual_seed(3)
    return CLASSES[name](num_classes_of(labels), EMBEDDING_SIZE, **settings).double(), embeddings, labels


# ------------------------------------------------------------------------------------------------------------------ PML


PEERS = {
    "proxy_anchor": (losses.ProxyAnchorLoss, {"alpha": 32.0, "margin": 0.1}),
    "proxy_nca_pp": (losses.ProxyNCALoss, {"softmax_scale": 9.0}),
}


@pytest.mark.fidelity("Losses and miners: value and gradients", "pytorch-metric-learning, in float64", "relative")
@pytest.mark.parametrize("kind", ["8 classes x 4", "32 classes x 1", "uneven, one alone"])
@pytest.mark.parametrize("name", PEERS)
def test_equals_pml(name, kind, deviates):
    peer, settings = PEERS[name]
    ours, embeddings, labels = of_batch(name, kind, **settings)
    torch.manual_seed(3)
    theirs = peer(len(ours.proxies), EMBEDDING_SIZE, **settings).double()
    assert torch.equal(ours.proxies, theirs.proxies)  # both begin alike
    found = value_and_gradients(ours(embeddings, labels), [embeddings, ours.proxies])
    expected = value_and_gradients(theirs(embeddings, labels), [embeddings, theirs.proxies])
    assert_equal(found, expected)
    deviates(largest_difference(found, expected))


# -------------------------------------------------------------------------------------------------------------- proxies


def test_classic_proxy_nca_leaves_the_own_class_out_of_the_other_forms_denominator():
    classic, embeddings, labels = of_batch("proxy_nca_classic", softmax_scale=2.0)
    other, *_ = of_batch("proxy_nca", softmax_scale=2.0)
    shares = (4 * F.normalize(embeddings) @ F.normalize(classic.proxies).T).softmax(dim=1)
    of_others = 1 - shares.gather(1, labels[:, None])
    assert_equal([classic(embeddings, labels)], [other(embeddings, labels) + of_others.log().mean()])


def test_classic_proxy_nca_goes_on_below_zero():
    method, *_ = of_batch("proxy_nca_classic", softmax_scale=9.0)
    at_proxies = method.proxies.detach()
    assert method(at_proxies, torch.arange(len(at_proxies))) < -1


def test_proxy_gml_with_all_proxies_is_a_softmax_over_the_sums_of_cosines():
    method, embeddings, labels = of_batch("proxy_gml", r=1.0, reg_weight=0.0, proxies_per_class=3)
    logits = (F.normalize(embeddings) @ F.normalize(method.proxies, dim=2).flatten(0, 1).T).unflatten(1, (-1, 3)).sum(2)
    assert_equal([method(embeddings, labels)], [F.cross_entropy(logits, labels)])


def test_proxy_gml_tells_the_own_class_from_as_many_proxies_of_others_at_the_least():
    """However small r is and however far the own proxies are, with each image something is to be learnt."""
    method, embeddings, labels = of_batch("proxy_gml", r=0.01, reg_weight=0.0, proxies_per_class=3)
    with torch.no_grad():
        method.proxies[labels[0]] -= embeddings[0]
    cosines = (F.normalize(embeddings) @ F.normalize(method.proxies, dim=2).flatten(0, 1).T).unflatten(1, (-1, 3))
    own = F.one_hot(labels, len(method.proxies)).bool()
    kept = method._nearest(cosines.detach(), labels)
    assert kept[own].all()
    assert (kept[~own].view(len(labels), -1).sum(dim=1) == 3).all()
    loss, gradient = value_and_gradients(method(embeddings, labels), [embeddings])
    assert loss > 0 and (gradient.norm(dim=1) > 1e-4).all()


def test_proxy_gml_of_one_class_has_nothing_to_tell_apart():
    method = CLASSES["proxy_gml"](1, EMBEDDING_SIZE, r=0.05, reg_weight=0.0)
    assert method(torch.randn(4, EMBEDDING_SIZE), torch.zeros(4, dtype=torch.long)) == 0


# ------------------------------------------------------------------------------------------------------------ the group


def test_anchors_are_as_many_of_each_class_as_it_has():
    method, embeddings, labels = of_batch("group_loss", "uneven, one alone", temperature=5.0, anchors=2)
    for _ in range(5):
        drawn = method._drawn(labels, embeddings)[:, 0]
        assert drawn[labels == 0].sum() == drawn[labels == 1].sum() == drawn[labels == 3].sum() == 2
        assert drawn[labels == 4].all()


def test_every_image_is_an_anchor_as_often():
    method, embeddings, labels = of_batch("group_loss", temperature=5.0, anchors=1)
    often = sum(method._drawn(labels, embeddings)[:, 0].double() for _ in range(2000)) / 2000
    assert ((often - 0.25).abs() < 0.05).all()


def test_a_group_of_anchors_teaches_the_classifier_only():
    method, embeddings, labels = of_batch("group_loss", temperature=5.0, anchors=4)
    expected = F.cross_entropy(method.classifier(embeddings), labels)
    inputs = [embeddings, *method.parameters()]
    assert_equal(value_and_gradients(method(embeddings, labels), inputs), value_and_gradients(expected, inputs))


def test_more_iterations_bring_images_nearer_to_the_anchors_they_resemble():
    """Images of a class are alike and the classifier knows nothing: the anchors tell it all."""
    labels = torch.arange(4).repeat_interleave(6)
    torch.manual_seed(3)
    embeddings = F.one_hot(labels).double() @ torch.randn(4, EMBEDDING_SIZE, dtype=torch.float64)
    found = []
    for iterations in (1, 3, 30):
        method = CLASSES["group_loss"](4, EMBEDDING_SIZE, 1.0, 2, iterations).double()
        torch.nn.init.zeros_(method.classifier.weight)
        torch.nn.init.zeros_(method.classifier.bias)
        found.append(method(embeddings, labels).item())
    assert found[0] > found[1] > found[2]
    assert found[2] == pytest.approx(math.log(4))  # what is left is the classifier's


def test_the_group_takes_embeddings_without_any_correlation():
    method, embeddings, labels = of_batch("group_loss", temperature=5.0, anchors=1)
    constant = torch.zeros_like(embeddings).requires_grad_()
    for found in value_and_gradients(method(constant, labels), [constant, *method.parameters()]):
        assert found.isfinite().all()


@pytest.mark.parametrize("blocks, heads", [(1, 1), (2, 8)])
def test_messages_of_any_blocks_and_heads_reach_every_image(blocks, heads):
    """What one image is changes what the network makes of another."""
    method, embeddings, _ = of_batch("intra_batch", temperature=0.2, blocks=blocks, heads=heads)
    made = method.blocks(embeddings)
    (gradient,) = torch.autograd.grad(made[0].square().sum() + made[0].sum(), embeddings)
    assert (gradient[1:] != 0).any(dim=1).all()


def test_messages_are_normalised_as_pytorch_does():
    method, embeddings, labels = of_batch("intra_batch", temperature=0.2, label_smoothing=0.0)
    neck = torch.nn.BatchNorm1d(EMBEDDING_SIZE, affine=False).double()
    together = method.together(neck(method.blocks(F.normalize(embeddings))))
    expected = F.cross_entropy(together / 0.2, labels) + F.cross_entropy(method.alone(embeddings) / 0.2, labels)
    assert_equal([method(embeddings, labels)], [expected])


# ------------------------------------------------------------------------------------------------------- heads and maps


@pytest.mark.parametrize("size, sizes", [(512, [96, 160, 256]), (128, [24, 40, 64]), (50, [9, 16, 25]), (3, [1, 1, 1])])
def test_similarity_of_a_bier_weighs_its_heads_by_the_squares_of_their_shares(size, sizes):
    a, b = torch.randn(2, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = F.cosine_similarity(*CLASSES["a_bier"].retrieval(torch.stack([a, b])), dim=0)
    cosines = [F.cosine_similarity(x, y, dim=0) for x, y in zip(a.split(sizes), b.split(sizes), strict=True)]
    expected = sum(n**2 * cosine for n, cosine in zip(sizes, cosines, strict=True)) / sum(n**2 for n in sizes)
    assert_equal([found], [expected])


def test_heads_of_a_bier_move_against_its_networks():
    """A step along either gradient alone: the networks find more likeness, the heads leave less of it."""
    method, embeddings, _ = of_batch("a_bier", beta=0.5, negative_cost=5.0, adversary=1.0)
    heads = [F.normalize(head) for head in embeddings.detach().split([3, 5, 8], dim=1)]
    heads = [head.requires_grad_() for head in heads]
    weights = list(method.parameters())
    likeness, *gradients = value_and_gradients(-method._likeness(heads), [*heads, *weights])
    with torch.no_grad():
        moved = [head - 1e-3 * gradient for head, gradient in zip(heads, gradients, strict=False)]
        assert method._likeness(moved) < -likeness
        for weight, gradient in zip(weights, gradients[3:], strict=True):
            weight -= 1e-3 * gradient
        assert method._likeness(heads) > -likeness


def test_horde_takes_the_patches_of_a_transformer_as_places():
    outputs, labels = batch_of_outputs("8 classes x 4", torch.float64)
    torch.manual_seed(3)
    method = CLASSES["horde"](9, EMBEDDING_SIZE, TRUNK_WIDTH, margin=0.5).double()
    class_token = torch.full((len(labels), 1, TRUNK_WIDTH), 7.0, dtype=torch.float64)
    tokens = torch.cat([class_token, outputs.maps.flatten(2).mT], dim=1)
    of_tokens = outputs._replace(maps=tokens)
    assert_equal([method.objective(of_tokens, labels)], [method.objective(outputs, labels)])


def test_horde_computes_in_the_precision_of_the_embeddings():
    outputs, labels = batch_of_outputs("8 classes x 4")
    method = CLASSES["horde"](9, EMBEDDING_SIZE, TRUNK_WIDTH, margin=0.5)
    half = outputs.maps.bfloat16()
    found = method.objective(outputs._replace(maps=half), labels)
    assert_equal([found], [method.objective(outputs._replace(maps=half.float()), labels)])


def test_products_of_hordes_moments_are_powers_of_products_of_features():
    """Of a single place, and on average over the random matrices, which is what approximates the moments."""
    torch.manual_seed(3)
    a, b = F.normalize(torch.randn(2, TRUNK_WIDTH, dtype=torch.float64), dim=1)
    b = F.normalize(a + 0.5 * b, dim=0)
    size = 200_000
    method = CLASSES["horde"](2, 1, TRUNK_WIDTH, margin=0.5, orders=3, order_size=size).double()
    of_a, of_b = method._moments(torch.stack([a, b])[:, None]).unbind(dim=1)
    products = (of_a * of_b).sum(dim=1) / size
    torch.testing.assert_close(products, torch.stack([(a @ b) ** 2, (a @ b) ** 3]), rtol=0.1, atol=0)


def normalized_softmax(class_share):
    torch.manual_seed(0)
    return CLASSES["normalized_softmax"](40, 8, temperature=0.1, class_share=class_share)


def test_a_share_of_the_classes_holds_those_of_the_batch():
    labels = torch.tensor([3, 3, 7, 39])
    method, seen = normalized_softmax(0.25), set()
    for _ in range(200):
        chosen = method._some_classes(labels).tolist()
        assert len(set(chosen)) == 10 and {3, 7, 39} <= set(chosen)
        seen |= set(chosen)
    assert seen == set(range(40))


def test_a_share_of_the_classes_is_a_softmax_over_those(monkeypatch):
    embeddings, labels = torch.randn(4, 8), torch.tensor([3, 3, 7, 39])
    method = normalized_softmax(0.25)
    monkeypatch.setattr(method, "_some_classes", lambda labels: torch.tensor([39, 3, 5, 7]))
    logits = F.normalize(embeddings) @ F.normalize(method.weights[[39, 3, 5, 7]]).T / 0.1
    expected = F.cross_entropy(logits, torch.tensor([1, 1, 3, 0]))
    torch.testing.assert_close(method(embeddings, labels), expected)


@pytest.mark.parametrize("class_share", [0.999, 1.0])
def test_all_classes_are_all_classes(class_share):
    embeddings, labels = torch.randn(64, 8), torch.arange(64) % 40
    torch.testing.assert_close(
        normalized_softmax(class_share)(embeddings, labels), normalized_softmax(1.0)(embeddings, labels)
    )
