"""Margin loss with rho-regularisation: R-Margin (D) of Roth et al., ICML 2020.

The loss is that of margin_distance_weighted.py, the regularisation that of r_triplet.py. Roth et al. have a row for a
beta that starts from 0.6 and one for 1.2, here the default with and without rho. Their rho for CUB is 0.35 with 1.2,
0.4 with 0.6.
"""

from dml import mining
from dml.methods.margin_distance_weighted import MarginDistanceWeighted

TITLE = "R-Margin (D)"
RANGES = {
    "margin": {"low": 0.0, "high": 1.0},
    "beta": {"low": 0.2, "high": 1.6},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
    "rho": {"low": 0.0, "high": 0.5},
}
DEFAULTS = {"margin": 0.2, "beta": 1.2, "loss_lr": 5e-4, "rho": 0.35}  # Roth et al., CUB and Cars
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class RMargin(mining.RhoRegularised, MarginDistanceWeighted):
    """The margin loss with negatives drawn by distance, some of them of the anchor's own class."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, beta: float, rho: float):
        super().__init__(num_classes, embedding_size, margin, beta)
        self.rho = rho
