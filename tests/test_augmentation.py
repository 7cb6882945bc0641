import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_images
from torch.nn.functional import interpolate
from torchvision import transforms
from torchvision.transforms import functional as F

from dml import augmentation
from dml.augmentation import (
    ResidentImages,
    centre_crops,
    normalise,
    random_crops,
    random_views,
    resampling,
    train_batch,
)
from dml.images import Image, PackedImages, pack

SCALE, RATIO = (0.16, 1.0), (0.75, 4 / 3)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twelve images of many shapes, smooth with some noise: (packed with a shorter side of 64, as PIL images)."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("photographs")
    pictures = []
    for i in range(12):
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(tuple(rng.integers(70, 200, 2)), PIL.Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
        pictures.append(PIL.Image.fromarray(pixels))
        pictures[-1].save(folder / f"{i}.png")
    pack([Image(str(folder), f"{i}.png", "c") for i in range(12)], range(12), 64, folder / "p", False, progress=False)
    return PackedImages.open(folder / "p"), pictures


def boxes_of(heights, widths, seed=0, scale=SCALE, ratio=RATIO):
    return random_crops(np.asarray(heights), np.asarray(widths), scale, ratio, np.random.default_rng(seed))


class Draws:
    """Stands in for torch in torchvision's code: the same uniform numbers that `random_crops` gets, in float64."""

    log, exp = staticmethod(torch.log), staticmethod(torch.exp)

    def __init__(self, numbers):
        self.numbers, self.attempt, self.column = numbers, -1, 0

    def tensor(self, values):
        return torch.tensor(values, dtype=torch.float64)

    def empty(self, count):
        return SimpleNamespace(uniform_=self._uniform)

    def _uniform(self, low, high):
        if self.column % 2 == 0:
            self.attempt, self.column = self.attempt + 1, 0
        self.column += 1
        number = self.numbers[self.attempt, self.column - 1]
        return torch.as_tensor(low + (high - low) * number, dtype=torch.float64)

    def randint(self, low, high, size):
        self.column += 1
        return torch.tensor(int(low + (high - low) * self.numbers[self.attempt, self.column - 1]))


@pytest.mark.parametrize("scale, ratio", [(SCALE, RATIO), ((0.3, 1.0), (0.4, 0.6)), ((0.5, 1.0), (1.0, 3.0))])
def test_boxes_are_torchvisions_for_the_same_draws(monkeypatch, scale, ratio):
    shapes = [(64, 64), (64, 200), (180, 64), (10, 11), (3, 40), (64, 65)] * 30
    heights, widths = np.array(shapes).T
    boxes = boxes_of(heights, widths, 5, scale, ratio)
    numbers = np.random.default_rng(5).random((len(shapes), 10, 4))
    fallbacks = 0
    for i, (height, width) in enumerate(shapes):
        draws = Draws(numbers[i])
        monkeypatch.setattr(transforms.transforms, "torch", draws)
        expected = transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), list(scale), list(ratio))
        monkeypatch.undo()
        assert tuple(boxes[i]) == expected
        fallbacks += draws.column == 2
    assert fallbacks < len(shapes)
    assert ratio == RATIO or fallbacks > 10


def test_boxes_are_distributed_as_torchvisions():
    height, width, count = 90, 64, 3000
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(count)])
    ours = boxes_of([height] * count, [width] * count)
    for summary in (
        lambda top, left, h, w: h * w,
        lambda top, left, h, w: w / h,
        lambda top, left, h, w: top / np.maximum(height - h, 1),
        lambda top, left, h, w: left / np.maximum(width - w, 1),
    ):
        assert ks_2samp(summary(*ours.T), summary(*theirs.T)).pvalue > 0.01


def test_boxes_lie_inside_and_reach_every_border():
    heights, widths = np.array([64] * 2000), np.array([80] * 2000)
    top, left, height, width = boxes_of(heights, widths).T
    assert top.min() == left.min() == 0
    assert (top + height).max() == 64
    assert (left + width).max() == 80
    area = height * width / (64 * 80)
    assert 0.15 < area.min() < 0.17
    assert 0.9 < area.max() <= 1
    assert width.min() > 0 and height.min() > 0


@pytest.mark.parametrize("shape, box", [((64, 640), (0, 277, 64, 85)), ((640, 64), (277, 0, 85, 64))])
def test_where_no_attempt_fits_the_crop_is_central(shape, box):
    # A whole such image has ten times the largest ratio, so that no crop of its area fits.
    assert tuple(boxes_of([shape[0]], [shape[1]], scale=(1.0, 1.0))[0]) == box


def test_an_images_box_does_not_depend_on_the_others():
    first = boxes_of([64, 64, 64], [64, 80, 100])
    second = boxes_of([640, 64, 64], [64, 80, 100])
    np.testing.assert_array_equal(first[1:], second[1:])


def test_training_crops_are_torchvisions_to_one_of_255(photographs):
    packed, pictures = photographs
    indices = np.arange(12).repeat(5)
    batch = train_batch(packed, indices, 48, SCALE, RATIO, 0.0, np.random.default_rng(2))
    boxes = boxes_of(packed.heights[indices], packed.widths[indices], 2)
    resize = transforms.Resize(64)
    expected = [
        np.asarray(F.resized_crop(resize(pictures[i]), *map(int, box), [48, 48]))
        for i, box in zip(indices, boxes, strict=True)
    ]
    difference = np.abs(batch.permute(0, 2, 3, 1).numpy().astype(int) - np.stack(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def plain_batch(packed, indices, crop_size, flip, seed):
    """`train_batch` as it is written down at first, image by image."""
    rng = np.random.default_rng(seed)
    boxes = random_crops(packed.heights[indices], packed.widths[indices], SCALE, RATIO, rng)
    mirrored = rng.random(len(indices)) < flip
    batch = []
    for i, (top, left, height, width), flips in zip(indices, boxes, mirrored, strict=True):
        crop = torch.tensor(packed[i][top : top + height, left : left + width]).permute(2, 0, 1)[None]
        resized = interpolate(crop, (crop_size, crop_size), mode="bilinear", antialias=True)
        batch.append(resized.flip(-1) if flips else resized)
    return torch.cat(batch)


@pytest.mark.parametrize("crop_size", [1, 7, 48, 64, 91])
def test_training_crops_are_bit_by_bit_those_of_the_plain_way(photographs, crop_size):
    """Studies made before and after must have seen the same pixels."""
    packed, indices = photographs[0], np.arange(12).repeat(4)
    batch = train_batch(packed, indices, crop_size, SCALE, RATIO, 0.5, np.random.default_rng(8))
    assert torch.equal(batch, plain_batch(packed, indices, crop_size, 0.5, 8))


def packed_noise(rng, sizes):
    """Images of so many (height, width), of black, white and all between."""
    pixels = [
        rng.integers(0, 256, (*size, 3)) if k % 2 else 255 * rng.integers(0, 2, (*size, 3))
        for k, size in enumerate(sizes)
    ]
    heights, widths = np.array(sizes).T
    begins = np.cumsum(heights * widths * 3) - heights * widths * 3
    flat = np.concatenate([image.ravel() for image in pixels]).astype(np.uint8)
    return PackedImages(flat, begins, heights, widths, np.arange(len(sizes)), np.arange(len(sizes)).astype(str), "f")


@pytest.mark.parametrize("crop_size", [1, 7, 48, 64, 91])
def test_crops_on_the_device_are_bit_by_bit_those_of_the_cpu(photographs, crop_size):
    packed, indices = photographs[0], np.arange(12).repeat(4)
    resident = ResidentImages(packed, crop_size, "cpu")
    views = random_views(packed, indices, SCALE, RATIO, 0.5, np.random.default_rng(8))
    crops = resident.crops(indices, *views)
    assert torch.equal(crops, train_batch(packed, indices, crop_size, SCALE, RATIO, 0.5, np.random.default_rng(8)))
    assert crops.dtype == torch.uint8 and crops.is_contiguous(memory_format=torch.channels_last)


SIDES = st.integers(1, 90)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6), SIDES, st.integers(0, 2**32), st.data())
@settings(deadline=None, max_examples=150)
def test_any_box_is_cut_on_the_device_as_on_the_cpu(sizes, crop_size, seed, data):
    """Larger, smaller or as large as the crop, or a single pixel, at any place; mirrored or not."""
    packed = packed_noise(np.random.default_rng(seed), sizes)
    indices = np.array(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=8)))
    boxes = []
    for height, width in zip(packed.heights[indices], packed.widths[indices], strict=True):
        box_height, box_width = (data.draw(st.integers(1, int(side))) for side in (height, width))
        top, left = (
            data.draw(st.integers(0, int(height) - box_height)),
            data.draw(st.integers(0, int(width) - box_width)),
        )
        boxes.append((top, left, box_height, box_width))
    mirrored = np.array(data.draw(st.lists(st.booleans(), min_size=len(indices), max_size=len(indices))))
    found = ResidentImages(packed, crop_size, "cpu").crops(indices, np.array(boxes), mirrored)
    for crop, i, (top, left, height, width), flips in zip(found, indices, boxes, mirrored, strict=True):
        pixels = torch.tensor(packed[i][top : top + height, left : left + width]).permute(2, 0, 1)[None]
        resized = interpolate(pixels, (crop_size, crop_size), mode="bilinear", antialias=True)[0]
        assert torch.equal(crop, resized.flip(-1) if flips else resized)


@pytest.mark.parametrize("size", [1, 224, 227, 256])
def test_a_side_of_any_length_is_resized_by_pytorchs_integers(size):
    longest = 700
    reach, places, weights, bits = resampling(longest, size)
    rng = np.random.default_rng(0)
    for length in [*range(1, 420), 511, 512, 513, 700]:
        line = torch.from_numpy(rng.integers(0, 256, (1, 2, length, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
        expected = interpolate(line, (2, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        own = slice(None), slice(reach[length])
        values = line[0].permute(1, 2, 0).numpy()[:, places[length][own]].astype(np.int64)
        sums = (values * weights[length][own][..., None]).sum(2)
        np.testing.assert_array_equal((sums + 2 ** (bits[length] - 1)) >> bits[length], expected)
        assert not weights[length][:, reach[length] :].any()
        # so that nothing leaves uint8, or int32 on the way
        assert (255 * weights[length].sum(1) + 2 ** (bits[length] - 1)).max() < min(256 << bits[length], 2**31)


def test_only_the_images_of_a_subset_are_uploaded(photographs, monkeypatch):
    monkeypatch.setattr(augmentation, "_UPLOAD", 20_000)  # several uploads
    packed = photographs[0]
    few = packed.subset(np.array([7, 2, 9]))
    resident = ResidentImages(few, 20, "cpu")
    assert resident.pixels.numel() == (few.heights * few.widths * 3).sum() > 40_000
    indices = np.array([1, 0, 2, 2])
    views = random_views(few, indices, SCALE, RATIO, 0.5, np.random.default_rng(1))
    expected = train_batch(few, indices, 20, SCALE, RATIO, 0.5, np.random.default_rng(1))
    assert torch.equal(resident.crops(indices, *views), expected)


def test_a_batch_takes_41_draws_an_image(photographs):
    rng, other = np.random.default_rng(8), np.random.default_rng(8)
    train_batch(photographs[0], np.arange(12), 9, SCALE, RATIO, 0.5, rng)
    other.random(12 * 41)
    assert rng.random() == other.random()


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Two photographs as JPEG files: (packed with a shorter side of 256, as PIL images of the files)."""
    files = [Path(name) for name in load_sample_images().filenames]
    images = [Image(str(file.parent), file.name, "c") for file in files]
    stem = tmp_path_factory.mktemp("jpegs") / "p"
    pack(images, range(len(images)), 256, stem, False, progress=False)
    return PackedImages.open(stem), [PIL.Image.open(file) for file in files]


@pytest.mark.fidelity("Training transform of the paper on JPEGs", "torchvision on PIL images, same crops", "of 255")
def test_the_papers_training_transform_is_torchvisions(jpegs, deviates):
    packed, pictures = jpegs
    indices = np.arange(len(pictures)).repeat(20)
    batch = train_batch(packed, indices, 227, SCALE, (0.75, 1.33), 0.5, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    boxes = random_crops(packed.heights[indices], packed.widths[indices], SCALE, (0.75, 1.33), rng)
    mirrored = rng.random(len(indices)) < 0.5
    found = normalise(batch, "BGR", (104, 117, 128), (1, 1, 1))
    for image, i, box, flip in zip(found, indices, boxes, mirrored, strict=True):
        crop = F.resized_crop(transforms.Resize(256)(pictures[i]), *map(int, box), [227, 227])
        expected = in_the_papers_way(F.hflip(crop) if flip else crop)
        difference = (image - expected).abs()
        assert difference.max() <= 1 + 1e-4 and difference.mean() < 0.2
        deviates(difference.max())


@pytest.mark.fidelity("Test transform of the paper on JPEGs", "torchvision on PIL images", "of 255")
def test_the_papers_test_transform_is_torchvisions(jpegs, deviates):
    packed, pictures = jpegs
    found = normalise(centre_crops(packed, range(len(pictures)), 227), "BGR", (104, 117, 128), (1, 1, 1))
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(227), in_the_papers_way])
    for image, picture in zip(found, pictures, strict=True):
        torch.testing.assert_close(image, reference(picture), atol=1e-4, rtol=0)
        deviates((image - reference(picture)).abs().max())


def in_the_papers_way(picture):
    """Channels swapped, 0 to 255, the mean of Caffe's ImageNet models subtracted."""
    tensor = transforms.ToTensor()(picture)[[2, 1, 0]] * 255
    return transforms.Normalize([104, 117, 128], [1, 1, 1])(tensor)


def test_a_training_batch_is_uint8_and_channels_last(photographs):
    batch = train_batch(photographs[0], [3, 3, 1], 20, SCALE, RATIO, 0.5, np.random.default_rng(0))
    assert batch.shape == (3, 3, 20, 20)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(batch[0], batch[1])


def test_the_generator_decides(photographs):
    first, again, other = (
        train_batch(photographs[0], np.arange(12), 32, SCALE, RATIO, 0.5, np.random.default_rng(seed))
        for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flips(photographs):
    indices = np.arange(12).repeat(20)
    never, always, half = (
        train_batch(photographs[0], indices, 24, SCALE, RATIO, flip, np.random.default_rng(6))
        for flip in (0.0, 1.0, 0.5)
    )
    assert torch.equal(always, never.flip(-1))
    mirrored = (half == always).flatten(1).all(1)
    assert torch.equal(half[~mirrored], never[~mirrored])
    assert abs(mirrored.float().mean().item() - 0.5) < 4 * math.sqrt(0.25 / len(indices))


@pytest.mark.parametrize("crop_size", [64, 63, 56, 57, 1])
def test_centre_crops_are_torchvisions(photographs, crop_size):
    packed, pictures = photographs
    reference = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(crop_size)])
    indices = [7, 0, 7, *range(12)]
    batch = centre_crops(packed, indices, crop_size)
    expected = np.stack([np.asarray(reference(pictures[i])) for i in indices])
    np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), expected)
    assert batch.dtype == torch.uint8


def test_a_crop_larger_than_an_image_is_refused(photographs):
    with pytest.raises(ValueError, match="crop_size is 65, but an image is only 64 pixels"):
        centre_crops(photographs[0], np.arange(12), 65)


def test_normalise_is_the_papers_transform():
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = transforms.Compose(
        [
            lambda image: image.flip(0).float().div(255),
            lambda image: image * 255,
            transforms.Normalize([104, 117, 128], [1, 1, 1]),
        ]
    )
    result = normalise(pixels, "BGR", (104, 117, 128), (1, 1, 1))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.stack([reference(image) for image in pixels]), atol=1e-4, rtol=0)


def test_normalise_rgb_divides_by_std():
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert normalise(pixels, "RGB", [5, 0, 10], [1, 2, 4]).flatten().tolist() == [5, 10, 5]
    assert normalise(pixels, "BGR", [5, 0, 10], [1, 2, 4]).flatten().tolist() == [25, 10, 0]


def test_normalise_in_inference_mode_first_does_not_hinder_training():
    pixels = torch.ones(1, 3, 2, 2, dtype=torch.uint8)
    mean, std = (0.25, 0.5, 0.75), (3.0, 4.0, 5.0)
    with torch.inference_mode():
        normalise(pixels, "RGB", mean, std)
    learnt = torch.ones(1, 3, 2, 2, requires_grad=True)
    normalise(learnt, "RGB", mean, std).sum().backward()
    torch.testing.assert_close(learnt.grad[0, :, 0, 0], 1 / torch.tensor(std))


def test_other_channel_orders_are_refused():
    with pytest.raises(ValueError, match="'GBR'; expected 'RGB' or 'BGR'"):
        normalise(torch.zeros(1, 3, 1, 1), "GBR", (0, 0, 0), (1, 1, 1))


# ----------------------------------------------------------------------------------------- crops that stay as they are


def test_squares_lie_anywhere_in_the_image():
    heights, widths = np.full(4000, 9), np.full(4000, 7)
    boxes = random_crops(heights, widths, 6, (1.0, 1.0), np.random.default_rng(0))
    assert (boxes[:, 2:] == 6).all()
    places, counts = np.unique(boxes[:, :2], axis=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in range(4) for left in range(2)]
    assert counts.min() > 400 and counts.max() < 600


def test_crops_that_are_not_resized_are_pixels_of_the_image(trainval):
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    batch = train_batch(trainval, [0, 5, 9], 16, 16, (1.0, 1.0), 0.5, rng)
    boxes, mirrored = random_views(trainval, np.array([0, 5, 9]), 16, (1.0, 1.0), 0.5, again)
    for k, (i, (top, left, height, width)) in enumerate(zip([0, 5, 9], boxes, strict=True)):
        pixels = trainval[i][top : top + height, left : left + width]
        expected = pixels[:, ::-1] if mirrored[k] else pixels
        np.testing.assert_array_equal(batch[k].permute(1, 2, 0).numpy(), expected)
