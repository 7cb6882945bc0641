"""FastAP (Cakir et al., CVPR 2019, eq. 6): average precision from soft histograms of distances.

Squared distances of normalised embeddings lie in [0, 4]; each falls on its two nearest of num_bins + 1 equally spaced
bin centres in linear shares. With h+ and H+ an anchor's histogram of positives and its running sum, H that of all
others, the mean over the anchors that have positives of

    1 - 1/(number of positives) sum over bins of h+ H+ / H
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "FastAP"
# The paper tried every one of these values at batch size 32 instead of searching.
RANGES = {"num_bins": {"low": 2, "high": 32, "integer": True}}
IMAGES_PER_CLASS = 4


class FastAP(Method):
    """Ranks the batch for each anchor."""

    def __init__(self, num_classes: int, embedding_size: int, num_bins: int):
        super().__init__()
        self.num_bins = num_bins

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        place = pairs.squared_distances(pairs.normalised(embeddings)) * (self.num_bins / 4)
        positives, negatives = pairs.positives_and_negatives(labels)
        # An item's linear shares, summed up to bin b, are 0 until it comes within reach, rise linearly, and stay 1.
        bins = torch.arange(self.num_bins + 1, device=place.device)
        within = (bins + 1 - place[:, :, None]).clamp(0, 1)
        wanted = torch.stack([positives, positives | negatives], dim=1).to(within.dtype)
        hits, retrieved = (wanted @ within).unbind(dim=1)
        new_hits = hits.diff(dim=1, prepend=torch.zeros_like(hits[:, :1]))
        precision = hits / torch.where(retrieved > 0, retrieved, 1.0)
        average_precision = (new_hits * precision).sum(dim=1) / positives.sum(dim=1).clamp(min=1)
        return pairs.mean(1 - average_precision, positives.any(dim=1))
