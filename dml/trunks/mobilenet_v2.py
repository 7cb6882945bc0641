"""MobileNetV2 (Sandler et al., 2018) without its classifier, as torchvision has it, with its first weights."""

from pathlib import Path

from torch import nn

from dml.model import load_weights, without

WIDTH = 1280
CHANNELS = "RGB"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
POOLING = "average"
WEIGHTS = {
    "file": "mobilenet_v2-b0353104.pth",
    "sha256": "b0353104",
    "urls": ["https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1280, h, w), with random weights or those of a file in torchvision's layout."""
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    del network.classifier
    if weights is not None:
        load_weights(network, weights, lambda state: without(state, "classifier."))
    return network.features
