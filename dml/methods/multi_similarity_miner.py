"""Multi-similarity loss with its miner (Wang et al., CVPR 2019, eq. 11, 12 and 15): see multi_similarity.py.

Of an anchor's pairs the loss sees only

    negatives with s > smallest similarity of its positives - epsilon,
    positives with s < largest similarity of its negatives + epsilon.

An anchor without positives or without negatives keeps no pair. Until it was corrected in June 2020, the code behind
A Metric Learning Reality Check (Musgrave et al., ECCV 2020) could also keep an image as its own positive; here it
never is.
"""

import torch
from torch import Tensor

from dml.methods.multi_similarity import MultiSimilarity

TITLE = "Multi-Similarity + Miner"
RANGES = {  # linear, as in the paper
    "alpha": {"low": 0.01, "high": 100.0},
    "beta": {"low": 0.01, "high": 100.0},
    "base": {"low": 0.0, "high": 1.0},
    "epsilon": {"low": 0.0, "high": 1.0},
}
DEFAULTS = {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1}
IMAGES_PER_CLASS = 4


class MultiSimilarityMiner(MultiSimilarity):
    """The loss of the pairs that are hard by the anchor's other pairs."""

    def __init__(self, num_classes: int, embedding_size: int, alpha: float, beta: float, base: float, epsilon: float):
        super().__init__(num_classes, embedding_size, alpha, beta, base)
        self.epsilon = epsilon

    def mine(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        farthest_positive = torch.where(positives, similarity, torch.inf).amin(dim=1, keepdim=True)
        nearest_negative = torch.where(negatives, similarity, -torch.inf).amax(dim=1, keepdim=True)
        hard_positives = positives & (similarity - self.epsilon < nearest_negative)
        hard_negatives = negatives & (similarity + self.epsilon > farthest_positive)
        return hard_positives, hard_negatives
