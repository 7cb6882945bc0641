"""BN-Inception with pytorchcv's weights, trained otherwise than the paper's, and their preprocessing."""

from pathlib import Path

from torch import nn

from dml.trunks import bn_inception

WIDTH = 1024
CHANNELS = "RGB"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
POOLING = "average"
WEIGHTS = {
    "file": "bninception-0774-d79ba5f5.pth",
    "sha1": "d79ba5f573ba2da5fea5e4c9a7f67ddd526e234b",
    "urls": ["https://github.com/osmr/imgclsmob/releases/download/v0.0.405/bninception-0774-d79ba5f5.pth.zip"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1024, h, w), with random weights or those of a file: see `bn_inception`."""
    return bn_inception.build(weights)
