"""Ranked list loss, RLL-H (Wang et al., CVPR 2019): every image of the batch ranks all others.

With the distance d of normalised embeddings, P the positives of a query i with d > alpha - margin and N its negatives
with d < alpha, the mean over all images i of

    (1 - imbalance) * mean over P: d - (alpha - margin)  +  imbalance * sum over N: w (alpha - d)

with w = e^(temperature (alpha - d)), divided by its sum over N. The weights are constants, and so are the images that
are ranked: the gradient of a query's list is the query's alone. A half without pairs is 0.

Departure: the paper joins the embeddings of three depths of the network. "H" is the highest of them alone, the one that
every method has here.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "Ranked List"
RANGES = {
    "alpha": {"low": 0.6, "high": 1.6},  # distances end at 2, and most are near 1.4
    "margin": {"low": 0.0, "high": 1.0},
    "temperature": {"low": 0.1, "high": 100.0, "log": True},
    "imbalance": {"low": 0.0, "high": 1.0},
}
DEFAULTS = {"alpha": 1.2, "margin": 0.4, "temperature": 10.0, "imbalance": 0.5}
IMAGES_PER_CLASS = 4


class RankedList(Method):
    """Pulls positives to within alpha - margin, pushes negatives out beyond alpha, the nearest most."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        alpha: float,
        margin: float,
        temperature: float,
        imbalance: float,
    ):
        super().__init__()
        self.alpha, self.margin, self.temperature, self.imbalance = alpha, margin, temperature, imbalance

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings, embeddings.detach())
        positives, negatives = pairs.positives_and_negatives(labels)
        too_far, too_near = distance - (self.alpha - self.margin), self.alpha - distance
        pulled, pushed = positives & (too_far > 0), negatives & (too_near > 0)
        pulls = pulled / pulled.sum(dim=1, keepdim=True, dtype=distance.dtype).clamp(min=1)
        pushes = torch.where(pushed, self.temperature * too_near.detach(), torch.finfo(distance.dtype).min)
        pushes = pushes.softmax(dim=1) * pushed
        lists = (1 - self.imbalance) * pulls * too_far + self.imbalance * pushes * too_near
        return lists.sum() / len(lists)
