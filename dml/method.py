"""What a method is to the training loop: a loss with its own weights, and everything else by default."""

from typing import NamedTuple

from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a model makes of a batch of B images."""

    embeddings: Tensor
    """(B, embedding_size), not normalised."""
    features: Tensor
    """(B, trunk_width): the pooled output of the trunk."""
    maps: Tensor | None = None
    """(B, trunk_width, h, w), or tokens (B, 1 + N, trunk_width): the output of the trunk before it is pooled, in the
    precision of the protocol."""
    teacher: Tensor | None = None
    """(B, embedding_size), not normalised and without gradient: the embeddings of a method's teacher."""


class Method(nn.Module):
    """Base of every method in `dml/methods/`.

    A method's file holds, as plain literals that are read without importing it:

    - `TITLE`: its name in tables and figures;
    - `RANGES`: hyperparameter -> {low, high[, log][, integer]} or {choices}; `loss_lr`, if there, is the learning rate
      of the method's own weights and is not handed to the constructor;
    - `DEFAULTS`: a value for each of `RANGES`, that of the method's authors where they give one;
    - `IMAGES_PER_CLASS`: how many images of a class a batch holds;
    - `BATCH_EXCEEDS_EMBEDDING`, True if it learns nothing from batches of no more images than an embedding has numbers;
    - `BATCHES`, if batches are not drawn from all classes alike: see `dml.sampling`;
    - `TEACHER`, if it learns from the finished model of another method: that method's name;

    and one subclass of `Method`, built as `(num_classes, embedding_size, **hyperparameters)`, and with `trunk_width` if
    its constructor has such an argument. What is random in it comes from `dml.mining`.
    """

    loss_weight_decay: float | None = None
    """Weight decay of the method's own weights; None takes the protocol's."""
    trains = True
    """False for a method that only looks at the trunk as it is: no steps, no head, `features` as embeddings."""

    needs_maps = False
    """True for a method that looks at `Outputs.maps`: a batch that goes through the network in parts keeps them."""
    capturable = True
    """False for a method whose step waits for the device, has shapes that depend on values, or uses Python values that
    change from step to step (counters, schedules): no CUDA graph is made of it."""

    @staticmethod
    def retrieval(embeddings: Tensor) -> Tensor:
        """What images are compared by, of embeddings (B, D) as the network gives them; its direction is what counts."""
        return embeddings

    def objective(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The scalar to minimise. Override where a method needs more than the embeddings."""
        return self(outputs.embeddings, labels)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of a batch: embeddings (B, D), not normalised; labels (B,), from 0 to num_classes - 1.

        A batch in which nothing is to be learnt gives 0 with zero gradients, never NaN.
        """
        raise TypeError(f"{type(self).__name__} has no forward(embeddings, labels)")
