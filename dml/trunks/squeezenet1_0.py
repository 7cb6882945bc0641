"""SqueezeNet 1.0 (Iandola et al., 2016) without its classifier.

The preprocessing is that of Caffe's weights (BGR, 0-255, ImageNet means), which the file squeezenet1_0 of Deep
Compression converted to torchvision's layer names needs; for torchvision's own weights there is
`squeezenet1_0_torchvision`.
"""

from pathlib import Path

from torch import nn

from dml.model import load_weights, without

WIDTH = 512
CHANNELS = "BGR"
MEAN = (104.0, 117.0, 123.0)
STD = (1.0, 1.0, 1.0)
POOLING = "average"


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 512, h, w), with random weights or those of a file in torchvision's layout."""
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0()
    del network.classifier
    if weights is not None:
        load_weights(network, weights, lambda state: without(state, "classifier."))
    return network.features
