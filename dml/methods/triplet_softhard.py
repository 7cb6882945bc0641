"""Triplet loss of drawn hard triplets: Triplet (H) of Roth et al., ICML 2020; see triplet_random.py.

An anchor's positive is one of those that are farther than its nearest negative, its negative one of those that are
nearer than its farthest positive; any where there is none.
"""

from torch import Tensor

from dml import mining
from dml.methods.triplet_random import TripletRandom

TITLE = "Triplet (H)"
RANGES = {"margin": {"low": 0.0, "high": 2.0}}  # up to the squared distance of orthogonal embeddings
DEFAULTS = {"margin": 0.2}  # Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class TripletSofthard(TripletRandom):
    """Learns from positives and negatives that are on the wrong side of one another."""

    def draw(self, distance: Tensor, positives: Tensor, negatives: Tensor) -> mining.Triplets:
        return mining.softhard_triplets(distance, positives, negatives)
