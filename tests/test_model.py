"""Models and trunks: preprocessing, shapes, gradients, weight files."""

import contextlib
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_0

from dml import plugins
from dml.model import Model, build_model, load_state, save_model

TRUNKS = plugins.names("trunks")


def images(count=3, side=64, seed=0):
    """(count, 3, side, side) uint8, RGB."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def model(trunk="convnet", embedding_size=8, freeze_batchnorm=False, weights=None, seed=0):
    torch.manual_seed(seed)
    return Model(trunk, embedding_size, freeze_batchnorm, weights)


# ---------------------------------------------------------------------------------------------------------- every trunk


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_says_what_it_wants_in_literals(name):
    channels, mean, std, width = (plugins.literal("trunks", name, key) for key in ("CHANNELS", "MEAN", "STD", "WIDTH"))
    assert channels in ("RGB", "BGR")
    assert len(mean) == len(std) == 3
    assert all(0 <= value <= 255 for value in mean) and all(0 < value <= 255 for value in std)
    assert isinstance(width, int) and width > 0
    module = plugins.load("trunks", name)
    found = [getattr(module, key) for key in ("CHANNELS", "MEAN", "STD", "WIDTH")]
    assert found == [channels, mean, std, width]
    assert module.__doc__ and module.build.__doc__


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_gives_features_of_its_width_and_finite_gradients(name):
    built = model(name, embedding_size=5)
    embeddings, features = built(images())
    assert features.shape == (3, plugins.literal("trunks", name, "WIDTH"))
    assert embeddings.shape == (3, 5)
    assert embeddings.isfinite().all() and features.isfinite().all()
    embeddings.square().sum().backward()
    for weight_name, weight in built.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), weight_name
    assert built.head.weight.grad.any() and next(built.trunk.parameters()).grad.any()


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_takes_other_sizes_and_tells_images_apart(name):
    built = model(name, embedding_size=None).eval()
    with torch.inference_mode():
        for side in (32, 49):
            features = built(images(2, side)).features
            assert features.shape == (2, built.embedding_size)
            assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_starts_from_the_global_random_state(name):
    first, again, other = (model(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


# ------------------------------------------------------------------------------------------------------------ the model


def test_the_head_is_one_linear_layer_on_the_features(protocol):
    built = build_model(protocol, True, None)
    embeddings, features = built(images())
    assert built.embedding_size == protocol.embedding_size == 8
    assert [name for name in built.state_dict() if name.startswith("head")] == ["head.weight", "head.bias"]
    torch.testing.assert_close(embeddings, features @ built.head.weight.T + built.head.bias)
    assert (embeddings < 0).any()


def test_without_a_head_the_features_are_the_embeddings(protocol):
    built = build_model(protocol, False, None)
    embeddings, features = built(images())
    assert embeddings is features
    assert built.embedding_size == 128


@pytest.mark.parametrize("frozen", [True, False])
def test_the_mode_of_batch_normalisation(frozen):
    built = model(freeze_batchnorm=frozen)
    norms = [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)]
    assert built.train() is built and built.training and built.trunk.training and built.head.training
    assert {norm.training for norm in norms} == {not frozen}
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in norms)
    built.eval()
    assert not any(module.training for module in built.modules())


# -------------------------------------------------------------------------------------------------- squeezenet's pixels


@pytest.fixture(scope="module")
def squeezenet_files(tmp_path_factory):
    """torchvision's network with random weights, and the files of its weights in both formats."""
    from safetensors.torch import save_file

    torch.manual_seed(7)
    network = squeezenet1_0().eval()
    for weight in network.parameters():  # torchvision starts all biases at 0: a file of them would prove nothing
        weight.data += 0.01 * torch.randn_like(weight)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(network.state_dict(), folder / "w.pth")
    torch.save(network.state_dict(), folder / "w.pt")
    save_file(network.state_dict(), folder / "w.safetensors")
    return network, folder


def pooled(network, inputs):
    return network.features(inputs).mean(dim=(2, 3))


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_squeezenet_sees_bgr_minus_the_mean(squeezenet_files, ending):
    network, folder = squeezenet_files
    built = model("squeezenet1_0", weights=folder / f"w.{ending}").eval()
    rgb = images().float()
    blue, green, red = rgb[:, 2] - 104, rgb[:, 1] - 117, rgb[:, 0] - 123
    with torch.inference_mode():
        features = built(images()).features
        torch.testing.assert_close(features, pooled(network, torch.stack([blue, green, red], dim=1)))
        assert not torch.allclose(features, pooled(network, torch.stack([red, green, blue], dim=1)), rtol=0.01)


def test_torchvisions_own_weights_see_rgb_between_0_and_1(squeezenet_files):
    network, folder = squeezenet_files
    built = model("squeezenet1_0_torchvision", weights=folder / "w.pth").eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.inference_mode():
        expected = pooled(network, (images().float() / 255 - mean) / std)
        torch.testing.assert_close(built(images()).features, expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("trunk", TRUNKS)
def test_weights_of_another_network_are_refused(tmp_path, trunk):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises((RuntimeError, ValueError), match="w.pth: the weights do not fit the trunk .*Missing key"):
        model(trunk, weights=tmp_path / "w.pth")


def test_weights_of_another_shape_are_refused(tmp_path):
    state = model().trunk.state_dict()
    state["0.0.weight"] = state["0.0.weight"][:, :1]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises((RuntimeError, ValueError), match="size mismatch for 0.0.weight"):
        model(weights=tmp_path / "w.pth")
