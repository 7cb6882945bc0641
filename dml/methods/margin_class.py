"""Margin loss (Wu et al., ICCV 2017) with a learnt boundary for each class: see margin.py.

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020), all boundaries start from one searched value.
"""

import torch
from torch import Tensor, nn

from dml.methods.margin import Margin

TITLE = "Margin/class"
RANGES = {
    "margin": {"low": -0.2, "high": 2.0},  # linear, as in the paper
    "beta": {"low": -0.2, "high": 2.0},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"margin": 0.2, "beta": 1.2, "loss_lr": 5e-4}
IMAGES_PER_CLASS = 4


class MarginClass(Margin):
    """The boundary of a pair is that of its anchor's class."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, beta: float):
        super().__init__(num_classes, embedding_size, margin, beta)
        self.beta = nn.Parameter(torch.full((num_classes,), float(beta)))

    def boundaries(self, labels: Tensor) -> Tensor:
        return self.beta[labels, None]
