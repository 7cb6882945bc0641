"""Batches: m images of each class, passes over all classes or pairs of super-classes."""

import json
from collections import Counter

import numpy as np
import pytest
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions

from dml import sampling
from dml.sampling import Batches, HierarchicalBatches
from dml.seeds import generator


def take(labels, batch_size, images_per_class, count, seed=0):
    found = Batches(np.array(labels), batch_size, images_per_class, np.random.default_rng(seed))
    return [next(found) for _ in range(count)]


def test_a_pass_holds_every_class_with_m_different_images():
    labels = np.repeat(np.arange(16), 10)
    drawn = np.concatenate(take(labels, 32, 4, 2))
    assert Counter(labels[drawn].tolist()) == {c: 4 for c in range(16)}
    assert len(set(drawn.tolist())) == len(drawn)


def test_images_of_a_class_stand_together():
    labels = np.repeat(np.arange(16), 10)
    for batch in take(labels, 32, 4, 20):
        assert (labels[batch].reshape(-1, 4) == labels[batch].reshape(-1, 4)[:, :1]).all()


def test_small_classes_are_drawn_with_replacement():
    labels = [0, 0, 1, 1, 1, 1, 1]
    for batch in take(labels, 8, 4, 5):
        assert Counter(np.array(labels)[batch].tolist()) == {0: 4, 1: 4}


def test_a_batch_may_straddle_two_passes():
    labels = np.repeat(np.arange(5), 6)
    counts = [Counter(labels[batch].tolist()) for batch in take(labels, 8, 2, 10)]
    assert all(sum(c.values()) == 8 for c in counts)
    assert any(max(c.values()) == 4 for c in counts)


def test_one_image_per_class_and_fewer_classes_than_the_batch():
    labels = np.repeat(np.arange(5), 6)
    for batch in take(labels, 8, 1, 10):
        assert len(batch) == 8 and max(Counter(labels[batch].tolist()).values()) <= 3


@pytest.mark.fidelity(
    "Batches: classes in a batch, and how often", "pytorch-metric-learning's MPerClassSampler", "share"
)
@pytest.mark.parametrize("images_per_class", [4, 1])
def test_batches_are_made_up_like_those_of_the_papers_sampler(images_per_class, monkeypatch, deviates):
    """On a fold of CUB, 75 classes and batches of 32: in which share of the batches stands a class how often."""
    labels = np.repeat(np.arange(75), 58)
    monkeypatch.setattr(common_functions, "NUMPY_RANDOM", np.random.RandomState(0))
    theirs = np.array(list(MPerClassSampler(labels, images_per_class, length_before_new_iter=100_000)))
    theirs = theirs[: len(theirs) // 32 * 32].reshape(-1, 32)
    ours = np.stack(take(labels, 32, images_per_class, len(theirs)))
    times = np.arange(1, 33)
    shares = []
    for batches_of in (ours, theirs):
        held = np.array([np.bincount(labels[batch], minlength=75) for batch in batches_of])
        shares.append([(held == n).any(axis=1).mean() for n in times])
    deviation = np.abs(np.subtract(*shares)).max()
    assert deviation < 0.02  # 3,125 batches: the standard error of a share is at most 0.009
    assert shares[0][images_per_class - 1] > 0.9
    deviates(deviation)


def test_lists_end_at_whole_batches(monkeypatch):
    monkeypatch.setattr(sampling, "LIST_LENGTH", 50)
    labels = np.repeat(np.arange(5), 6)  # a pass is 10 indices, a list 5 passes: 6 batches of 8, and 2 indices dropped
    drawn = take(labels, 8, 2, 6)
    assert len(np.concatenate(drawn)) == 48
    seventh = take(labels, 8, 2, 7)[6]
    assert Counter(labels[seventh].tolist()).most_common(1)[0][1] == 2  # the first batch of a new list: whole classes


@pytest.mark.parametrize("images_per_class", [1, 2, 4])
def test_the_generator_decides_everything(images_per_class):
    labels = np.repeat(np.arange(9), 7)
    once, again = (take(labels, 16, images_per_class, 30, seed=3) for _ in range(2))
    other = take(labels, 16, images_per_class, 30, seed=4)
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert any((a != b).any() for a, b in zip(once, other, strict=True))


# ------------------------------------------------------------------------------------------------ hierarchical batches

KINDS = ["a", "b", "a", "c", "b", "a", "a"]
OF_KINDS = np.repeat(np.arange(7), [5, 5, 2, 5, 5, 5, 5])


def hierarchical(batch_size=8, images_per_class=2, seed=0):
    return HierarchicalBatches(OF_KINDS, KINDS, batch_size, images_per_class, generator(seed))


def test_a_batch_has_classes_of_two_super_classes():
    pairs = set()
    for _, batch in zip(range(300), hierarchical(), strict=False):
        classes, counts = np.unique(OF_KINDS[batch], return_counts=True)
        pair = {KINDS[c] for c in classes}
        assert len(batch) == 8 and len(pair) == 2
        if "c" not in pair:  # c has one class, which is then there twice
            assert (counts == 2).all() and len(set(batch)) == 8
        assert sum(KINDS[c] == min(pair) for c in OF_KINDS[batch]) == 4
        pairs.add(frozenset(pair))
    assert len(pairs) == 3


def test_classes_with_few_images_repeat_them():
    seen = [OF_KINDS[batch] for _, batch in zip(range(50), hierarchical(16, 4), strict=False)]
    assert all(len(classes) == 16 for classes in seen) and any(2 in classes for classes in seen)


def test_hierarchical_batches_go_on_from_their_state():
    batches = hierarchical()
    [next(batches) for _ in range(5)]
    other = hierarchical(seed=1)
    other.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    for _ in range(5):
        assert np.array_equal(next(batches), next(other))


@pytest.mark.parametrize("kinds", [["a"] * 7, []])
def test_one_super_class_makes_no_hierarchical_batches(kinds):
    with pytest.raises(ValueError, match="at least two super-classes"):
        HierarchicalBatches(OF_KINDS, kinds, 8, 2, generator(0))
