"""The trunk as it comes, without any training: the floor that every trained method is read against.

Images are compared by the trunk's pooled features. A Metric Learning Reality Check (Musgrave et al., ECCV 2020) lists
it too, but does not say how the features were reduced to the 128 and 512 numbers of its tables; here they are not.
"""

from dml.method import Method

TITLE = "Pretrained"
RANGES = {}
DEFAULTS = {}
IMAGES_PER_CLASS = 1  # never used: no batch is drawn


class Pretrained(Method):
    """Nothing to minimise."""

    trains = False

    def __init__(self, num_classes: int, embedding_size: int):
        super().__init__()
