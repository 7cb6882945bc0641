"""ViT-S/16 with the weights of ImageNet-21k alone (Steiner et al., 2022)."""

from pathlib import Path

from torch import nn

from dml.trunks import vit_small_16

WIDTH = 384
CHANNELS = "RGB"
MEAN = (127.5, 127.5, 127.5)
STD = (127.5, 127.5, 127.5)
POOLING = "token"
PATCH = 16
WEIGHTS = {
    "file": "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz",
    "urls": [
        "https://storage.googleapis.com/vit_models/augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz"
    ],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1 + N, 384), with random weights or those of a file: see `vit_small_16`."""
    return vit_small_16.build_named("vit_small_patch16_224", weights)
