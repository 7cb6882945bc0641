"""ViT-S/16 trained on ImageNet-1k without labels: DINO (Caron et al., 2021)."""

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
    "file": "dino_deitsmall16_pretrain.pth",
    "urls": ["https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1 + N, 384), with random weights or those of a file: see `vit_small_16`."""
    return vit_small_16.build_named("vit_small_patch16_224", weights)
