"""Signal-to-noise-ratio triplet loss (Yuan et al., CVPR 2019), negatives drawn by distance: SNR (D) of Roth et al.

With s(a, b) = var(a - b) / var(a) over the features of normalised embeddings, over triplets (a, p, n)

    mean of the non-zero [s(a, p) - s(a, n) + margin]+
    + regularizer_weight * mean over the images of |sum of the image's features|

with one triplet an anchor, drawn by Euclidean distance as in triplet_distance_weighted.py. As in the code behind
Revisiting Training Strategies (Roth et al., ICML 2020), the mean is over the triplets that still contribute, and the
last term, by which Yuan et al. keep the mean of an image's features near zero, has a weight of 0 where negatives are
drawn by distance. An image without a positive or without a negative is the anchor of no triplet. An embedding whose
features are all equal has no variance; it is given the smallest that rounding can tell from zero.
"""

from torch import Tensor

from dml import mining, pairs
from dml.method import Method

TITLE = "SNR (D)"
RANGES = {"margin": {"low": 0.0, "high": 2.0}}  # up to the ratio of uncorrelated features
DEFAULTS = {"margin": 0.2}  # Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class SNRDistanceWeighted(mining.DrawnByDistance, Method):
    """Wants the drawn negative farther than the drawn positive, relative to the anchor's variance."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, regularizer_weight: float = 0.0):
        super().__init__()
        self.embedding_size, self.margin, self.regularizer_weight = embedding_size, margin, regularizer_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        embeddings = pairs.normalised(embeddings)
        triplets = self.draw(pairs.distances(embeddings.detach()), *pairs.positives_and_negatives(labels))
        near, far = triplets.of(pairs.noise_to_signal(embeddings))
        loss = pairs.mean_of_nonzero(near - far + self.margin, triplets.exist)
        return loss + self.regularizer_weight * embeddings.sum(dim=1).abs().mean() if self.regularizer_weight else loss
