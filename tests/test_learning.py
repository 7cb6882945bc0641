"""Every method learns: a short training on the demo's glyphs ends above the untrained trunk."""

from pathlib import Path

import pytest

from dml import plugins
from dml.datasets import glyphs
from dml.images import PackedImages, pack
from dml.method import Method
from dml.protocol import Protocol
from dml.splits import folds, half_of
from dml.training import train
from dml.trial import Trial

NAMES = [name for name in plugins.names("methods") if plugins.load_class("methods", name, Method).trains]
PROTOCOL = Protocol(
    trunk="convnet", embedding_size=64, freeze_batchnorm="nothing", resize=24, crop_size=20, crop_scale=[0.7, 1.0],
    flip=0.0, learning_rate=1e-3, batch_size=32, epoch_steps=20, max_epochs=4, evaluate_every=2, patience=9,
)  # fmt: skip


@pytest.fixture(scope="module")
def trainval(tmp_path_factory) -> PackedImages:
    folder = tmp_path_factory.mktemp("glyphs")
    pictures = glyphs.prepare(folder)
    positions, labels = half_of(pictures, "trainval")
    stem = Path(folder, "trainval")
    pack([pictures[i] for i in positions], labels, PROTOCOL.resize, stem, upright=False, progress=False)
    return PackedImages.open(stem)


@pytest.mark.parametrize("name", NAMES)
def test_validation_ends_above_the_untrained_trunk(name, trainval):
    """With the defaults of its file and 80 steps."""
    trial = Trial(
        method=name,
        images_per_class=plugins.literal("methods", name, "IMAGES_PER_CLASS"),
        parameters=plugins.literal("methods", name, "DEFAULTS"),
    )
    outcome = train(trial, PROTOCOL, trainval, folds(60)[0], seed=0)
    assert outcome.failure is None
    assert outcome.score > 1.1 * outcome.curve[0]["map_at_r"]
