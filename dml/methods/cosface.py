"""CosFace, the large margin cosine loss (Wang et al., CVPR 2018, eq. 4).

With one weight vector w_c a class, embedding and weights normalised, the mean over the batch of the cross-entropy of
the logits scale (cos(x, w_c) - margin [c is the image's class]).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "CosFace"
RANGES = {
    "margin": {"low": 0.0, "high": 1.0},  # linear, as in the paper
    "scale": {"low": 0.01, "high": 200.0},  # CUB at batch size 32: the paper's search began with a high of 100
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"margin": 0.35, "scale": 64.0, "loss_lr": 1e-3}
IMAGES_PER_CLASS = 1


class CosFace(Method):
    """Classification by cosine, with a handicap of `margin` for the image's own class."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, scale: float):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(num_classes, embedding_size))
        self.margin, self.scale = margin, scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = pairs.cosine_similarities(embeddings, self.weights)
        return F.cross_entropy(self.scale * pairs.handicapped(cosine, labels, self.margin), labels)
