"""Hyp (Ermolov et al., CVPR 2022): cross-entropy of pairs of views, see sph.py, by distances in hyperbolic space.

A raw embedding x is clipped to the length `radius` and mapped from the tangent space at 0 into the Poincare ball of
curvature -c,

    h = tanh(sqrt(c) |x|) / (sqrt(c) |x|) x

and the similarity of two is minus their distance

    D(g, h) = 1/sqrt(c) arccosh( 1 + 2 c |g - h|^2 / ((1 - c |g|^2) (1 - c |h|^2)) )

Departure: images are retrieved by cosine, as with every method here. Embeddings longer than the radius, as nearly all
are in time, lie on one sphere, on which the order of the distances is that of the angles.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.methods.sph import Sph

TITLE = "Hyp"
RANGES = {  # around the authors'; if curvature and radius were both larger, float32 would not tell what is near
    "temperature": {"low": 0.01, "high": 1.0, "log": True},
    "curvature": {"low": 0.01, "high": 1.0, "log": True},
    "radius": {"low": 1.0, "high": 3.0},
}
DEFAULTS = {"temperature": 0.2, "curvature": 0.1, "radius": 2.3}  # the authors'
IMAGES_PER_CLASS = 4  # the authors' batches have 2 or 9


class Hyp(Sph):
    """Sph in the Poincare ball."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float, curvature: float, radius: float):
        super().__init__(num_classes, embedding_size, temperature)
        self.curvature, self.radius = curvature, radius

    def similarities(self, embeddings: Tensor) -> Tensor:
        root = self.curvature**0.5
        lengths = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True).clamp(min=pairs.SMALLEST_LENGTH)
        angles = root * lengths.clamp(max=self.radius)
        points = embeddings * (angles.tanh() / lengths)  # sqrt(c) h
        stretch = angles.cosh().square()  # 1 / (1 - c |h|^2)
        excess = 2 * pairs.squared_distances(points) * stretch * stretch.T
        # arccosh(1 + x) = log(1 + x + sqrt(x^2 + 2 x))
        return -torch.log1p(excess + pairs.square_roots(excess * (excess + 2))) / root
