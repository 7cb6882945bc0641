"""From finished models to metrics on the test half."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dml import plugins
from dml.embedding import BATCH_SIZE, concatenate, embed
from dml.files import read_bytes, write_bytes
from dml.images import PackedImages
from dml.measuring import measure
from dml.neighbours import Neighbours, neighbours, usable_cores
from dml.protocol import Protocol
from dml.record import embedding_code, evaluation_code, provenance, read_json, write_json
from dml.seeds import derive_seed


def embed_test(model: Path, record: dict[str, Any], test: Path, output: Path, device: str, threads: int) -> None:
    """Embed the packed images `test` with a saved model; write (N, D) float32 as .npy, and what made them as .json.

    Of a training that failed there is nothing to embed: (0, D) is written. ValueError if the model's file is not the
    one that its record names.
    """
    import torch

    from dml.method import Method
    from dml.model import load_model, set_precision
    from dml.runs import naming_what_needs_memory, of_pixels, resolve_device

    started = time.monotonic()
    if "model" not in record:
        raise ValueError(
            f"{model}: made by an older version of dml: delete the folder {model.parents[1]} and run again"
        )
    torch.set_num_threads(threads)
    device = resolve_device(device)
    images = PackedImages.open(test)
    embeddings = np.empty((0, record["embedding_size"]), dtype=np.float32)
    if record["failure"] is None:
        protocol = Protocol.check(record["protocol"] | {"weights": None}, str(model))
        set_precision(protocol.precision)
        network = load_model(model, record).to(device)
        plugin = record["plugin"]
        retrieval = plugins.load_class("methods", plugin, Method).retrieval if plugin else None
        with naming_what_needs_memory(
            f"batches of {BATCH_SIZE} images {of_pixels(protocol)}", "lower crop_size", device
        ):
            embeddings = embed(network, images, protocol.crop_size, device, retrieval=retrieval)
    buffer = io.BytesIO()
    np.save(buffer, embeddings)
    made = {
        "sha256": write_bytes(output, buffer.getvalue()),
        "model": record["model"],
        "test": images.fingerprint,
        "code": embedding_code(),
        "seconds": round(time.monotonic() - started, 3),
        "provenance": provenance(device, torch.get_num_threads()),
    }
    write_json(output.with_suffix(".json"), made)


def load_embeddings(path: Path) -> np.ndarray:
    """What `embed_test` wrote (N, D). ValueError if the file is not whole: it is set aside."""
    return np.load(io.BytesIO(read_bytes(path, read_json(path.with_suffix(".json"))["sha256"])))


def measure_seed(
    embeddings: Sequence[Path], records: Sequence[dict[str, Any]], test: Path, output: Path, output_queries: Path
) -> None:
    """Every metric of one seed: of each fold's embeddings alone (separated) and of all joined (concatenated).

    `output` gets the means, the number of queries and the records; `output_queries` the per-query values, as arrays
    `<embedding>/<fold>/<metric>`, and `queries`, their positions among the images (of a data set that
    names its queries: among those). A seed with a failed fold has no metrics, and says why. ValueError if embeddings
    are damaged, or were made of another model, of other images or by other code.
    """
    started = time.monotonic()
    images = PackedImages.open(test)
    embedded = [read_json(path.with_suffix(".json")) for path in embeddings]
    for path, made, record in zip(embeddings, embedded, records, strict=True):
        expected = {"model": record["model"], "test": images.fingerprint, "code": embedding_code()}
        for what, value in expected.items():
            if made[what] != value:
                raise ValueError(f"{path}: of another {what} than the one that is there now; delete it and run again")
    seed, root = records[0]["seed"], records[0]["protocol"]["seed"]
    failures = [f"fold {r['fold']}: {r['failure']}" for r in records if r["failure"] is not None]
    rows, queries = [], {}
    if not failures:
        folds = [load_embeddings(path) for path in embeddings]
        runs = [("separated", record["fold"], vectors) for record, vectors in zip(records, folds, strict=True)]
        for kind, fold, vectors in [*runs, ("concatenated", None, concatenate(folds))]:
            found = _ranked(vectors, images, derive_seed(root, "clusters", seed) % 2**31)
            for metric, values in sorted(measure(found).items()):
                rows.append(
                    {
                        "embedding": kind,
                        "retrieval": "",
                        "fold": fold,
                        "metric": metric,
                        "value": float(np.mean(values)),
                        "n_queries": found.n_queries,
                    }
                )
                if np.ndim(values):
                    queries[f"{kind}/{'all' if fold is None else fold}/{metric}"] = values.astype(np.float32)
            queries["queries"] = found.queries
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **queries)
    write_bytes(output_queries, buffer.getvalue())
    identity = {"dataset": records[0]["dataset"], "method": records[0]["method"], "seed": seed}
    write_json(
        output,
        identity
        | {
            "metrics": rows,
            "failure": "; ".join(failures) or None,
            "records": records,
            "embedded": embedded,
            "test": images.fingerprint,
            "code": evaluation_code(),
            "seconds": round(time.monotonic() - started, 3),
            "provenance": provenance("cpu", usable_cores()),
        },
    )


def _ranked(vectors: np.ndarray, images: PackedImages, seed: int) -> Neighbours:
    """Every image against all others; where the data set names queries and a gallery, those against these."""
    if images.queries is None:
        return neighbours(vectors, images.labels, seed=seed)
    queries, gallery = images.queries, ~images.queries
    return neighbours(vectors[queries], images.labels[queries], vectors[gallery], images.labels[gallery], seed=seed)
