"""Training of a fold: the stopping rule, the steps, what is drawn from which seed, what is never looked at."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from dml import loading, training
from dml.augmentation import train_batch
from dml.embedding import embed, embed_batches
from dml.images import PackedImages
from dml.method import Method
from dml.model import Model
from dml.neighbours import neighbours
from dml.plugins import load
from dml.sampling import Batches
from dml.seeds import derive_seed, generator
from dml.splits import Fold, read_folds
from dml.training import build_method, build_optimizers, of_classes, train
from dml.trial import Trial

CONTRASTIVE = Trial(method="contrastive", images_per_class=4, parameters={"pos_margin": 0.0, "neg_margin": 0.8})
SOFTMAX = Trial(method="normalized_softmax", images_per_class=4, parameters={"temperature": 0.1, "loss_lr": 0.02})
PRETRAINED = Trial(method="pretrained", images_per_class=1)


@pytest.fixture
def fold(stripes_data):
    """One whose train classes are not 0, 1, 2, ... already."""
    return read_folds(stripes_data.folds)[1]


def state_of(model):
    return copy.deepcopy(model.state_dict())


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --------------------------------------------------------------------------------------------------- when training ends


@pytest.fixture
def scripted(monkeypatch, trainval, fold, protocol):
    """Train with given validation results; the outcome, and the model's state at each validation."""

    def run(script, trial=CONTRASTIVE, **changes):
        results, states = iter(script), []

        def look(model, batches, retrieval):
            states.append(state_of(model))
            return np.eye(len(batches.images), dtype=np.float32)

        monkeypatch.setattr(training, "embed_batches", look)
        monkeypatch.setattr(training, "map_at_r", lambda found: {"map_at_r": np.array([next(results)])})
        changed = protocol.model_copy(update={"epoch_steps": 1, "max_epochs": 1000} | changes)
        return train(trial, changed, trainval, fold, seed=3), states

    return run


def falling():
    return itertools.count(0.9, -0.001)


@pytest.mark.parametrize(
    "every, patience, last_epoch",
    [(2, 9, 10), (5, 14, 15), (20, 39, 40), (1, 0, 1), (1, 2, 3), (3, 2, 3), (3, 3, 6)],
    ids=["CUB", "Cars", "SOP", "no patience", "every epoch", "patience below a period", "patience of a period"],
)
def test_without_improvement_training_ends_when_more_than_patience_epochs_have_passed(
    scripted, every, patience, last_epoch
):
    outcome, _ = scripted(falling(), evaluate_every=every, patience=patience)
    assert outcome.steps == last_epoch
    assert [point["step"] for point in outcome.curve] == list(range(0, last_epoch + 1, every))


def test_an_epoch_is_so_many_steps(scripted):
    outcome, _ = scripted(falling(), evaluate_every=2, patience=3, epoch_steps=3)
    assert [point["step"] for point in outcome.curve] == [0, 6, 12]
    assert outcome.steps == 12 and outcome.best_step == 6


def test_an_improvement_starts_the_patience_anew(scripted):
    outcome, _ = scripted([0.5, 0.4, 0.4, 0.6, 0.1, 0.1, 0.1, 0.9], patience=2)
    assert outcome.steps == 6
    assert (outcome.score, outcome.best_step) == (0.6, 3)


def test_the_untrained_model_counts_for_stopping_but_is_neither_score_nor_model(scripted):
    # From epoch 1 to 3 the trained model gets better all the time, but never better than the untrained one.
    outcome, states = scripted([0.9, 0.1, 0.2, 0.3, 0.95], patience=2)
    assert outcome.steps == 3
    assert (outcome.score, outcome.best_step) == (0.3, 3)
    assert equal(state_of(outcome.model), states[3])
    assert not equal(states[3], states[0])


def test_better_is_strictly_greater(scripted):
    outcome, states = scripted([0.5, 0.6, 0.6, 0.6, 0.6, 0.7], patience=2)
    assert outcome.steps == 4
    assert (outcome.score, outcome.best_step) == (0.6, 1)
    assert equal(state_of(outcome.model), states[1])
    equal_to_untrained, _ = scripted([0.5, 0.5, 0.5, 0.5, 0.9], patience=2)
    assert equal_to_untrained.steps == 3


def test_the_model_returned_is_that_of_the_best_validation(scripted):
    outcome, states = scripted([0.1, 0.2, 0.5, 0.3, 0.4], max_epochs=4, patience=9)
    assert (outcome.score, outcome.best_step, outcome.steps) == (0.5, 2, 4)
    assert equal(state_of(outcome.model), states[2])
    assert not any(equal(one, other) for one, other in itertools.combinations(states, 2))
    assert [point["map_at_r"] for point in outcome.curve] == [0.1, 0.2, 0.5, 0.3, 0.4]
    assert outcome.failure is None and outcome.seconds > 0


@pytest.mark.parametrize("max_epochs, every, steps", [(4, 1, 4), (4, 2, 4), (5, 2, 4), (2, 2, 2)])
def test_max_epochs_is_the_end(scripted, max_epochs, every, steps):
    outcome, _ = scripted(itertools.count(0.1, 0.001), max_epochs=max_epochs, evaluate_every=every)
    assert outcome.steps == outcome.best_step == steps
    assert len(outcome.curve) == 1 + steps // every


def test_the_curve_holds_the_mean_loss_since_the_last_validation(monkeypatch, scripted):
    values = iter([1.0, 3.0, 5.0, 6.0])

    class Counting(Method):
        def forward(self, embeddings, labels):
            return 0 * embeddings.sum() + next(values)

    monkeypatch.setattr(training, "build_method", lambda *arguments: Counting())
    outcome, _ = scripted([0.1, 0.2, 0.3], epoch_steps=2, max_epochs=2)
    assert [point["loss"] for point in outcome.curve] == [None, 2.0, 5.5]


# ----------------------------------------------------------------------------------------------------- when it diverges


class Breaking(Method):
    """A loss that gives `value` after `good` good steps."""

    def __init__(self, good, value):
        super().__init__()
        self.good, self.value = good, value

    def forward(self, embeddings, labels):
        self.good -= 1
        return embeddings.square().mean() if self.good >= 0 else embeddings.sum() * 0 + self.value


@pytest.mark.parametrize("value, shown", [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_loss_that_is_not_finite_is_a_failure_with_its_curve(monkeypatch, trainval, fold, protocol, value, shown):
    monkeypatch.setattr(training, "build_method", lambda *arguments: Breaking(5, value))
    outcome = train(CONTRASTIVE, protocol.model_copy(update={"max_epochs": 9}), trainval, fold, seed=3)
    assert outcome.failure == f"diverged: loss {shown} between steps 4 and 6"
    assert outcome.steps == 6
    assert [point["step"] for point in outcome.curve] == [0, 2, 4]
    assert all(math.isfinite(point["map_at_r"]) for point in outcome.curve)


def test_a_failure_before_the_first_validation_has_no_score_and_leaves_the_untrained_model(
    monkeypatch, trainval, fold, protocol
):
    monkeypatch.setattr(training, "build_method", lambda *arguments: Breaking(0, math.nan))
    outcome = train(CONTRASTIVE, protocol, trainval, fold, seed=3)
    assert outcome.score is None and outcome.best_step == 0 and len(outcome.curve) == 1
    torch.manual_seed(derive_seed(3, "model"))
    assert equal(state_of(outcome.model), state_of(Model(protocol, has_head=True)))


def test_embeddings_that_are_not_finite_are_a_failure_even_if_the_loss_is(monkeypatch, trainval, fold, protocol):
    class FiniteWithoutGradient(Method):
        def forward(self, embeddings, labels):
            return (embeddings * 0).sum().sqrt()  # 0, with the gradient 0 * infinity

    monkeypatch.setattr(training, "build_method", lambda *arguments: FiniteWithoutGradient())
    outcome = train(CONTRASTIVE, protocol.model_copy(update={"epoch_steps": 1}), trainval, fold, seed=3)
    assert outcome.failure == "diverged: embeddings not finite between steps 0 and 1"


@pytest.mark.parametrize("trial", [CONTRASTIVE, SOFTMAX], ids=lambda trial: trial.method)
def test_a_learning_rate_far_too_high_is_a_failure_not_an_exception(trainval, fold, protocol, trial):
    outcome = train(trial, protocol.model_copy(update={"learning_rate": 1e37}), trainval, fold, seed=3)
    assert outcome.failure.startswith("diverged: ")
    assert outcome.score is None and len(outcome.curve) == 1


# ------------------------------------------------------------------------------------------------------------ the steps


def by_hand(trial, protocol, trainval, fold, seed, steps):
    """The model and the method after so many steps, with RMSprop written out."""
    images, labels = of_classes(trainval, fold.train)
    torch.manual_seed(derive_seed(seed, "model"))
    model = Model(protocol, has_head=True)
    torch.manual_seed(derive_seed(seed, "loss"))
    method = build_method(trial, len(fold.train), protocol.embedding_size, 128)
    order = Batches(labels, protocol.batch_size, trial.images_per_class, generator(seed, "batches"))
    crops_rng = generator(seed, "crops")
    rates = [(p, protocol.learning_rate) for p in model.parameters()]
    rates += [(p, trial.parameters["loss_lr"]) for p in method.parameters()]
    squares, velocities = ([torch.zeros_like(p) for p, _ in rates] for _ in range(2))
    model.train()
    for _ in range(steps):
        indices = next(order)
        crops = train_batch(
            images, indices, protocol.crop_size, protocol.crop_scale, protocol.crop_ratio, protocol.flip, crops_rng
        )
        loss = method(model(crops).embeddings, torch.from_numpy(labels[indices]))
        gradients = torch.autograd.grad(loss, [p for p, _ in rates])
        with torch.no_grad():
            for (p, rate), gradient, square, velocity in zip(rates, gradients, squares, velocities, strict=True):
                gradient = gradient + protocol.weight_decay * p
                square.mul_(0.99).add_(0.01 * gradient**2)
                velocity.mul_(protocol.momentum).add_(gradient / (square.sqrt() + 1e-8))
                p.sub_(rate * velocity)
    return model, method


def test_steps_are_those_of_rmsprop_written_by_hand(monkeypatch, trainval, fold, protocol):
    built = []
    monkeypatch.setattr(training, "build_method", lambda *a: built.append(build_method(*a)) or built[-1])
    longer = protocol.model_copy(update={"epoch_steps": 5, "max_epochs": 1, "weight_decay": 0.05, "momentum": 0.8})
    outcome = train(SOFTMAX, longer, trainval, fold, seed=3)
    model, method = by_hand(SOFTMAX, longer, trainval, fold, 3, steps=5)
    torch.testing.assert_close(outcome.model.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(built[0].weights, method.weights, rtol=1e-4, atol=1e-5)


def test_every_weight_has_one_optimiser(protocol):
    model, method = Model(protocol, has_head=True), build_method(SOFTMAX, 6, 8, 128)
    settings = protocol.model_copy(update={"learning_rate": 0.3, "momentum": 0.7, "weight_decay": 0.02})
    own, of_loss = build_optimizers(model, method, SOFTMAX, settings)
    for optimizer, module, rate in ((own, model, 0.3), (of_loss, method, SOFTMAX.parameters["loss_lr"])):
        assert [id(p) for p in optimizer.parameters] == [id(p) for p in module.parameters()]
        assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (rate, 0.7, 0.02)
    assert len(build_optimizers(model, build_method(CONTRASTIVE, 6, 8, 128), CONTRASTIVE, settings)) == 1


def test_a_fixed_learning_rate_of_the_loss_counts_too(protocol):
    fixed = Trial(
        method="normalized_softmax", images_per_class=4, parameters={"temperature": 0.1}, fixed={"loss_lr": 0.5}
    )
    neither = Trial(method="normalized_softmax", images_per_class=4, parameters={"temperature": 0.1})
    model = Model(protocol, has_head=True)
    for trial, rate in ((fixed, 0.5), (neither, protocol.learning_rate)):
        _, of_loss = build_optimizers(model, build_method(trial, 6, 8, 128), trial, protocol)
        assert of_loss.learning_rate == rate


def test_frozen_weights_are_in_no_optimiser(protocol):
    model = Model(protocol.model_copy(update={"freeze_batchnorm": "everything"}), has_head=True)
    (own,) = build_optimizers(model, build_method(CONTRASTIVE, 6, 8, 128), CONTRASTIVE, protocol)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    frozen = {id(weight) for norm in norms for weight in norm.parameters()}
    assert len(frozen) == 8
    assert {id(p) for p in own.parameters} == {id(p) for p in model.parameters()} - frozen


def test_a_study_may_fix_the_weight_decay_of_a_loss(protocol):
    values = {"temperature": 0.1, "loss_lr": 0.02}
    fixed = {"loss_weight_decay": 0.25}
    trial = Trial(method="normalized_softmax", images_per_class=1, parameters=values, fixed=fixed)
    _, of_loss = build_optimizers(Model(protocol, has_head=True), build_method(trial, 6, 8, 128), trial, protocol)
    assert of_loss.weight_decay == 0.25


@pytest.mark.parametrize("name", ["margin", "margin_class"])
def test_the_boundaries_of_margin_have_no_weight_decay(protocol, name):
    trial = Trial(method=name, images_per_class=4, parameters={"margin": 0.1, "beta": 1.0, "loss_lr": 0.02})
    own, of_loss = build_optimizers(Model(protocol, has_head=True), build_method(trial, 6, 8, 128), trial, protocol)
    assert own.weight_decay == protocol.weight_decay > 0
    assert of_loss.weight_decay == 0
    assert of_loss.learning_rate == 0.02


@pytest.mark.parametrize("frozen", ["nothing", "statistics", "everything"])
def test_of_batch_normalisation_only_what_is_frozen_stays(trainval, fold, protocol, frozen):
    settings = protocol.model_copy(update={"freeze_batchnorm": frozen, "weight_decay": 0.1})
    outcome = train(CONTRASTIVE, settings, trainval, fold, seed=3)
    norms = [module for module in outcome.model.trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4
    for norm in norms:
        statistics_kept = bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())
        assert statistics_kept == (frozen != "nothing")
        assert int(norm.num_batches_tracked) == (outcome.best_step if frozen == "nothing" else 0)
        weights_kept = bool((norm.weight == 1).all() and (norm.bias == 0).all())
        assert weights_kept == (frozen == "everything")  # whatever the weight decay


def test_validation_leaves_no_trace_in_training(monkeypatch, trainval, fold, protocol):
    """Statistics, draws and mode are the same whether there is one validation on the way or three."""
    rising = itertools.count(1)
    monkeypatch.setattr(training, "map_at_r", lambda found: {"map_at_r": [next(rising)]})
    often = protocol.model_copy(update={"epoch_steps": 1, "max_epochs": 3})
    once = protocol.model_copy(update={"epoch_steps": 3, "max_epochs": 1})
    one, other = (train(CONTRASTIVE, settings, trainval, fold, seed=5) for settings in (often, once))
    assert one.best_step == other.best_step == 3
    assert len(one.curve) == 4 and len(other.curve) == 2
    assert equal(state_of(one.model), state_of(other.model))


# ------------------------------------------------------------------------------------------------------------ the draws


def test_equal_seeds_give_equal_bits_and_another_seed_does_not(trainval, fold, protocol):
    first, again, other = (train(SOFTMAX, protocol, trainval, fold, seed) for seed in (3, 3, 4))
    assert equal(state_of(first.model), state_of(again.model))
    assert first.curve == again.curve and first.score == again.score
    assert first.curve[0] != other.curve[0] and first.curve[1]["loss"] != other.curve[1]["loss"]
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


@pytest.fixture
def watched(monkeypatch, trainval, fold, protocol):
    """Train and give the state at the first validation, and the indices and crops of all batches."""

    def run(trial, seed=3):
        states, drawn = [], []

        def look(model, batches, retrieval):
            states.append(state_of(model))
            return embed_batches(model, batches, retrieval)

        def draw(images, indices, *arguments):
            drawn.append((np.array(indices), train_batch(images, indices, *arguments)))
            return drawn[-1][1]

        monkeypatch.setattr(training, "embed_batches", look)
        monkeypatch.setattr(loading, "train_batch", draw)
        train(trial, protocol, trainval, fold, seed)
        return states[0], drawn

    return run


@pytest.mark.parametrize(
    "other",
    [
        SOFTMAX,
        CONTRASTIVE.model_copy(update={"parameters": {"pos_margin": 0.3, "neg_margin": 0.5}}),
        Trial(method="circle", images_per_class=4, pml_loss={"ProxyAnchorLoss": {}}),
    ],
    ids=["a loss with weights", "other hyperparameters", "a PML loss with weights"],
)
def test_methods_are_paired_by_seed(watched, other):
    """The same start, the same batches, the same crops: what differs between two methods is the method."""
    start, drawn = watched(CONTRASTIVE)
    other_start, other_drawn = watched(other)
    assert equal(start, other_start)
    assert len(drawn) == len(other_drawn) == 4
    for (indices, crops), (other_indices, other_crops) in zip(drawn, other_drawn, strict=True):
        assert (indices == other_indices).all() and torch.equal(crops, other_crops)


def test_another_seed_has_another_start_and_other_batches_and_crops(watched):
    start, drawn = watched(CONTRASTIVE)
    other_start, other_drawn = watched(CONTRASTIVE, seed=4)
    assert not equal(start, other_start)
    assert (drawn[0][0] != other_drawn[0][0]).any() and not torch.equal(drawn[0][1], other_drawn[0][1])


def test_batches_have_the_images_per_class_of_the_trial(watched, trainval, fold):
    labels = of_classes(trainval, fold.train)[1]
    for images_per_class, classes in ((4, 3), (2, 6)):
        _, drawn = watched(CONTRASTIVE.model_copy(update={"images_per_class": images_per_class}))
        for indices, crops in drawn:
            assert len(set(labels[indices])) == classes
            assert crops.shape == (12, 3, 16, 16)


# -------------------------------------------------------------------------------------------------- what is looked at


def test_labels_are_renumbered_in_the_order_of_the_folds_classes(trainval):
    images, labels = of_classes(trainval, (7, 8, 0, 2))
    assert labels.dtype == np.int64
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
    assert np.array([7, 8, 0, 2])[labels].tolist() == images.labels.tolist()
    assert len(images) == 4 * 8
    first = np.flatnonzero(trainval.labels == 7)[0]
    assert (images[np.flatnonzero(labels == 0)[0]] == trainval[first]).all()


class Poisoned:
    """Pixels that raise where they must not be looked at, and keep account of what was read."""

    def __init__(self, images, forbidden):
        self.pixels, self.read = images.pixels, set()
        self.bad = {int(images.offsets[i]) for i in np.flatnonzero(np.isin(images.labels, forbidden))}

    def __getitem__(self, part):
        assert int(part.start) not in self.bad, "an image outside the fold's classes was looked at"
        self.read.add(int(part.start))
        return self.pixels[part]


def poisoned(images, forbidden):
    pixels = Poisoned(images, forbidden)
    return PackedImages(
        pixels, images.offsets, images.heights, images.widths, images.labels, images.paths, images.fingerprint
    )


@pytest.mark.parametrize("trial", [CONTRASTIVE, PRETRAINED], ids=lambda trial: trial.method)
def test_images_outside_the_folds_classes_are_never_looked_at(trainval, protocol, trial):
    fold = Fold(train=(8, 0, 1, 3), validation=(5, 6))
    images = poisoned(trainval, [2, 4, 7])
    train(trial, protocol, images, fold, seed=3)
    validation = set(trainval.offsets[np.isin(trainval.labels, [5, 6])].tolist())
    assert validation <= images.pixels.read
    with pytest.raises(AssertionError, match="outside"):
        train(trial, protocol, poisoned(trainval, [6]), fold, seed=3)


def test_batches_hold_train_classes_and_validation_sees_validation_classes(monkeypatch, trainval, fold, protocol):
    seen = {"train": set(), "validation": set()}

    def look(model, batches, retrieval):
        seen["validation"] |= set(batches.images.labels.tolist())
        return embed_batches(model, batches, retrieval)

    def draw(images, indices, *arguments):
        seen["train"] |= set(images.labels[indices].tolist())
        return train_batch(images, indices, *arguments)

    monkeypatch.setattr(training, "embed_batches", look)
    monkeypatch.setattr(loading, "train_batch", draw)
    train(CONTRASTIVE, protocol.model_copy(update={"max_epochs": 4}), trainval, fold, seed=3)
    assert seen == {"train": set(fold.train), "validation": set(fold.validation)}


def test_the_method_gets_renumbered_labels_and_the_number_of_train_classes(monkeypatch, trainval, fold, protocol):
    seen = []

    class Watching(Method):
        def __init__(self, trial, num_classes, embedding_size, trunk_width):
            super().__init__()
            assert (num_classes, embedding_size, trunk_width) == (6, 8, 128)

        def forward(self, embeddings, labels):
            assert embeddings.shape == (12, 8) and labels.dtype == torch.int64
            seen.extend(labels.tolist())
            return embeddings.square().mean()

    monkeypatch.setattr(training, "build_method", Watching)
    train(CONTRASTIVE, protocol.model_copy(update={"max_epochs": 5}), trainval, fold, seed=3)
    assert set(seen) == set(range(6))


def test_validation_is_map_at_r_of_the_validation_classes(trainval, fold, protocol):
    outcome = train(CONTRASTIVE, protocol.model_copy(update={"max_epochs": 1}), trainval, fold, seed=3)
    images, labels = of_classes(trainval, fold.validation)
    found = neighbours(embed(outcome.model, images, 16), labels)
    assert outcome.score == outcome.curve[-1]["map_at_r"]
    assert outcome.score == pytest.approx(load("metrics", "map_at_r").scores(found)["map_at_r"].mean(), abs=1e-12)


# ---------------------------------------------------------------------------------------------------------- as a whole


@pytest.mark.parametrize(
    "trial",
    [
        CONTRASTIVE,
        SOFTMAX,
        Trial(
            method="multi_similarity_of_pml", images_per_class=4, parameters={"alpha": 2.0},
            pml_loss={"MultiSimilarityLoss": {"alpha": {"low": 0.1, "high": 10.0}}},
            pml_miner={"MultiSimilarityMiner": {}},
        ),
    ],
    ids=lambda trial: trial.method,
)  # fmt: skip
def test_training_helps(trainval, fold, protocol, trial):
    longer = protocol.model_copy(update={"learning_rate": 3e-4, "epoch_steps": 60, "max_epochs": 4})
    outcome = train(trial, longer, trainval, fold, seed=1)
    untrained = outcome.curve[0]["map_at_r"]
    assert outcome.failure is None
    assert outcome.score > untrained + 0.15
    assert outcome.curve[-1]["loss"] < outcome.curve[1]["loss"]


def test_pretrained_trains_nothing_and_compares_the_features_of_the_trunk(monkeypatch, trainval, fold, protocol):
    monkeypatch.setattr(training.Batches, "__next__", None)
    outcome = train(PRETRAINED, protocol, trainval, fold, seed=3)
    assert (outcome.steps, outcome.best_step, outcome.failure) == (0, 0, None)
    assert outcome.curve == [{"step": 0, "loss": None, "map_at_r": outcome.score}]
    assert outcome.model.embedding_size == 128  # of the trunk, not of the protocol
    assert not [name for name in outcome.model.state_dict() if name.startswith("head")]

    torch.manual_seed(derive_seed(3, "model"))
    trunk = Model(protocol, has_head=True)  # with a head: what is compared comes before it
    images, labels = of_classes(trainval, fold.validation)
    trunk.head = nn.Identity()
    found = neighbours(embed(trunk, images, 16), labels)
    assert outcome.score == pytest.approx(load("metrics", "map_at_r").scores(found)["map_at_r"].mean(), abs=1e-12)


def test_weights_of_a_file_are_where_the_trunk_starts(tmp_path, trainval, fold, protocol):
    torch.manual_seed(99)
    given = Model(protocol, has_head=True).trunk.state_dict()
    torch.save(given, tmp_path / "w.pth")
    outcome = train(PRETRAINED, protocol, trainval, fold, seed=3, weights=tmp_path / "w.pth")
    assert equal(outcome.model.trunk.state_dict(), given)


# ------------------------------------------------------------------------------------------ schedules and large batches


def rates_of(monkeypatch, trainval, fold, protocol, trial=SOFTMAX):
    """At every step the learning rate of each optimiser, 0 where it waits, and the weights of trunk and head."""
    seen = []

    class Watching(training.Stepper):
        def __call__(self, *batch):
            seen.append([0 if optimizer.waits else optimizer.learning_rate for optimizer in self.optimizers])
            super().__call__(*batch)

    monkeypatch.setattr(training, "Stepper", Watching)
    outcome = train(trial, protocol, trainval, fold, seed=3)
    return seen, outcome.model


def test_learning_rates_fall_after_their_epochs(monkeypatch, trainval, fold, protocol):
    changes = {"decay_epochs": [1, 3], "decay": 0.5, "max_epochs": 4, "patience": 9}
    rates, _ = rates_of(monkeypatch, trainval, fold, protocol.model_copy(update=changes))
    own = SOFTMAX.parameters["loss_lr"]
    assert rates == [[1e-3 * share, own * share] for share in (1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25)]


def test_the_trunk_waits_while_the_head_warms_up(monkeypatch, trainval, fold, protocol):
    changes = {"warmup_epochs": 1, "max_epochs": 2, "patience": 9}
    rates, _ = rates_of(monkeypatch, trainval, fold, protocol.model_copy(update=changes))
    own = SOFTMAX.parameters["loss_lr"]
    assert rates == [[0, 1e-3, own]] * 2 + [[1e-3, 1e-3, own]] * 2
    changes |= {"warmup_epochs": 5}
    _, model = rates_of(monkeypatch, trainval, fold, protocol.model_copy(update=changes))
    torch.manual_seed(derive_seed(3, "model"))
    fresh = Model(protocol, has_head=True)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, fresh.state_dict()[name])}
    statistics = {name for name in moved if "running" in name or "num_batches" in name}
    assert moved - statistics == {"head.weight", "head.bias"}


def test_a_training_in_parts_is_that_of_whole_batches(trainval, fold, protocol):
    # RMSprop makes a change of full size of the smallest gradient, and so of its rounding
    frozen = protocol.model_copy(update={"freeze_batchnorm": "everything", "optimizer": "sgd"})
    whole = train(CONTRASTIVE, frozen, trainval, fold, seed=3)
    in_parts = train(CONTRASTIVE, frozen.model_copy(update={"batch_part": 5}), trainval, fold, seed=3)
    for one, other in zip(whole.model.parameters(), in_parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert [point["loss"] for point in whole.curve[1:]] == pytest.approx(
        [point["loss"] for point in in_parts.curve[1:]], rel=1e-3
    )
