"""Sph, the spherical counterpart of Hyp (Ermolov et al., CVPR 2022, eq. 7): cross-entropy of pairs of views.

The images of a class are its views, numbered at random. For an image a and a positive p, with cosines s, the negatives
are the images n of other classes that are the same view of their class as a is of its, or as p is of its:

    -log( e^(s_ap/T) / (e^(s_ap/T) + sum over these n: e^(s_an/T)) )

The loss is the mean over all ordered positive pairs (a, p); with two images a class it is NT-Xent. Departures: the
authors sum over the pairs of views, which with m images a class is m (m - 1) times the mean; they number images in the
order in which they were drawn; and their batches hold m images of each class, where here a class of fewer has no part
in the views that it lacks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dml import mining, pairs
from dml.method import Method

TITLE = "Sph"
RANGES = {"temperature": {"low": 0.01, "high": 1.0, "log": True}}  # a decade on either side of the authors'
DEFAULTS = {"temperature": 0.1}
IMAGES_PER_CLASS = 4  # the authors' batches have 2 or 9


class Sph(Method):
    """Tells each positive from the negatives of two views by a softmax."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        logits = self.similarities(embeddings) / self.temperature
        positives, negatives = pairs.positives_and_negatives(labels)
        number = mining.uniform(len(labels), like=logits)
        view = (positives & (number < number[:, None])).sum(dim=1)
        of_positive = _log_sums_of_views(logits, negatives, view)
        of_anchor = of_positive.diagonal()[:, None]
        return pairs.mean(F.softplus(torch.logaddexp(of_anchor, of_positive) - logits), positives)

    def similarities(self, embeddings: Tensor) -> Tensor:
        """What pairs are compared by: (B, B)."""
        return pairs.cosine_similarities(embeddings)


def _log_sums_of_views(logits: Tensor, negatives: Tensor, view: Tensor) -> Tensor:
    """For each anchor and item the log of the sum of e^x over the anchor's negatives of the item's view: (B, B).

    The largest x of each view is found by itself, so that no sum underflows, however far one view is from another.
    """
    nothing = torch.finfo(logits.dtype).min
    logits, views = torch.where(negatives, logits, nothing), view.expand_as(logits)
    largest = torch.full_like(logits, nothing).scatter_reduce(1, views, logits.detach(), "amax").gather(1, views)
    shares = torch.where(negatives, (logits - largest).exp(), 0.0)
    sums = shares @ (view[:, None] == view).to(shares.dtype)
    return largest + sums.clamp(min=0.5).log()  # of a view with negatives it is 1 or more
