"""Normalized Softmax (Wang et al., MM 2017; Zhai and Wu, BMVC 2019).

With one weight vector w_c a class, embedding and weights normalised, the mean over the batch of the cross-entropy of
the logits cos(x, w_c) / temperature.

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020) there is no layer normalisation before it (Zhai and
Wu have one, as `head_layernorm` of the protocol).

With a `class_share` below 1 a batch is told apart from a random part of the classes only, drawn anew for each, as Zhai
and Wu do where there are very many: memory and time fall with it. They do not say how they draw; here the classes of
the batch are always among them, and the others fill the share without replacement.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import mining, pairs
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

    def __init__(self, num_classes: int, embedding_size: int, temperature: float, class_share: float = 1.0):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(num_classes, embedding_size))
        self.temperature, self.class_share = temperature, class_share

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        weights = self.weights
        if self.class_share < 1:
            chosen = self._some_classes(labels)
            weights, labels = weights[chosen], (labels[:, None] == chosen).to(torch.uint8).argmax(dim=1)
        return F.cross_entropy(pairs.cosine_similarities(embeddings, weights) / self.temperature, labels)

    def _some_classes(self, labels: Tensor) -> Tensor:
        """Those of the batch and a random part of the others: as many for any batch of a size."""
        size = len(self.weights)
        count = min(size, max(math.ceil(self.class_share * size), len(labels)))
        order = mining.uniform(size, like=self.weights).scatter(0, labels, 2.0)
        return order.topk(count).indices
