"""Easy positive, semi-hard negative (Xuan et al., WACV 2020): see ephn.py.

The negative is the most similar one of those that are less similar than the anchor's most similar positive. An anchor
without such a negative does not count. Of few images of a class even the most similar may be behind most negatives,
which then teach nothing: a network that is not pretrained wants more than 4.
"""

from torch import Tensor

from dml.methods.ephn import EPHN

TITLE = "EPSHN"
RANGES = {"temperature": {"low": 0.01, "high": 1.0, "log": True}}  # around the paper's
DEFAULTS = {"temperature": 0.1}
IMAGES_PER_CLASS = 4  # the authors': 16, in batches of 128


class EPSHN(EPHN):
    """Tells the easiest positive from the hardest of the negatives behind it."""

    def candidates(self, similarity: Tensor, negatives: Tensor, positive: Tensor) -> Tensor:
        return negatives & (similarity < positive[:, None])
