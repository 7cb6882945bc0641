"""BN-Inception (Ioffe and Szegedy, 2015), the trunk of A Metric Learning Reality Check, with the paper's weights.

They are Caffe's, in the file of the package pretrainedmodels (BGR, 0-255); for the other weights that there are, with
another preprocessing, there is `bn_inception_pytorchcv`. The architecture is pytorchcv's: the same function, except
that here crops of any size will do (see `_pad_odd_sides`).
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dml.model import load_weights, without

WIDTH = 1024
CHANNELS = "BGR"
MEAN = (104.0, 117.0, 128.0)
STD = (1.0, 1.0, 1.0)
POOLING = "average"
WEIGHTS = {
    "file": "bn_inception-52deb4733.pth",
    "sha256": "52deb4733",
    "urls": ["http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"],
}

_BLOCKS = {
    "3a": "stage1.unit1", "3b": "stage1.unit2", "3c": "stage2.unit1", "4a": "stage2.unit2", "4b": "stage2.unit3",
    "4c": "stage2.unit4", "4d": "stage2.unit5", "4e": "stage3.unit1", "5a": "stage3.unit2", "5b": "stage3.unit3",
}  # fmt: skip
_REDUCING = ("3c", "4e")
"""The blocks that halve the map: they have neither the 1x1 branch nor a convolution behind the pooling."""


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1024, h, w), with random weights or those of a file.

    The file's layer names may be Caffe's, as in pretrainedmodels, or pytorchcv's.
    """
    from pytorchcv.model_provider import get_model

    network = get_model("bninception", pretrained=False)
    del network.output
    del network.features.final_pool  # a window of 7x7, which is the whole map for crops of 224 to 230 pixels alone
    for unit in (_BLOCKS[block] for block in _REDUCING):
        network.features.get_submodule(f"{unit}.branches.branch3").register_forward_pre_hook(_pad_odd_sides)
    if weights is not None:
        load_weights(network, weights, _in_pytorchcv_names)
    return network.features


def _pad_odd_sides(pooling: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Zeros at the top and left of a map whose sides are odd, so that pooling and convolutions agree in size.

    There are none for crops of 32k - 1 to 32k + 6 pixels, such as 224, 227 and 256; with others the network of the
    paper's code does not run. The map is of ReLUs, whose maximum a zero never changes.
    """
    height, width = inputs[0].shape[-2:]
    return F.pad(inputs[0], (width % 2, 0, height % 2, 0))


def _in_pytorchcv_names(state: dict[str, Any]) -> dict[str, Any]:
    """A file's state without classifier, its tensors named as pytorchcv does."""
    if "conv1_7x7_s2.weight" not in state:
        return without(state, "output.")
    layers = _pytorchcv_layers()
    renamed = {}
    for name, tensor in without(state, "last_linear.").items():
        layer, kind = name.rsplit(".", 1)
        part, layer = ("bn", layer.removesuffix("_bn")) if layer.endswith("_bn") else ("conv", layer)
        renamed[f"features.{layers[layer]}.{part}.{kind}" if layer in layers else name] = tensor
    return renamed


def _pytorchcv_layers() -> dict[str, str]:
    """Caffe's name of each convolution -> pytorchcv's of the same, batch normalisation included."""
    layers = {
        "conv1_7x7_s2": "init_block.conv1",
        "conv2_3x3_reduce": "init_block.conv2.conv1",
        "conv2_3x3": "init_block.conv2.conv2",
    }
    for block, unit in _BLOCKS.items():
        first = 1 if block in _REDUCING else 2
        branches = {
            "3x3_reduce": f"branch{first}.conv1",
            "3x3": f"branch{first}.conv2",
            "double_3x3_reduce": f"branch{first + 1}.conv1",
            "double_3x3_1": f"branch{first + 1}.conv2",
            "double_3x3_2": f"branch{first + 1}.conv3",
        }
        if block not in _REDUCING:
            branches |= {"1x1": "branch1", "pool_proj": "branch4.conv"}
        layers |= {f"inception_{block}_{name}": f"{unit}.branches.{path}" for name, path in branches.items()}
    return layers
