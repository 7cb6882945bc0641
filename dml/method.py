"""What a method is to the training loop: a loss with its own weights, and everything else by default."""

from typing import NamedTuple

from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a model makes of a batch of B images."""

    embeddings: Tensor
    """(B, embedding_size), not normalised."""
    features: Tensor
    """(B, trunk width): the pooled output of the trunk."""


class Method(nn.Module):
    """Base of every method in `dml/methods/`.

    A method's file holds, as plain literals that are read without importing it:

    - `TITLE`: its name in tables and figures;
    - `RANGES`: hyperparameter -> {low, high[, log][, integer]} or {choices}; `loss_lr`, if there, is the learning rate
      of the method's own weights and is not handed to the constructor;
    - `IMAGES_PER_CLASS`: how many images of a class a batch holds;

    and one subclass of `Method`, built as `(num_classes, embedding_size, **hyperparameters)`.
    """

    loss_weight_decay: float | None = None
    """Weight decay of the method's own weights; None takes the protocol's."""
    trains = True
    """False for a method that only looks at the trunk as it is: no steps, no head, `features` as embeddings."""

    capturable = True
    """False for a method whose step waits for the device, has shapes that depend on values, or uses Python values that
    change from step to step (counters, schedules, its own random draws): no CUDA graph is made of it."""

    def objective(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The scalar to minimise. Override where a method needs more than the embeddings."""
        return self(outputs.embeddings, labels)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of a batch: embeddings (B, D), not normalised; labels (B,), from 0 to num_classes - 1.

        A batch in which nothing is to be learnt gives 0 with zero gradients, never NaN.
        """
        raise TypeError(f"{type(self).__name__} has no forward(embeddings, labels)")
