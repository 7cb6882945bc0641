"""Proxy Anchor (Kim et al., CVPR 2020, eq. 4): proxies as anchors, which weigh all images of a batch.

With one proxy a class and cosines s_ic of image i to the proxy of class c, the mean over the classes in the batch of

    log(1 + sum over images of class c: e^(-alpha (s_ic - margin)))

plus the mean over all classes of

    log(1 + sum over images of other classes: e^(alpha (s_ic + margin)))

Departures: the authors draw images at random, 120 or 180 a batch; here a batch of 32 has one image of each class, as
far as there are so many, since at random it would hold 26 of 75 classes. The first sum then has a single term, so that
positives of a proxy are not weighed among each other, as others are: a study in which they shall be sets
`images_per_class` to 2 or more. The sum of average and max pooling in the authors' code belongs to a study's protocol
(`pooling: average_max`).
"""

import torch
from torch import Tensor, nn

from dml import pairs
from dml.method import Method

TITLE = "Proxy Anchor"
RANGES = {  # around the paper's 32 and 0.1, which tried 4 to 64 and 0 to 0.4
    "alpha": {"low": 4.0, "high": 128.0, "log": True},
    "margin": {"low": 0.0, "high": 0.5},
    "loss_lr": {"low": 1e-5, "high": 1.0, "log": True},
}
DEFAULTS = {"alpha": 32.0, "margin": 0.1, "loss_lr": 1e-2}  # the code: 100 times the network's learning rate
IMAGES_PER_CLASS = 1


class ProxyAnchor(Method):
    """Pulls each proxy's hardest images most, and pushes the hardest others."""

    def __init__(self, num_classes: int, embedding_size: int, alpha: float, margin: float):
        super().__init__()
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")
        self.alpha, self.margin = alpha, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = pairs.cosine_similarities(self.proxies, embeddings)
        own = torch.arange(len(cosine), device=labels.device)[:, None] == labels
        pulls = pairs.log_one_plus_sum_exp(-self.alpha * (cosine - self.margin), own)
        pushes = pairs.log_one_plus_sum_exp(self.alpha * (cosine + self.margin), ~own)
        return pairs.mean(pulls, own.any(dim=1)) + pushes.mean()
