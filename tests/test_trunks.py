"""Every trunk: what its file says, its maps, and that its features are those of the network its weights were made for.

With real weights and images too, where the environment variable DML_TEST_DATA names a folder that has weights/ and
data/ (see `test_real_weights_tell_birds_apart`).
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm import create_model
from torch import nn
from torch.nn import functional as F

from dml import plugins
from dml.datasets.folder import prepare
from dml.embedding import embed
from dml.images import PackedImages, pack
from dml.model import Model
from dml.neighbours import neighbours
from dml.protocol import Protocol, Weights
from dml.splits import half_of
from dml.trunks.bn_inception import _in_pytorchcv_names

TRUNKS = plugins.names("trunks")
VITS = {
    "vit_small_16": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_16_in21k": "vit_small_patch16_224.augreg_in21k",
    "deit_small_16": "deit_small_patch16_224.fb_in1k",
    "deit_small_16_distilled": "deit_small_distilled_patch16_224.fb_in1k",
    "dino_small_16": "vit_small_patch16_224.dino",
}
TORCHVISION = {
    "googlenet": "googlenet",
    "mobilenet_v2": "mobilenet_v2",
    "resnet50": "resnet50",
    "squeezenet1_0_torchvision": "squeezenet1_0",
}
IMAGENET = [torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


def images(count=3, side=64, seed=0):
    """(count, 3, side, side) uint8, RGB: soft blots, since all noise looks alike to a network."""
    blots = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4))).float()
    return F.interpolate(blots, (side, side), mode="bilinear").byte()


def model(trunk, has_head=True, weights=None, seed=0, **settings):
    """A fresh model with 5 outputs and a seed of its own."""
    defaults = {"embedding_size": 5, "crop_size": 224, "freeze_batchnorm": "nothing"}
    torch.manual_seed(seed)
    return Model(Protocol(trunk=trunk, **defaults | settings), has_head, weights)


def shaken(network, seed=7):
    """The network with all biases and statistics away from where they start, in evaluation mode."""
    torch.manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 4:  # some start so small that the last features hardly depend on the image
            nn.init.kaiming_normal_(tensor)
        elif tensor.is_floating_point():
            tensor += 0.1 * torch.randn_like(tensor) if tensor.ndim == 1 else 0
    return network.eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert float(expected.std(dim=0).max()) > 1e-3 * float(expected.abs().max())  # else all images looked alike


# ---------------------------------------------------------------------------------------------------------- every trunk


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_says_what_it_is_in_literals(name):
    keys = ("CHANNELS", "MEAN", "STD", "WIDTH", "POOLING")
    channels, mean, std, width, pooling = (plugins.literal("trunks", name, key) for key in keys)
    assert channels in ("RGB", "BGR")
    assert len(mean) == len(std) == 3
    assert all(0 <= value <= 255 for value in mean) and all(0 < value <= 255 for value in std)
    assert isinstance(width, int) and width > 0
    assert pooling == ("token" if name in VITS else "average")
    assert plugins.literal("trunks", name, "PATCH") == (16 if name in VITS else None)
    module = plugins.load("trunks", name)
    assert [getattr(module, key) for key in keys] == [channels, mean, std, width, pooling]
    assert module.__doc__ and module.build.__doc__


@pytest.mark.parametrize("name", TRUNKS)
def test_the_weights_a_trunk_names_can_be_fetched_and_checked(name):
    named = plugins.literal("trunks", name, "WEIGHTS")
    if named is None:
        assert name in ("convnet", "squeezenet1_0", "mobilenet_v2_tf")  # those whose weights nobody publishes as a file
        with pytest.raises(ValueError, match=f"weights: dml/trunks/{name}.py names none"):
            Protocol.check({"trunk": name, "weights": "pretrained", "crop_size": 224}, "study.yaml")
        return
    weights = Weights.check(named, name)
    assert Protocol.check({"trunk": name, "weights": "pretrained", "crop_size": 224}, "study.yaml").weights == weights
    (url,) = weights.urls
    assert re.fullmatch(r"https?://[\w./%-]+", url)
    assert url.removesuffix(".zip").rsplit("/", 1)[1] == weights.file
    checksum = weights.sha256 or weights.sha1
    assert checksum is not None or name in ("vit_small_16", "vit_small_16_in21k", "dino_small_16")  # none is published
    if checksum:
        assert checksum.startswith(re.fullmatch(r".*-([0-9a-f]{8,})\.pth", weights.file)[1])


@pytest.mark.parametrize("name", VITS)
def test_timm_knows_the_same_weights_and_pixels(name):
    published, module = timm.get_pretrained_cfg(VITS[name]), plugins.load("trunks", name)
    assert [published.url] == module.WEIGHTS["urls"]
    np.testing.assert_allclose(module.MEAN, 255 * np.array(published.mean))
    np.testing.assert_allclose(module.STD, 255 * np.array(published.std))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_knows_the_same_weights(name):
    published = torchvision.models.get_model_weights(TORCHVISION[name]).IMAGENET1K_V1
    assert [published.url] == plugins.literal("trunks", name, "WEIGHTS")["urls"]


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_gives_maps_of_its_width_and_finite_gradients(name):
    built = model(name)
    width = built.head.in_features
    assert width == plugins.literal("trunks", name, "WIDTH")
    pixels = torch.randn(3, 3, 64, 64)
    maps = built.eval().trunk(pixels)
    assert maps.isfinite().all()
    assert maps.shape == ((3, 1 + 4 * 4, width) if name in VITS else (3, width, *maps.shape[2:]))
    with torch.inference_mode():
        assert torch.equal(built.trunk(pixels), maps)
    embeddings, features, *_ = built.train()(images())
    assert features.shape == (3, width) and embeddings.shape == (3, 5)
    assert embeddings.isfinite().all() and features.isfinite().all()
    embeddings.square().sum().backward()
    for weight_name, weight in built.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), weight_name
    assert built.head.weight.grad.any() and next(built.trunk.parameters()).grad.any()


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_takes_other_sizes_and_tells_images_apart(name):
    built = model(name, has_head=False).eval()
    with torch.inference_mode():
        for side in (32, 48) if name in VITS else (32, 49):
            features = built(images(2, side)).features
            assert features.shape == (2, built.embedding_size)
            assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_starts_from_the_global_random_state(name):
    first, again, other = (model(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", TRUNKS)
def test_weights_of_another_network_are_refused(tmp_path, name):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth: the weights do not fit the trunk .*Missing key"):
        model(name, weights=tmp_path / "w.pth")


# ---------------------------------------------------------------------------------------------------------- torchvision


@pytest.fixture(scope="module", params=TORCHVISION)
def of_torchvision(request, tmp_path_factory):
    """Our trunk's name, torchvision's network with all its classifiers, and the file of its weights."""
    options = {"aux_logits": True, "transform_input": True, "init_weights": True} if "google" in request.param else {}
    network = shaken(getattr(torchvision.models, TORCHVISION[request.param])(**options))
    file = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(network.state_dict(), file)
    return request.param, network, file


def last_features(network, pixels):
    """What torchvision's network hands to its classifier."""
    if "squeezenet" in type(network).__name__.lower():
        return network.features(pixels).mean(dim=(2, 3))  # it classifies before it pools
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    seen = []
    hook = last.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))
    network(pixels)
    hook.remove()
    return seen[0]


def test_features_are_those_of_torchvisions_network_with_its_preprocessing(of_torchvision):
    name, network, file = of_torchvision
    mean, std = IMAGENET
    with torch.inference_mode():
        expected = last_features(network, (images().float() / 255 - mean) / std)
        close(model(name, weights=file).eval()(images()).features, expected)


@pytest.mark.parametrize("form", ["legacy", "no classifier", "safetensors"])
def test_other_files_of_the_same_weights_load_too(of_torchvision, tmp_path, form):
    name, network, file = of_torchvision
    trunk = model(name, weights=file).trunk.state_dict()
    state, other = network.state_dict(), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "legacy":  # as torch 0.3 wrote resnet50-19c8e357.pth
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        torch.save(state, other, _use_new_zipfile_serialization=False)
    elif form == "no classifier":
        heads = ("fc.", "classifier.", "aux")
        torch.save({key: value for key, value in state.items() if not key.startswith(heads)}, other)
    else:
        from safetensors.torch import save_file

        save_file(state, other)
    loaded = model(name, weights=other, seed=1).trunk.state_dict()
    assert loaded.keys() == trunk.keys() and all(torch.equal(loaded[key], trunk[key]) for key in trunk)


def test_squeezenet_of_caffe_sees_bgr_minus_the_mean(tmp_path):
    network = shaken(torchvision.models.squeezenet1_0())
    torch.save(network.state_dict(), tmp_path / "w.pth")
    built = model("squeezenet1_0", weights=tmp_path / "w.pth").eval()
    rgb = images().float()
    blue, green, red = rgb[:, 2] - 104, rgb[:, 1] - 117, rgb[:, 0] - 123
    with torch.inference_mode():
        features = built(images()).features
        close(features, last_features(network, torch.stack([blue, green, red], dim=1)))
        wrong = last_features(network, torch.stack([red, green, blue], dim=1))
        assert not torch.allclose(features, wrong, rtol=0.01)


@pytest.mark.parametrize("side", [64, 49, 227])
def test_mobilenet_of_tensorflow_pads_as_tensorflow_does(side):
    """Its `SAME`: as few zeros as give ceil(side / stride) outputs, the odd one at the bottom and right."""
    built = model("mobilenet_v2_tf").eval()
    plain = model("mobilenet_v2").eval()
    halving = [m for m in built.trunk.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(halving) == 5
    assert built.trunk.state_dict().keys() == plain.trunk.state_dict().keys()
    expected_side = side
    with torch.inference_mode():
        for convolution in halving:
            maps = torch.randn(1, convolution.in_channels, expected_side, expected_side)
            following = -(-expected_side // 2)
            zeros = max((following - 1) * 2 + 3 - expected_side, 0)
            padded = F.pad(maps, 2 * (zeros // 2, zeros - zeros // 2))
            expected = F.conv2d(padded, convolution.weight, stride=2, groups=convolution.groups)
            assert torch.equal(convolution(maps), expected)
            expected_side = following
        assert built.trunk(torch.randn(1, 3, side, side)).shape[2:] == (expected_side, expected_side)


# --------------------------------------------------------------------------------------------------------- BN-Inception

# Of each block: the 1x1 branch, (reduce, out) of the 3x3 and of the double 3x3 branch, pooling and what follows it.
BLOCKS = {
    "3a": (64, (64, 64), (64, 96), "average", 32),
    "3b": (64, (64, 96), (64, 96), "average", 64),
    "3c": (None, (128, 160), (64, 96), "max", None),
    "4a": (224, (64, 96), (96, 128), "average", 128),
    "4b": (192, (96, 128), (96, 128), "average", 128),
    "4c": (160, (128, 160), (128, 160), "average", 128),
    "4d": (96, (128, 192), (160, 192), "average", 128),
    "4e": (None, (128, 192), (192, 256), "max", None),
    "5a": (352, (192, 320), (160, 224), "average", 128),
    "5b": (352, (192, 320), (192, 224), "max", 128),
}


def caffe_layers():
    """(Caffe's name, inputs, outputs, kernel) of every convolution."""
    layers = [("conv1_7x7_s2", 3, 64, 7), ("conv2_3x3_reduce", 64, 64, 1), ("conv2_3x3", 64, 192, 3)]
    inputs = 192
    for block, (single, (reduce3, out3), (reduce_double, out_double), _, projected) in BLOCKS.items():
        of_block = [
            ("3x3_reduce", inputs, reduce3, 1), ("3x3", reduce3, out3, 3),
            ("double_3x3_reduce", inputs, reduce_double, 1), ("double_3x3_1", reduce_double, out_double, 3),
            ("double_3x3_2", out_double, out_double, 3),
        ]  # fmt: skip
        of_block += [("1x1", inputs, single, 1), ("pool_proj", inputs, projected, 1)] if single else []
        layers += [(f"inception_{block}_{name}", *shape) for name, *shape in of_block]
        inputs = out3 + out_double + (single + projected if single else inputs)
    assert inputs == 1024
    return layers


@pytest.fixture(scope="module")
def caffe_state():
    """Random weights with the names and shapes of the paper's file."""
    random = torch.Generator().manual_seed(3)
    state = {"last_linear.weight": torch.zeros(1000, 1024), "last_linear.bias": torch.zeros(1000)}
    for name, inputs, outputs, kernel in caffe_layers():
        spread = (2 / (inputs * kernel**2)) ** 0.5
        state[f"{name}.weight"] = spread * torch.randn(outputs, inputs, kernel, kernel, generator=random)
        for tensor in (f"{name}.bias", f"{name}_bn.bias", f"{name}_bn.running_mean"):
            state[tensor] = 0.2 * torch.randn(outputs, generator=random)
        for tensor in (f"{name}_bn.weight", f"{name}_bn.running_var"):
            state[tensor] = 0.5 + torch.rand(outputs, generator=random)
    return state


def bn_inception(state, maps):
    """The network written down from Caffe's layers: crops (B, 3, H, W) to the map (B, 1024, h, w)."""

    def layer(name, maps, stride=1):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        maps = F.conv2d(maps, weight, bias, stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (
            state[f"{name}_bn.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return ((maps - mean) / (variance + 1e-5).sqrt() * scale + shift).relu()

    def halved(maps):  # windows that hang over the bottom and right edge count
        return F.max_pool2d(maps, 3, stride=2, ceil_mode=True)

    maps = halved(layer("conv1_7x7_s2", maps, stride=2))
    maps = halved(layer("conv2_3x3", layer("conv2_3x3_reduce", maps)))
    for block, (single, _, _, pooling, _) in BLOCKS.items():
        name, stride = f"inception_{block}", 1 if single else 2
        parts = [layer(f"{name}_1x1", maps)] if single else []
        parts.append(layer(f"{name}_3x3", layer(f"{name}_3x3_reduce", maps), stride))
        double = layer(f"{name}_double_3x3_1", layer(f"{name}_double_3x3_reduce", maps))
        parts.append(layer(f"{name}_double_3x3_2", double, stride))
        if not single:
            parts.append(halved(maps))
        else:  # the zeros round the map count in the average
            pool = {"average": F.avg_pool2d, "max": F.max_pool2d}[pooling]
            parts.append(layer(f"{name}_pool_proj", pool(maps, 3, stride=1, padding=1)))
        maps = torch.cat(parts, dim=1)
    return maps


@pytest.mark.fidelity("BN-Inception's features", "the network written from Caffe's layers, same weights", "relative")
@pytest.mark.parametrize("side", [64, 227])
def test_bn_inception_is_caffes(tmp_path, caffe_state, side, deviates):
    torch.save(caffe_state, tmp_path / "w.pth")
    built = model("bn_inception", weights=tmp_path / "w.pth").eval()
    rgb = images(2, side)
    pixels = rgb.flip(1).float() - torch.tensor([104.0, 117.0, 128.0])[:, None, None]
    with torch.inference_mode():
        expected = bn_inception(caffe_state, pixels)
        assert expected.shape == (2, 1024, side // 32, side // 32)
        close(built.trunk(pixels), expected)
        close(built(rgb).features, expected.mean(dim=(2, 3)))
        deviates((built.trunk(pixels) - expected).abs().max() / expected.abs().max())


def test_every_tensor_of_caffe_has_its_place(caffe_state):
    renamed = _in_pytorchcv_names(caffe_state)
    assert len(caffe_layers()) == 69
    assert len(renamed) == len(caffe_state) - 2 == 69 * 6
    trunk = model("bn_inception").trunk.state_dict()
    assert {f"features.{name}" for name in trunk if not name.endswith("tracked")} == set(renamed)
    assert sum(p.numel() for p in model("bn_inception").trunk.parameters()) == 11_295_240 - 1000 * 1025


@pytest.mark.parametrize("name", ["bn_inception", "bn_inception_pytorchcv"])
@pytest.mark.parametrize("change", ["without a layer", "with one more", "misnamed"])
def test_an_incomplete_file_of_caffes_names_is_refused(tmp_path, caffe_state, name, change):
    state = dict(caffe_state)
    if change != "with one more":
        tensor = state.pop("inception_4c_3x3_bn.bias")
    if change != "without a layer":
        state["inception_4c_4x4.bias"] = torch.zeros(160) if change == "with one more" else tensor
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w.pth: the weights do not fit the trunk \(.*(stage2.unit4|inception_4c_4x4)"
    ):
        model(name, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["bn_inception", "bn_inception_pytorchcv"])
def test_bn_inception_takes_pytorchcvs_names_too(tmp_path, name):
    from pytorchcv.model_provider import get_model

    network = shaken(get_model("bninception", pretrained=False))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    built = model(name, weights=tmp_path / "w.pth").eval()
    mean, std = IMAGENET
    pixels = (images(2, 224).float() / 255 - mean) / std
    if name == "bn_inception":
        pixels = images(2, 224).flip(1).float() - torch.tensor([104.0, 117.0, 128.0])[:, None, None]
    with torch.inference_mode():
        close(built(images(2, 224)).features, network.features(pixels).flatten(1))


# --------------------------------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module", params=VITS)
def of_timm(request):
    """Our trunk's name, and timm's network with its classifiers."""
    network = shaken(create_model(VITS[request.param], pretrained=False, dynamic_img_size=True))
    return request.param, network


def as_jax_writes(state):
    """The arrays of a JAX file: kernels are (in, out), the heads have an axis of their own, q, k and v are apart."""
    arrays = {name: value.numpy() for name, value in state.items()}
    written = {
        "cls": arrays["cls_token"],
        "Transformer/posembed_input/pos_embedding": arrays["pos_embed"],
        "embedding/kernel": arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": arrays["norm.weight"],
        "Transformer/encoder_norm/bias": arrays["norm.bias"],
        "head/kernel": arrays["head.weight"].T,
        "head/bias": arrays["head.bias"],
    }
    for k in range(12):
        block, ours = f"Transformer/encoderblock_{k}", f"blocks.{k}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for i, part in enumerate(("query", "key", "value")):
            rows = slice(384 * i, 384 * (i + 1))
            written[f"{attention}/{part}/kernel"] = arrays[f"{ours}.attn.qkv.weight"][rows].T.reshape(384, 6, 64)
            written[f"{attention}/{part}/bias"] = arrays[f"{ours}.attn.qkv.bias"][rows].reshape(6, 64)
        written[f"{attention}/out/kernel"] = arrays[f"{ours}.attn.proj.weight"].T.reshape(6, 64, 384)
        written[f"{attention}/out/bias"] = arrays[f"{ours}.attn.proj.bias"]
        for theirs, norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            written[f"{block}/{theirs}/scale"] = arrays[f"{ours}.{norm}.weight"]
            written[f"{block}/{theirs}/bias"] = arrays[f"{ours}.{norm}.bias"]
        for i in (0, 1):
            written[f"{block}/MlpBlock_3/Dense_{i}/kernel"] = arrays[f"{ours}.mlp.fc{i + 1}.weight"].T
            written[f"{block}/MlpBlock_3/Dense_{i}/bias"] = arrays[f"{ours}.mlp.fc{i + 1}.bias"]
    return written


def weight_file(folder, name, network):
    """The network's weights as its publisher wraps and names them."""
    file = folder / Path(plugins.literal("trunks", name, "WEIGHTS")["file"]).with_stem("w").name
    state = network.state_dict()
    if file.suffix == ".npz":
        np.savez(file, **as_jax_writes(state))
    elif name.startswith("deit"):
        torch.save({"model": state}, file)
    else:
        torch.save({key: value for key, value in state.items() if not key.startswith("head")}, file)
    return file


def test_features_are_those_of_timm(tmp_path, of_timm):
    name, network = of_timm
    file = weight_file(tmp_path, name, network)
    built, averaging = (model(name, weights=file, pooling=kind).eval() for kind in (None, "average"))
    mean, std = (torch.tensor(getattr(plugins.load("trunks", name), key))[:, None, None] for key in ("MEAN", "STD"))
    with torch.inference_mode():
        for side in (224, 64):
            pixels = (images(2, side).float() - mean) / std
            expected = network.forward_features(pixels)
            tokens, features, *_ = built.trunk(pixels), built(images(2, side)).features
            assert tokens.shape == (2, 1 + (side // 16) ** 2, 384)
            close(features, expected[:, 0])
            close(tokens[:, 1:], expected[:, network.num_prefix_tokens :])
            if name == "deit_small_16_distilled":
                both = network.forward_head(expected, pre_logits=True)  # the mean of class and distillation token
                close((features + expected[:, 1]) / 2, both)
            else:
                close(features, network.forward_head(expected, pre_logits=True))
                close(averaging(images(2, side)).features, network.pool(expected, "avg"))


def test_the_distillation_token_is_seen_by_the_others_but_not_handed_on(tmp_path):
    built = model("deit_small_16_distilled", has_head=False).eval()
    with torch.inference_mode():
        before = built.trunk(torch.zeros(1, 3, 32, 32))
        built.trunk.network.dist_token.normal_()
        after = built.trunk(torch.zeros(1, 3, 32, 32))
    assert before.shape == (1, 5, 384) and not torch.allclose(before, after, atol=1e-4)


@pytest.fixture(scope="module")
def jax_arrays():
    torch.manual_seed(0)
    return as_jax_writes(create_model("vit_small_patch16_224", pretrained=False).state_dict())


@pytest.mark.parametrize(
    "change",
    ["a layer more", "a layer less", "other patches", "a renamed array", "another shape", "empty", "an array", "text"],
)
def test_an_npz_of_another_network_is_refused(tmp_path, jax_arrays, change):
    arrays, file = dict(jax_arrays), tmp_path / "w.npz"
    if change == "a layer more":
        arrays |= {k.replace("_11/", "_12/"): v for k, v in arrays.items() if "encoderblock_11/" in k}
    elif change == "a layer less":
        arrays = {k: v for k, v in arrays.items() if "encoderblock_11/" not in k}
    elif change == "other patches":
        arrays["embedding/kernel"] = np.zeros((32, 32, 3, 384), np.float32)
    elif change == "a renamed array":
        arrays["embedding/b"] = arrays.pop("embedding/bias")
    elif change == "another shape":
        arrays["embedding/bias"] = arrays["embedding/bias"].reshape(2, 192)
    if change == "empty":
        file.write_bytes(b"")
    elif change == "text":
        file.write_text("<html>")
    elif change == "an array":
        with file.open("wb") as opened:
            np.save(opened, np.zeros(3))
    else:
        np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"w.npz: the weights do not fit the trunk \(\S") as caught:
        model("vit_small_16", weights=file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["an object array", "a bare pickle"])
def test_an_npz_with_code_is_refused_and_nothing_runs(tmp_path, jax_arrays, form):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "the code ran"),)

    file = tmp_path / "w.npz"
    if form == "an object array":
        np.savez(file, **jax_arrays | {"cls": np.array([Malicious()], dtype=object)})
    else:
        import pickle

        file.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="w.npz: the weights do not fit the trunk"):
        model("vit_small_16", weights=file)
    assert not (tmp_path / "the code ran").exists()


def test_a_missing_file_is_called_so(tmp_path):
    for name, file in (("vit_small_16", "w.npz"), ("resnet50", "w.pth")):
        with pytest.raises(FileNotFoundError):
            model(name, weights=tmp_path / file)


# --------------------------------------------------------------------------------------------- real weights, real birds

DATA = Path(os.environ.get("DML_TEST_DATA", ""))


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """The second half of the classes of 100 of CUB's, 224x224 pixels."""
    listed = prepare(Path(), source=DATA / "data/cub100.zip")
    positions, labels = half_of(listed, "test")
    stem = tmp_path_factory.mktemp("birds") / "test"
    pack([listed[i] for i in positions], labels, 224, stem, upright=False, progress=False)
    found = PackedImages.open(stem)
    assert len(found) == 2953 and set(found.labels) == set(range(50, 100))
    assert {*found.heights, *found.widths} == {224}  # they are square: nothing is cut off
    return found


@pytest.mark.fidelity("R@1 of ImageNet weights on 2,953 birds", "values known from elsewhere", "share")
@pytest.mark.skipif(
    not os.environ.get("DML_TEST_DATA"),
    reason="needs real weights: DML_TEST_DATA names no folder that has weights/ and data/cub100.zip",
)
@pytest.mark.parametrize(
    "trunk, file, recall",
    [
        ("squeezenet1_0", "squeezenet1_0_deepcompression_bgr.pt", 0.609),
        ("mobilenet_v2_tf", "mobilenet_v2_tf2_dequant_torchvision.pt", 0.756),
    ],
)
def test_real_weights_tell_birds_apart(birds, trunk, file, recall, deviates):
    """Recall@1 of the trunk as it is, known from elsewhere."""
    built = model(trunk, has_head=False, weights=DATA / "weights" / file)
    found = neighbours(embed(built, birds, 224), birds.labels)
    nearest_is_right = found.ranks[found.offsets[:-1]] == 1
    assert found.n_queries == len(birds)
    assert nearest_is_right.mean() == pytest.approx(recall, abs=0.002)
    deviates(abs(nearest_is_right.mean() - recall))
