"""Which images make a batch: m of each class, as the paper's code draws them, or of classes that are alike."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

LIST_LENGTH = 100_000
"""The sampler of the paper's code makes a list of about so many indices, then starts a new one."""


HIERARCHICAL = "hierarchical"
"""What a method's file calls `BATCHES` if it wants `HierarchicalBatches`."""


class Batches:
    """Endless batches of indices (batch_size,) into `labels` (N,).

    A pass shuffles the classes and emits `images_per_class` random images of each: without replacement where the class
    has that many, with replacement otherwise. Passes follow one another in a list of about 100,000 indices, which is
    cut into consecutive batches; a rest that fills no batch is dropped. A batch may therefore straddle two passes and
    hold a class twice, unlike in the paper's prose, where classes are drawn for each batch.

    Source: MPerClassSampler of pytorch-metric-learning 0.9.88, which the paper's code used.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, images_per_class: int, rng: np.random.Generator) -> None:
        self.batch_size, self.images_per_class, self.rng = batch_size, images_per_class, rng
        self.images_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        pass_length = len(self.images_of) * images_per_class
        self.passes_of_a_list = max(1, LIST_LENGTH // pass_length, -(-batch_size // pass_length))
        self._waiting = np.empty(0, dtype=np.int64)
        self._passes_left = self.passes_of_a_list

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        while len(self._waiting) < self.batch_size:
            if self._passes_left == 0:
                self._waiting, self._passes_left = self._waiting[:0], self.passes_of_a_list
            self._waiting = np.concatenate([self._waiting, self._one_pass()])
            self._passes_left -= 1
        batch, self._waiting = np.split(self._waiting, [self.batch_size])
        return batch

    def _one_pass(self) -> np.ndarray:
        chosen = [
            self.rng.choice(images, self.images_per_class, replace=len(images) < self.images_per_class)
            for images in (self.images_of[c] for c in self.rng.permutation(len(self.images_of)))
        ]
        return np.concatenate(chosen)

    def state_dict(self) -> dict[str, Any]:
        """What decides all batches to come, as plain values."""
        return {
            "waiting": self._waiting.tolist(),
            "passes_left": self._passes_left,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the sampler whose state this is would."""
        self._waiting = np.array(state["waiting"], dtype=np.int64)
        self._passes_left = state["passes_left"]
        self.rng.bit_generator.state = state["rng"]


class HierarchicalBatches:
    """Endless batches of indices (batch_size,) into `labels` (N,), each from two super-classes: hard negatives.

    A batch draws two different super-classes, all being equally likely, and from each classes without replacement,
    `images_per_class` random images of each: without replacement where the class has that many. A super-class with too
    few classes for half a batch gives each of them once, then again. `super_classes` (C,) are those of the classes 0 to
    C - 1, of any type that sorts; ValueError if there are fewer than two.

    Source: Cakir et al., Deep Metric Learning to Rank, CVPR 2019, section 4.3. There a pair of super-classes gives
    several batches in a row, and an epoch goes through all pairs; here each batch draws its pair.
    """

    def __init__(
        self,
        labels: np.ndarray,
        super_classes: Sequence[Any],
        batch_size: int,
        images_per_class: int,
        rng: np.random.Generator,
    ) -> None:
        self.batch_size, self.images_per_class, self.rng = batch_size, images_per_class, rng
        if len(set(super_classes)) < 2:
            raise ValueError("hierarchical batches need at least two super-classes among the classes to train on")
        self.images_of = [np.flatnonzero(labels == label) for label in range(len(super_classes))]
        named = np.asarray(super_classes)
        self.classes_of = [np.flatnonzero(named == name) for name in np.unique(named)]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        first, second = self.rng.choice(len(self.classes_of), 2, replace=False)
        count = self.batch_size // self.images_per_class
        chosen = [*self._classes(first, -(-count // 2)), *self._classes(second, count // 2)]
        return np.concatenate([self._images(self.images_of[label]) for label in chosen])

    def _classes(self, super_class: int, count: int) -> np.ndarray:
        own = self.classes_of[super_class]
        return np.concatenate([self.rng.permutation(own) for _ in range(-(-count // len(own)))])[:count]

    def _images(self, of_class: np.ndarray) -> np.ndarray:
        return self.rng.choice(of_class, self.images_per_class, replace=len(of_class) < self.images_per_class)

    def state_dict(self) -> dict[str, Any]:
        """What decides all batches to come, as plain values."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the sampler whose state this is would."""
        self.rng.bit_generator.state = state["rng"]
