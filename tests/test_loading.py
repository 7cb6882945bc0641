"""Batches on the device: the same whichever way they come, also after an interruption."""

import copy
import threading
from itertools import count, repeat

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dml import loading
from dml.augmentation import centre_crops, train_batch
from dml.loading import CentreCrops, Loader, ahead
from dml.sampling import Batches

WAYS = ["direct", "resident", "ahead"]


@pytest.fixture
def loader(trainval, protocol):
    """Make a loader of every other image of the stripes, whose labels are other numbers than the images'."""
    images = trainval.subset(np.arange(1, len(trainval), 2))
    labels = images.labels - images.labels.min()
    mirrored = protocol.model_copy(update={"flip": 0.5})

    def make(way, seed=3, device="cpu"):
        order = Batches(labels, mirrored.batch_size, 4, np.random.default_rng(seed))
        return Loader(images, labels, order, mirrored, np.random.default_rng(seed + 1), device, way)

    return make


def take(loader, number):
    return [next(loader) for _ in range(number)]


def same(batches, others):
    return all(torch.equal(a, b) for pair in zip(batches, others, strict=True) for a, b in zip(*pair, strict=True))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


@pytest.mark.parametrize("way", WAYS)
def test_batches_are_those_of_train_batch(loader, way):
    with loader(way) as batches, loader("direct") as other:
        for crops, labels in take(batches, 7):
            indices = next(other.order)
            expected = train_batch(other.images, indices, other.crop_size, *other.views, other.rng)
            assert torch.equal(crops, expected) and crops.is_contiguous(memory_format=torch.channels_last)
            assert labels.tolist() == (other.images.labels[indices] - other.images.labels.min()).tolist()
            assert (crops.dtype, labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", [0, 1, 6])
def test_the_state_is_that_of_the_batches_handed_out(loader, way, after):
    """A thread has drawn ahead by then."""
    with loader(way) as first, loader("direct") as direct:
        take(first, after), take(direct, after)
        state = first.state_dict()
        assert state == direct.state_dict()
        state = copy.deepcopy(state)
        rest = take(first, 5)
    for other_way in WAYS:
        with loader(other_way, seed=50) as other:
            take(other, 3)
            other.load_state_dict(state)
            assert same(take(other, 5), rest)


def test_what_was_made_ahead_is_made_again_after_the_end_of_the_thread(loader):
    with loader("ahead") as batches, loader("direct") as direct:
        found = take(batches, 3)
        assert len(threads()) == 1
        batches.close()
        assert threads() == []
        assert same(found + take(batches, 4), take(direct, 7))


def test_a_thread_is_there_only_where_it_is_needed(loader):
    for way in ("direct", "resident"):
        with loader(way) as batches:
            take(batches, 1)
            assert threads() == []


def test_the_thread_of_a_forgotten_loader_ends(loader):
    batches = loader("ahead")
    take(batches, 1)
    del batches
    assert threads() == []


def test_what_fails_in_the_thread_fails_in_the_training(loader, monkeypatch):
    numbers = count()

    def fails(*arguments):
        if next(numbers) == 3:
            raise OSError("the disk is gone")
        return train_batch(*arguments)

    monkeypatch.setattr(loading, "train_batch", fails)
    with loader("ahead") as batches, loader("direct") as other:
        monkeypatch.undo()
        expected = take(other, 3)
        monkeypatch.setattr(loading, "train_batch", fails)
        assert same(take(batches, 3), expected)
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)


def test_resident_batches_are_made_on_a_gpu_without_waiting_for_it(loader):
    """Fake tensors have a device but no values: what mixes devices or needs a value from the GPU raises."""
    with FakeTensorMode():
        with loader("resident", device="cuda") as batches:
            crops, labels = next(batches)
        assert crops.is_cuda and labels.is_cuda and crops.dtype == torch.uint8
        assert crops.shape == (12, 3, 16, 16) and crops.is_contiguous(memory_format=torch.channels_last)


# --- the thread


def test_no_more_is_made_ahead_than_is_said():
    made, more = [], threading.Event()

    def make(number):
        made.append(number)
        if number == loading.AHEAD:
            more.set()
        return torch.tensor(number)

    batches = ahead(make, count(), "cpu")
    assert made == []
    assert next(batches).item() == 0
    assert more.wait(10)
    assert next(batches).item() == 1
    batches.close()
    assert made == list(range(loading.AHEAD + 2))


@pytest.mark.parametrize("number", [0, 1, 3, 20])
def test_it_ends_with_its_items(number):
    found = ahead(lambda n: torch.tensor(n), range(number), "cpu")
    assert [batch.item() for batch in found] == list(range(number))


def test_its_work_is_done_by_another_thread():
    names = []
    batches = ahead(lambda _: names.append(threading.current_thread().name) or torch.zeros(1), repeat(None), "cpu")
    next(batches)
    batches.close()
    assert len(set(names)) == 1 and names[0].startswith("ahead")


# --- how much is kept on the device


@pytest.mark.parametrize("share, way", [(1.01, "resident"), (0.99, "ahead")])
def test_images_stay_on_a_gpu_where_they_fit(trainval, monkeypatch, share, way):
    images = trainval.subset(np.arange(5))
    size = int((images.heights * images.widths * 3).sum())
    free = round(size / loading.RESIDENT_SHARE * share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100 * free))
    assert loading.way_to("cuda:1", images) == way
    assert loading.way_to("cpu", images) == "direct"


@pytest.mark.parametrize("batch_size", [1, 7, 72, 1000])
def test_centre_crops_of_all_images_in_order(held_out, batch_size):
    batches = CentreCrops(held_out, 16, "cpu", batch_size)
    for _ in range(2):
        found = list(batches)
        assert [len(batch) for batch in found[:-1]] == [batch_size] * (len(found) - 1)
        assert torch.equal(torch.cat(found), centre_crops(held_out, range(len(held_out)), 16))


def test_kept_centre_crops_are_made_once(held_out, monkeypatch):
    monkeypatch.setattr(loading, "fits", lambda size, device: True)
    batches = CentreCrops(held_out, 16, "cpu", 10, keep=True)
    assert not batches.keeps  # a CPU has them already
    batches.keeps = True
    assert next(iter(batches)).shape == (10, 3, 16, 16)  # a pass that is broken off keeps nothing
    first = list(batches)
    monkeypatch.setattr(loading, "centre_crops", None)
    assert all(a is b for a, b in zip(first, batches, strict=True))


def test_centre_crops_larger_than_an_image_are_refused(held_out):
    with pytest.raises(ValueError, match="crop_size is 64"):
        list(CentreCrops(held_out, 64, "cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", ["resident", "ahead"])
def test_batches_on_a_gpu_are_those_of_the_cpu(trainval, held_out, protocol, way):
    def batches(device, way):
        order = Batches(trainval.labels, 12, 4, np.random.default_rng(0))
        return Loader(trainval, trainval.labels, order, protocol, np.random.default_rng(1), device, way)

    with batches("cuda", way) as found, batches("cpu", "direct") as expected:
        torch.cuda.set_sync_debug_mode("error")
        made = take(found, 20)
        torch.cuda.set_sync_debug_mode("default")
        for (crops, labels), own in zip(made, take(expected, 20), strict=True):
            assert crops.is_cuda and crops.is_contiguous(memory_format=torch.channels_last)
            assert same([(crops.cpu(), labels.cpu())], [own])
    kept = CentreCrops(held_out, 16, "cuda", 10, keep=True)
    for _ in range(2):
        assert torch.equal(torch.cat(list(kept)).cpu(), centre_crops(held_out, range(len(held_out)), 16))
