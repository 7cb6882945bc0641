"""DeiT-S distilled (Touvron et al., 2021), trained on ImageNet-1k with a convolutional teacher."""

from pathlib import Path

from torch import nn

from dml.trunks import vit_small_16

WIDTH = 384
CHANNELS = "RGB"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
POOLING = "token"
PATCH = 16
WEIGHTS = {
    "file": "deit_small_distilled_patch16_224-649709d9.pth",
    "sha256": "649709d9",
    "urls": ["https://dl.fbaipublicfiles.com/deit/deit_small_distilled_patch16_224-649709d9.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1 + N, 384), with random weights or those of a file: see `vit_small_16`."""
    return vit_small_16.build_named("deit_small_distilled_patch16_224", weights)
