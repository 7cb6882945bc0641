"""From finished models to metrics on the test half."""

import io
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dml.binary import binarise
from dml.embedding import concatenate, normalise_rows
from dml.files import write_bytes
from dml.finished import Finished, load_embeddings
from dml.images import PackedImages
from dml.measuring import measure
from dml.neighbours import Neighbours, neighbours, usable_cores
from dml.record import embedding_code, evaluation_code, of_models, provenance, read_json, write_json
from dml.seeds import derive_seed
from dml.study import Rerank, Retrieval


def measure_seed(
    embeddings: Sequence[Path],
    records: Sequence[dict[str, Any]],
    test: Path,
    output: Path,
    output_queries: Path,
    ways: Mapping[str, Retrieval] | None = None,
) -> None:
    """Every metric of one seed: of each fold's embeddings alone (separated) and of all joined (concatenated).

    With other `ways` of retrieval the metrics of rankings are taken of each of them too.

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
        cluster_seed = derive_seed(root, "clusters", seed) % 2**31
        rows, queries = _measured(embeddings, records, images, cluster_seed)
        for name, way in (ways or {}).items():
            rows += _measured(embeddings, records, images, cluster_seed, name, way)[0]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **queries)
    write_bytes(output_queries, buffer.getvalue())
    made = of_models(records) | {
        "metrics": rows,
        "failure": "; ".join(failures) or None,
        "records": records,
        "embedded": embedded,
        "test": images.fingerprint,
        "code": evaluation_code(),
        "seconds": round(time.monotonic() - started, 3),
        "provenance": provenance("cpu", usable_cores()),
    }
    write_json(output, made)


def _measured(
    embeddings: Sequence[Path], records: Sequence[dict[str, Any]], images: PackedImages, seed: int, name: str = "",
    way: Retrieval | None = None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:  # fmt: skip
    """The rows and the per-query values of `measure_seed`, of one way of retrieval; of others only what ranks."""
    rows, queries = [], {}
    folds, joined = compared(embeddings, way)
    separated = [("separated", record["fold"], x) for record, x in zip(records, folds, strict=True)]
    for kind, fold, vectors in [*separated, ("concatenated", None, joined)]:
        found = _ranked(vectors, images, seed, way and way.rerank)
        for metric, values in sorted(measure(found, clusters=way is None).items()):
            place = {"embedding": kind, "retrieval": name, "fold": fold, "metric": metric}
            rows.append(place | {"value": float(np.mean(values)), "n_queries": found.n_queries})
            if np.ndim(values):
                queries[f"{kind}/{'all' if fold is None else fold}/{metric}"] = values.astype(np.float32)
        queries["queries"] = found.queries
    return rows, queries


def measure_checkpoints(
    checkpoints: Sequence[Path], models: Sequence[Path], records: Sequence[dict[str, Any]], test: Path, output: Path,
    device: str, threads: int,
) -> None:  # fmt: skip
    """P@1 and MAP@R on the test half of the models of all validations of one seed, the chosen ones marked.

    For one question only: how much better would results look if the test had chosen? Rows as `Results.selection`.
    ValueError if a file does not hold the models that its record tells of.
    """
    import torch

    from dml.model import load_checkpoints
    from dml.runs import resolve_device

    started = time.monotonic()
    torch.set_num_threads(threads)
    device, images, rows = resolve_device(device), PackedImages.open(test), []
    for path, model, record in zip(checkpoints, models, records, strict=True):
        if record["failure"] is not None:
            continue
        finished = Finished(model, record, device)
        validation = {point["step"]: point["map_at_r"] for point in record["curve"] if point["step"]}
        for step, state in load_checkpoints(path, record).items():
            finished.network.load_state_dict(state)
            values = measure(_ranked(finished.embed(images), images, 0), clusters=False)
            rows.append(
                {key: record[key] for key in ("dataset", "method", "seed", "fold")}
                | {"step": step, "validation": validation.pop(step), "chosen": step == record["best_step"]}
                | {name: float(np.mean(values[name])) for name in ("precision_at_1", "map_at_r")}
            )
        if validation:
            raise ValueError(f"{path}: no model of step {min(validation)}: delete {path.parent} and run again")
    made = of_models(records) | {
        "rows": rows,
        "test": images.fingerprint,
        "code": evaluation_code(),
        "seconds": round(time.monotonic() - started, 3),
        "provenance": provenance(device, torch.get_num_threads()),
    }
    write_json(output, made)


def compared(embeddings: Sequence[Path], way: Retrieval | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """What is compared: the vectors of each fold's model, and those of all joined; as they are, or in another way.

    With `beta` they are z + beta x, x being the embedding and z its direction, and compared as long as they are: "beta
    normalisation" of Group Loss++ (Elezi et al., PAMI 2022), who do not say what their beta is. The pooling average_max
    is the sum of what the head makes of both: "mixed pooling" there, with equal weights.
    """
    if way is None or not (way.pooling or way.beta):
        folds = [load_embeddings(path) for path in embeddings]
    else:
        poolings = ["average", "max"] if way.pooling == "average_max" else [way.pooling or "raw"]
        folds = [sum(load_embeddings(path, view) for view in poolings) for path in embeddings]
        if way.beta:
            folds = [normalise_rows(x) + np.float32(way.beta) * x for x in folds]
            return folds, np.concatenate(folds, axis=1)
        folds = [normalise_rows(x) for x in folds]
    joined = concatenate(folds)
    return ([binarise(x) for x in folds], binarise(joined)) if way is not None and way.binary else (folds, joined)


def _ranked(vectors: np.ndarray, images: PackedImages, seed: int, rerank: Rerank | None = None) -> Neighbours:
    """Every image against all others; where the data set names queries and a gallery, those against these."""
    rank = neighbours
    if rerank is not None:
        from dml.reranking import reranked  # which takes a while to load

        rank = partial(reranked, **rerank.model_dump())
    if images.queries is None:
        return rank(vectors, images.labels, seed=seed)
    queries, gallery = images.queries, ~images.queries
    return rank(vectors[queries], images.labels[queries], vectors[gallery], images.labels[gallery], seed=seed)
