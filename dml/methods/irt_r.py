"""IRT_R (El-Nouby et al., 2021): a contrastive loss of cosines with a memory, and KoLeo, which spreads embeddings.

With the cosines s and distances d of normalised embeddings z, P and N an image's positives and negatives in the batch
and in the memory,

    1/B sum over the images i of ( sum over P: (1 - s_ip) + sum over N: [s_in - margin]+ )
    - koleo_weight / B sum over the images i of log min over the batch's other images j: d_ij

The memory holds the normalised embeddings, without gradient, of the last `memory_size` images before this batch, and is
empty at first. An image's own embedding of an earlier batch is one of its positives, as long as the memory holds it.
Departures: that of the authors is as large as the training set, and on In-Shop is filled by a slowly following copy of
the network; their batches are drawn at random. Copies of an image, at distance 0, have no part in KoLeo.

Where embeddings begin more alike than the margin, as those of a network that nothing has trained do, the many pushes of
the memory drown the few pulls; the authors' network is a pretrained transformer.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "IRT_R"
RANGES = {  # around the authors' 0.5 and 0.7
    "margin": {"low": 0.0, "high": 0.99},
    "koleo_weight": {"low": 0.0, "high": 2.0},
}
DEFAULTS = {"margin": 0.5, "koleo_weight": 0.7}  # the authors'
IMAGES_PER_CLASS = 4  # as of the pair losses here

NOBODY = -1
"""Label of a place of the memory that holds nothing."""


class IRTR(Method):
    """Pulls positives together, pushes negatives below a cosine, and each image away from its nearest."""

    def __init__(
        self, num_classes: int, embedding_size: int, margin: float, koleo_weight: float, memory_size: int = 1024
    ):
        super().__init__()
        self.margin, self.koleo_weight = margin, koleo_weight
        self.register_buffer("memory", torch.zeros(memory_size, embedding_size))
        self.register_buffer("memory_labels", torch.full((memory_size,), NOBODY))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        units = pairs.normalised(embeddings)
        similarity = units @ torch.cat([units, self.memory]).T
        known = torch.cat([labels, self.memory_labels])
        positives = (labels[:, None] == known).fill_diagonal_(False)
        negatives = (labels[:, None] != known) & (known != NOBODY)
        pulls = (1 - similarity) * positives
        pushes = (similarity - self.margin).relu() * negatives
        self._remember(units.detach(), labels)
        return (pulls + pushes).sum() / len(labels) + self.koleo_weight * _koleo(pairs.distances(embeddings))

    def _remember(self, units: Tensor, labels: Tensor) -> None:
        """In the place of the oldest."""
        size = len(self.memory)
        units, labels = units[-size:], labels[-size:]
        places = (self.place + torch.arange(len(labels), device=labels.device)) % size
        self.memory.index_copy_(0, places, units)
        self.memory_labels.index_copy_(0, places, labels)
        self.place.add_(len(labels)).remainder_(size)


def _koleo(distance: Tensor) -> Tensor:
    """- mean of the log of the distance to the nearest other image."""
    itself = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(dim=1)
    counts = (nearest > 0) & (nearest < torch.inf)
    return -torch.where(counts, nearest, 1.0).log().mean()
