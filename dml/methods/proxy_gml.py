"""ProxyGML (Zhu et al., "Fewer is More", NeurIPS 2020): a graph from each image to the proxies that matter to it.

N proxies a class, embeddings and proxies normalised. Of an image's cosines s to all C N proxies the k = ceil(r C N)
largest count, those of its own class before all others. The logit of a class is the sum of its proxies' cosines that
count; the loss is the mean over the batch of the cross-entropy over the classes that have any, plus

    reg_weight * mean over all proxies of the cross-entropy of their cosines to all proxies, summed by class

A proxy's cosine to itself is among them, as in the authors' code. There is no temperature: N is the scale.

Departures: k is at least 2 N, so that proxies of another class count wherever there is one; with no more than N, as r
gives in a data set of few classes, the own class stands alone and images teach nothing. The authors' code finds the
classes without a proxy by a logit of exactly 0, and adds 1e-8 and 1e-20 in the softmax and its logarithm; here a mask
leaves them out, and nothing is added.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "ProxyGML"
RANGES = {  # around the paper's: r 0.05, reg_weight 0.3 (CUB, Cars) or 0 (SOP), proxies at 0.03 or 0.3
    "r": {"low": 0.01, "high": 1.0, "log": True},
    "reg_weight": {"low": 0.0, "high": 1.0},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
# CUB and Cars. The authors' loss_lr is that of an Adam with an epsilon of 0.01, which makes steps smaller.
DEFAULTS = {"r": 0.05, "reg_weight": 0.3, "loss_lr": 0.03}
IMAGES_PER_CLASS = 1


class ProxyGML(Method):
    """Classification by the proxies that are nearest to an image.

    The paper has 12 proxies a class on CUB and Cars. C classes need memory for the C^2 N logits of the proxies: with
    the 8,488 classes of a fold of Stanford Online Products 3.5 GB. There a study should set `proxies_per_class` to 1
    and `reg_weight` to 0, as the paper does: then none are made.
    """

    def __init__(self, num_classes: int, embedding_size: int, r: float, reg_weight: float, proxies_per_class: int = 12):
        super().__init__()
        num_proxies = num_classes * proxies_per_class
        self.proxies = nn.Parameter(torch.empty(num_classes, proxies_per_class, embedding_size))
        bound = num_proxies**-0.5
        nn.init.uniform_(self.proxies, -bound, bound)
        self.neighbours = min(max(math.ceil(r * num_proxies), 2 * proxies_per_class), num_proxies)
        self.reg_weight = reg_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        proxies = pairs.normalised(self.proxies)
        similarity = (pairs.normalised(embeddings) @ proxies.flatten(0, 1).T).unflatten(1, proxies.shape[:2])
        kept = self._nearest(similarity.detach(), labels)
        logits = torch.where(kept.any(dim=2), (similarity * kept).sum(dim=2), -torch.inf)
        loss = F.cross_entropy(logits, labels)
        return loss + self.reg_weight * _confusion(proxies) if self.reg_weight else loss

    def _nearest(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Which proxies (B, C, N) count for an image."""
        own = labels[:, None] == torch.arange(similarity.shape[1], device=labels.device)
        first = torch.where(own[:, :, None], torch.inf, similarity)
        smallest = first.flatten(1).topk(self.neighbours, dim=1).values[:, -1]
        return first >= smallest[:, None, None]


def _confusion(proxies: Tensor) -> Tensor:
    """How far the proxies, classified as images are, are from their classes."""
    num_classes, per_class, _ = proxies.shape
    logits = proxies.flatten(0, 1) @ proxies.sum(dim=1).T
    labels = torch.arange(num_classes, device=proxies.device)[:, None].expand(-1, per_class).flatten()
    return F.cross_entropy(logits, labels)
