"""From packed images to batches: random crops and flips for training, central crops for evaluation.

Crops are resized as uint8, so that a batch is a quarter of the bytes to hand to the accelerator; `normalise` then runs
wherever the batch is.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dml.images import PackedImages

_ATTEMPTS = 10


def random_crops(
    heights: np.ndarray,
    widths: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """(B, 4) int64 boxes (top, left, height, width), one in each image of heights, widths (B,).

    torchvision's RandomResizedCrop: the area is uniform in `scale` times the image's, width / height is log-uniform in
    `ratio`, the place uniform; the first of ten attempts that fits is taken, else the largest central crop with an
    allowed ratio. An image takes 40 uniform draws of `rng` whatever comes of them: (attempt, (area, ratio, top, left)).
    """
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


def random_views(
    images: PackedImages,
    indices: np.ndarray,
    scale: tuple[float, float],
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
    scale: tuple[float, float],
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


def _empty_batch(count: int, side: int) -> Tensor:
    return torch.empty((count, 3, side, side), dtype=torch.uint8, memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept: making a tensor on an accelerator for every batch would wait for it every time.
    # Not in inference mode: what is kept there could not be used in training.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
