"""Every file of dml/methods/, whatever it is; then the losses against the loops of tests/reference.py and PML."""

import copy
import inspect
import math
from collections import ChainMap

import pytest
import reference
import reference_lists
import reference_proxies
import reference_tuples
import torch
from pytorch_metric_learning import distances
from torch.nn import functional as F

from benchmarks.topics.losses import PML, Dispatches
from benchmarks.topics.losses import SETTINGS as PML_SETTINGS
from dml import mining, pairs, plugins
from dml.augmentation import normalise
from dml.method import Method, Outputs
from dml.model import Model
from dml.protocol import Protocol
from dml.search import Range
from dml.training import build_method, build_optimizers
from dml.trial import SIZES, Trial

NAMES = plugins.names("methods")
CLASSES = {name: plugins.load_class("methods", name, Method) for name in NAMES}
TRAINED = [name for name in NAMES if CLASSES[name].trains]
REFERENCES = ChainMap(*map(vars, (reference, reference_tuples, reference_proxies, reference_lists)))
LOOPS = [name for name in TRAINED if name in REFERENCES]
EMBEDDING_SIZE, TRUNK_WIDTH = 16, 6


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
    trial = Trial(method=name, images_per_class=1, parameters=hyperparameters(name, share))
    return build_method(trial, num_classes, EMBEDDING_SIZE, TRUNK_WIDTH).to(dtype)


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
    outputs, labels = batch_of_outputs(kind, dtype)
    return outputs.embeddings, labels


def batch_of_outputs(kind, dtype=torch.float32):
    """All that a model may give of a batch, asking for gradients but for the teacher's part, and labels."""
    labels = LABELS[kind]
    generator = torch.Generator().manual_seed(len(kind))

    def some(*shape):
        values = torch.randn(len(labels), *shape, generator=generator, dtype=dtype)
        if kind == "copies":
            values[1], values[2], values[7] = values[0], values[4], values[4]
        if kind == "all the same":
            values[:] = values[0]
        return values

    given = Outputs(3 * some(EMBEDDING_SIZE), some(TRUNK_WIDTH), some(TRUNK_WIDTH, 3, 2), some(EMBEDDING_SIZE))
    return Outputs(*(tensor.requires_grad_() for tensor in given[:-1]), given.teacher), labels


def num_classes_of(labels):
    """One more than the batch shows: most batches do not hold every class."""
    return int(labels.max()) + 2


def value_and_gradients(loss, inputs):
    return loss, *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def found_by(method, outputs, labels):
    """Value and gradients by outputs and by the method's weights; what the method remembers of the batch is lost."""
    method = copy.deepcopy(method)
    inputs = [tensor for tensor in outputs if tensor is not None and tensor.requires_grad]
    return value_and_gradients(method.objective(outputs, labels), [*inputs, *method.parameters()])


class Draws:
    """In the place of `mining.uniform`: the same numbers again for a batch whose items stand in another `order`."""

    def __init__(self, monkeypatch):
        self.made, self.order, self.coming = [], None, None
        monkeypatch.setattr(mining, "uniform", self)

    def __call__(self, *shape, like):
        if self.coming is None:
            made = torch.rand(shape, generator=torch.Generator().manual_seed(len(self.made)), dtype=torch.float64)
            self.made.append(made.to(like))
            return self.made[-1]
        drawn = next(self.coming)
        for dimension in range(drawn.ndim) if self.order is not None else []:
            if drawn.shape[dimension] == len(self.order):
                drawn = drawn.index_select(dimension, self.order)
        assert drawn.shape == shape
        return drawn

    def again(self, order=None):
        self.order, self.coming = order, iter(self.made)


@pytest.fixture
def draws(monkeypatch):
    return Draws(monkeypatch)


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
    assert isinstance(images_per_class, int)
    assert 1 <= images_per_class <= Protocol.model_fields["batch_size"].default / 4  # negatives of some classes
    for searched in ranges_of(name).values():
        if "choices" in searched:
            assert searched.keys() == {"choices"} and len(searched["choices"]) > 1
        else:
            assert {"low", "high"} <= searched.keys() <= {"low", "high", "log", "integer"}
            assert searched["low"] < searched["high"]
            assert searched["low"] > 0 or not searched.get("log")
    if "loss_lr" in ranges_of(name):  # beyond, the first step makes weights too long to be turned
        assert ranges_of(name)["loss_lr"]["high"] <= 10
    defaults = plugins.literal("methods", name, "DEFAULTS")
    assert defaults.keys() == ranges_of(name).keys()
    for key, value in defaults.items():
        searched = ranges_of(name)[key]
        Range(**searched).refuse(value)
        assert value in searched["choices"] if "choices" in searched else searched["low"] <= value <= searched["high"]


def test_titles_differ():
    assert len({plugins.literal("methods", name, "TITLE") for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_constructor_takes_what_is_searched_and_needs_no_more(name):
    parameters = inspect.signature(CLASSES[name]).parameters
    assert list(parameters)[:2] == ["num_classes", "embedding_size"]
    searched = ranges_of(name).keys() - {"loss_lr"}
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    assert needed - set(SIZES) <= searched <= parameters.keys()


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
    outputs, labels = batch_of_outputs(kind)
    method = build(name, num_classes_of(labels), share)
    for _ in range(2):  # some remember the batch before
        found = value_and_gradients(method.objective(outputs, labels), [*outputs[:-1], *method.parameters()])
        assert found[0].shape == ()
        for tensor in found:
            assert tensor.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_that_diverged_raises_nothing(name, value):
    outputs, labels = batch_of_outputs("8 classes x 4")
    diverged = Outputs(*(torch.full_like(tensor, value, requires_grad=True) for tensor in outputs[:-1]), outputs[-1])
    build(name, num_classes_of(labels)).objective(diverged, labels).backward()


@pytest.mark.parametrize("name", TRAINED)
def test_order_of_the_batch_does_not_matter(name, draws):
    outputs, labels = batch_of_outputs("8 classes x 4", torch.float64)
    method = build(name, num_classes_of(labels), dtype=torch.float64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    there = found_by(method, outputs, labels)
    draws.again(order)
    others = Outputs(*(tensor.detach()[order].requires_grad_(tensor.requires_grad) for tensor in outputs))
    loss, *gradients = found_by(method, others, labels[order])
    of_items = len(outputs) - 1
    back = [gradient[order.argsort()] for gradient in gradients[:of_items]]
    assert_equal([loss, *back, *gradients[of_items:]], there)


@pytest.mark.parametrize("name", TRAINED)
def test_numbering_of_the_classes_does_not_matter(name, draws):
    outputs, labels = batch_of_outputs("8 classes x 4", torch.float64)
    num_classes = num_classes_of(labels)
    method = build(name, num_classes, dtype=torch.float64)
    with torch.no_grad():  # weights that differ between classes, whatever their initial values
        for weight in method.parameters():
            weight += 0.1 * torch.randn_like(weight)
    there = found_by(method, outputs, labels)
    new_number = torch.randperm(num_classes, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weight in method.parameters():
            for dimension in range(weight.ndim):
                if weight.shape[dimension] == num_classes:
                    weight.copy_(weight.index_select(dimension, new_number.argsort()))
    draws.again()
    again = found_by(method, outputs, new_number[labels])
    of_items = len(outputs)
    assert_equal(again[:of_items], there[:of_items])


@pytest.mark.parametrize("name", TRAINED)
def test_never_waits_for_the_device(name):
    """A tensor on the meta device has a shape and no values: reading one, or a shape that depends on values, fails."""
    outputs, labels = batch_of_outputs("8 classes x 4")
    with torch.device("meta"):
        method = build(name, 9)
        outputs = Outputs(*(torch.empty(tensor.shape, requires_grad=tensor.requires_grad) for tensor in outputs))
        labels = torch.empty(len(labels), dtype=torch.long)
    with Dispatches() as dispatches:
        method.objective(outputs, labels).backward()
    assert dispatches.operations and dispatches.waits == []


def test_pixels_never_wait_for_the_device():
    crops = torch.empty(12, 3, 16, 16, dtype=torch.uint8, device="meta")
    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    normalise(crops, "BGR", mean, std)  # the first makes what is kept
    with Dispatches() as dispatches:
        normalise(crops, "BGR", mean, std)
    assert dispatches.operations and dispatches.waits == []


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_never_waits(name, protocol):
    at_low = {key: value_at(searched, 0) for key, searched in ranges_of(name).items()}
    trial = Trial(method=name, images_per_class=4, parameters=at_low)
    model = Model(protocol, has_head=True)
    method = build_method(trial, 9, protocol.embedding_size, model.trunk_width)
    optimizers = build_optimizers(model, method, trial, protocol)
    crops = torch.randint(0, 256, (12, 3, protocol.crop_size, protocol.crop_size), dtype=torch.uint8)
    labels = torch.arange(12) // 4
    teacher = torch.randn(12, protocol.embedding_size)

    def step():
        loss = method.objective(model(crops)._replace(teacher=teacher), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    step()
    with Dispatches() as dispatches:
        step()
    assert any("convolution_backward" in operation for operation in dispatches.operations)
    assert any("_foreach_addcdiv_" in operation for operation in dispatches.operations)
    assert dispatches.waits == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.unique(),
        lambda x: x.clone().index_put_((x > 0,), torch.zeros(())),
        lambda x: torch.equal(x, x + 1),
        lambda x: x.repeat_interleave((x > 0).long()),
        lambda x: x.to("meta"),
    ],
)
def test_waiting_is_noticed(wait):
    with Dispatches() as dispatches:
        wait(torch.randn(5))
    assert len(dispatches.waits) == 1


@pytest.mark.parametrize("name", sorted(set(PML_SETTINGS) - {"normalized_softmax"}))
def test_waiting_of_pml_is_noticed(name):
    embeddings, labels = batch("8 classes x 4")
    with Dispatches() as dispatches:
        PML(name, num_classes_of(labels), EMBEDDING_SIZE, PML_SETTINGS[name])(embeddings, labels).backward()
    assert dispatches.waits


@pytest.mark.parametrize("name", TRAINED)
def test_weights_come_from_the_global_random_state(name):
    first, second = build(name, 9), build(name, 9)
    torch.testing.assert_close(list(first.parameters()), list(second.parameters()), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------ the definitions


FIELD = """
    a_bier angular arcface contrastive contrastive_distance_weighted cosface deep_spectral ephn epshn
    fastap fastap_hierarchical generalized_lifted group_loss histogram horde hyp intra_batch irt_r
    margin margin_class margin_distance_weighted multi_similarity multi_similarity_miner n_pairs
    normalized_softmax ntxent proxy_anchor proxy_gml proxy_nca proxy_nca_classic proxy_nca_pp quadruplet
    r_contrastive r_margin r_snr r_triplet ranked_list recall_at_k recall_at_k_simix rkd roadmap
    smooth_ap snr_contrastive snr_distance_weighted soft_triple sph triplet triplet_distance_weighted
    triplet_random triplet_semihard triplet_softhard
"""


def test_the_methods_of_the_field_are_compared_with_loops():
    """A method of one's own is too, as soon as tests/reference.py has a slow, obvious function of its name."""
    assert len(set(FIELD.split())) == 51 and set(FIELD.split()) <= set(LOOPS)


@pytest.mark.fidelity("Losses and miners: value and gradients", "loops over the formula, in float64", "relative")
@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("kind", [kind for kind in LABELS if kind != "all the same"])
@pytest.mark.parametrize("name", LOOPS)
def test_equals_the_loops(name, kind, share, deviates, draws):
    """Not where all embeddings are equal: there rounding decides what a miner with epsilon 0 takes for harder."""
    outputs, labels = batch_of_outputs(kind, torch.float64)
    method = build(name, num_classes_of(labels), share, torch.float64)
    found = found_by(method, outputs, labels)
    known = outputs._asdict() | hyperparameters(name, share) | dict(method.named_parameters())
    known |= {"labels": labels, "draws": draws.made, "parameters": dict(method.named_parameters())}
    known |= {"buffers": dict(method.named_buffers())}
    loops = REFERENCES[name]
    of_loops = loops(**{key: known[key] for key in inspect.signature(loops).parameters if key in known})
    inputs = [*outputs[:-1], *method.parameters()]
    expected = value_and_gradients(of_loops + 0 * outputs.embeddings.sum(), inputs)
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


@pytest.mark.fidelity("Losses and miners: value and gradients", "pytorch-metric-learning, in float64", "relative")
@pytest.mark.parametrize("kind", ["8 classes x 4", "32 classes x 1", "uneven, one alone"])
@pytest.mark.parametrize("name", PML_SETTINGS)
def test_equals_pml(name, kind, deviates):
    embeddings, labels = batch(kind, torch.float64)
    num_classes, settings = num_classes_of(labels), PML_SETTINGS[name]
    ours = CLASSES[name](num_classes, EMBEDDING_SIZE, **settings).double()
    theirs = PML(name, num_classes, EMBEDDING_SIZE, settings).double()
    theirs.take_weights(ours)
    if name == "arcface":  # beyond, PML goes on linearly and the paper's code does not
        own = F.cosine_similarity(embeddings, ours.weights[labels])
        assert own.acos().max() < math.radians(180 - settings["margin"])

    expected = value_and_gradients(theirs(embeddings, labels), [embeddings, *theirs.parameters()])
    loss, gradient, *of_weights = value_and_gradients(ours(embeddings, labels), [embeddings, *ours.parameters()])
    found = [loss, gradient, *map(theirs.in_its_layout, of_weights)]
    # PML's SoftTriple leaves out the 1e-5 that the authors add inside the regulariser's root.
    assert_equal(found, expected, 1e-5 if name == "soft_triple" else 1e-9)
    deviates(largest_difference(found, expected))


@pytest.mark.parametrize("name", [name for name in PML_SETTINGS if "loss_lr" in ranges_of(name)])
def test_weights_begin_like_those_of_pml(name):
    torch.manual_seed(5)
    ours = CLASSES[name](9, EMBEDDING_SIZE, **PML_SETTINGS[name])
    torch.manual_seed(5)
    theirs = PML(name, 9, EMBEDDING_SIZE, PML_SETTINGS[name])
    for our_weight, their_weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_equal([our_weight.flatten()], [their_weight.flatten()], 1e-7)


def test_soft_triple_equals_pml_without_the_regulariser():
    embeddings, labels = batch("8 classes x 4", torch.float64)
    settings = PML_SETTINGS["soft_triple"] | {"reg_weight": 0.0}
    ours = CLASSES["soft_triple"](9, EMBEDDING_SIZE, **settings).double()
    theirs = PML("soft_triple", 9, EMBEDDING_SIZE, settings).double()
    theirs.take_weights(ours)
    assert_equal(
        value_and_gradients(ours(embeddings, labels), [embeddings]),
        value_and_gradients(theirs(embeddings, labels), [embeddings]),
    )


def test_squared_distances_equal_pml():
    embeddings, _ = batch("8 classes x 4", torch.float64)
    assert_equal(
        [pairs.squared_distances(embeddings)], [distances.LpDistance(power=2, normalize_embeddings=False)(embeddings)]
    )
