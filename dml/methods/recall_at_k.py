"""RS@k, the recall at k surrogate (Patel et al., CVPR 2022): soft ranks, then soft hits among the first k.

With cosines s, of a query q and its positives P, over all other images of the batch:

    rank(x) = 1 + sum over y, y not q or x: sigma((s_qy - s_qx) / temperature)
    R@k = min(k, sum over x in P: sigma((k - rank(x)) / (rank_temperature k))) / min(k, |P|)

with the logistic sigma; the loss is 1 - the mean of R@k over k in 1, 2, 4, 8, 16 and over the queries that have
positives. At small temperatures a positive of rank k counts as half a hit. As in the authors' code the larger k is the
wider is the sigma of ranks: where embeddings begin alike, ranks lie far beyond every k, and no gradient would be left.
Departure from that code: it leaves the query itself among the y, which adds 1 to every rank. Its batches are of
hundreds or thousands of images.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method
from dml.methods.smooth_ap import number_ahead

TITLE = "RS@k"
RANGES = {  # a decade or more on either side of the defaults
    "temperature": {"low": 1e-3, "high": 1.0, "log": True},
    "rank_temperature": {"low": 0.1, "high": 10.0, "log": True},
}
DEFAULTS = {"temperature": 0.01, "rank_temperature": 1.0}
IMAGES_PER_CLASS = 4


class RecallAtK(Method):
    """Wants positives among the first k. A batch of B needs memory for B^3 comparisons: see `SmoothAP`."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: float,
        rank_temperature: float,
        ks: tuple[float, ...] = (1, 2, 4, 8, 16),
    ):
        super().__init__()
        self.temperature, self.rank_temperature = temperature, rank_temperature
        self.register_buffer("ks", torch.tensor(ks, dtype=torch.get_default_dtype()), persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        everything = torch.ones_like(labels, dtype=torch.bool)
        return self.missing_recall(pairs.cosine_similarities(embeddings), labels, everything)

    def missing_recall(self, similarity: Tensor, labels: Tensor, exist: Tensor) -> Tensor:
        """1 - the mean recall of similarities (N, N) of items of which only those of the mask (N,) are there."""
        others = (exist[:, None] & exist).fill_diagonal_(False)
        positives = (others & (labels[:, None] == labels)).to(similarity.dtype)
        ahead = number_ahead(similarity, others[:, :, None].to(similarity.dtype), self.temperature)
        hits = ((self.ks - 0.5 - ahead) / (self.rank_temperature * self.ks)).sigmoid()
        found, wanted = (positives[:, None, :] @ hits)[:, 0], positives.sum(dim=1, keepdim=True)
        recall = torch.minimum(found, self.ks) / torch.minimum(wanted, self.ks).clamp(min=1)
        return pairs.mean(1 - recall.mean(dim=1), wanted[:, 0] > 0)
