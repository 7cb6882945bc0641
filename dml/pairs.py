"""Geometry of a batch, shared by the losses: all pairs at once, masks instead of index lists.

Nothing here waits for the device or has a shape that depends on values, so a training step can be captured in a CUDA
graph. Every gradient is finite, also between equal embeddings, whose distance counts as zero with zero gradient.
Embeddings are float32 or float64, outside of autocast: half precision does not tell the near from the nearest.

A step of these sizes takes as long as launching its operations. The gradients of cosines and distances are therefore
written out: autograd would need three times as many operations for them.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

ROUNDING = 8
"""How many units of rounding a squared distance must exceed to count as more than zero."""
SMALLEST_LENGTH = 1e-12
"""Of a vector that is made one of length one; shorter ones become shorter than one."""


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (..., D) of length one."""
    return _Normalised.apply(vectors)


def cosine_similarities(embeddings: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosines (B, N) of embeddings (B, D) with others (N, D); with each other if there are none."""
    return _OwnCosines.apply(embeddings) if others is None else _Cosines.apply(embeddings, others)


def distances(embeddings: Tensor, others: Tensor | None = None) -> Tensor:
    """Euclidean distances (B, N) of embeddings (B, D) to others (N, D), normalised; to each other if there are none."""
    return _OwnDistances.apply(embeddings) if others is None else _Distances.apply(embeddings, others)


def squared_distances(vectors: Tensor) -> Tensor:
    """Squared Euclidean distances (B, B) of vectors (B, D), taken as they are.

    |a|^2 + |b|^2 - 2 a.b; what rounding cannot tell from zero is zero, so that copies of an image are at distance 0.
    """
    squares, scale = _squares_and_scale(vectors)
    return squares * (squares > ROUNDING * torch.finfo(squares.dtype).eps * scale)


def square_roots(squares: Tensor) -> Tensor:
    """Roots of numbers (...), none below 0. The root of 0 has zero gradient, where that of `sqrt` is infinite."""
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def noise_to_signal(units: Tensor) -> Tensor:
    """var(a - b) / var(a) (B, B) over the features of each a and b of vectors (B, D) of length one.

    A vector whose features are all equal has no variance; it is given the smallest that rounding can tell from zero.
    """
    centred = units - units.mean(dim=1, keepdim=True)
    signal = centred.square().sum(dim=1, keepdim=True).clamp(min=torch.finfo(centred.dtype).eps)
    return squared_distances(centred) / signal


def positives_and_negatives(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (B, B): another image of the same class, an image of another class."""
    same = labels[:, None] == labels
    negatives = ~same
    return same.fill_diagonal_(False), negatives


def handicapped(cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Cosines (B, num_classes) to classes, less the margin at the image's own class."""
    own = labels[:, None]
    return cosines.scatter_add(1, own, torch.full_like(own, -margin, dtype=cosines.dtype))


def log_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(sum of e^x) (B, 1) of those x of each row that are under the mask; as good as -infinity if there is none."""
    return torch.where(mask, exponents, torch.finfo(exponents.dtype).min).logsumexp(dim=1, keepdim=True)


def log_one_plus_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum of e^x) (B,) over those x of each row that are under the mask.

    As a cross-entropy: the 1 is the e^0 of one more class, and the right answer.
    """
    logits = F.pad(torch.where(mask, exponents, -torch.inf), (1, 0))
    right = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, right, reduction="none")


def mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Mean of the terms under the mask; 0 if there is none."""
    return (terms * mask).sum() / mask.sum().clamp(min=1)


def mean_of_nonzero(terms: Tensor, mask: Tensor) -> Tensor:
    """Mean of those terms under the mask that are above zero; 0 if there is none."""
    return mean(terms, mask & (terms > 0))


class _Normalised(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, vectors: Tensor) -> Tensor:
        units, ctx.lengths = _units_and_lengths(vectors)
        ctx.save_for_backward(units)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (units,) = ctx.saved_tensors
        return _of_vectors(gradient, units, ctx.lengths)


class _Cosines(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor, others: Tensor) -> Tensor:
        ctx.units, ctx.lengths = _units_and_lengths(embeddings)
        ctx.others, ctx.other_lengths = _units_and_lengths(others)
        return ctx.units @ ctx.others.T

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return (
            _of_vectors(gradient @ ctx.others, ctx.units, ctx.lengths),
            _of_vectors(gradient.T @ ctx.units, ctx.others, ctx.other_lengths),
        )


class _OwnCosines(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor) -> Tensor:
        ctx.units, ctx.lengths = _units_and_lengths(embeddings)
        return ctx.units @ ctx.units.T

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _of_vectors((gradient + gradient.T) @ ctx.units, ctx.units, ctx.lengths)


class _Distances(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor, others: Tensor) -> Tensor:
        ctx.units, ctx.lengths = _units_and_lengths(embeddings)
        ctx.others, ctx.other_lengths = _units_and_lengths(others)
        squared_norms, other_squared_norms = ctx.units.square().sum(dim=1), ctx.others.square().sum(dim=1)
        squares = torch.addmm(squared_norms[:, None] + other_squared_norms, ctx.units, ctx.others.T, alpha=-2)
        roots = _roots(squares)
        ctx.save_for_backward(roots)
        return roots

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        (roots,) = ctx.saved_tensors
        pushes = (gradient / roots).masked_fill_(roots == 0, 0).neg_()
        of_embeddings = _of_vectors(pushes @ ctx.others, ctx.units, ctx.lengths)
        if not ctx.needs_input_grad[1]:
            return of_embeddings, None
        return of_embeddings, _of_vectors(pushes.T @ ctx.units, ctx.others, ctx.other_lengths)


class _OwnDistances(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor) -> Tensor:
        ctx.units, ctx.lengths = _units_and_lengths(embeddings)
        squares, _ = _squares_and_scale(ctx.units)
        roots = _roots(squares)
        ctx.save_for_backward(roots)
        return roots

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (roots,) = ctx.saved_tensors
        pulls = (gradient / roots).masked_fill_(roots == 0, 0)
        # Of (a - b) / |a - b| only what is along b: what is along a leaves the direction of a as it is.
        towards = torch.addmm(ctx.units, pulls + pulls.T, ctx.units, beta=0, alpha=-1)
        return _of_vectors(towards, ctx.units, ctx.lengths)


def _units_and_lengths(vectors: Tensor) -> tuple[Tensor, Tensor]:
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_(min=SMALLEST_LENGTH)
    return vectors / lengths, lengths


def _of_vectors(gradient: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """The gradient by vectors, from that by their directions: what is along the direction changes nothing."""
    along = (gradient * units).sum(dim=-1, keepdim=True)
    return torch.addcmul(gradient, along, units, value=-1).div_(lengths)


def _roots(squares: Tensor) -> Tensor:
    """Distances of unit vectors from their squares, in place: what rounding cannot tell from zero is zero."""
    return F.threshold_(squares, 2 * ROUNDING * torch.finfo(squares.dtype).eps, 0.0).sqrt_()


def _squares_and_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    products = vectors @ vectors.T
    squared_norms = products.diagonal()
    scale = squared_norms[:, None] + squared_norms
    return torch.sub(scale, products, alpha=2), scale
