"""From finished models to metrics on the test half."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dml.embedding import concatenate, embed
from dml.files import whole
from dml.images import PackedImages
from dml.measuring import measure
from dml.neighbours import Neighbours, neighbours
from dml.protocol import Protocol
from dml.record import evaluation_code, write_json
from dml.seeds import derive_seed


def embed_test(model: Path, record: dict[str, Any], test: Path, output: Path, device: str, threads: int) -> None:
    """Embed the packed images `test` with a saved model; write (N, D) float32 as .npy.

    Of a training that failed there is nothing to embed: (0, D) is written.
    """
    import torch

    from dml.model import Model, load_state
    from dml.runs import resolve_device

    torch.set_num_threads(threads)
    device = resolve_device(device)
    if record["failure"] is not None:
        _save(output, np.empty((0, record["embedding_size"]), dtype=np.float32))
        return
    protocol = Protocol.check(record["protocol"] | {"weights": None}, str(model))  # its weights are the model's now
    state = load_state(model)
    network = Model(protocol, has_head="head.weight" in state)
    network.load_state_dict(state)
    images = PackedImages.open(test)
    _save(output, embed(network.to(device), images, protocol.crop_size, device))


def measure_seed(
    embeddings: Sequence[Path], records: Sequence[dict[str, Any]], test: Path, output: Path, output_queries: Path
) -> None:
    """Every metric of one seed: of each fold's embeddings alone (separated) and of all joined (concatenated).

    `output` gets the means, the number of queries and the records; `output_queries` the per-query values, as arrays
    `<embedding>/<fold>/<metric>`, and `queries`, their positions among the images (of a data set that
    names its queries: among those). A seed with a failed fold has no metrics, and says why.
    """
    images = PackedImages.open(test)
    seed, root = records[0]["seed"], records[0]["protocol"]["seed"]
    failures = [f"fold {r['fold']}: {r['failure']}" for r in records if r["failure"] is not None]
    rows, queries = [], {}
    if not failures:
        folds = [np.load(path) for path in embeddings]
        runs = [("separated", record["fold"], vectors) for record, vectors in zip(records, folds, strict=True)]
        for kind, fold, vectors in [*runs, ("concatenated", None, concatenate(folds))]:
            found = _ranked(vectors, images, derive_seed(root, "clusters", seed) % 2**31)
            for metric, values in sorted(measure(found).items()):
                rows.append(
                    {
                        "embedding": kind,
                        "fold": fold,
                        "metric": metric,
                        "value": float(np.mean(values)),
                        "n_queries": found.n_queries,
                    }
                )
                if np.ndim(values):
                    queries[f"{kind}/{'all' if fold is None else fold}/{metric}"] = values.astype(np.float32)
            queries["queries"] = found.queries
    with whole(output_queries) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **queries)
    identity = {"dataset": records[0]["dataset"], "method": records[0]["method"], "seed": seed}
    write_json(
        output,
        identity
        | {
            "metrics": rows,
            "failure": "; ".join(failures) or None,
            "records": records,
            "test": images.fingerprint,
            "code": evaluation_code(),
        },
    )


def _ranked(vectors: np.ndarray, images: PackedImages, seed: int) -> Neighbours:
    """Every image against all others; where the data set names queries and a gallery, those against these."""
    if images.queries is None:
        return neighbours(vectors, images.labels, seed=seed)
    queries, gallery = images.queries, ~images.queries
    return neighbours(vectors[queries], images.labels[queries], vectors[gallery], images.labels[gallery], seed=seed)


def _save(path: Path, array: np.ndarray) -> None:
    with whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
