"""Every file of dml/methods/, whatever it is; then the losses against the loops of tests/reference.py and PML."""

import inspect
import math

import pytest
import reference
import torch
from pytorch_metric_learning import distances, losses, miners, regularizers
from torch.nn import functional as F

from dml import pairs, plugins
from dml.method import Method

NAMES = plugins.names("methods")
CLASSES = {name: plugins.load_class("methods", name, Method) for name in NAMES}
TRAINED = [name for name in NAMES if CLASSES[name].trains]
LOOPS = [name for name in TRAINED if hasattr(reference, name)]
EMBEDDING_SIZE = 16


def ranges_of(name):
    return plugins.literal("methods", name, "RANGES", {})


def value_at(searched, share):
    """The value of a range at a share of the way from its low to its high, on its scale."""
    if "choices" in searched:
        return searched["choices"][round(share * (len(searched["choices"]) - 1))]
    low, high = searched["low"], searched["high"]
    value = low * (high / low) ** share if searched.get("log") else low + share * (high - low)
    return round(value) if searched.get("integer") else value


def hyperparameters(name, share=0.3):
    return {key: value_at(searched, share) for key, searched in ranges_of(name).items() if key != "loss_lr"}


def build(name, num_classes, share=0.3, dtype=torch.float32):
    torch.manual_seed(7)
    return CLASSES[name](num_classes, EMBEDDING_SIZE, **hyperparameters(name, share)).to(dtype)


def shuffled(labels):
    return torch.tensor(labels)[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


LABELS = {
    "8 classes x 4": shuffled([c for c in range(8) for _ in range(4)]),
    "32 classes x 1": shuffled(list(range(32))),
    "uneven, one alone": shuffled([0] * 7 + [1] * 2 + [3] * 5 + [4]),
    "one class": torch.zeros(6, dtype=torch.long),
    "one image": torch.tensor([1]),
    "copies": torch.tensor([0, 0, 1, 1, 2, 2, 0, 3]),
    "all the same": torch.tensor([0, 0, 1, 1, 2, 2]),
}


def batch(kind, dtype=torch.float32):
    """Embeddings that ask for gradients, and labels; "copies" holds equal embeddings in a class and across classes."""
    labels = LABELS[kind]
    generator = torch.Generator().manual_seed(len(kind))
    embeddings = 3 * torch.randn(len(labels), EMBEDDING_SIZE, generator=generator, dtype=dtype)
    if kind == "copies":
        embeddings[1], embeddings[2], embeddings[7] = embeddings[0], embeddings[4], embeddings[4]
    if kind == "all the same":
        embeddings[:] = embeddings[0]
    return embeddings.requires_grad_(), labels


def num_classes_of(labels):
    """One more than the batch shows: most batches do not hold every class."""
    return int(labels.max()) + 2


def value_and_gradients(loss, inputs):
    return loss, *torch.autograd.grad(loss, inputs, materialize_grads=True)


def assert_equal(found, expected, tolerance=1e-9):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def largest_difference(found, expected):
    """Of any two numbers, relative to those above 1."""
    pairs_of_tensors = list(zip(found, expected, strict=True))
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max().detach()) for a, b in pairs_of_tensors)


# ------------------------------------------------------------------------------------------------- what any file holds


@pytest.mark.parametrize("name", NAMES)
def test_literals(name):
    title, images_per_class = (plugins.literal("methods", name, key) for key in ("TITLE", "IMAGES_PER_CLASS"))
    assert isinstance(title, str) and title
    assert isinstance(images_per_class, int) and images_per_class >= 1
    for searched in ranges_of(name).values():
        if "choices" in searched:
            assert searched.keys() == {"choices"} and len(searched["choices"]) > 1
        else:
            assert {"low", "high"} <= searched.keys() <= {"low", "high", "log", "integer"}
            assert searched["low"] < searched["high"]
            assert searched["low"] > 0 or not searched.get("log")


def test_titles_differ():
    assert len({plugins.literal("methods", name, "TITLE") for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_constructor_takes_what_is_searched_and_needs_no_more(name):
    parameters = inspect.signature(CLASSES[name]).parameters
    assert list(parameters)[:2] == ["num_classes", "embedding_size"]
    searched = ranges_of(name).keys() - {"loss_lr"}
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    assert needed - {"num_classes", "embedding_size"} <= searched <= parameters.keys()


@pytest.mark.parametrize("name", TRAINED)
def test_weights_have_a_searched_learning_rate(name):
    assert ("loss_lr" in ranges_of(name)) == bool(list(build(name, 5).parameters()))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(TRAINED)))
def test_methods_that_do_not_train(name):
    assert not ranges_of(name)
    assert not list(build(name, 5).parameters())


@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", TRAINED)
def test_value_and_gradients_are_finite(name, kind, share):
    embeddings, labels = batch(kind)
    method = build(name, num_classes_of(labels), share)
    loss = method(embeddings, labels)
    assert loss.shape == ()
    loss.backward()
    for tensor in (loss, embeddings.grad, *(weight.grad for weight in method.parameters())):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", TRAINED)
def test_order_of_the_batch_does_not_matter(name):
    embeddings, labels = batch("8 classes x 4", torch.float64)
    method = build(name, num_classes_of(labels), dtype=torch.float64)
    inputs = [embeddings, *method.parameters()]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    there = value_and_gradients(method(embeddings, labels), inputs)
    again = value_and_gradients(method(embeddings[order], labels[order]), inputs)
    assert_equal(again, there)


@pytest.mark.parametrize("name", TRAINED)
def test_numbering_of_the_classes_does_not_matter(name):
    embeddings, labels = batch("8 classes x 4", torch.float64)
    num_classes = num_classes_of(labels)
    method = build(name, num_classes, dtype=torch.float64)
    with torch.no_grad():  # weights that differ between classes, whatever their initial values
        for weight in method.parameters():
            weight += 0.1 * torch.randn_like(weight)
    there = value_and_gradients(method(embeddings, labels), [embeddings])
    new_number = torch.randperm(num_classes, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weight in method.parameters():
            for dimension in range(weight.ndim):
                if weight.shape[dimension] == num_classes:
                    weight.copy_(weight.index_select(dimension, new_number.argsort()))
    again = value_and_gradients(method(embeddings, new_number[labels]), [embeddings])
    assert_equal(again, there)


@pytest.mark.parametrize("name", TRAINED)
def test_never_waits_for_the_device(name):
    """A tensor on the meta device has a shape and no values: reading one, or a shape that depends on values, fails."""
    with torch.device("meta"):
        method = build(name, 9)
        embeddings = torch.empty(32, EMBEDDING_SIZE, requires_grad=True)
        method(embeddings, torch.empty(32, dtype=torch.long)).backward()
    assert embeddings.grad.shape == embeddings.shape


@pytest.mark.parametrize("name", TRAINED)
def test_weights_come_from_the_global_random_state(name):
    first, second = build(name, 9), build(name, 9)
    torch.testing.assert_close(list(first.parameters()), list(second.parameters()), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------ the definitions


def test_the_methods_of_the_paper_are_compared_with_loops():
    """A method of one's own is too, as soon as tests/reference.py has a slow, obvious function of its name."""
    paper = "contrastive triplet ntxent proxy_nca margin margin_class normalized_softmax cosface arcface fastap " \
        "snr_contrastive multi_similarity multi_similarity_miner soft_triple"  # fmt: skip
    assert set(paper.split()) <= set(LOOPS)


@pytest.mark.fidelity("Losses and miners: value and gradients", "loops over the formula, in float64", "relative")
@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("kind", [kind for kind in LABELS if kind != "all the same"])
@pytest.mark.parametrize("name", LOOPS)
def test_equals_the_loops(name, kind, share, deviates):
    """Not where all embeddings are equal: there rounding decides what a miner with epsilon 0 takes for harder."""
    embeddings, labels = batch(kind, torch.float64)
    method = build(name, num_classes_of(labels), share, torch.float64)
    weights = dict(method.named_parameters())
    inputs = [embeddings, *weights.values()]
    found = value_and_gradients(method(embeddings, labels), inputs)
    loops = getattr(reference, name)(embeddings, labels, **hyperparameters(name, share) | weights)
    expected = value_and_gradients(loops + 0 * embeddings.sum(), inputs)
    assert_equal(found, expected)
    deviates(largest_difference(found, expected))


def test_soft_triple_with_one_centre_is_a_softmax_over_cosines():
    embeddings, labels = batch("8 classes x 4", torch.float64)
    method = CLASSES["soft_triple"](
        9, EMBEDDING_SIZE, la=20.0, gamma=0.1, reg_weight=0.2, margin=0.0, centers_per_class=1
    ).double()
    logits = 20 * F.normalize(embeddings) @ F.normalize(method.centers[:, 0]).T
    assert_equal([method(embeddings, labels)], [F.cross_entropy(logits, labels)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 64, 2048])
def test_copies_of_an_image_are_at_distance_zero(size, dtype):
    embeddings = torch.randn(64, size, generator=torch.Generator().manual_seed(size), dtype=dtype)
    embeddings[32:] = embeddings[:32]
    distance = pairs.distances(embeddings.requires_grad_())
    distance.sum().backward()
    copies = torch.eye(32, dtype=torch.bool).repeat(2, 2)
    assert (distance[copies] == 0).all() and (distance[~copies] > 0).all()
    assert embeddings.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------------------------ PML


def pml_equal(name, num_classes, settings):
    """PML's loss with the same settings, its weights as PML draws them."""
    sizes = {"num_classes": num_classes, "embedding_size": EMBEDDING_SIZE}
    s = dict(settings)
    if name == "snr_contrastive":
        weight = s.pop("regularizer_weight")
        return losses.SignalToNoiseRatioContrastiveLoss(
            **s, embedding_regularizer=regularizers.ZeroMeanRegularizer(), embedding_reg_weight=weight
        )
    if name == "soft_triple":
        weight = s.pop("reg_weight")
        regularizer = regularizers.SparseCentersRegularizer(num_classes, 10)
        return losses.SoftTripleLoss(**sizes, **s, weight_regularizer=regularizer, weight_reg_weight=weight)
    return {
        "contrastive": lambda: losses.ContrastiveLoss(**s),
        "triplet": lambda: losses.TripletMarginLoss(**s),
        "ntxent": lambda: losses.NTXentLoss(**s),
        "proxy_nca": lambda: losses.ProxyNCALoss(**sizes, **s),
        "margin": lambda: losses.MarginLoss(**s, learn_beta=True),
        "margin_class": lambda: losses.MarginLoss(**s, learn_beta=True, num_classes=num_classes),
        "normalized_softmax": lambda: losses.NormalizedSoftmaxLoss(**sizes, **s),
        "cosface": lambda: losses.CosFaceLoss(**sizes, **s),
        "arcface": lambda: losses.ArcFaceLoss(**sizes, **s),
        "fastap": lambda: losses.FastAPLoss(**s),
        "multi_similarity": lambda: losses.MultiSimilarityLoss(**s),
        "multi_similarity_miner": lambda: losses.MultiSimilarityLoss(**{k: s[k] for k in ("alpha", "beta", "base")}),
    }[name]()


# Settings near the paper's best, and what must be known to compare: NT-Xent's 1e-20 is the smallest float in PML 2.9,
# which makes no difference while a positive's share is far above both.
PML_SETTINGS = {
    "contrastive": {"pos_margin": 0.2, "neg_margin": 1.3},
    "triplet": {"margin": 0.1},
    "ntxent": {"temperature": 0.1},
    "proxy_nca": {"softmax_scale": 14.0},
    "margin": {"margin": 0.1, "beta": 1.2},
    "margin_class": {"margin": 0.1, "beta": 1.2},
    "normalized_softmax": {"temperature": 0.1},
    "cosface": {"margin": 0.6, "scale": 100.0},
    "arcface": {"margin": 23.0, "scale": 100.0},
    "fastap": {"num_bins": 17},
    "snr_contrastive": {"pos_margin": 0.3, "neg_margin": 1.8, "regularizer_weight": 0.1},
    "multi_similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5},
    "multi_similarity_miner": {"alpha": 18.0, "beta": 76.0, "base": 0.8, "epsilon": 0.4},
    "soft_triple": {"la": 78.0, "gamma": 0.2, "reg_weight": 0.4, "margin": 0.4},
}


def in_pml_layout(weight):
    """Our weights have the classes first; PML's proxies too, but its W and fc have them last."""
    return weight.flatten(0, -2).T if weight.ndim > 1 else weight


@pytest.mark.fidelity("Losses and miners: value and gradients", "pytorch-metric-learning, in float64", "relative")
@pytest.mark.parametrize("kind", ["8 classes x 4", "32 classes x 1", "uneven, one alone"])
@pytest.mark.parametrize("name", PML_SETTINGS)
def test_equals_pml(name, kind, deviates):
    embeddings, labels = batch(kind, torch.float64)
    num_classes, settings = num_classes_of(labels), PML_SETTINGS[name]
    ours = CLASSES[name](num_classes, EMBEDDING_SIZE, **settings).double()
    theirs = pml_equal(name, num_classes, settings).double()
    turn = (lambda weight: weight) if name == "proxy_nca" else in_pml_layout
    with torch.no_grad():
        for our_weight, their_weight in zip(ours.parameters(), theirs.parameters(), strict=True):
            their_weight.copy_(turn(our_weight))
    if name == "arcface":  # beyond, PML goes on linearly and the paper's code does not
        own = F.cosine_similarity(embeddings, ours.weights[labels])
        assert own.acos().max() < math.radians(180 - settings["margin"])

    mined = miners.MultiSimilarityMiner(settings["epsilon"])(embeddings, labels) if "epsilon" in settings else None
    # PML's zero-mean term sees the embeddings as they are, the paper's normalised.
    seen = F.normalize(embeddings) if name == "snr_contrastive" else embeddings
    expected = value_and_gradients(theirs(seen, labels, mined), [embeddings, *theirs.parameters()])
    loss, gradient, *weight_gradients = value_and_gradients(ours(embeddings, labels), [embeddings, *ours.parameters()])
    # PML's SoftTriple leaves out the 1e-5 that the authors add inside the regulariser's root.
    tolerance = 1e-5 if name == "soft_triple" else 1e-9
    assert_equal([loss, gradient, *map(turn, weight_gradients)], expected, tolerance)
    deviates(largest_difference([loss, gradient, *map(turn, weight_gradients)], expected))


@pytest.mark.parametrize("name", [name for name in PML_SETTINGS if "loss_lr" in ranges_of(name)])
def test_weights_begin_like_those_of_pml(name):
    torch.manual_seed(5)
    ours = CLASSES[name](9, EMBEDDING_SIZE, **PML_SETTINGS[name])
    torch.manual_seed(5)
    theirs = pml_equal(name, 9, PML_SETTINGS[name])
    for our_weight, their_weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_equal([our_weight.flatten()], [their_weight.flatten()], 1e-7)


def test_soft_triple_equals_pml_without_the_regulariser():
    embeddings, labels = batch("8 classes x 4", torch.float64)
    settings = PML_SETTINGS["soft_triple"] | {"reg_weight": 0.0}
    ours = CLASSES["soft_triple"](9, EMBEDDING_SIZE, **settings).double()
    theirs = pml_equal("soft_triple", 9, settings).double()
    theirs.fc.data = in_pml_layout(ours.centers.data)
    assert_equal(
        value_and_gradients(ours(embeddings, labels), [embeddings]),
        value_and_gradients(theirs(embeddings, labels), [embeddings]),
    )


def test_squared_distances_equal_pml():
    embeddings, _ = batch("8 classes x 4", torch.float64)
    assert_equal(
        [pairs.squared_distances(embeddings)], [distances.LpDistance(power=2, normalize_embeddings=False)(embeddings)]
    )
