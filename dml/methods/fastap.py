"""FastAP (Cakir et al., CVPR 2019, eq. 6): average precision from soft histograms of distances.

Squared distances of normalised embeddings lie in [0, 4]; each falls on its two nearest of num_bins + 1 equally spaced
bin centres in linear shares. With h+ and H+ an anchor's histogram of positives and its running sum, H that of all
others, the mean over the anchors that have positives of

    1 - 1/(number of positives) sum over bins of h+ H+ / H
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from dml import pairs
from dml.method import Method

TITLE = "FastAP"
# The paper tried every one of these values at batch size 32 instead of searching.
RANGES = {"num_bins": {"low": 2, "high": 32, "integer": True}}
DEFAULTS = {"num_bins": 10}
IMAGES_PER_CLASS = 4


class FastAP(Method):
    """Ranks the batch for each anchor."""

    def __init__(self, num_classes: int, embedding_size: int, num_bins: int):
        super().__init__()
        self.num_bins = num_bins
        self.register_buffer("bins", torch.arange(num_bins + 1.0), persistent=False)
        ones = torch.eye(num_bins + 1)
        self.register_buffer("steps", ones - ones.roll(1, dims=1).triu(), persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        place = (1 - pairs.cosine_similarities(embeddings)) * (self.num_bins / 2)
        positives, negatives = pairs.positives_and_negatives(labels)
        wanted = torch.stack([positives, positives | negatives], dim=1).to(place.dtype)
        hits, retrieved = _CountsUpTo.apply(place, wanted, self.bins).unbind(dim=1)
        precision = hits / retrieved.clamp(min=torch.finfo(retrieved.dtype).tiny)
        num_positives = positives.sum(dim=1)
        average_precision = (hits @ self.steps * precision).sum(dim=1) / num_positives.clamp(min=1)
        anchors = num_positives.count_nonzero()
        return (anchors - average_precision.sum()) / anchors.clamp(min=1)


class _CountsUpTo(Function):
    """Places (B, N) and weights (B, K, N) to the sums (B, K, num_bins + 1) of the weights up to each bin.

    An item's linear shares, summed up to bin b, are 0 until it comes within reach, rise linearly, and stay 1. So its
    place matters to one of the sums only, which autograd would find among all bins.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, place: Tensor, weights: Tensor, bins: Tensor) -> Tensor:
        ctx.place, ctx.weights = place, weights
        within = (bins + 1 - place[:, :, None]).clamp_(0, 1)
        return weights @ within

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        bins = ctx.place.long().clamp_(0, gradient.shape[2] - 1)  # of a training that diverged they may be anything
        of_sum = gradient.gather(2, bins[:, None].expand_as(ctx.weights))
        return -(of_sum * ctx.weights).sum(dim=1), None, None
