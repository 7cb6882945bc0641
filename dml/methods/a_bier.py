"""A-BIER (Opitz et al., PAMI 2018): boosted heads of one embedding that an adversary keeps apart.

The embedding is cut into three heads of 3, 5 and 8 sixteenths of its dimensions, each normalised. With cosines s_k of
head k and m = 1 for positive pairs, -negative_cost for negative ones, the loss of a pair and head is the binomial
deviance, weighed by how little the heads before have learnt of the pair:

    w_k log(1 + e^(-u_k)),    u_k = alpha (s_k - beta) m
    w_1 = 1,    w_k = 1 / (1 + e^v_{k-1}),    v_k = (1 - eta_k) v_{k-1} + eta_k u_k,    eta_k = 2 / (k + 1)

The weights w are constants for the gradient. Of each head this is the mean over positive pairs plus the mean over
negative pairs, and of the heads the mean. For any two heads, i before j, a network g with one hidden layer makes of
head j what is like head i. With a = head i and b = g(head j), both of length 1, the loss also holds

    -adversary * mean over the batch of D_i sum over the D_i dimensions of (a b)^2

where the mean is 1 if all products are equally large. The networks descend this term, the heads get its gradient with
the sign changed. Images are compared by the three normalised heads side by side, each times its share of the
dimensions.

Departures: in the adversarial term, the authors' code bounds the lengths of heads and of what the networks make by
penalties on weights instead, and stops the heads' gradient before the trunk; here a method sees embeddings and not how
they are made. `adversary` is therefore on a scale of its own, and its default a guess. Of the two variants of boosting
in that code this is the one with eta; its run.sh uses the other, with v_k = 1/2 + 0.06 (u_1 + ... + u_k) and, of
negative pairs, from the second head on twice the w_k. The code divides the sum over positive pairs by a number that
counts each image with itself too: with n images a class that is (n - 1) / n of the mean here.
"""

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "A-BIER"
RANGES = {  # around the paper's beta of 0.5 and negative_cost of 25, which fixes alpha
    "beta": {"low": 0.0, "high": 1.0},
    "negative_cost": {"low": 1.0, "high": 50.0, "log": True},
    "adversary": {"low": 1e-5, "high": 1.0, "log": True},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
# the paper's, but for adversary; in the code the networks learn as the trunk does, at 1e-5
DEFAULTS = {"beta": 0.5, "negative_cost": 25.0, "adversary": 1e-3, "loss_lr": 1e-5}
IMAGES_PER_CLASS = 4  # the code: 2 in batches of 128

HEADS = 3, 5, 8  # 96, 160 and 256 of the paper's 512


class ABIER(Method):
    """An ensemble in one embedding: later heads learn the pairs that earlier ones did not."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        beta: float,
        negative_cost: float,
        adversary: float,
        alpha: float = 2.0,
        hidden_size: int = 512,
    ):
        super().__init__()
        sizes = [head.shape[1] for head in _heads(torch.empty(1, embedding_size))]
        self.regressors = nn.ModuleList(
            nn.Sequential(nn.Linear(source, hidden_size), nn.ReLU(), nn.Linear(hidden_size, target))
            for target, source in combinations(sizes, 2)
        )
        self.alpha, self.beta, self.adversary, self.negative_cost = alpha, beta, adversary, negative_cost

    @staticmethod
    def retrieval(embeddings: Tensor) -> Tensor:
        heads = _heads(embeddings)
        return torch.cat([pairs.normalised(head) * (head.shape[1] / embeddings.shape[1]) for head in heads], dim=1)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        heads = [pairs.normalised(head) for head in _heads(embeddings)]
        return self._boosted(heads, labels) - self.adversary * self._likeness(heads)

    def _boosted(self, heads: list[Tensor], labels: Tensor) -> Tensor:
        positives, negatives = pairs.positives_and_negatives(labels)
        loss, score, weights = 0.0, 0.0, 1.0
        for k, head in enumerate(heads, start=1):
            margin = self.alpha * (head @ head.T - self.beta)
            margin = torch.where(negatives, -self.negative_cost * margin, margin)
            terms = -weights * F.logsigmoid(margin)
            loss = loss + pairs.mean(terms, positives) + pairs.mean(terms, negatives)
            rate = 2 / (k + 1)
            score = (1 - rate) * score + rate * margin.detach()
            weights = torch.sigmoid(-score)
        return loss / len(heads)

    def _likeness(self, heads: list[Tensor]) -> Tensor:
        """How well the networks, which want it large, make the smaller head of the larger one, which want it small."""
        reversed_heads = [_Reversed.apply(head) for head in heads]
        likeness = 0.0
        for (target, source), regressor in zip(combinations(reversed_heads, 2), self.regressors, strict=True):
            products = target * pairs.normalised(regressor(source))
            likeness = likeness + target.shape[1] * products.square().sum(dim=1).mean()
        return likeness


class _Reversed(Function):
    """The same forwards; backwards the gradient with its sign changed."""

    @staticmethod
    def forward(ctx: FunctionCtx, head: Tensor) -> Tensor:
        return head.view_as(head)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return -gradient


def _heads(embeddings: Tensor) -> tuple[Tensor, ...]:
    """The slices of embeddings (B, D) that are heads."""
    first, second, third = HEADS
    size = embeddings.shape[1] / sum(HEADS)
    return embeddings.tensor_split((round(first * size), round((first + second) * size)), dim=1)
