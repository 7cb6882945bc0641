"""ViT-S/16 (Dosovitskiy et al., 2021; Steiner et al., 2022): ImageNet-21k, then ImageNet-1k, as timm's default has it.

Papers on hyperbolic embeddings name this one ViT-S; for the weights of ImageNet-21k alone there is
`vit_small_16_in21k`. The other transformers of this size build on this file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dml.model import load_weights, without

WIDTH = 384
CHANNELS = "RGB"
MEAN = (127.5, 127.5, 127.5)
STD = (127.5, 127.5, 127.5)
POOLING = "token"
PATCH = 16
WEIGHTS = {
    "file": "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_224.npz",
    "urls": [
        "https://storage.googleapis.com/vit_models/augreg/"
        "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_224.npz"
    ],
}


class Tokens(nn.Module):
    """Crops (B, 3, H, W), sides multiples of 16, to tokens (B, 1 + H / 16 * W / 16, 384): class token, then patches.

    All tokens have gone through the last layer normalisation. A distillation token is seen by the others, but is not
    handed on.
    """

    def __init__(self, name: str) -> None:
        from timm import create_model

        super().__init__()
        # The position embedding of 14x14 patches is interpolated where the crops are not of 224 pixels.
        self.network = create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.network.forward_features(images)
        first_patch = self.network.num_prefix_tokens
        return tokens if first_patch == 1 else torch.cat([tokens[:, :1], tokens[:, first_patch:]], dim=1)


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1 + N, 384), with random weights or those of a file: see `build_named`."""
    return build_named("vit_small_patch16_224", weights)


def build_named(name: str, weights: Path | None) -> nn.Module:
    """A transformer of timm with random weights or those of a file: JAX's (.npz), or with timm's names."""
    trunk = Tokens(name)
    if weights is not None and weights.suffix == ".npz":
        _load_npz(trunk.network, weights)
    elif weights is not None:
        load_weights(trunk.network, weights, _without_wrapper_and_heads)
    return trunk


def _load_npz(network: nn.Module, path: Path) -> None:
    """Put the weights of a JAX file into a network, all but the classifier. No pickles are read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = sum(file[name].size for name in file.files if not name.startswith("head/"))
        # timm's loader would pass over layers that the network lacks, and interpolate patches of another size.
        expected = sum(parameter.numel() for parameter in network.parameters())
        if values != expected:
            raise ValueError(f"{values} weights beside the classifier's, expected {expected}")
        network.load_pretrained(str(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # the loaders raise whatever a damaged or foreign file makes them stumble over
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the weights do not fit the trunk ({reason})") from error


def _without_wrapper_and_heads(state: dict[str, Any]) -> dict[str, Any]:
    return without(state.get("model", state), "head.", "head_dist.")
