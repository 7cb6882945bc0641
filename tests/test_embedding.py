"""Embeddings: one unit vector per image, in order, whatever the batches; several models joined."""

import numpy as np
import pytest
import torch
from torch import nn

from dml.embedding import concatenate, embed, embed_batches, normalise_rows
from dml.images import PackedImages
from dml.loading import CentreCrops
from dml.method import Outputs
from dml.model import Model


class MeanColours(nn.Module):
    """Embeds an image as the means of its pixels' channels and remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, crops):
        self.calls.append((len(crops), self.training, torch.is_inference_mode_enabled()))
        means = crops.double().mean(dim=(2, 3))
        return Outputs(means, means)


def plain_images(colours, side=6):
    """Images of one colour each."""
    pixels = np.concatenate([np.tile(np.uint8(colour), (side, side, 1)).ravel() for colour in colours])
    count = len(colours)
    sides = np.full(count, side)
    return PackedImages(
        pixels, np.arange(count) * side * side * 3, sides, sides, np.arange(count), np.arange(count).astype(str), "f"
    )


COLOURS = np.random.default_rng(2).integers(1, 256, (11, 3))


def test_rows_are_unit_vectors_in_the_order_of_the_images():
    found = embed(MeanColours(), plain_images(COLOURS), crop_size=4, batch_size=4)
    assert found.dtype == np.float32 and found.shape == (11, 3)
    expected = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_image_is_seen_once_in_evaluation_mode():
    model = MeanColours().train()
    embed(model, plain_images(COLOURS), crop_size=4, batch_size=4)
    assert model.calls == [(4, False, True), (4, False, True), (3, False, True)]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_it_was(training):
    model = MeanColours().train(training)
    embed(model, plain_images(COLOURS), crop_size=4)
    assert model.training == training


@pytest.mark.parametrize("frozen", ["nothing", "statistics", "everything"])
def test_frozen_batch_normalisation_stays_frozen(held_out, protocol, frozen):
    model = Model(protocol.model_copy(update={"freeze_batchnorm": frozen}), has_head=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embed(model, held_out, crop_size=16)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {frozen == "nothing"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_neither_the_batches_nor_the_other_images_matter(held_out, protocol):
    torch.manual_seed(0)
    model = Model(protocol, has_head=True)
    whole = embed(model, held_out, crop_size=16)
    assert len(whole) == len(held_out) == 72
    for batch_size in (1, 5, 72, 1000):
        np.testing.assert_allclose(embed(model, held_out, 16, batch_size=batch_size), whole, atol=1e-6)
    some = np.array([70, 3, 41])
    np.testing.assert_allclose(embed(model, held_out.subset(some), crop_size=16), whole[some], atol=1e-6)


def test_the_middle_of_each_image_is_seen():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[2:6, 2:6] = (3, 0, 4)
    image[0] = 255
    sides = np.array([8])
    images = PackedImages(image.ravel(), np.array([0]), sides, sides, np.array([0]), np.array(["x"]), "f")
    np.testing.assert_allclose(embed(MeanColours(), images, crop_size=4), [[0.6, 0, 0.8]], rtol=1e-6)


def test_what_a_model_gives_is_kept_and_not_what_it_is_a_part_of():
    class Reuses(MeanColours):
        """Gives a view of what it writes to again the next time."""

        memory = torch.empty(4, 2, 3)

        def forward(self, crops):
            view = self.memory[: len(crops), 0]
            return Outputs(view.copy_(super().forward(crops).embeddings), None)

    expected = embed(MeanColours(), plain_images(COLOURS), crop_size=4, batch_size=4)
    np.testing.assert_allclose(embed(Reuses(), plain_images(COLOURS), crop_size=4, batch_size=4), expected, rtol=1e-6)


def test_batches_may_be_given():
    batches = CentreCrops(plain_images(COLOURS), 4, "cpu", batch_size=5)
    expected = embed(MeanColours(), plain_images(COLOURS), crop_size=4)
    for _ in range(2):
        np.testing.assert_array_equal(embed_batches(MeanColours(), batches), expected)


def test_embeddings_that_are_not_finite_are_handed_on():
    class Nothing(MeanColours):
        def forward(self, crops):
            return Outputs(torch.full((len(crops), 2), torch.nan), None)

    assert np.isnan(embed(Nothing(), plain_images(COLOURS), crop_size=4)).all()


def test_rows_of_zeros_stay_zero():
    found = normalise_rows(np.array([[0.0, 0.0], [3.0, -4.0]]))
    np.testing.assert_allclose(found, [[0, 0], [0.6, -0.8]])


def test_joined_embeddings_are_normalised_part_by_part_and_as_a_whole():
    """Each fold's vector counts the same, however long it was, and the ensemble's is a unit vector again."""
    parts = [np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[0.0, 0.0, 100.0], [1e-3, 0.0, 0.0]])]
    half = 1 / np.sqrt(2)
    expected = [[0.6 * half, 0.8 * half, 0, 0, half], [0, half, half, 0, 0]]
    np.testing.assert_allclose(concatenate(parts), expected)


def test_the_cosine_of_joined_embeddings_is_the_mean_of_their_cosines():
    rng = np.random.default_rng(0)
    parts = [normalise_rows(rng.normal(size=(5, size)).astype(np.float32)) for size in (4, 4, 7)]
    joined = concatenate(parts)
    assert joined.shape == (5, 15) and joined.dtype == np.float32
    np.testing.assert_allclose(joined @ joined.T, sum(part @ part.T for part in parts) / 3, atol=1e-6)
    np.testing.assert_allclose(concatenate([4 * parts[0], parts[1] / 9, parts[2]]), joined, atol=1e-6)


def test_one_embedding_alone_stays_as_it_is():
    part = normalise_rows(np.random.default_rng(0).normal(size=(5, 4)))
    np.testing.assert_allclose(concatenate([part]), part)


def test_embeddings_of_other_images_do_not_join():
    with pytest.raises(ValueError):
        concatenate([np.ones((3, 2)), np.ones((4, 2))])
