"""ROADMAP (Ramzi et al., NeurIPS 2021): SupAP, an upper bound of 1 - average precision, and a calibration.

With cosines s and H the step from 0 to 1, the mean over the anchors i that have positives of

    SupAP = 1 - 1/|P| sum over j in P of  rank+(j) / (rank+(j) + sum over negatives n: H-(s_in - s_ij))
    rank+(j) = 1 + sum over k in P, k not j: H(s_ik - s_ij)

which has no gradient, and, with sigma(t) = 1 / (1 + e^(-t / temperature)),

    H-(t) = sigma(t)                                for t <= 0
            1/2 + sigma(t)                          for 0 < t <= delta
            1/2 + sigma(delta) + rho (t - delta)    for t > delta

so that a negative far ahead still has a slope, as it has none by the sigmoid. Beside it stands a contrastive loss of
cosines,

    calibration = mean of the non-zero [pos_margin - s_ap]+ + mean of the non-zero [s_an - neg_margin]+
    L = (1 - calibration_weight) SupAP + calibration_weight calibration

As in the authors' code the image itself stands in its own list, and in P, and the calibration averages what is not
zero. Departures: that code begins the line at 1.44 whatever the temperature, here it begins where the sigmoid ends, at
1.49 with the values below; it counts equal positives as ahead of each other, here they are not; and its memory of the
training set, which can be left out there, is left out.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method
from dml.methods.smooth_ap import missing_precision

TITLE = "ROADMAP"
RANGES = {  # around the values of the authors' code
    "rho": {"low": 1.0, "high": 1000.0, "log": True},
    "calibration_weight": {"low": 0.0, "high": 1.0},
    "pos_margin": {"low": 0.5, "high": 0.99},
    "neg_margin": {"low": 0.0, "high": 0.9},
}
DEFAULTS = {"rho": 100.0, "calibration_weight": 0.5, "pos_margin": 0.9, "neg_margin": 0.6}
IMAGES_PER_CLASS = 4


class Roadmap(Method):
    """Ranks the batch for each anchor, and gives the similarities an absolute scale.

    A batch of B needs memory for B^3 comparisons, in some copies of 67 MB each at 256 images.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        rho: float,
        calibration_weight: float,
        pos_margin: float,
        neg_margin: float,
        temperature: float = 0.01,
        delta: float = 0.05,
    ):
        super().__init__()
        self.rho, self.calibration_weight = rho, calibration_weight
        self.pos_margin, self.neg_margin = pos_margin, neg_margin
        self.temperature, self.delta = temperature, delta

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        similarity = pairs.cosine_similarities(embeddings)
        positives, negatives = pairs.positives_and_negatives(labels)
        too_far = pairs.mean_of_nonzero((self.pos_margin - similarity).relu(), positives)
        too_near = pairs.mean_of_nonzero((similarity - self.neg_margin).relu(), negatives)
        sup_ap = missing_precision(*self._ranks(similarity, ~negatives, negatives), ~negatives)
        return torch.lerp(sup_ap, too_far + too_near, self.calibration_weight)

    def _ranks(self, similarity: Tensor, relevant: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Of each item of each list: its rank among what is relevant, and the negatives ahead of it by H-; (B, B)."""
        lead = similarity[:, None, :] - similarity[:, :, None]
        # what rounding cannot tell from equal is not ahead
        ahead = (lead > pairs.ROUNDING * torch.finfo(lead.dtype).eps).to(lead.dtype)
        pushed = (lead.clamp(max=self.delta) / self.temperature).sigmoid() + 0.5 * ahead
        pushed = pushed + self.rho * (lead - self.delta).relu()
        relevant, negatives = (mask[:, :, None].to(lead.dtype) for mask in (relevant, negatives))
        return 1 + (ahead @ relevant)[:, :, 0], (pushed @ negatives)[:, :, 0]
