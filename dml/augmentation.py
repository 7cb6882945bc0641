"""From packed images to batches: random crops and flips for training, central crops for evaluation.

Crops are resized as uint8, so that a batch is a quarter of the bytes to hand to the accelerator; `normalise` then runs
wherever the batch is. Where the pixels are on the accelerator already, the same crops are made there.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dml.images import PackedImages

_ATTEMPTS = 10
_UPLOAD = 1 << 26
"""Bytes that go to the device at once: the split is never a second time in the host's memory."""


def random_crops(
    heights: np.ndarray,
    widths: np.ndarray,
    scale: tuple[float, float] | int,
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """(B, 4) int64 boxes (top, left, height, width), one in each image of heights, widths (B,).

    torchvision's RandomResizedCrop: the area is uniform in `scale` times the image's, width / height is log-uniform in
    `ratio`, the place uniform; the first of ten attempts that fits is taken, else the largest central crop with an
    allowed ratio. An image takes 40 uniform draws of `rng` whatever comes of them: (attempt, (area, ratio, top, left)).

    With a number of pixels as `scale`, boxes are squares of that side at uniform places: torchvision's RandomCrop.
    """
    if isinstance(scale, int):
        return _random_squares(np.asarray(heights), np.asarray(widths), scale, rng)
    draws = rng.random((len(heights), _ATTEMPTS, 4))
    image_height, image_width = np.asarray(heights)[:, None], np.asarray(widths)[:, None]
    area = image_height * image_width * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    log_ratio = np.log(ratio)
    aspect = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * draws[..., 1])
    width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    top = (draws[..., 2] * (image_height - height + 1)).astype(np.int64)
    left = (draws[..., 3] * (image_width - width + 1)).astype(np.int64)

    fits = (width > 0) & (width <= image_width) & (height > 0) & (height <= image_height)
    first = fits.argmax(axis=1)
    boxes = np.stack([top, left, height, width], axis=2)[np.arange(len(first)), first]
    for i in np.flatnonzero(~fits.any(axis=1)):
        boxes[i] = _central_box(int(heights[i]), int(widths[i]), ratio)
    return boxes


def _random_squares(heights: np.ndarray, widths: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    top, left = (rng.random((len(heights), 2)) * np.stack([heights - side + 1, widths - side + 1], axis=1)).T
    sides = np.full(len(heights), side)
    return np.stack([top.astype(np.int64), left.astype(np.int64), sides, sides], axis=1)


def random_views(
    images: PackedImages,
    indices: np.ndarray,
    scale: tuple[float, float] | int,
    ratio: tuple[float, float],
    flip: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """All that is random in a training batch: `random_crops` of the images at indices (B,), and which are mirrored."""
    boxes = random_crops(images.heights[indices], images.widths[indices], scale, ratio, rng)
    return boxes, rng.random(len(indices)) < flip


def train_batch(
    images: PackedImages,
    indices: Sequence[int],
    crop_size: int,
    scale: tuple[float, float] | int,
    ratio: tuple[float, float],
    flip: float,
    rng: np.random.Generator,
) -> Tensor:
    """(B, 3, crop_size, crop_size) uint8 RGB, channels last: a random crop of each image.

    The crops are `random_crops`, resized bilinearly with antialiasing (what torchvision's RandomResizedCrop makes of a
    PIL image, to 1 of 255) and mirrored with probability `flip`.
    """
    indices = np.asarray(indices)
    boxes, mirrored = random_views(images, indices, scale, ratio, flip, rng)
    batch = _empty_batch(len(indices), crop_size)
    for k, (i, (top, left, height, width)) in enumerate(zip(indices, boxes, strict=True)):
        # A copy: the pixels are a read-only map of the file, which torch cannot hold. The batch's axis is numpy's: with
        # one of torch's, whose stride would be otherwise, the result would not be channels last and cost twice as much.
        crop = torch.from_numpy(images[i][None, top : top + height, left : left + width].copy()).permute(0, 3, 1, 2)
        resized = F.interpolate(crop, (crop_size, crop_size), mode="bilinear", antialias=True)[0]
        batch[k] = resized.flip(-1) if mirrored[k] else resized
    return batch


class ResidentImages:
    """Images whose pixels lie on a device, and crops of them that are made there.

    Only the bytes of these images are uploaded, not those of a split that they are a subset of.
    """

    def __init__(self, images: PackedImages, crop_size: int, device: str | torch.device) -> None:
        self.crop_size, self.device = crop_size, torch.device(device)
        self.widths = images.widths
        areas = images.heights * images.widths
        self.begins = np.cumsum(areas) - areas
        self.pixels = torch.empty((int(areas.sum()), 3), dtype=torch.uint8, device=device)
        images_of_chunks = np.split(np.arange(len(images)), np.flatnonzero(np.diff(self.begins * 3 // _UPLOAD)) + 1)
        for chunk in images_of_chunks:
            begin, end = self.begins[chunk[0]], self.begins[chunk[-1]] + areas[chunk[-1]]
            pixels = np.concatenate([images[i].reshape(-1, 3) for i in chunk])
            self.pixels[begin:end] = torch.from_numpy(pixels).to(device)
        longest = int(max(images.heights.max(), images.widths.max()))
        self.reach, *tables = resampling(longest, crop_size)
        self.places, self.weights, self.bits = (torch.from_numpy(table).to(device) for table in tables)

    def crops(self, indices: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray) -> Tensor:
        """(B, 3, crop_size, crop_size) uint8 RGB, channels last: what `train_batch` makes of the same random views.

        `boxes` (B, 4) and `mirrored` (B,) are those of `random_views` for the images at `indices` (B,). The bytes are
        those of PyTorch's CPU kernel, which resizes uint8 as Pillow does: integer weights, and a rounding to uint8
        between the two directions. Here too all numbers are integers, so that no device rounds otherwise, as TF32
        would. A few operations on the whole batch, none of which waits for the device.
        """
        top, left, height, width = boxes.T
        begins = self.begins[indices] + top * self.widths[indices] + left
        plan = np.stack([begins, self.widths[indices], height, width, mirrored])
        begins, strides, heights, widths, mirrored = torch.from_numpy(plan).to(self.device, non_blocking=True)

        # As many rows as the highest box has: a lower one repeats its last, which no weight looks at.
        rows = torch.minimum(torch.arange(int(height.max()), device=self.device), heights[:, None] - 1)
        rows = begins[:, None] + strides[:, None] * rows
        places, weights, bits = self._of_lengths(widths, self.reach[width].max())
        pixels = self.pixels[rows[:, :, None, None] + places[:, None]]
        wide = _weighted(pixels, weights[:, None, ..., None], bits[:, None, None, None])

        places, weights, bits = self._of_lengths(heights, self.reach[height].max())
        first_rows = torch.arange(0, wide.shape[0] * wide.shape[1], wide.shape[1], device=self.device)
        lines = wide.flatten(2).flatten(0, 1)[first_rows[:, None, None] + places]
        resized = _weighted(lines, weights[..., None], bits[:, None, None]).unflatten(2, (-1, 3))
        return torch.where(mirrored[:, None, None, None].bool(), resized.flip(2), resized).permute(0, 3, 1, 2)

    def _of_lengths(self, lengths: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.places[lengths, :, :reach], self.weights[lengths, :, :reach], self.bits[lengths]


def resampling(longest: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How sides of 0..longest pixels are resized to `size`, in PyTorch's integers: reach, places, weights, bits.

    Each of the `size` pixels of a side of n is the sum of pixels `places[n]` (size, T) times `weights[n]` (size, T),
    both int32, rounded and shifted by `bits[n]` binary digits. Only the first `reach[n]` of T are not zero.
    """
    sides = [_of_side(length, size) for length in range(1, longest + 1)]
    reach = np.array([0] + [weights.shape[1] for _, weights, _ in sides])
    places, weights = np.zeros((2, longest + 1, size, reach.max()), dtype=np.int32)
    for length, (own_places, own_weights, _) in enumerate(sides, 1):
        places[length, :, : reach[length]], weights[length, :, : reach[length]] = own_places, own_weights
    return reach, places, weights, np.array([1] + [bits for _, _, bits in sides], dtype=np.int32)


def centre_crops(images: PackedImages, indices: Sequence[int], crop_size: int) -> Tensor:
    """(B, 3, crop_size, crop_size) uint8 RGB, channels last: the middle of each image, as torchvision's CenterCrop.

    ValueError if an image is smaller than the crop (torchvision would put it on black).
    """
    indices = np.asarray(indices)
    heights, widths = images.heights[indices], images.widths[indices]
    smallest = min(heights.min(), widths.min())
    if smallest < crop_size:
        raise ValueError(
            f"crop_size is {crop_size}, but an image is only {smallest} pixels high or wide; lower crop_size"
        )
    tops, lefts = (np.rint((sides - crop_size) / 2).astype(np.int64) for sides in (heights, widths))
    batch = _empty_batch(len(indices), crop_size)
    pixels = batch.permute(0, 2, 3, 1).numpy()
    for k, (i, top, left) in enumerate(zip(indices, tops, lefts, strict=True)):
        pixels[k] = images[i][top : top + crop_size, left : left + crop_size]
    return batch


def normalise(batch: Tensor, channels: str, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) float32 on the batch's device: (pixel - mean) / std with pixels from 0 to 255.

    `channels` is the order the trunk expects, "RGB" or "BGR"; `mean` and `std` are in that order.
    """
    if channels not in ("RGB", "BGR"):
        raise ValueError(f"channels is {channels!r}; expected 'RGB' or 'BGR'")
    ordered = batch.flip(1) if channels == "BGR" else batch
    return (ordered.float() - _per_channel(tuple(mean), batch.device)) / _per_channel(tuple(std), batch.device)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    crop_height, crop_width = height, width
    if width / height < min(ratio):
        crop_height = round(width / min(ratio))
    elif width / height > max(ratio):
        crop_width = round(height * max(ratio))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _of_side(length: int, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A triangle around each pixel's place, as wide as the scale or two pixels; its weights are scaled to 15 bits."""
    scale = length / size
    support = max(scale, 1.0)
    centres = scale * (np.arange(size) + 0.5)
    begins = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + support + 0.5).astype(np.int64), length)
    places = begins[:, None] + np.arange((ends - begins).max())
    weights = np.maximum(1 - np.abs((places - centres[:, None] + 0.5) * (1 / support)), 0)
    weights *= places < ends[:, None]
    weights /= weights.cumsum(axis=1)[:, -1:]  # numpy's sum would add in another order than PyTorch
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return np.minimum(places, length - 1), np.floor(0.5 + weights * 2**bits), bits


def _weighted(values: Tensor, weights: Tensor, bits: Tensor) -> Tensor:
    """Sums over the last dimension but one. The weights' own rounding is too small to lead beyond 255."""
    sums = (values * weights).sum(-2, dtype=torch.int32)
    return ((sums + (1 << bits - 1)) >> bits).to(torch.uint8)


def _empty_batch(count: int, side: int) -> Tensor:
    return torch.empty((count, 3, side, side), dtype=torch.uint8, memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept: making a tensor on an accelerator for every batch would wait for it every time.
    # Not in inference mode: what is kept there could not be used in training.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
