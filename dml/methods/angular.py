"""Angular loss (Wang et al., ICCV 2017) together with the N-pair loss, as in the paper's experiments.

N-pair loss as in n_pairs.py, on the embeddings as they are, plus angular_weight times the mean over all ordered
positive pairs (a, p) of

    log(1 + sum over the negatives n: e^(4 tan^2(alpha) (z_a + z_p).z_n - 2 (1 + tan^2(alpha)) z_a.z_p))

with the embeddings normalised to z: a negative shall be so far from the middle of a and p that half the way from a to p
is seen from it under an angle below alpha, |z_a - z_p| / 2 < tan(alpha) |z_n - (z_a + z_p) / 2|.

Departures: the paper's n are the positives of the other pairs, one of each class; here, as in the code of Roth et al.
(ICML 2020), they are all images of other classes. In that code this is so in the N-pair half too, where here the mean
over a class's images stands for the class; and an anchor has one of its positives, drawn, where here it has each. Its
weight of 0.005 is that of the mean of |x|, here, as in n_pairs.py, of |x|^2. Embeddings are compared by their direction
at retrieval.
"""

import math

from torch import Tensor

from dml import pairs
from dml.methods.n_pairs import NPairs

TITLE = "Angular"
RANGES = {
    "alpha": {"low": 30.0, "high": 60.0},  # degrees
    "angular_weight": {"low": 0.1, "high": 10.0, "log": True},
    "l2_weight": {"low": 1e-4, "high": 0.1, "log": True},
}
DEFAULTS = {"alpha": 45.0, "angular_weight": 2.0, "l2_weight": 0.005}  # Roth et al.
IMAGES_PER_CLASS = 2


class Angular(NPairs):
    """Tells positives from negatives by inner products, and bounds the angle under which a negative sees a pair."""

    def __init__(self, num_classes: int, embedding_size: int, alpha: float, angular_weight: float, l2_weight: float):
        super().__init__(num_classes, embedding_size, l2_weight)
        self.squared_tangent = math.tan(math.radians(alpha)) ** 2
        self.angular_weight = angular_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        positives, negatives = pairs.positives_and_negatives(labels)
        angular_loss = self.angular_loss(embeddings, positives, negatives)
        return self.n_pair_loss(embeddings, positives, negatives) + self.angular_weight * angular_loss

    def angular_loss(self, embeddings: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        # Of positive pairs both have the same negatives, so the sum over them is one of products: no B^3 of memory.
        # Logarithms are not needed on the way: exponents are at most 10 tan^2(alpha) + 2, at 60 degrees 32.
        cosine = pairs.cosine_similarities(embeddings)
        of_negatives = (4 * self.squared_tangent * cosine).exp() * negatives
        of_positives = (-2 * (1 + self.squared_tangent) * cosine).exp()
        return pairs.mean((of_negatives @ of_negatives.T * of_positives).log1p(), positives)
