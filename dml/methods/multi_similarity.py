"""Multi-similarity loss (Wang et al., CVPR 2019, eq. 15) on all pairs, without its miner.

With cosines s, the mean over the anchors of

    1/alpha log(1 + sum over positives: e^(-alpha (s - base))) + 1/beta log(1 + sum over negatives: e^(beta (s - base)))

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020), an anchor without positives or negatives counts with
the half it has.
"""

from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "Multi-Similarity"
RANGES = {  # linear, as in the paper
    "alpha": {"low": 0.001, "high": 100.0},  # CUB at batch size 32: the paper's search began with a low of 0.01
    "beta": {"low": 0.01, "high": 100.0},
    "base": {"low": 0.0, "high": 1.0},
}
DEFAULTS = {"alpha": 2.0, "beta": 50.0, "base": 0.5}
IMAGES_PER_CLASS = 4


class MultiSimilarity(Method):
    """Weighs each pair by its similarity and by that of its anchor's other pairs."""

    def __init__(self, num_classes: int, embedding_size: int, alpha: float, beta: float, base: float):
        super().__init__()
        self.alpha, self.beta, self.base = alpha, beta, base

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        similarity = pairs.cosine_similarities(embeddings)
        positives, negatives = self.mine(similarity.detach(), *pairs.positives_and_negatives(labels))
        excess = similarity - self.base
        positive_terms = pairs.log_one_plus_sum_exp(-self.alpha * excess, positives) / self.alpha
        negative_terms = pairs.log_one_plus_sum_exp(self.beta * excess, negatives) / self.beta
        return (positive_terms + negative_terms).mean()

    def mine(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs that count, two masks (B, B): here all."""
        return positives, negatives
