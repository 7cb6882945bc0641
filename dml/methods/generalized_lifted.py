"""Generalized lifted structure loss (Hermans et al., 2017, arXiv:1703.07737), with the distances of Roth et al.

With the distance d of the embeddings x as they are, the mean over the images a of the batch of

    [log(sum over positives: e^(d_ap)) + log(sum over negatives: e^(margin - d_an))]+

plus norm_weight times the mean of |x|. An image without positives or without negatives has the first part 0.

Departure: nothing in the paper holds the norms down; the term that does is that of Roth et al. (ICML 2020). Departure:
embeddings are compared by their direction at retrieval, here as everywhere. Were they normalised in training, with 3
positives and 28 negatives no margin above -2.4 would change anything but the value.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "Generalized Lifted"
RANGES = {
    "margin": {"low": 0.0, "high": 4.0},
    "norm_weight": {"low": 1e-4, "high": 0.1, "log": True},
}
DEFAULTS = {"margin": 1.0, "norm_weight": 0.005}  # Roth et al.
IMAGES_PER_CLASS = 4


class GeneralizedLifted(Method):
    """Wants all negatives farther than all positives, the farthest positives and nearest negatives counting most."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, norm_weight: float):
        super().__init__()
        self.margin, self.norm_weight = margin, norm_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.square_roots(pairs.squared_distances(embeddings))
        positives, negatives = pairs.positives_and_negatives(labels)
        gap = pairs.log_sum_exp(distance, positives) + pairs.log_sum_exp(self.margin - distance, negatives)
        return F.relu(gap).mean() + self.norm_weight * torch.linalg.vector_norm(embeddings, dim=1).mean()
