"""GoogLeNet (Szegedy et al., 2015) with batch normalisation and without its classifiers, as torchvision has it.

torchvision's weights were ported from TensorFlow and expect pixels from -1 to 1. Its own network is given ImageNet's
mean and spread and undoes them (`transform_input`); here the pixels come as the weights want them.
"""

from collections import OrderedDict
from pathlib import Path

from torch import nn

from dml.model import load_weights, without

WIDTH = 1024
CHANNELS = "RGB"
MEAN = (127.5, 127.5, 127.5)
STD = (127.5, 127.5, 127.5)
POOLING = "average"
WEIGHTS = {
    "file": "googlenet-1378be20.pth",
    "sha256": "1378be20",
    "urls": ["https://download.pytorch.org/models/googlenet-1378be20.pth"],
}


def build(weights: Path | None) -> nn.Module:
    """The trunk, (B, 3, H, W) to (B, 1024, h, w), with random weights or those of a file in torchvision's layout."""
    from torchvision.models import googlenet

    network = googlenet(aux_logits=False, init_weights=False)
    trunk = nn.Sequential(OrderedDict(list(network.named_children())[:-3]))  # all but avgpool, dropout and fc
    if weights is not None:
        load_weights(trunk, weights, lambda state: without(state, "aux1.", "aux2.", "fc."))
    return trunk
