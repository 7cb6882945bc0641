"""DeiT-S (Touvron et al., 2021), trained on ImageNet-1k without distillation."""

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
    "file": "deit_small_patch16_224-cd65a155.pth",
    "sha256": "cd65a155",
    "urls": ["https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1 + N, 384), with random weights or those of a file: see `vit_small_16`."""
    return vit_small_16.build_named("deit_small_patch16_224", weights)
