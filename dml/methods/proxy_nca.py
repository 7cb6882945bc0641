"""ProxyNCA (Movshovitz-Attias et al., ICCV 2017) in the form of the Reality Check.

With one proxy p_c a class, z and p normalised, the mean over the batch of

    -log( exp(-softmax_scale |z - p_y|^2) / sum over all classes c: exp(-softmax_scale |z - p_c|^2) )

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020) the image's own class stands in the denominator; the
original leaves it out. That code drops an image whose own share underflows to zero; here it is kept, with its gradient.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "ProxyNCA"
RANGES = {
    "softmax_scale": {"low": 0.01, "high": 100.0},  # linear, as in the paper
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"softmax_scale": 9.0, "loss_lr": 1e-3}  # the scale of ProxyNCA++ (Teh et al., ECCV 2020)
IMAGES_PER_CLASS = 1


class ProxyNCA(Method):
    """Softmax over the squared distances to the proxies."""

    def __init__(self, num_classes: int, embedding_size: int, softmax_scale: float):
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_size))
        self.softmax_scale = softmax_scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        # |z - p|^2 = 2 - 2 cos(z, p), and what all classes share cancels
        cosine = pairs.cosine_similarities(embeddings, self.proxies)
        return F.cross_entropy(2 * self.softmax_scale * cosine, labels)
