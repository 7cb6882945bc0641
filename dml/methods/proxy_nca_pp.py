"""ProxyNCA++ (Teh et al., ECCV 2020): ProxyNCA as a classification, with fast proxies and batches of several a class.

The loss is that of proxy_nca.py, whose softmax_scale is 1 / temperature: the paper's temperature of 1/9 is a scale of
9. What is this method's own here are the batches, of 8 classes with 4 images each where there are 32, and a learning
rate of the proxies that is many times that of the network, without weight decay.

Departures: max pooling, layer normalisation before the head, larger crops and a warm-up, which are part of the paper's
recipe, belong to a study's protocol (`pooling: max`, `head_layernorm: true`), and so does the optimiser. The paper's is
Adam with an epsilon of 1, under which a step is as small as its gradient. Under others it is as large as the learning
rate, so that far smaller ones are as fast; with one far above 1 the first step makes proxies too long to be turned.
The paper's learning rates, 240 (SOP), 400 (CUB, Cars) and 2400 (In-Shop), therefore have no counterpart here.
"""

from dml.methods.proxy_nca import ProxyNCA

TITLE = "ProxyNCA++"
RANGES = {
    "softmax_scale": {"low": 1.0, "high": 100.0, "log": True},
    "loss_lr": {"low": 1e-4, "high": 10.0, "log": True},
}
# The scale is the paper's. RMSprop turns proxies as fast with 0.1 as its Adam with 400; short trainings end better with
# less, which is this project's choice.
DEFAULTS = {"softmax_scale": 9.0, "loss_lr": 3e-3}
IMAGES_PER_CLASS = 4


class ProxyNCAPlusPlus(ProxyNCA):
    """Softmax over the squared distances to fast proxies."""

    loss_weight_decay = 0.0
