"""Smooth-AP (Brown et al., ECCV 2020): average precision with sigmoids in the place of comparisons.

With cosines s and sigma(x) = 1 / (1 + e^(-x / temperature)), the mean over the anchors i that have positives of

    1 - 1/|P| sum over j in P of  (1 + sum over k in P, k not j: sigma(s_ik - s_ij))
                                / (1 + sum over all k, k not j: sigma(s_ik - s_ij))

As in the authors' code the image itself stands in its own list, and in P: it comes first and counts as found. That code
needs classes of equal size that lie together in the batch; here masks tell them. pytorch-metric-learning's takes the
number of images of a class for that of the classes, so it is right only where the two are equal.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "Smooth-AP"
RANGES = {"temperature": {"low": 1e-3, "high": 1.0, "log": True}}  # the paper compares 0.001, 0.01 and 0.1
DEFAULTS = {"temperature": 0.01}
IMAGES_PER_CLASS = 4


class SmoothAP(Method):
    """Ranks the batch for each anchor. A batch of B needs memory for B^3 comparisons: 67 MB each copy at 256 images."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        similarity = pairs.cosine_similarities(embeddings)
        _, negatives = pairs.positives_and_negatives(labels)
        relevant = ~negatives
        sides = torch.stack([relevant, negatives], dim=2).to(similarity.dtype)
        found, missed = number_ahead(similarity, sides, self.temperature).unbind(dim=2)
        return missing_precision(0.5 + found, missed, relevant)


def number_ahead(similarity: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """How many items are ahead of each in its list, softly and by each of K weights: (Q, N, K).

    Of similarities (Q, N) of queries to the items of their lists, and weights (Q, N, K) of those items. Each item is
    by half ahead of itself.
    """
    scaled = similarity / temperature
    return torch.sub(scaled[:, None, :], scaled[:, :, None]).sigmoid_() @ weights


def missing_precision(found: Tensor, missed: Tensor, relevant: Tensor) -> Tensor:
    """1 - average precision, meaned over the anchors that have positives.

    For each item of an anchor's list, if it is `relevant` (B, B), that is of the anchor's class or the anchor itself:
    `found` (B, B) counts what is relevant up to it, itself included; `missed` (B, B) what is not and comes before it.
    """
    number = relevant.sum(dim=1)
    missing = (missed / (found + missed) * relevant).sum(dim=1) / number
    return pairs.mean(missing, number > 1)
