"""Batches on the device that works on them: it never waits for pixels.

On a CPU a batch is made when it is asked for: one thread a job is the rule there. On a GPU the pixels of the training
images are uploaded once and crops are made there, if they fit; else a thread makes crops ahead and copies them while
the GPU works. All ways give the same bytes from the same random draws.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from dml.augmentation import ResidentImages, centre_crops, random_views, train_batch
from dml.embedding import BATCH_SIZE
from dml.images import PackedImages
from dml.protocol import Protocol
from dml.sampling import Batches, HierarchicalBatches

RESIDENT_SHARE = 0.25
"""Of the GPU's free memory, for what is kept there to save time: the rest is for what the training cannot do without,
whose size is not known before its first step."""
AHEAD = 4
"""Batches made ahead: enough for a slow one now and then; a batch of 32 crops of 227 pixels is 5 MB."""

Way = Literal["direct", "resident", "ahead"]


class Loader:
    """Endless training batches: random crops on the device, and their labels.

    `order` says which images, `rng` draws the crops. Both are always where the last batch that was handed out left
    them: what is made ahead is drawn by copies. So their states are the loader's state, whichever `way` is taken;
    without one the device and its free memory decide.
    """

    def __init__(
        self,
        images: PackedImages,
        labels: np.ndarray,
        order: Batches | HierarchicalBatches,
        protocol: Protocol,
        rng: np.random.Generator,
        device: str,
        way: Way | None = None,
    ) -> None:
        self.images, self.order, self.rng, self.device = images, order, rng, device
        self.crop_size = protocol.crop_size
        self.views = protocol.crop_scale or protocol.crop_size, protocol.crop_ratio, protocol.flip
        self.labels = torch.from_numpy(labels).to(device)
        self.way = way or way_to(device, images)
        self._resident = ResidentImages(images, self.crop_size, device) if self.way == "resident" else None
        self._coming: Iterator[Tensor] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """(B, 3, crop_size, crop_size) uint8 RGB, channels last, and (B,) int64, both on the device."""
        if self.way == "ahead" and self._coming is None:
            self._coming = self._made_ahead()
        indices = next(self.order)
        if self.way == "direct":
            crops = train_batch(self.images, indices, self.crop_size, *self.views, self.rng).to(self.device)
        else:
            views = random_views(self.images, indices, *self.views, self.rng)
            crops = self._resident.crops(indices, *views) if self.way == "resident" else next(self._coming)
        return crops, self.labels[torch.from_numpy(indices).to(self.device, non_blocking=True)]

    def state_dict(self) -> dict[str, Any]:
        """What decides all batches to come, as plain values."""
        return {"order": self.order.state_dict(), "crops": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the loader whose state this is would."""
        self.close()
        self.order.load_state_dict(state["order"])
        self.rng.bit_generator.state = state["crops"]

    def close(self) -> None:
        """End the thread, if there is one. What it made ahead is forgotten, and made again if batches are asked for."""
        if self._coming is not None:
            self._coming.close()
            self._coming = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _made_ahead(self) -> Iterator[Tensor]:
        # The thread does not know the loader: else it would not end with one that is forgotten.
        images, crop_size, views = self.images, self.crop_size, self.views
        order, rng = copy.deepcopy((self.order, self.rng))

        def make(_: None) -> Tensor:
            return train_batch(images, next(order), crop_size, *views, rng)

        return ahead(make, repeat(None), self.device)


class CentreCrops:
    """Batches of the centre crops of all images on the device, in order, as often as they are iterated over.

    With `keep` they stay on a GPU from the first pass on, if they fit. ValueError as `centre_crops`.
    """

    def __init__(
        self, images: PackedImages, crop_size: int, device: str, batch_size: int = BATCH_SIZE, keep: bool = False
    ) -> None:
        self.images, self.crop_size, self.device, self.batch_size = images, crop_size, device, batch_size
        self.keeps = keep and is_gpu(device) and fits(len(images) * 3 * crop_size**2, device)
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        """(B, 3, crop_size, crop_size) uint8 RGB, channels last; the last batch may be smaller."""
        if self._kept:
            yield from self._kept
            return
        passed = []
        for crops in self._made():
            if self.keeps:
                passed.append(crops)
            yield crops
        self._kept = passed

    def _made(self) -> Iterator[Tensor]:
        def make(begin: int) -> Tensor:
            indices = np.arange(begin, min(begin + self.batch_size, len(self.images)))
            return centre_crops(self.images, indices, self.crop_size)

        begins = range(0, len(self.images), self.batch_size)
        if is_gpu(self.device):
            return ahead(make, begins, self.device)
        return (make(begin).to(self.device) for begin in begins)


def way_to(device: str, images: PackedImages) -> Way:
    """How training batches of these images come to the device fastest."""
    if not is_gpu(device):
        return "direct"
    return "resident" if fits(int((images.heights * images.widths).sum()) * 3, device) else "ahead"


def fits(size: int, device: str) -> bool:
    """Whether so many bytes may be kept on the GPU."""
    kept_for_later = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return size <= RESIDENT_SHARE * (torch.cuda.mem_get_info(device)[0] + kept_for_later)


def is_gpu(device: str) -> bool:
    """Whether it is one of CUDA's."""
    return device.startswith("cuda")


def ahead(make: Callable[[Any], Tensor], items: Iterable[Any], device: str) -> Iterator[Tensor]:
    """`map(make, items)` on the device; a thread makes and copies up to AHEAD batches before they are asked for.

    What `make` raises is raised when its batch is asked for. The thread ends when the iterator is closed or forgotten.
    """
    copying = torch.cuda.Stream(device) if is_gpu(device) else None

    def send(item: Any) -> tuple[Tensor, Any]:
        batch = make(item)
        if copying is None:
            return batch.to(device), None
        with torch.cuda.stream(copying):
            return batch.pin_memory().to(device, non_blocking=True), copying.record_event()

    def receive(sent: Future) -> Tensor:
        batch, copied = sent.result()
        if copied is not None:
            working = torch.cuda.current_stream(device)
            working.wait_event(copied)
            batch.record_stream(working)  # or its memory would be another batch's while it is still worked on
        return batch

    def begin() -> None:
        if is_gpu(device):
            torch.cuda.set_device(device)  # a new thread would start the first GPU as well

    with ThreadPoolExecutor(1, "ahead", begin) as thread:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(thread.submit(send, item))
            if len(waiting) > AHEAD:
                yield receive(waiting.popleft())
        while waiting:
            yield receive(waiting.popleft())
