"""ProxyNCA as it was published (Movshovitz-Attias et al., ICCV 2017): the image's own class is not in the denominator.

With one proxy p_c a class, z and p normalised, the mean over the batch of

    -log( exp(-softmax_scale |z - p_y|^2) / sum over the other classes c: exp(-softmax_scale |z - p_c|^2) )

It has no lower bound: an image that is well placed still pulls and pushes. proxy_nca.py is the form that later papers
compare with, where the own class is in the denominator too.

Departure: the paper gives all embeddings one length and all proxies one, and does not say which; here both are 1 and
softmax_scale, the square of that length, is searched.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.methods.proxy_nca import ProxyNCA

TITLE = "ProxyNCA (classic)"
RANGES = {  # those of ProxyNCA, so that the two differ in their denominator only
    "softmax_scale": {"low": 0.01, "high": 100.0},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"softmax_scale": 9.0, "loss_lr": 1e-3}  # lengths of 3, as in re-implementations (Teh et al., ECCV 2020)
IMAGES_PER_CLASS = 1


class ProxyNCAClassic(ProxyNCA):
    """Wants the own proxy nearer than all others together."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        # |z - p|^2 = 2 - 2 cos(z, p), and what all classes share cancels
        logits, own = 2 * self.softmax_scale * pairs.cosine_similarities(embeddings, self.proxies), labels[:, None]
        return (logits.scatter(1, own, -torch.inf).logsumexp(dim=1, keepdim=True) - logits.gather(1, own)).mean()
