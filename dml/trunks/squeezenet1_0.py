"""SqueezeNet 1.0 (Iandola et al., 2016) without its classifier: 512 features after the global average pooling.

The preprocessing is that of Caffe's weights (BGR, 0-255, ImageNet means), which the file squeezenet1_0 of Deep
Compression converted to torchvision's layer names needs; for torchvision's own weights there is
`squeezenet1_0_torchvision`.
"""

from pathlib import Path

from torch import nn

from dml.model import load_weights

WIDTH = 512
CHANNELS = "BGR"
MEAN = (104.0, 117.0, 123.0)
STD = (1.0, 1.0, 1.0)


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 512), with random weights or those of torchvision's `squeezenet1_0` layout."""
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0()
    if weights is not None:
        load_weights(network, weights)
    return nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
