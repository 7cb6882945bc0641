"""ArcFace, the additive angular margin loss (Deng et al., CVPR 2019, eq. 3).

With the angle t_c between embedding and class weight w_c, the mean over the batch of the cross-entropy of the logits
scale cos(t_c), and scale cos(t_y + margin) for the image's own class y. The margin is in degrees.

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020) that is all, also where t_y + margin passes 180
degrees and the cosine rises again; Deng et al.'s released code goes on linearly from there.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "ArcFace"
RANGES = {
    "margin": {"low": 0.0, "high": 90.0},  # degrees, linear, as in the paper
    "scale": {"low": 0.01, "high": 200.0},  # CUB at batch size 32: the paper's search began with a high of 100
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"margin": 28.6, "scale": 64.0, "loss_lr": 1e-3}
IMAGES_PER_CLASS = 1


class ArcFace(Method):
    """Classification by angle, with a handicap of `margin` for the image's own class."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, scale: float):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(num_classes, embedding_size))
        self.margin, self.scale = math.radians(margin), scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = pairs.cosine_similarities(embeddings, self.weights)
        own = cosine.gather(1, labels[:, None])
        # cos(t + m) without arc cosine or root of zero: where embedding and weight coincide their gradient is infinite
        sine = F.threshold(1 - own.square(), 0.0, torch.finfo(own.dtype).tiny).sqrt()
        widened = own * math.cos(self.margin) - sine * math.sin(self.margin)
        return F.cross_entropy(self.scale * cosine.scatter(1, labels[:, None], widened), labels)
