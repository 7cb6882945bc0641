"""Deep spectral clustering learning (Law et al., ICML 2017): a batch's classes should be what its embeddings span.

With raw embeddings F (B x D) of a batch of k classes, and C the projector on the classes' indicators, C_ij = 1/n where
i and j are of one class of n images, the loss is the share of C outside the span of F's columns,

    1 - tr(C F F^+) / k,    with the gradient  -2/k (I - F F^+) C (F^+)^T

which is zero if a linear map of the embeddings tells the classes. That of the paper is k times it. Departure: F^+ has a
ridge, F^+ = (F^T F + e^2 I)^-1 F^T, with e = 2e-4 |F| / sqrt(D), a constant to the gradient. Of a direction in which F
has the singular value s the span then holds s^2 / (s^2 + e^2), all but 4e-8 where s is the root of their mean square.
Where columns of F all but depend on each other the loss of the paper leaps; here what is far below e counts as not
there, and the gradient stays of the order of 1/e. All of it is computed in float64.

A batch of no more images than embeddings have dimensions is spanned whatever its classes, and nothing is learnt from
it. The loss stays as it is if the embeddings go through an invertible linear map, so nothing but where training begins
keeps the directions that images are compared by in order. The paper has no hyperparameter: nothing is searched.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from dml import pairs
from dml.method import Method

TITLE = "Deep Spectral"
RANGES = {}
DEFAULTS = {}
IMAGES_PER_CLASS = 4  # the authors' batches hold 18 classes of 70
BATCH_EXCEEDS_EMBEDDING = True

RIDGE = 2e-4


class DeepSpectral(Method):
    """Wants the embeddings to span the indicators of the classes."""

    def __init__(self, num_classes: int, embedding_size: int):
        super().__init__()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        same = (labels[:, None] == labels).double()
        wanted = same / same.sum(dim=1)
        return _NotSpanned.apply(embeddings, wanted / wanted.diagonal().sum())


class _NotSpanned(Function):
    """Embeddings (B, D) and a weighted projector C (B, B) of trace 1 to 1 - tr(C F F^+)."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor, wanted: Tensor) -> Tensor:
        size = embeddings.shape[1]
        vectors = embeddings.double()
        ridge = torch.linalg.vector_norm(vectors).clamp(min=pairs.SMALLEST_LENGTH) * (RIDGE / size**0.5)
        # F^T F + e^2 I = R^T R without forming it, which would double the digits lost
        eye = torch.eye(size, dtype=vectors.dtype, device=vectors.device)
        basis, triangle = torch.linalg.qr(torch.cat([vectors, ridge * eye]))
        basis = basis[: len(vectors)]
        spanned = wanted @ basis
        inside = basis.T @ spanned
        outside = torch.addmm(spanned, basis, inside, alpha=-1)
        # F (R^T R)^-1 = Q R^-T, so that (I - F F^+) C (F^+)^T = (C Q - Q Q^T C Q) R^-T
        ctx.gradient = torch.linalg.solve_triangular(triangle.T, outside, upper=False, left=False)
        return (1 - inside.diagonal().sum()).to(embeddings.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return (-2 * gradient * ctx.gradient).to(gradient.dtype), None
