"""A data set small enough to train on in a second: stripes, whose direction is the class, in any two colours."""

import gc
import os

# Before torch is imported: tests that train are small, and share the machine with others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from server import serving

from dml import downloading
from dml.images import Image, PackedImages, pack
from dml.protocol import Protocol
from dml.splits import half_of, write_folds
from dml.tabulation import number, write_csv, write_markdown


def pytest_addoption(parser):
    parser.addoption("--fidelity", type=Path, help="folder for a table of what the fidelity tests measured")


def pytest_configure(config):
    config.addinivalue_line("markers", "fidelity(piece, beside, unit): shows that a piece does what the paper did")
    config.stash[MEASURED] = {}


LONGEST = (
    "test_slurm", "test_workflow", "test_workflow_field", "test_survival", "test_workflow_benchmarks", "test_trunks",
)  # fmt: skip
"""Files of tests that take minutes: first, so that what runs beside them is not waited for in the end."""


def pytest_collection_modifyitems(items):
    rank = {name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish(session):
    gc.freeze()  # some libraries look for garbage again and again, among millions of objects that stay


MEASURED = pytest.StashKey[dict]()
CAPTION = "The largest deviation of any test of a piece, each of which also has a tolerance that it keeps."


@pytest.fixture
def deviates(request):
    """Call it with how far a result is from what it should be; the largest stands in the table of `make fidelity`."""
    piece, beside, unit = request.node.get_closest_marker("fidelity").args
    found = request.config.stash[MEASURED].setdefault((piece, beside, unit), [])
    return lambda deviation: found.append((request.node.nodeid, float(deviation)))


def pytest_sessionfinish(session, exitstatus):
    folder = session.config.getoption("fidelity")
    if folder is None or exitstatus != 0:
        return  # a table of what failed would say that it keeps its tolerance
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for (piece, beside, unit), found in session.config.stash[MEASURED].items():
        tests, largest = len({node for node, _ in found}), max(deviation for _, deviation in found)
        rows.append({"piece": piece, "beside": beside, "tests": tests, "largest_deviation": largest, "unit": unit})
    table = pd.DataFrame(rows)
    write_csv(table, folder / "pieces.csv")
    cells = table.astype(object).assign(
        tests=table["tests"].map(str), largest_deviation=table["largest_deviation"].map(number)
    )
    cells.index = [""] * len(cells)
    write_markdown("Does each piece do what the paper did?", CAPTION, cells, folder / "pieces.md")


CLASSES = 18
IMAGES_PER_CLASS = 8
SIDE = 20


class StripesData(NamedTuple):
    """The files of a data set as the workflow's stages leave them: 9 trainval classes in 3 folds, 9 test classes."""

    trainval: Path
    test: Path
    folds: Path


def stripes(direction: float, rng: np.random.Generator) -> np.ndarray:
    """(SIDE + 3, SIDE, 3) uint8: noisy stripes of random colours, phase and width."""
    y, x = np.mgrid[: SIDE + 3, :SIDE]
    period = rng.uniform(5, 8)
    wave = np.sin(2 * np.pi * (x * np.cos(direction) + y * np.sin(direction)) / period + rng.uniform(0, 2 * np.pi))
    colours = rng.uniform(40, 215, (2, 3))
    image = colours[0] + (colours[1] - colours[0]) * (wave[..., None] > 0)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, which is asked again without waiting: see `server.py`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloading, "WAITS", (0, 0))
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def stripes_data(tmp_path_factory) -> StripesData:
    folder = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    # Neighbouring directions are far apart in the order of classes, so that every fold sees all directions.
    directions = {f"c{c:02}": np.pi * (c * 5 % CLASSES) / CLASSES for c in range(CLASSES)}
    listed = [Image(str(folder), f"{name}_{i}.png", name) for name in directions for i in range(IMAGES_PER_CLASS)]
    for image in listed:
        PIL.Image.fromarray(stripes(directions[image.label_name], rng)).save(folder / image.path)
    for half in ("trainval", "test"):
        positions, labels = half_of(listed, half)
        pack([listed[i] for i in positions], labels, SIDE, folder / half, upright=False, progress=False)
    write_folds("stripes", listed, 3, folder / "folds.csv")
    return StripesData(folder / "trainval", folder / "test", folder / "folds.csv")


@pytest.fixture(scope="session")
def trainval(stripes_data) -> PackedImages:
    return PackedImages.open(stripes_data.trainval)


@pytest.fixture(scope="session")
def held_out(stripes_data) -> PackedImages:
    return PackedImages.open(stripes_data.test)


@pytest.fixture
def protocol() -> Protocol:
    """A protocol that trains for 4 steps on the stripes; `model_copy(update=...)` changes it."""
    return Protocol(
        trunk="convnet", embedding_size=8, freeze_batchnorm="nothing", resize=SIDE, crop_size=16, crop_scale=[0.6, 1.0],
        flip=0.0, learning_rate=1e-3, batch_size=12, epoch_steps=2, max_epochs=2, evaluate_every=1, patience=5, folds=3,
    )  # fmt: skip
