"""Easy positive, semi-hard negative (Xuan et al., WACV 2020): see ephn.py.

The negative is the most similar one of those that are less similar than the anchor's most similar positive. An anchor
without such a negative does not count.
"""

from torch import Tensor

from dml.methods.ephn import EPHN

TITLE = "EPSHN"
RANGES = {"temperature": {"low": 0.01, "high": 1.0, "log": True}}  # around the paper's
DEFAULTS = {"temperature": 0.1}
IMAGES_PER_CLASS = 16  # see ephn.py


class EPSHN(EPHN):
    """Tells the easiest positive from the hardest of the negatives behind it."""

    def candidates(self, similarity: Tensor, negatives: Tensor, positive: Tensor) -> Tensor:
        return negatives & (similarity < positive[:, None])
