"""Which of a batch's images a loss looks at: masks, and draws.

A draw is one of whole masks at once, so that nothing waits for the device. All randomness comes from `uniform`, which
draws from PyTorch's generator of the device: its seed and state are the training's.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEAREST = 0.5
"""Distances below it count as it where negatives are drawn by distance (Wu et al., ICCV 2017)."""


def uniform(*shape: int, like: Tensor) -> Tensor:
    """Random numbers from 0 to just below 1, of the type and on the device of `like`."""
    return torch.rand(shape, dtype=like.dtype, device=like.device)


def happens(probability: float, like: Tensor) -> Tensor:
    """For each row of `like` (B, ...) whether something of this probability happens: (B,) bool."""
    return uniform(len(like), like=like) < probability


def draw(weights: Tensor) -> Tensor:
    """An index (B,) for each row of weights (B, N), drawn with a probability proportional to them.

    Weights are 0 or more; in a row of zeros the index means nothing. The first of N arrivals of independent Poisson
    processes with these rates: a draw without sums, which waits for nothing.
    """
    numbers = uniform(*weights.shape, like=weights)
    arrivals = -numbers.clamp(min=torch.finfo(weights.dtype).tiny).log()  # a 0 would never arrive
    return (weights / arrivals).argmax(dim=1)


def draw_one(mask: Tensor, like: Tensor) -> Tensor:
    """An index (B,) for each row of a mask (B, N), all that are True being equally likely."""
    return draw(mask.to(like.dtype))


def picked(values: Tensor, indices: Tensor) -> Tensor:
    """The values (B,) that indices (B,) pick from the rows of `values` (B, N)."""
    return values.gather(1, indices[:, None])[:, 0]


def weights_by_distance(distance: Tensor, mask: Tensor, dimensions: int) -> Tensor:
    """Weights (B, B) with which items at a distance are drawn so that all distances are equally likely.

    On a sphere of D dimensions the density of distances is q(d) ~ d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2). An item under
    the mask weighs 1 / q(d), d at least `NEAREST`, others 0; the largest weight of a row is 1. Wu et al., "Sampling
    Matters in Deep Embedding Learning", ICCV 2017, who also leave out items beyond 1.4: as Roth et al. (ICML 2020)
    do not, so is it here.
    """
    distance = distance.clamp(min=NEAREST)
    rest = (1 - distance.square() / 4).clamp(min=torch.finfo(distance.dtype).eps)
    log_weights = (2 - dimensions) * distance.log() - (dimensions - 3) / 2 * rest.log()
    log_weights = torch.where(mask, log_weights, -torch.inf)
    largest = log_weights.amax(dim=1, keepdim=True).clamp(min=torch.finfo(distance.dtype).min)
    return (log_weights - largest).exp()


class Triplets(NamedTuple):
    """A triplet for each of B anchors; one that does not exist has indices that mean nothing."""

    positives: Tensor
    """(B,) indices."""
    negatives: Tensor
    """(B,) indices."""
    exist: Tensor
    """(B,) bool: whether the anchor has a positive and a negative."""

    def of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values (B,) that `values` (B, B) has for each anchor with its positive, and with its negative."""
        return values.gather(1, torch.stack([self.positives, self.negatives], dim=1)).unbind(dim=1)


def random_triplets(distance: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
    """A positive and a negative of each anchor, all being equally likely, of masks (B, B)."""
    return Triplets(draw_one(positives, distance), draw_one(negatives, distance), _have_both(positives, negatives))


def semihard_triplets(distance: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Triplets:
    """Any positive, and a negative farther than it by less than the margin; any negative if there is none."""
    positive = draw_one(positives, distance)
    farther = distance - picked(distance, positive)[:, None]
    semihard = negatives & (farther > 0) & (farther < margin)
    negative = draw_one(_or_all(semihard, negatives), distance)
    return Triplets(positive, negative, _have_both(positives, negatives))


def softhard_triplets(distance: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
    """A positive farther than the nearest negative, a negative nearer than the farthest positive; any if there is none.

    Roth et al., ICML 2020.
    """
    nearest_negative = torch.where(negatives, distance, torch.inf).amin(dim=1, keepdim=True)
    farthest_positive = torch.where(positives, distance, -torch.inf).amax(dim=1, keepdim=True)
    hard_positives = positives & (distance > nearest_negative)
    hard_negatives = negatives & (distance < farthest_positive)
    return random_triplets(distance, _or_all(hard_positives, positives), _or_all(hard_negatives, negatives))


def triplets_by_distance(distance: Tensor, positives: Tensor, negatives: Tensor, dimensions: int) -> Triplets:
    """Any positive, and a negative by its distance: see `weights_by_distance`."""
    weights = weights_by_distance(distance, negatives, dimensions)
    return Triplets(draw_one(positives, distance), draw(weights), _have_both(positives, negatives))


def rho_regularised(triplets: Triplets, rho: float, like: Tensor) -> Triplets:
    """Anchor, positive and negative (a, p, n), which with probability rho become (a, a, p): Roth et al., ICML 2020."""
    switched = happens(rho, like)
    anchors = torch.arange(len(like), device=like.device)
    return Triplets(
        torch.where(switched, anchors, triplets.positives),
        torch.where(switched, triplets.positives, triplets.negatives),
        triplets.exist,
    )


class DrawnByDistance:
    """To stand before `Method` in the bases of a method whose negatives are drawn by distance."""

    embedding_size: int

    def draw(self, distance: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
        """One triplet for each anchor, of all pairs' distances and masks (B, B)."""
        return triplets_by_distance(distance, positives, negatives, self.embedding_size)


class RhoRegularised:
    """To stand in the bases before the method whose drawn triplets are rho-regularised."""

    rho: float

    def draw(self, distance: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
        """One triplet for each anchor, of all pairs' distances and masks (B, B)."""
        return rho_regularised(super().draw(distance, positives, negatives), self.rho, distance)


def _have_both(positives: Tensor, negatives: Tensor) -> Tensor:
    return positives.any(dim=1) & negatives.any(dim=1)


def _or_all(chosen: Tensor, candidates: Tensor) -> Tensor:
    """Those chosen of a row's candidates; all of them where none is."""
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, candidates)
