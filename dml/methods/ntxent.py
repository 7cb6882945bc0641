"""NT-Xent, the normalised temperature-scaled cross-entropy (Sohn, NIPS 2016; named by Chen et al., ICML 2020).

With cosines s, the mean over all ordered positive pairs (a, p) of

    -log( e^(s_ap/T) / (e^(s_ap/T) + sum over the negatives n of a: e^(s_an/T)) + 1e-20 )

The 1e-20 is that of the code behind A Metric Learning Reality Check (Musgrave et al., ECCV 2020). It matters at the
small temperatures that paper found best: a positive that is hopelessly behind costs at most 46 and has no gradient.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "NT-Xent"
# Logarithmic. CUB at batch size 32: the paper's search began with a low of 0.01 and widened it.
RANGES = {"temperature": {"low": 1e-4, "high": 100.0, "log": True}}
DEFAULTS = {"temperature": 0.07}
IMAGES_PER_CLASS = 4

LOG_SMALLEST_SHARE = math.log(1e-20)


class NTXent(Method):
    """Tells each positive from all negatives of its anchor by a softmax."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        logits = pairs.cosine_similarities(embeddings) / self.temperature
        positives, negatives = pairs.positives_and_negatives(labels)
        log_negatives = pairs.log_sum_exp(logits, negatives)
        log_share = F.logsigmoid(logits - log_negatives)
        return -pairs.mean(torch.logaddexp(log_share, torch.full_like(log_share, LOG_SMALLEST_SHARE)), positives)
