"""ResNet-50 (He et al., 2016) without its classifier, as torchvision has it.

The weights are torchvision's first ones (IMAGENET1K_V1), trained as those that papers on metric learning use; their
older file resnet50-19c8e357.pth loads too. The second ones (V2) fit the network as well, but come of a much stronger
training: results with them are not comparable.
"""

from collections import OrderedDict
from pathlib import Path

from torch import nn

from dml.model import load_weights, without

WIDTH = 2048
CHANNELS = "RGB"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
POOLING = "average"
WEIGHTS = {
    "file": "resnet50-0676ba61.pth",
    "sha256": "0676ba61",
    "urls": ["https://download.pytorch.org/models/resnet50-0676ba61.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 2048, h, w), with random weights or those of a file in torchvision's layout."""
    from torchvision.models import resnet50

    trunk = nn.Sequential(OrderedDict(list(resnet50().named_children())[:-2]))  # all but avgpool and fc
    if weights is not None:
        load_weights(trunk, weights, lambda state: without(state, "fc."))
    return trunk
