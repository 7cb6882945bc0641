"""Every method learns: a short training on the demo's glyphs ends above the untrained trunk."""

from functools import partial
from typing import NamedTuple

import pytest

from dml import plugins
from dml.datasets import glyphs
from dml.images import PackedImages, pack
from dml.method import Method
from dml.protocol import Protocol
from dml.splits import Fold, half_of, read_folds, write_folds
from dml.training import train
from dml.trial import Trial

NAMES = [name for name in plugins.names("methods") if plugins.load_class("methods", name, Method).trains]
PROTOCOL = Protocol(
    trunk="convnet", embedding_size=64, freeze_batchnorm="nothing", resize=24, crop_size=20, crop_scale=[0.7, 1.0],
    flip=0.0, learning_rate=1e-3, batch_size=32, epoch_steps=20, max_epochs=8, evaluate_every=2, patience=9,
)  # fmt: skip

FROM_SCRATCH = {
    "a_bier": {"negative_cost": 5.0},  # with 25, embeddings that begin alike are for long only pushed apart
    "irt_r": {"margin": 0.8},  # below it the many pushes of the memory drown the few pulls where all are alike
    "proxy_gml": {"loss_lr": 1e-4},  # 0.03 is for shorter steps: proxies fit the images before the trunk learns
    "epshn": {"images_per_class": 16},  # of 4 images, even the easiest positive is behind most negatives
}
"""What cannot be as its file has it, where nothing is pretrained and steps are this few."""


class Data(NamedTuple):
    trainval: PackedImages
    fold: Fold


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    folder = tmp_path_factory.mktemp("glyphs")
    pictures = glyphs.prepare(folder)
    positions, labels = half_of(pictures, "trainval")
    pack([pictures[i] for i in positions], labels, PROTOCOL.resize, folder / "trainval", upright=False, progress=False)
    write_folds("glyphs", pictures, 4, folder / "folds.csv", glyphs.super_class)
    return Data(PackedImages.open(folder / "trainval"), read_folds(folder / "folds.csv")[0])


def trained(name, data, protocol=PROTOCOL):
    """With the defaults of its file but for `FROM_SCRATCH`, and a teacher that was trained likewise if it wants one."""
    literal = partial(plugins.literal, "methods", name)
    values = {"images_per_class": literal("IMAGES_PER_CLASS")} | literal("DEFAULTS") | FROM_SCRATCH.get(name, {})
    trial = Trial(method=name, images_per_class=values.pop("images_per_class"), parameters=values)
    if literal("BATCH_EXCEEDS_EMBEDDING"):
        protocol = protocol.model_copy(update={"embedding_size": protocol.batch_size // 2})
    teacher = trained(literal("TEACHER"), data).model if literal("TEACHER") else None
    return train(trial, protocol, data.trainval, data.fold, seed=0, teacher=teacher)


@pytest.mark.parametrize("name", NAMES)
def test_validation_ends_above_the_untrained_trunk(name, data):
    outcome = trained(name, data)
    assert outcome.failure is None
    assert outcome.score > 1.2 * outcome.curve[0]["map_at_r"]
