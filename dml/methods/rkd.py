"""Relational knowledge distillation (Park et al., CVPR 2019), RKD-DA: a student in which a teacher's relations hold.

Of the batch's embeddings x of a student and t of a finished teacher, both normalised, with the distance d_ij over the
mean of the batch's distances that are not zero, and the cosine of the angle at j between i and k,

    a_ijk = cos(x_i - x_j, x_k - x_j)

    L = mean over all i, j: h(d_ij of x, of t) + angle_weight * mean over all i, j, k: h(a_ijk of x, of t)

where h is the smooth L1 loss, (u - v)^2 / 2 up to |u - v| = 1 and |u - v| - 1/2 beyond. Labels are not looked at.

Departures: the paper does not normalise the student, and retrieves by its distances. Here images are compared by
cosine, as with every method, and a student that only copies distances may lie anywhere, far from 0 too, where cosines
tell little; so it is normalised, as it can be in the authors' code (`--l2normalize true`). In the paper a ResNet-50
teaches a GoogLeNet; here teacher and student have the one network, and the one protocol, of the study.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dml import pairs
from dml.method import Method, Outputs

TITLE = "RKD"
TEACHER = "triplet_distance_weighted"
RANGES = {"angle_weight": {"low": 0.2, "high": 20.0, "log": True}}  # a decade on either side of the paper's
DEFAULTS = {"angle_weight": 2.0}
IMAGES_PER_CLASS = 4  # the authors' batches have 5


class RKD(Method):
    """Copies the teacher's distances up to scale, and its angles. Memory: that of the B^3 angles of a batch of B."""

    def __init__(self, num_classes: int, embedding_size: int, angle_weight: float):
        super().__init__()
        self.angle_weight = angle_weight

    def objective(self, outputs: Outputs, labels: Tensor) -> Tensor:
        distances, angles = _relations(pairs.normalised(outputs.embeddings))
        wanted_distances, wanted_angles = _relations(pairs.normalised(outputs.teacher))
        of_distances = F.smooth_l1_loss(distances, wanted_distances)
        return of_distances + self.angle_weight * F.smooth_l1_loss(angles, wanted_angles)


def _relations(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, B) over their mean; [j, i, k] the cosine of the angle at j between i and k, 0 if one is j."""
    squares = pairs.squared_distances(vectors - vectors.mean(dim=0))  # centred they lose fewer digits
    distances, apart = pairs.square_roots(squares), squares > 0
    inverse = apart / torch.where(apart, distances, 1.0)
    # 2 (x_i - x_j).(x_k - x_j) = |x_i - x_j|^2 + |x_k - x_j|^2 - |x_i - x_k|^2
    products = squares[:, :, None] + squares[:, None, :] - squares
    angles = products * (inverse[:, :, None] * (inverse / 2)[:, None, :])
    return distances / pairs.mean(distances, apart).clamp(min=pairs.SMALLEST_LENGTH), angles
