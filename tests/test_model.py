"""The model: pooling, head, frozen batch normalisation, weight files. Its trunks: see test_trunks.py."""

import contextlib
import math
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from dml.method import Outputs
from dml.model import Model, Pooling, load_state, save_model, set_precision
from dml.protocol import Protocol


def images(count=3, side=64, seed=0):
    """(count, 3, side, side) uint8, RGB."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def model(trunk="convnet", has_head=True, weights=None, seed=0, **settings):
    """A fresh model with 8 outputs and a seed of its own."""
    defaults = {"embedding_size": 8, "crop_size": 224, "freeze_batchnorm": "nothing"}
    torch.manual_seed(seed)
    return Model(Protocol(trunk=trunk, **defaults | settings), has_head, weights)


# ------------------------------------------------------------------------------------------------------------- the head


def test_the_head_is_one_linear_layer_on_the_features(protocol):
    built = Model(protocol, has_head=True)
    embeddings, features, *_ = built(images())
    assert built.embedding_size == protocol.embedding_size == 8
    assert [name for name in built.state_dict() if name.startswith("head")] == ["head.weight", "head.bias"]
    torch.testing.assert_close(embeddings, features @ built.head.weight.T + built.head.bias)
    assert (embeddings < 0).any()


@pytest.mark.parametrize("layernorm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalisation_has_no_weights_and_stands_before_the_head(layernorm, bias):
    built = model(head_layernorm=layernorm, head_bias=bias)
    embeddings, features, *_ = built(images())
    names = {name for name in built.state_dict() if not name.startswith("trunk.")}
    assert names == {"head.weight", "head.bias"} if bias else names == {"head.weight"}
    inputs = features
    if layernorm:
        mean, variance = features.mean(1, keepdim=True), features.var(1, keepdim=True, unbiased=False)
        inputs = (features - mean) / (variance + 1e-5).sqrt()
    expected = inputs @ built.head.weight.T + (built.head.bias if bias else 0)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_without_a_head_the_features_are_the_embeddings(protocol):
    for settings in ({}, {"head_layernorm": True, "head_bias": False}):
        built = Model(protocol.model_copy(update=settings), has_head=False)
        found = built(images())
        assert isinstance(found, Outputs) and found.embeddings is found.features
        assert built.embedding_size == 128
        assert all(name.startswith("trunk.") for name in built.state_dict())


# ---------------------------------------------------------------------------------------------------------- the pooling

KINDS = ("average", "max", "average_max", "gem")


def by_hand(kind, places, p=3.0):
    """(WIDTH, places) of one image to its features, in float64."""
    mean, largest = places.mean(axis=1), places.max(axis=1)
    if kind == "gem":
        return (np.maximum(places, 1e-6) ** p).mean(axis=1) ** (1 / p)
    return {"average": mean, "max": largest, "average_max": mean + largest}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_poolings_of_maps_and_of_patch_tokens(kind):
    maps = np.random.default_rng(0).normal(size=(4, 5, 3, 2))
    expected = np.stack([by_hand(kind, each.reshape(5, 6)) for each in maps])
    pool = Pooling(kind, learns=True)
    found = pool(torch.tensor(maps, dtype=torch.float32))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
    patches = torch.tensor(maps, dtype=torch.float32).flatten(2).transpose(1, 2)
    tokens = torch.cat([torch.full((4, 1, 5), 1000.0), patches], dim=1)
    np.testing.assert_allclose(pool(tokens).detach(), expected, rtol=1e-5)


def test_the_class_token_is_the_first():
    tokens = torch.randn(4, 7, 5)
    assert torch.equal(Pooling("token", learns=True)(tokens), tokens[:, 0])


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0, 9.0])
def test_gem_has_one_power_that_is_learnt(p):
    maps = np.random.default_rng(0).uniform(0.1, 2, (2, 5, 3, 3))
    pool = Pooling("gem", learns=True)
    assert [(name, weight.item()) for name, weight in pool.named_parameters()] == [("p", 3.0)]
    pool.p.data.fill_(p)
    found = pool(torch.tensor(maps, dtype=torch.float32))
    expected = np.stack([by_hand("gem", each.reshape(5, 9), p) for each in maps])
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
    found.sum().backward()
    above, below = (np.sum([by_hand("gem", m.reshape(5, 9), p + step) for m in maps]) for step in (1e-5, -1e-5))
    assert pool.p.grad.item() == pytest.approx((above - below) / 2e-5, rel=1e-3)


def test_where_nothing_is_trained_the_power_is_3_and_no_weight():
    pool = Pooling("gem", learns=False)
    assert not list(pool.state_dict()) and not list(pool.parameters())
    maps = torch.rand(2, 5, 3, 3)
    torch.testing.assert_close(pool(maps), Pooling("gem", learns=True)(maps).detach())
    assert "pooling.p" in model(pooling="gem").state_dict()
    assert "pooling.p" not in model(pooling="gem", has_head=False).state_dict()


@pytest.mark.parametrize("p", [0.5, 3.0, 8.0, 50.0])
@pytest.mark.parametrize("value", [0.0, -3.0, 1e-30, 1.0, 1e12])
def test_the_gradient_of_gem_is_finite(p, value):
    maps = torch.full((2, 3, 4, 4), value, requires_grad=True)
    pool = Pooling("gem", learns=True)
    pool.p.data.fill_(p)
    found = pool(maps)
    found.sum().backward()
    assert found.isfinite().all() and maps.grad.isfinite().all() and math.isfinite(pool.p.grad)
    torch.testing.assert_close(found, torch.full((2, 3), max(value, 1e-6)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_model_pools_as_the_protocol_says_else_as_the_trunk_does(kind):
    built = model(pooling=kind, has_head=False, seed=2).eval()
    with torch.inference_mode():
        pixels = (images().float() - 127.5) / 127.5
        maps = built.trunk(pixels)
        torch.testing.assert_close(built(images()).features, Pooling(kind or "average", learns=False)(maps))


# ------------------------------------------------------------------------------------------- frozen batch normalisation


@pytest.mark.parametrize("frozen", ["nothing", "statistics", "everything"])
def test_what_of_batch_normalisation_is_trained(frozen):
    built = model(freeze_batchnorm=frozen)
    norms = [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4
    assert built.train() is built and built.training and built.trunk.training and built.head.training
    assert {norm.training for norm in norms} == {frozen == "nothing"}
    before = {name: value.clone() for name, value in built.state_dict().items()}
    optimizer = torch.optim.SGD(built.parameters(), lr=0.1, weight_decay=0.1)
    built(images(5)).embeddings.square().mean().backward()
    optimizer.step()
    changed = {name for name, value in built.state_dict().items() if not torch.equal(value, before[name])}
    of_norms = {name for name in before if name.startswith("trunk.") and name.split(".")[2] == "1"}
    statistics = {name for name in of_norms if "running" in name or "tracked" in name}
    assert len(of_norms) == 20 and len(statistics) == 12
    stays = {"nothing": set(), "statistics": statistics, "everything": of_norms}[frozen]
    assert changed == set(before) - stays
    built.eval()
    assert not any(module.training for module in built.modules())


def test_frozen_statistics_are_those_in_use():
    built, free = (model(freeze_batchnorm=frozen).train() for frozen in ("statistics", "nothing"))
    embeddings, again, other = (m(images()).embeddings for m in (built, built.eval(), free))
    assert torch.equal(embeddings, again) and not torch.allclose(embeddings, other, atol=0.01)


# --------------------------------------------------------------------------------------------------------- weight files


def test_a_saved_model_is_the_same_model(tmp_path):
    first = model(seed=1)
    first.train()(images(5))  # moves the running statistics, which belong to the model
    save_model(first, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    second = model(seed=2)
    second.load_state_dict(load_state(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(first.eval()(images()).embeddings, second.eval()(images()).embeddings)


def test_equal_models_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_model(model(seed=1), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_model_replaces_the_one_before(tmp_path):
    for seed in (1, 2):
        save_model(model(seed=seed), tmp_path / "m.safetensors")
    assert torch.equal(load_state(tmp_path / "m.safetensors")["head.weight"], model(seed=2).head.weight)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["a bare pickle", "torch.save", "among tensors"])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
def test_a_weight_file_with_code_is_refused_and_nothing_runs(tmp_path, name, form):
    mark, file = tmp_path / "the code ran", tmp_path / name
    if form == "a bare pickle":
        file.write_bytes(pickle.dumps(Malicious(mark), protocol=2))
    elif form == "torch.save":
        torch.save(Malicious(mark), file)
    else:
        torch.save({"0.0.weight": torch.zeros(2), "evil": Malicious(mark)}, file)
    for read in (load_state, lambda file: model(weights=file)):
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            read(file)
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):  # of the bare pickle, after its code ran
        torch.load(file, weights_only=False)
    assert mark.exists()  # else this would prove nothing


def test_a_pickle_under_the_name_of_safetensors_is_refused_too(tmp_path):
    mark, file = tmp_path / "the code ran", tmp_path / "w.safetensors"
    file.write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(Exception, match="(?i)header|deserializ"):
        load_state(file)
    assert not mark.exists()


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], 3, {}, {"0.0.weight": 3}, {3: torch.zeros(3)}])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth: the weights do not fit the trunk") as caught:
        model(weights=tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    state = model().trunk.state_dict()
    state["0.0.weight"] = state["0.0.weight"][:, :1]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="size mismatch for 0.0.weight"):
        model(weights=tmp_path / "w.pth")


def test_bfloat16_computes_otherwise_and_gives_float32():
    exact, rounded = model(seed=1)(images()), model(seed=1, precision="bfloat16")(images())
    for name in ("embeddings", "features"):
        one, other = getattr(exact, name), getattr(rounded, name)
        assert one.dtype == other.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_bfloat16_trains_weights_of_float32():
    network = model(precision="bfloat16")
    network(images()).embeddings.square().sum().backward()
    assert {(p.dtype, p.grad.dtype) for p in network.parameters()} == {(torch.float32, torch.float32)}


@pytest.fixture
def backends():
    """What a GPU multiplies and convolves with; as they were, afterwards."""
    both = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [backend.fp32_precision for backend in both]
    yield both
    for backend, precision in zip(both, before, strict=True):
        backend.fp32_precision = precision


@pytest.mark.parametrize(("precision", "expected"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")])
def test_tensorfloat_is_used_only_where_the_study_says_so(precision, expected, backends):
    for backend in backends:
        backend.fp32_precision = "tf32"
    set_precision(precision)
    assert {backend.fp32_precision for backend in backends} == {expected}


def test_tensorfloat_ends_where_the_loss_begins(backends):
    seen = []

    class Watching(torch.autograd.Function):
        """A loss that looks, on its way back, at what products are taken in."""

        @staticmethod
        def forward(ctx, embeddings):
            seen.append(("loss", backends[0].fp32_precision))
            return embeddings.sum()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(("its gradient", backends[0].fp32_precision))
            return gradient * torch.ones(3, 16)

    network = model(precision="tf32", embedding_size=16)
    network.trunk.register_forward_hook(lambda *_: seen.append(("trunk", backends[0].fp32_precision)))
    network.head.register_full_backward_hook(lambda *_: seen.append(("head's gradient", backends[0].fp32_precision)))
    Watching.apply(network(images()).embeddings).backward()
    expected = [("trunk", "tf32"), ("loss", "ieee"), ("its gradient", "ieee"), ("head's gradient", "tf32")]
    assert seen == expected
    assert network.head.weight.grad.abs().sum() > 0


def test_tensorfloat_changes_nothing_on_a_cpu(backends):
    exact, other = model(seed=1)(images()), model(seed=1, precision="tf32")(images())
    assert torch.equal(exact.embeddings, other.embeddings) and torch.equal(exact.features, other.features)
