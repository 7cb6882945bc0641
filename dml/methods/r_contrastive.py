"""Contrastive loss with rho-regularisation: R-Contrastive (D) of Roth et al., ICML 2020.

The loss is that of contrastive_distance_weighted.py, the regularisation that of r_triplet.py, with the same rho.
"""

from dml import mining
from dml.methods.contrastive_distance_weighted import ContrastiveDistanceWeighted

TITLE = "R-Contrastive (D)"
RANGES = {
    "pos_margin": {"low": 0.0, "high": 1.0},
    "neg_margin": {"low": 0.0, "high": 2.0},  # no distance is longer
    "rho": {"low": 0.0, "high": 0.5},
}
DEFAULTS = {"pos_margin": 0.0, "neg_margin": 1.0, "rho": 0.35}  # Roth et al., Cars
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class RContrastive(mining.RhoRegularised, ContrastiveDistanceWeighted):
    """The contrastive loss with negatives drawn by distance, some of them of the anchor's own class."""

    def __init__(self, num_classes: int, embedding_size: int, pos_margin: float, neg_margin: float, rho: float):
        super().__init__(num_classes, embedding_size, pos_margin, neg_margin)
        self.rho = rho
