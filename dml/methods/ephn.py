"""Easy positive, hard negative (Xuan et al., WACV 2020): the nearest image of the class against the nearest other.

With cosines s, p the most similar positive of an anchor a and n its most similar negative, the mean over the anchors
that have both of

    -log( e^(s_ap/T) / (e^(s_ap/T) + e^(s_an/T)) )

Departures: the released code leaves out an anchor unless both s are above 0, and does not take a positive with an s
above 0.9999; neither is in the formula, and here all count. On SOP and In-Shop it takes of a class no more images than
the class has; here a class of fewer than the batch wants gives some twice, and a copy, though cropped anew, is the
easiest positive there is. Its batches hold 8 classes of 16 images; with 16 a batch of 32 would hold 2 classes, and few
hard negatives.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "EPHN"
RANGES = {"temperature": {"low": 0.01, "high": 1.0, "log": True}}  # around the paper's
DEFAULTS = {"temperature": 0.1}
IMAGES_PER_CLASS = 4  # the authors': 16, in batches of 128

NONE = -2.0
"""In the place of a similarity where there is no image: below every cosine."""


class EPHN(Method):
    """Tells the easiest positive from the hardest negative by a softmax of the two."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        similarity = pairs.cosine_similarities(embeddings)
        positives, negatives = pairs.positives_and_negatives(labels)
        positive = _largest(similarity, positives)
        negative = _largest(similarity, self.candidates(similarity, negatives, positive))
        losses = -F.logsigmoid((positive - negative) / self.temperature)
        return pairs.mean(losses, (positive > NONE) & (negative > NONE))

    def candidates(self, similarity: Tensor, negatives: Tensor, positive: Tensor) -> Tensor:
        """Of the negatives those that may be chosen, a mask (B, B): here all."""
        return negatives


def _largest(similarity: Tensor, mask: Tensor) -> Tensor:
    """The largest under the mask in each row; copies of an image share its gradient."""
    return torch.where(mask, similarity, NONE).amax(dim=1)
