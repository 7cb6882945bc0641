"""N-pair loss (Sohn, NIPS 2016): an anchor's positive against one negative of every other class at once.

With inner products of the embeddings x as they are, the mean over all ordered positive pairs (a, p) of

    log(1 + sum over the other classes: mean over the images n of the class: e^(x_a.x_n - x_a.x_p))

plus l2_weight times the mean of |x|^2.

Departure: the paper's batches hold one pair of every class, and an anchor sees of the other pairs only the image that
happens to be their positive. Here every image is an anchor with each of its positives, and the mean over a class's
images stands for the one: what the sum comes to in expectation, whatever the order of the batch and the size of its
classes. Departure: embeddings are compared by their direction at retrieval, here as everywhere, though neither the
paper nor Roth et al. (ICML 2020) normalise them in training.

The code of Roth et al. has the sum over a class's images, two in their batches, in the place of the mean. It weighs the
mean of |x| with the 0.005 that is the default here.
"""

from torch import Tensor
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "N-pairs"
RANGES = {"l2_weight": {"low": 1e-4, "high": 0.1, "log": True}}  # around the default
DEFAULTS = {"l2_weight": 0.005}  # Roth et al., of |x|
IMAGES_PER_CLASS = 2


class NPairs(Method):
    """Tells each positive from the other classes of the batch by a softmax over inner products."""

    def __init__(self, num_classes: int, embedding_size: int, l2_weight: float):
        super().__init__()
        self.l2_weight = l2_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.n_pair_loss(embeddings, *pairs.positives_and_negatives(labels))

    def n_pair_loss(self, embeddings: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        products = embeddings @ embeddings.T
        class_sizes = (~negatives).sum(dim=0, dtype=products.dtype)
        log_negatives = pairs.log_sum_exp(products - class_sizes.log(), negatives)
        separation = pairs.mean(-F.logsigmoid(products - log_negatives), positives)
        return separation + self.l2_weight * products.diagonal().mean()
