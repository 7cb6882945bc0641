"""Signal-to-noise-ratio contrastive loss (Yuan et al., CVPR 2019).

With d(a, b) = var(a - b) / var(a) over the features of normalised embeddings, over all ordered pairs of the batch:

    mean of the non-zero [d_positive - pos_margin]+  +  mean of the non-zero [neg_margin - d_negative]+
    + regularizer_weight * mean over the images of |sum of the image's features|

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020), the means are over the pairs that still contribute,
and the last term too sees normalised embeddings. An embedding whose features are all equal has no variance; it is
given the smallest that rounding can tell from zero.
"""

from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "SNR Contrastive"
RANGES = {  # linear, as in the paper
    "pos_margin": {"low": 0.0, "high": 2.0},
    "neg_margin": {"low": 0.0, "high": 2.0},
    "regularizer_weight": {"low": 0.0, "high": 1.0},
}
DEFAULTS = {"pos_margin": 0.0, "neg_margin": 1.0, "regularizer_weight": 0.005}
IMAGES_PER_CLASS = 4


class SNRContrastive(Method):
    """Contrastive loss of a distance that is relative to the anchor's variance."""

    def __init__(
        self, num_classes: int, embedding_size: int, pos_margin: float, neg_margin: float, regularizer_weight: float
    ):
        super().__init__()
        self.pos_margin, self.neg_margin, self.regularizer_weight = pos_margin, neg_margin, regularizer_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        embeddings = pairs.normalised(embeddings)
        ratio = pairs.noise_to_signal(embeddings)
        positives, negatives = pairs.positives_and_negatives(labels)
        too_far = pairs.mean_of_nonzero(ratio - self.pos_margin, positives)
        too_near = pairs.mean_of_nonzero(self.neg_margin - ratio, negatives)
        return too_far + too_near + self.regularizer_weight * embeddings.sum(dim=1).abs().mean()
