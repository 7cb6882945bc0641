"""SoftTriple (Qian et al., ICCV 2019, eq. 8 and 10): several centres a class.

With cosines s_ck to the K centres of class c, S_c = sum over k of softmax_k(s_ck / gamma) s_ck. The loss is the mean
over the batch of the cross-entropy of la (S_c - margin [c is the image's class]), plus

    reg_weight / (C K (K - 1)) * sum over classes, over pairs of their centres w, v, of sqrt(2 - 2 w.v + 1e-5)

which is the regulariser of the authors. The code behind A Metric Learning Reality Check (Musgrave et al., ECCV 2020)
had it doubled until June 2020, so that its best reg_weight may correspond to twice the value here. What K that paper
took for CUB and Cars is not known; here it is the 10 of Qian et al. With K = 1, presumably the paper's choice for SOP,
nothing is regularised.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "SoftTriple"
RANGES = {  # linear, as in the paper, but for loss_lr
    "la": {"low": 0.01, "high": 100.0},
    "gamma": {"low": 1e-4, "high": 100.0},  # CUB at batch size 32: the paper's search began with a low of 0.01
    "reg_weight": {"low": 0.0, "high": 1.0},
    "margin": {"low": 0.0, "high": 1.0},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"la": 20.0, "gamma": 0.1, "reg_weight": 0.2, "margin": 0.01, "loss_lr": 1e-2}
IMAGES_PER_CLASS = 1


class SoftTriple(Method):
    """Classification by cosine to the nearest centres of a class.

    A batch of B needs memory for B C K similarities, and for C K^2 between centres: with the 8,488 classes of a fold
    of Stanford Online Products and K = 10, 2.7 and 0.8 million numbers.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        la: float,
        gamma: float,
        reg_weight: float,
        margin: float,
        centers_per_class: int = 10,
    ):
        super().__init__()
        self.centers = nn.Parameter(torch.empty(num_classes, centers_per_class, embedding_size))
        bound = (num_classes * centers_per_class) ** -0.5
        nn.init.uniform_(self.centers, -bound, bound)
        self.la, self.gamma, self.reg_weight, self.margin = la, gamma, reg_weight, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        per_class, centers = self.centers.shape[1], pairs.normalised(self.centers)
        # (B, K, C): a softmax over a dimension that is not the last is many times as fast on a CPU
        to_centers = pairs.normalised(embeddings) @ centers.transpose(0, 1).flatten(0, 1).T
        to_centers = to_centers.unflatten(1, (per_class, -1))
        to_classes = ((to_centers / self.gamma).softmax(dim=1) * to_centers).sum(dim=1)
        loss = F.cross_entropy(self.la * pairs.handicapped(to_classes, labels, self.margin), labels)
        return loss + self.reg_weight * _spread(centers) if per_class > 1 else loss


def _spread(centers: Tensor) -> Tensor:
    """Half the mean distance between two centres of a class."""
    num_classes, per_class, _ = centers.shape
    spread = (2 - 2 * (centers @ centers.transpose(1, 2)) + 1e-5).clamp(min=1e-6).sqrt()
    return spread.triu(diagonal=1).sum() / (num_classes * per_class * (per_class - 1))
