"""Normalized Softmax (Wang et al., MM 2017; Zhai and Wu, BMVC 2019).

With one weight vector w_c a class, embedding and weights normalised, the mean over the batch of the cross-entropy of
the logits cos(x, w_c) / temperature.

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020) there is no layer normalisation before it (Zhai and
Wu have one).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "Normalized Softmax"
RANGES = {
    "temperature": {"low": 0.01, "high": 100.0, "log": True},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"temperature": 0.05, "loss_lr": 1e-3}
IMAGES_PER_CLASS = 1


class NormalizedSoftmax(Method):
    """Classification by cosine."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(num_classes, embedding_size))
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(pairs.cosine_similarities(embeddings, self.weights) / self.temperature, labels)
