"""Losses and miners of pytorch-metric-learning that a study names, their ranges, and what is said to a wrong name."""

import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

from dml import pml, pml_arguments

NUM_CLASSES, EMBEDDING_SIZE = 6, 8
SIZES = {"num_classes": NUM_CLASSES, "embedding_size": EMBEDDING_SIZE}

# What a study writes, and the same with PML's constructors.
CASES = {
    "arguments": (
        {"CircleLoss": {"m": 0.3, "gamma": 60}},
        None,
        lambda: losses.CircleLoss(m=0.3, gamma=60),
        lambda: None,
    ),
    "no arguments, a miner": (
        {"TripletMarginLoss": None},
        {"MultiSimilarityMiner": {"epsilon": 0.2}},
        lambda: losses.TripletMarginLoss(),
        lambda: miners.MultiSimilarityMiner(epsilon=0.2),
    ),
    "objects as arguments": (
        {
            "ContrastiveLoss": {
                "pos_margin": 0.9,
                "neg_margin": 0.4,
                "distance": {"CosineSimilarity": {}},
                "reducer": {"ThresholdReducer": {"low": 0.1, "high": 0.8}},
                "embedding_regularizer": {"LpRegularizer": {"power": 2}},
            }
        },
        {"PairMarginMiner": {"distance": {"LpDistance": {"power": 2}}}},
        lambda: losses.ContrastiveLoss(
            0.9,
            0.4,
            distance=distances.CosineSimilarity(),
            reducer=reducers.ThresholdReducer(low=0.1, high=0.8),
            embedding_regularizer=regularizers.LpRegularizer(power=2),
        ),
        lambda: miners.PairMarginMiner(distance=distances.LpDistance(power=2)),
    ),
    "sizes by name": (
        {"ProxyAnchorLoss": {"alpha": 16}},
        None,
        lambda: losses.ProxyAnchorLoss(**SIZES, alpha=16),
        None,
    ),
    "sizes behind *args": ({"CosFaceLoss": {"scale": 8}}, None, lambda: losses.CosFaceLoss(**SIZES, scale=8), None),
    "sizes behind two classes": (
        {"SubCenterArcFaceLoss": {}},
        None,
        lambda: losses.SubCenterArcFaceLoss(**SIZES),
        None,
    ),
    "sizes with another name": (
        {"P2SGradLoss": {}},
        None,
        lambda: losses.P2SGradLoss(descriptors_dim=EMBEDDING_SIZE, num_classes=NUM_CLASSES),
        None,
    ),
    "sizes of an argument": (
        {"SoftTripleLoss": {"weight_regularizer": {"SparseCentersRegularizer": {"centers_per_class": 10}}}},
        None,
        lambda: losses.SoftTripleLoss(
            **SIZES, weight_regularizer=regularizers.SparseCentersRegularizer(NUM_CLASSES, 10)
        ),
        None,
    ),
    "a size with a default, left out": (
        {"MarginLoss": {"learn_beta": True}},
        None,
        lambda: losses.MarginLoss(learn_beta=True),
        None,
    ),
    "a size with a default, asked for": (
        {"MarginLoss": {"learn_beta": True, "num_classes": "num_classes"}},
        None,
        lambda: losses.MarginLoss(learn_beta=True, num_classes=NUM_CLASSES),
        None,
    ),
    "several losses": (
        {"MultipleLosses": {"losses": [{"NTXentLoss": {}}, {"NormalizedSoftmaxLoss": {}}], "weights": [1, 0.5]}},
        None,
        lambda: losses.MultipleLosses([losses.NTXentLoss(), losses.NormalizedSoftmaxLoss(**SIZES)], weights=[1, 0.5]),
        None,
    ),
    "a memory": (
        {"CrossBatchMemory": {"loss": {"ContrastiveLoss": {}}, "memory_size": 64}},
        None,
        lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), EMBEDDING_SIZE, memory_size=64),
        None,
    ),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randperm(24, generator=generator) % NUM_CLASSES
    return torch.randn(24, EMBEDDING_SIZE, generator=generator).requires_grad_(), labels


@pytest.mark.parametrize("case", CASES)
def test_does_what_pml_does(case):
    loss, miner, pml_loss, pml_miner = CASES[case]
    embeddings, labels = batch()
    torch.manual_seed(3)
    method = pml.PMLMethod(NUM_CLASSES, EMBEDDING_SIZE, loss=loss, miner=miner)
    torch.manual_seed(3)
    theirs, mine = pml_loss(), pml_miner() if pml_miner else None
    found = method(embeddings, labels)
    expected = theirs(embeddings, labels, mine(embeddings, labels) if mine else None)
    assert found > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = torch.autograd.grad(found, [embeddings, *method.parameters()])
    expected_gradients = torch.autograd.grad(expected, [embeddings, *theirs.parameters()])
    torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_check_accepts(case):
    state = torch.get_rng_state()
    pml.check(*CASES[case][:2])
    assert torch.equal(torch.get_rng_state(), state)


LOSS = {
    "TripletMarginLoss": {
        "margin": {"low": 0.01, "high": 1.0, "log": True},
        "swap": {"choices": [True, False]},
        "distance": {"LpDistance": {"power": {"low": 1, "high": 2, "integer": True}}},
        "reducer": {"ThresholdReducer": {"low": 0.0}},
    }
}
MINER = {"TripletMarginMiner": {"margin": {"low": 0.1, "high": 0.5}, "type_of_triplets": "semihard"}}
RANGES = {
    "margin": {"low": 0.01, "high": 1.0, "log": True},
    "swap": {"choices": [True, False]},
    "distance_power": {"low": 1, "high": 2, "integer": True},
    "miner_margin": {"low": 0.1, "high": 0.5},
}
PARAMETERS = {"margin": 0.2, "swap": False, "distance_power": 2, "miner_margin": 0.3}


def test_ranges_are_named_after_their_arguments():
    assert pml_arguments.ranges(LOSS, MINER) == RANGES
    assert pml_arguments.ranges({"CircleLoss": {"m": 0.4}}) == {}


def test_arguments_called_low_and_high_are_no_range():
    assert pml_arguments.ranges({"ContrastiveLoss": {"reducer": {"ThresholdReducer": {"low": 0.1, "high": 1}}}}) == {}


def test_parameters_take_the_place_of_ranges():
    loss, miner = pml_arguments.with_parameters(LOSS, MINER, PARAMETERS)
    assert loss == {
        "TripletMarginLoss": {
            "margin": 0.2,
            "swap": False,
            "distance": {"LpDistance": {"power": 2}},
            "reducer": {"ThresholdReducer": {"low": 0.0}},
        }
    }
    assert miner == {"TripletMarginMiner": {"margin": 0.3, "type_of_triplets": "semihard"}}
    assert pml_arguments.with_parameters({"CircleLoss": None}, None, {}) == ({"CircleLoss": {}}, None)


def test_a_method_with_parameters_is_pmls():
    embeddings, labels = batch()
    method = pml.build_pml_method(NUM_CLASSES, EMBEDDING_SIZE, LOSS, MINER, PARAMETERS)
    theirs = losses.TripletMarginLoss(
        margin=0.2, distance=distances.LpDistance(power=2), reducer=reducers.ThresholdReducer(low=0.0)
    )
    mined = miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard")(embeddings, labels)
    torch.testing.assert_close(method(embeddings, labels), theirs(embeddings, labels, mined), rtol=0, atol=0)
    pml.check(LOSS, MINER)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({k: v for k, v in PARAMETERS.items() if k != "margin"}, "'margin' has no value"),
        (
            PARAMETERS | {"marginn": 0.1},
            "'marginn' is no range in the PML loss or miner; ranges: distance_power, margin",
        ),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        pml_arguments.with_parameters(LOSS, MINER, parameters)


def test_two_ranges_of_one_name_are_refused():
    searched = {"low": 0, "high": 1}
    with pytest.raises(ValueError, match="searched as 'miner_epsilon'"):
        pml_arguments.ranges(
            {"CrossBatchMemory": {"miner": {"MultiSimilarityMiner": {"epsilon": searched}}}},
            {"MultiSimilarityMiner": {"epsilon": searched}},
        )


@pytest.mark.parametrize(
    ("loss", "miner", "message"),
    [
        ({"CircelLoss": {}}, None, r"no 'CircelLoss' in losses; choose from: .*CircleLoss.*TripletMarginLoss"),
        ({"CircleLoss": {}}, {"HardMiner": {}}, r"no 'HardMiner' in miners; choose from: .*BatchHardMiner"),
        ({"CircleLoss": {"gama": 80}}, None, r"CircleLoss has no argument 'gama'; it takes: .*gamma"),
        ({"CosFaceLoss": {"margn": 1}}, None, r"CosFaceLoss has no argument 'margn'; it takes: .*margin.*num_classes"),
        ({"ContrastiveLoss": {"mat_based_loss": True}}, None, "no argument 'mat_based_loss'"),
        (
            {"CircleLoss": {"distance": {"Cosine": {}}}},
            None,
            "no 'Cosine' in distances; choose from: BatchedDistance, CosineSimilarity",
        ),
        ({"CircleLoss": {"distance": {"LpDistance": {"pow": 1}}}}, None, "LpDistance has no argument 'pow'"),
        ({"CircleLoss": 80}, None, "CircleLoss: expected {argument: value}, not 80"),
        ({"CircleLoss": {}, "NCALoss": {}}, None, "expected {Class: {argument: value}}"),
        ("CircleLoss", None, "expected {Class: {argument: value}}, not 'CircleLoss'"),
        ({"ContrastiveLoss": {"pos_margin": "a"}}, None, "ContrastiveLoss does not work on embeddings and labels"),
        ({"RankedListLoss": {}}, None, "RankedListLoss refuses its arguments: .*'margin' and 'Tn'"),
        ({"CircleLoss": {"m": "small"}}, None, "CircleLoss refuses its arguments: unsupported operand"),
        (
            {"RankedListLoss": {"margin": 0.4, "Tn": 3}},
            {"BatchHardMiner": {}},
            "RankedListLoss with BatchHardMiner does not work on embeddings and labels",
        ),
    ],
)
def test_check_says_what_is_wrong(loss, miner, message):
    with pytest.raises(ValueError, match=message) as refusal:
        pml.check(loss, miner)
    assert "\n" not in str(refusal.value)


def test_planning_a_study_needs_neither_torch_nor_pml():
    code = (
        "import sys; from dml import pml_arguments; pml_arguments.ranges({'CircleLoss': {'m': {'low': 0, 'high': 1}}});"
        "assert not {'torch', 'pytorch_metric_learning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
