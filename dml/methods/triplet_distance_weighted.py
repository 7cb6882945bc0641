"""Triplet loss with negatives drawn by distance: Triplet (D) of Roth et al., ICML 2020; see triplet_random.py.

An anchor's positive is any. A negative at distance d is drawn with a probability proportional to 1 / q(d), q being the
density of distances on the sphere and d at least 0.5 (Wu et al., ICCV 2017). Departure from Wu et al., as in the code
behind Revisiting Training Strategies (Roth et al.): negatives beyond 1.4 may be drawn too.
"""

from dml import mining
from dml.methods.triplet_random import TripletRandom

TITLE = "Triplet (D)"
RANGES = {"margin": {"low": 0.0, "high": 2.0}}  # up to the squared distance of orthogonal embeddings
DEFAULTS = {"margin": 0.2}  # Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class TripletDistanceWeighted(mining.DrawnByDistance, TripletRandom):
    """Learns from negatives at all distances alike."""
