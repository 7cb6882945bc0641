"""Triplet loss with rho-regularisation: R-Triplet (D) of Roth et al., ICML 2020.

Triplets (a, p, n) are drawn as in triplet_distance_weighted.py; then each is with probability rho made (a, a, p). Such
a triplet pulls nothing and pushes an image of the anchor's own class away, so that the embeddings keep more directions
of variance than the training classes need. As in the code behind Revisiting Training Strategies (Roth et al.), where
rho is 0.4 for CUB, 0.35 for Cars and 0.15 for SOP; the paper speaks of a negative that is replaced by a positive.
Departure: an image without a negative is the anchor of no triplet, though one with its own class needs none.
"""

from dml import mining
from dml.methods.triplet_distance_weighted import TripletDistanceWeighted

TITLE = "R-Triplet (D)"
RANGES = {
    "margin": {"low": 0.0, "high": 2.0},  # up to the squared distance of orthogonal embeddings
    "rho": {"low": 0.0, "high": 0.5},
}
DEFAULTS = {"margin": 0.2, "rho": 0.35}  # Roth et al., Cars
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class RTriplet(mining.RhoRegularised, TripletDistanceWeighted):
    """The triplet loss with negatives drawn by distance, some of them of the anchor's own class."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, rho: float):
        super().__init__(num_classes, embedding_size, margin)
        self.rho = rho
