"""Which of a batch's images a loss looks at: masks, and draws.

A draw is one of whole masks at once, so that nothing waits for the device. All randomness comes from `uniform`, which
draws from PyTorch's generator of the device: its seed and state are the training's.
"""

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
    arrivals = -uniform(*weights.shape, like=weights).log() / weights
    return torch.where(weights > 0, arrivals, torch.inf).argmin(dim=1)


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
    Matters in Deep Embedding Learning", ICCV 2017, section 3.2, who also leave out items beyond 1.4: as Roth et al.
    (ICML 2020) do not, so is it here.
    """
    distance = distance.clamp(min=NEAREST)
    rest = (1 - distance.square() / 4).clamp(min=torch.finfo(distance.dtype).eps)
    log_weights = (2 - dimensions) * distance.log() - (dimensions - 3) / 2 * rest.log()
    log_weights = torch.where(mask, log_weights, -torch.inf)
    largest = log_weights.amax(dim=1, keepdim=True).clamp(min=torch.finfo(distance.dtype).min)
    return torch.where(mask, (log_weights - largest).exp(), 0.0)
