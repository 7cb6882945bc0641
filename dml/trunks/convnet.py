"""A small convolutional trunk that is trained from scratch in seconds: four 3x3 convolutions, 128 channels."""

from pathlib import Path

from torch import nn

from dml.model import load_weights

WIDTH = 128
CHANNELS = "RGB"
MEAN = (127.5, 127.5, 127.5)
STD = (127.5, 127.5, 127.5)
POOLING = "average"


class Convnet(nn.Sequential):
    """Images (B, 3, H, W) to a map (B, 128, H // 8, W // 8): convolution, batch norm, ReLU and pooling.

    Three poolings by two: made for images of about 24 to 64 pixels.
    """

    def __init__(self) -> None:
        widths = [3, 16, 32, 64, WIDTH]
        stages = [_stage(a, b, pool=i < 3) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))]
        super().__init__(*stages)


def _stage(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def build(weights: Path | None) -> nn.Module:
    """The trunk, with random weights or those of a state dict."""
    trunk = Convnet()
    if weights is not None:
        load_weights(trunk, weights)
    return trunk
