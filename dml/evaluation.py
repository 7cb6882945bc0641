"""From finished models to metrics on the test half."""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dml import plugins
from dml.binary import binarise
from dml.embedding import BATCH_SIZE, concatenate, embed_batches, normalise_rows, raw_embeddings
from dml.embedding_space import describe
from dml.files import read_bytes, write_bytes
from dml.images import PackedImages
from dml.measuring import measure
from dml.neighbours import Neighbours, neighbours, usable_cores
from dml.protocol import Protocol
from dml.record import embedding_code, evaluation_code, provenance, read_json, write_json
from dml.seeds import derive_seed
from dml.splits import read_folds
from dml.study import Rerank, Retrieval

if TYPE_CHECKING:
    from torch import Tensor


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
    if "model" not in record:
        raise ValueError(
            f"{model}: made by an older version of dml: delete the folder {model.parents[1]} and run again"
        )
    torch.set_num_threads(threads)
    device = resolve_device(device)
    images = PackedImages.open(test)
    found = dict.fromkeys(("raw", *views), np.empty((0, record["embedding_size"]), dtype=np.float32))
    if record["failure"] is None:
        found = _views(model, record, images, device, views)
    made = {
        "sha256": write_bytes(output, _as_npy(normalise_rows(found["raw"]))),
        "views": {view: write_bytes(output.with_name(f"{view}.npy"), _as_npy(found[view])) for view in views},
        "model": record["model"],
        "test": images.fingerprint,
        "code": embedding_code(),
        "seconds": round(time.monotonic() - started, 3),
        "provenance": provenance(device, torch.get_num_threads()),
    }
    write_json(output.with_suffix(".json"), made)


def _views(
    model: Path, record: dict[str, Any], images: PackedImages, device: str, views: Sequence[str]
) -> dict[str, np.ndarray]:
    """The embeddings of a finished model as they are, `raw`, and with every pooling among the views."""
    from dml.loading import CentreCrops
    from dml.model import Pooling, load_model, set_precision
    from dml.runs import naming_what_needs_memory, of_pixels

    protocol = Protocol.check(record["protocol"] | {"weights": None}, str(model))
    set_precision(protocol.precision)
    network, retrieval = load_model(model, record).to(device), retrieval_of(record)
    crops = CentreCrops(images, protocol.crop_size, device)
    found = {}
    with naming_what_needs_memory(f"batches of {BATCH_SIZE} images {of_pixels(protocol)}", "lower crop_size", device):
        found["raw"] = raw_embeddings(network, crops, retrieval)
        for pooling in (view for view in views if view != "raw"):
            network.pooling = Pooling(pooling, learns=False)
            found[pooling] = raw_embeddings(network, crops, retrieval)
    return found


def retrieval_of(record: dict[str, Any]) -> "Callable[[Tensor], Tensor] | None":
    """What the method of a final model compares images by: see `dml.method.Method`."""
    from dml.method import Method

    return plugins.load_class("methods", record["plugin"], Method).retrieval if record["plugin"] else None


def _as_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def load_embeddings(path: Path, view: str = "") -> np.ndarray:
    """What `embed_test` wrote (N, D). ValueError if the file is not whole: it is set aside."""
    made = read_json(path.with_suffix(".json"))
    if view:
        return np.load(io.BytesIO(read_bytes(path.with_name(f"{view}.npy"), made["views"][view])))
    return np.load(io.BytesIO(read_bytes(path, made["sha256"])))


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
        folds = [load_embeddings(path) for path in embeddings]
        cluster_seed = derive_seed(root, "clusters", seed) % 2**31
        for kind, fold, vectors in _separated_and_joined(records, folds, concatenate(folds)):
            found = _ranked(vectors, images, cluster_seed)
            place = {"embedding": kind, "retrieval": "", "fold": fold}
            for metric, values in sorted(measure(found).items()):
                rows.append(place | _mean_of(metric, values, found))
                if np.ndim(values):
                    queries[f"{kind}/{'all' if fold is None else fold}/{metric}"] = values.astype(np.float32)
            queries["queries"] = found.queries
        for name, way in (ways or {}).items():
            folds, joined = compared(embeddings, way)
            for kind, fold, vectors in _separated_and_joined(records, folds, joined):
                found = _ranked(vectors, images, cluster_seed, way.rerank)
                place = {"embedding": kind, "retrieval": name, "fold": fold}
                rows += [place | _mean_of(*item, found) for item in sorted(measure(found, clusters=False).items())]
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


def measure_space(
    models: Sequence[Path], records: Sequence[dict[str, Any]], trainval: Path, folds: Path, output: Path, device: str,
    threads: int,
) -> None:  # fmt: skip
    """The geometry of the embeddings of each final model's own training classes: see `dml.embedding_space`.

    Centre crops, as in the test. Rows as those of `measure_seed`, with the embedding `training`.
    """
    import torch

    from dml.loading import CentreCrops
    from dml.model import load_model, set_precision
    from dml.runs import resolve_device
    from dml.training import of_classes

    torch.set_num_threads(threads)
    device, images, rows = resolve_device(device), PackedImages.open(trainval), []
    for model, record in zip(models, records, strict=True):
        if record["failure"] is not None:
            continue
        set_precision(record["protocol"]["precision"])
        own, labels = of_classes(images, read_folds(folds)[record["fold"]].train)
        crops = CentreCrops(own, record["protocol"]["crop_size"], device)
        embeddings = embed_batches(load_model(model, record).to(device), crops, retrieval_of(record))
        place = {"embedding": "training", "retrieval": "", "fold": record["fold"], "n_queries": len(labels)}
        rows += [place | {"metric": name, "value": value} for name, value in describe(embeddings, labels).items()]
    write_json(output, {key: records[0][key] for key in ("dataset", "method", "seed")} | {"metrics": rows})


def measure_checkpoints(
    checkpoints: Sequence[Path], models: Sequence[Path], records: Sequence[dict[str, Any]], test: Path, output: Path,
    device: str, threads: int,
) -> None:  # fmt: skip
    """P@1 and MAP@R on the test half of the models of all validations of one seed, the chosen ones marked.

    For one question only: how much better would results look if the test had chosen? Rows as `Results.selection`.
    """
    import torch

    from dml.loading import CentreCrops
    from dml.model import load_checkpoints, load_model, set_precision
    from dml.runs import resolve_device

    torch.set_num_threads(threads)
    device, images, rows = resolve_device(device), PackedImages.open(test), []
    for path, model, record in zip(checkpoints, models, records, strict=True):
        if record["failure"] is not None:
            continue
        set_precision(record["protocol"]["precision"])
        network, crops = (
            load_model(model, record).to(device),
            CentreCrops(images, record["protocol"]["crop_size"], device),
        )
        validation = {point["step"]: point["map_at_r"] for point in record["curve"]}
        for step, state in load_checkpoints(path).items():
            network.load_state_dict(state)
            found = _ranked(embed_batches(network, crops, retrieval_of(record)), images, 0)
            values = measure(found, clusters=False)
            rows.append(
                {key: record[key] for key in ("dataset", "method", "seed", "fold")}
                | {"step": step, "validation": validation[step], "chosen": step == record["best_step"]}
                | {name: float(np.mean(values[name])) for name in ("precision_at_1", "map_at_r")}
            )
    write_json(output, rows)


def compared(embeddings: Sequence[Path], way: Retrieval) -> tuple[list[np.ndarray], np.ndarray]:
    """What another way of retrieval compares: the vectors of each fold's model, and those of all joined.

    With `beta` they are z + beta x, x being the embedding and z its direction, and compared as long as they are: "beta
    normalisation" of Group Loss++ (Elezi et al., PAMI 2022), who do not say what their beta is. The pooling average_max
    is the sum of what the head makes of both: "mixed pooling" there, with equal weights.
    """
    poolings = {"average_max": ["average", "max"], None: ["raw"] if way.beta else []}.get(way.pooling, [way.pooling])
    folds = [
        sum(load_embeddings(path, view) for view in poolings) if poolings else load_embeddings(path)
        for path in embeddings
    ]
    if way.beta:
        folds = [normalise_rows(x) + np.float32(way.beta) * x for x in folds]
        joined = np.concatenate(folds, axis=1)
    else:
        folds = [normalise_rows(x) for x in folds]
        joined = concatenate(folds)
    return ([binarise(x) for x in folds], binarise(joined)) if way.binary else (folds, joined)


def _separated_and_joined(
    records: Sequence[dict[str, Any]], folds: Sequence[np.ndarray], joined: np.ndarray
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Kind, fold and vectors of everything that is measured of a seed."""
    yield from (("separated", record["fold"], vectors) for record, vectors in zip(records, folds, strict=True))
    yield "concatenated", None, joined


def _mean_of(metric: str, values: np.ndarray | float, found: Neighbours) -> dict[str, Any]:
    return {"metric": metric, "value": float(np.mean(values)), "n_queries": found.n_queries}


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
