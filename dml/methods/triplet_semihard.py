"""Triplet loss of drawn semihard triplets: Triplet (S) of Roth et al., ICML 2020; see triplet_random.py.

An anchor's positive is any, its negative one of those with

    d_ap < d_an < d_ap + margin

or any where there is none. As in the code behind Revisiting Training Strategies (Roth et al.), the margin is that of
the loss, though the loss has it between squared distances. This is also the row of FaceNet (Schroff et al., CVPR 2015),
which squares distances here too. Departure from FaceNet: an anchor has one positive of a batch, not all of them,
and an anchor without semihard negatives keeps its triplet; batches are those of the protocol, not of 1,800 images.
"""

from torch import Tensor

from dml import mining
from dml.methods.triplet_random import TripletRandom

TITLE = "Triplet (S)"
RANGES = {"margin": {"low": 0.0, "high": 2.0}}  # up to the squared distance of orthogonal embeddings
DEFAULTS = {"margin": 0.2}  # FaceNet, Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class TripletSemihard(TripletRandom):
    """Learns from negatives that are farther than the positive, but not far enough."""

    def draw(self, distance: Tensor, positives: Tensor, negatives: Tensor) -> mining.Triplets:
        return mining.semihard_triplets(distance, positives, negatives, self.margin)
