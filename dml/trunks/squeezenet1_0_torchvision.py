"""SqueezeNet 1.0 with the preprocessing of torchvision's own weights (RGB, ImageNet mean and spread)."""

from pathlib import Path

from torch import nn

from dml.trunks import squeezenet1_0

WIDTH = 512
CHANNELS = "RGB"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 512), with random weights or those of torchvision's `squeezenet1_0` layout."""
    return squeezenet1_0.build(weights)
