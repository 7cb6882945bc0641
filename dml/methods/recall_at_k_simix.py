"""RS@k with SiMix (Patel et al., CVPR 2022): see recall_at_k.py, on a batch enlarged by virtual embeddings.

For normalised embeddings z, w of one class, and a drawn uniformly from 0 to 1,

    v = a w + (1 - a) z

not normalised again: similarities to it are mixed as embeddings are. It is a further item of the class, as a query and
in the lists of others, its own two images' included. Departure: the authors' code makes one of each pair of a class;
here each image has one, with a partner drawn from its class, so that the size of the enlarged batch does not depend on
the labels. An image without a partner has none.
"""

import torch
from torch import Tensor

from dml import mining, pairs
from dml.methods.recall_at_k import RecallAtK

TITLE = "RS@k + SiMix"
RANGES = {  # as without SiMix
    "temperature": {"low": 1e-3, "high": 1.0, "log": True},
    "rank_temperature": {"low": 0.1, "high": 10.0, "log": True},
}
DEFAULTS = {"temperature": 0.01, "rank_temperature": 1.0}
IMAGES_PER_CLASS = 4


class RecallAtKSiMix(RecallAtK):
    """RS@k of 2 B items, half of them virtual: eight times the memory of RS@k."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        units = pairs.normalised(embeddings)
        partners, _ = pairs.positives_and_negatives(labels)
        partner = units.index_select(0, mining.draw_one(partners, like=units))
        virtual = torch.lerp(units, partner, mining.uniform(len(units), like=units)[:, None])
        items, exist = torch.cat([units, virtual]), partners.any(dim=1)
        return self.missing_recall(items @ items.T, labels.repeat(2), torch.cat([torch.ones_like(exist), exist]))
