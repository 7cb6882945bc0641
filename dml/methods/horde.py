"""HORDE, high-order regularisation (Jacob et al., ICCV 2019): the loss also on moments of the feature map.

With phi(l) the trunk's output at place l and random matrices W of entries +1 and -1, `order_size` rows each, the
moments of order 2 and above are approximated by

    h_2 = (W_1 phi) * (W_2 phi),    h_k = h_{k-1} * (W_k phi)

element by element, averaged over the places. A linear layer makes an embedding of each; the embedding of the model is
order 1. The loss is the sum over the orders 1 to `orders` of the contrastive loss on cosines s

    1/2 mean over positive pairs of (1 - s)^2  +  1/2 mean of the non-zero [s - margin]+ over negative pairs

Only the model's embedding is retrieved by.

Departures: the W are fixed, as in the paper's cheaper variant, but a linear layer follows, as in the one that learns
them; order_size is 512, the paper's 8192. Of a transformer's tokens the patches are the places.
"""

import torch
from torch import Tensor, nn

from dml import pairs
from dml.method import Method, Outputs

TITLE = "HORDE"
RANGES = {"margin": {"low": 0.0, "high": 1.0}, "loss_lr": {"low": 1e-6, "high": 1.0, "log": True}}
DEFAULTS = {"margin": 0.5, "loss_lr": 1e-5}  # the code, in which everything learns at 1e-5
IMAGES_PER_CLASS = 4  # the code: 10, in batches of 80


class Horde(Method):
    """Wants positives near and negatives beyond a margin, in moments of several orders.

    A batch of B with N places needs memory for B N orders order_size numbers: 5 million with 32 maps of 8 x 8.
    """

    needs_maps = True

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        trunk_width: int,
        margin: float,
        orders: int = 5,
        order_size: int = 512,
    ):
        super().__init__()
        signs = torch.randint(2, (trunk_width, orders * order_size)) * 2.0 - 1
        self.register_buffer("signs", signs, persistent=False)  # large, and drawn again from the same seed
        self.projections = nn.Parameter(torch.empty(orders - 1, order_size, embedding_size))
        bound = order_size**-0.5
        nn.init.uniform_(self.projections, -bound, bound)
        self.margin, self.orders = margin, orders

    def objective(self, outputs: Outputs, labels: Tensor) -> Tensor:
        embeddings = outputs.embeddings
        moments = self._moments(_places(outputs.maps).to(embeddings.dtype))
        of_orders = torch.cat([embeddings[None], moments @ self.projections])
        return self._contrastive(of_orders, labels)

    def _moments(self, places: Tensor) -> Tensor:
        """Features (B, N, W) of places to moments (orders - 1, B, order_size) of the orders from 2 on."""
        moment, *factors = (places @ self.signs).chunk(self.orders, dim=2)
        moments = []
        for factor in factors:
            moment = moment * factor
            moments.append(moment.mean(dim=1))
        return torch.stack(moments)

    def _contrastive(self, of_orders: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses of embeddings (orders, B, D)."""
        units = pairs.normalised(of_orders)
        cosine = units @ units.mT
        positives, negatives = pairs.positives_and_negatives(labels)
        too_far = ((1 - cosine).square() * positives).sum(dim=(1, 2)) / positives.sum().clamp(min=1)
        excess = (cosine - self.margin).relu() * negatives
        too_near = excess.sum(dim=(1, 2)) / excess.count_nonzero(dim=(1, 2)).clamp(min=1)
        return (too_far + too_near).sum() / 2


def _places(maps: Tensor) -> Tensor:
    """Feature maps (B, W, h, w), or tokens (B, 1 + N, W) without the first, as (B, N, W)."""
    return maps.flatten(2).mT if maps.ndim == 4 else maps[:, 1:]
