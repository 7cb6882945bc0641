"""Signal-to-noise-ratio triplet loss with rho-regularisation: R-SNR (D) of Roth et al., ICML 2020.

The loss is that of snr_distance_weighted.py, the regularisation that of r_triplet.py. Roth et al. have a rho of 0.3
instead of 0.4 for CUB. Their code keeps the images' means near zero with a weight of 0.005 here, and with none in
SNR (D), so that the two differ in more than rho, as their published numbers do.
"""

from dml import mining
from dml.methods.snr_distance_weighted import SNRDistanceWeighted

TITLE = "R-SNR (D)"
RANGES = {
    "margin": {"low": 0.0, "high": 2.0},  # up to the ratio of uncorrelated features
    "rho": {"low": 0.0, "high": 0.5},
}
DEFAULTS = {"margin": 0.2, "rho": 0.35}  # Roth et al., Cars
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class RSNR(mining.RhoRegularised, SNRDistanceWeighted):
    """The loss of signal-to-noise ratios with negatives drawn by distance, some of them of the anchor's own class."""

    def __init__(
        self, num_classes: int, embedding_size: int, margin: float, rho: float, regularizer_weight: float = 0.005
    ):
        super().__init__(num_classes, embedding_size, margin, regularizer_weight)
        self.rho = rho
