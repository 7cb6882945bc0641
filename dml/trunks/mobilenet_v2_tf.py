"""MobileNetV2 for weights trained in TensorFlow and converted to torchvision's layer names (RGB from -1 to 1)."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from dml.trunks import mobilenet_v2

WIDTH = 1280
CHANNELS = "RGB"
MEAN = (127.5, 127.5, 127.5)
STD = (127.5, 127.5, 127.5)
POOLING = "average"


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1280, h, w), with random weights or those of a file in torchvision's layout."""
    trunk = mobilenet_v2.build(weights)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.padding = (0, 0)
            module.register_forward_pre_hook(_pad_as_tensorflow)
    return trunk


def _pad_as_tensorflow(convolution: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Zeros round a 3x3 convolution of stride 2: none at the top and left of a map whose sides are even."""
    height, width = inputs[0].shape[-2:]
    return F.pad(inputs[0], (width % 2, 1, height % 2, 1))
