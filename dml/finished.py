"""Finished models: what they make of images, and the files that hold it."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dml import plugins
from dml.embedding import BATCH_SIZE, embed_batches, normalise_rows, raw_embeddings
from dml.files import read_bytes, write_bytes
from dml.images import PackedImages
from dml.record import embedding_code, provenance, read_json, write_json


class Finished:
    """The model of a training that has ended, on a device, compared by what its method compares images by.

    ValueError if the file is not the one that its record names.
    """

    def __init__(self, path: Path, record: dict[str, Any], device: str) -> None:
        from dml.method import Method
        from dml.model import load_model, set_precision

        if "model" not in record:
            raise ValueError(
                f"{path}: made by an older version of dml: delete the folder {path.parents[1]} and run again"
            )
        set_precision(record["protocol"]["precision"])
        self.protocol, self.device, plugin = record["protocol"], device, record["plugin"]
        self.network = load_model(path, record).to(device)
        self.retrieval = plugins.load_class("methods", plugin, Method).retrieval if plugin else None

    def embed(self, images: PackedImages) -> np.ndarray:
        """L2-normalised embeddings (N, D), float32, of the centre crops of N images."""
        return self._all_crops(images, embed_batches)

    def raw(self, images: PackedImages, poolings: Sequence[str] = ()) -> list[np.ndarray]:
        """Embeddings (N, D) as long as the network makes them; then those with each of other `poolings`."""
        return self._all_crops(images, raw_embeddings, poolings)

    def _all_crops(self, images: PackedImages, function, *arguments):
        from dml.loading import CentreCrops
        from dml.runs import naming_what_needs_memory, of_pixels

        crop_size = self.protocol["crop_size"]
        what = f"batches of {BATCH_SIZE} images {of_pixels(crop_size, self.protocol['trunk'])}"
        with naming_what_needs_memory(what, "lower crop_size", self.device):
            return function(self.network, CentreCrops(images, crop_size, self.device), self.retrieval, *arguments)


def embed_test(
    model: Path,
    record: dict[str, Any],
    test: Path,
    output: Path,
    device: str,
    threads: int,
    views: Sequence[str] = (),
) -> None:
    """Embed the packed images `test` with a saved model; write (N, D) float32 as .npy, and what made them as .json.

    They are L2-normalised. `views` are written beside them, as long as the network makes them: `raw`, or a pooling in
    the place of the protocol's. Of a training that failed there is nothing to embed: (0, D) is written. ValueError if
    the model's file is not the one that its record names.
    """
    import torch

    from dml.runs import resolve_device

    started = time.monotonic()
    torch.set_num_threads(threads)
    device = resolve_device(device)
    images, poolings = PackedImages.open(test), [view for view in views if view != "raw"]
    found = [np.empty((0, record["embedding_size"]), dtype=np.float32)] * (1 + len(poolings))
    if record["failure"] is None:
        found = Finished(model, record, device).raw(images, poolings)
    named = dict(zip(["raw", *poolings], found, strict=True))
    made = {
        "sha256": write_bytes(output, _as_npy(normalise_rows(named["raw"]))),
        "views": {view: write_bytes(output.with_name(f"{view}.npy"), _as_npy(named[view])) for view in views},
        "model": record["model"],
        "test": images.fingerprint,
        "code": embedding_code(),
        "seconds": round(time.monotonic() - started, 3),
        "provenance": provenance(device, torch.get_num_threads()),
    }
    write_json(output.with_suffix(".json"), made)


def load_embeddings(path: Path, view: str = "") -> np.ndarray:
    """What `embed_test` wrote (N, D). ValueError if the file is not whole: it is set aside."""
    made = read_json(path.with_suffix(".json"))
    if view:
        return np.load(io.BytesIO(read_bytes(path.with_name(f"{view}.npy"), made["views"][view])))
    return np.load(io.BytesIO(read_bytes(path, made["sha256"])))


def _as_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
