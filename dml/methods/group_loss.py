"""The Group Loss (Elezi et al., ECCV 2020): the images of a batch agree on their classes by replicator dynamics.

A linear classifier gives logits over all classes, X = softmax(logits / temperature) of each image. Of each class
`anchors` images take the row of their label instead. With W the correlations (Pearson) of the embeddings, negative
ones 0, X is updated `iterations` times by

    X_ic <- X_ic (W X)_ic / sum over classes c' of X_ic' (W X)_ic'

The loss is the mean over the batch of -log(X_iy + 1e-12), anchors among them, plus the cross-entropy of the logits.

Departures: the paper classifies pooled features and retrieves by them, here the protocol's head stands between and its
output is both classified and correlated. Anchors are drawn, where the authors' code takes the first of the batch. The
classifier is not trained beforehand (the authors' for about ten epochs), and there is one network from beginning to
end: the authors' code goes back, when it lowers the learning rate, to the network that was best on the test classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import mining, pairs
from dml.method import Method

TITLE = "Group Loss"
RANGES = {  # the code: temperatures of 24 (CUB), 54 (SOP) and 79 (Cars), 2 or 3 anchors
    "temperature": {"low": 1.0, "high": 100.0, "log": True},
    "anchors": {"low": 1, "high": 3, "integer": True},  # of 4 images one at least must not be an anchor
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"temperature": 24.0, "anchors": 2, "loss_lr": 1.6e-4}  # CUB, where all weights learn at 1.6e-4
IMAGES_PER_CLASS = 4  # the code: 5 to 10 classes with 6 to 9 images; of a batch of 32 it is 8 classes

SMALLEST_SHARE = 1e-12


class GroupLoss(Method):
    """Classifies each image with the help of those that are like it."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float, anchors: int, iterations: int = 1):
        super().__init__()
        self.classifier = nn.Linear(embedding_size, num_classes)
        self.temperature, self.anchors, self.iterations = temperature, anchors, iterations

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        logits, own = self.classifier(embeddings), labels[:, None]
        truth = torch.zeros_like(logits).scatter_(1, own, 1.0)
        shares = torch.where(self._drawn(labels, logits), truth, (logits / self.temperature).softmax(dim=1))
        correlations = _positive_correlations(embeddings)
        for _ in range(self.iterations):
            supported = shares * (correlations @ shares)
            shares = supported / supported.sum(dim=1, keepdim=True)
        return F.cross_entropy(logits, labels) - (shares.gather(1, own) + SMALLEST_SHARE).log().mean()

    def _drawn(self, labels: Tensor, like: Tensor) -> Tensor:
        """The anchors (B, 1): of each class in the batch so many, or all where it has fewer."""
        order = mining.uniform(len(labels), like=like)
        before = (labels[:, None] == labels) & (order < order[:, None])
        return before.sum(dim=1, keepdim=True) < self.anchors


def _positive_correlations(embeddings: Tensor) -> Tensor:
    """Correlations (B, B) of embeddings over their dimensions, negative ones 0, 1 with themselves."""
    centred = embeddings - embeddings.mean(dim=1, keepdim=True)
    return pairs.cosine_similarities(centred).clamp(min=0).fill_diagonal_(1)
