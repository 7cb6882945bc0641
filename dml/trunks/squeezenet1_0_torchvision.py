"""SqueezeNet 1.0 with torchvision's own weights and their preprocessing (RGB, ImageNet mean and spread)."""

from pathlib import Path

from torch import nn

from dml.trunks import squeezenet1_0

WIDTH = 512
CHANNELS = "RGB"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
POOLING = "average"
WEIGHTS = {
    "file": "squeezenet1_0-b66bff10.pth",
    "sha256": "b66bff10",
    "urls": ["https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 512, h, w), with random weights or those of a file in torchvision's layout."""
    return squeezenet1_0.build(weights)
