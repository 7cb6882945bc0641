"""All results of a study as tidy tables: what tables, figures and reports are made of."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

from dml import published
from dml.files import whole
from dml.protocol import Protocol
from dml.record import read_json
from dml.search import Selected
from dml.study import Method, Study

METRICS = ["study", "dataset", "method", "seed", "fold", "embedding", "retrieval", "metric", "value", "n_queries"]
TRIALS = [
    "dataset", "method", "trial", "parameters", "fold", "score", "best_step", "steps", "failure", "seconds",
    "device_type", "threads",
]  # fmt: skip
CURVES = ["dataset", "method", "stage", "number", "fold", "step", "loss", "map_at_r"]
RUNS = [
    "dataset", "method", "seed", "fold", "trial", "search", "parameters", "random_seed", "embedding_size", "steps",
    "best_step", "best_map_at_r", "seconds", "resumed", "failure", "commit", "code", "device_type", "device", "host",
    "threads", "peak_memory_mb", "peak_gpu_memory_mb", "python", "torch", "versions", "data", "test", "weights",
    "model", "embeddings", "embedding_seconds", "embedded_by", "measuring_seconds", "measuring_code", "measured_by",
]  # fmt: skip
SELECTION = [
    "dataset", "method", "seed", "fold", "step", "validation", "chosen", "precision_at_1", "map_at_r",
]  # fmt: skip
BEST = [
    "dataset", "method", "trial", "score", "sem", "parameters", "edges", "ranges", "trials", "failed_trials", "failure",
    "origin",
]  # fmt: skip
OF_THE_PROTOCOL = ("protocol", "trunk", "weights", "data", "test")
"""What a level of a factor may have otherwise than the study."""
COSTS = ["dataset", "method", "stage", "device_type", "jobs", "hours"]


def collect(
    study: Study, name: str, measured: Sequence[Path], histories: Sequence[Path], best: Sequence[Path],
    folds: Sequence[Path], papers: Path, output: Path, spaces: Sequence[Path] = (), selections: Sequence[Path] = (),
) -> None:  # fmt: skip
    """Write metrics, trials, curves, runs, selection, best, costs and published (.csv) and study.json into `output`.

    `spaces` hold what was measured of training images, `selections` what of the models of all validations, where the
    study asks for it. `papers` is the folder of papers' numbers; the one that the study names is put beside its own.
    ValueError if results of different code, data, weights or protocol would stand in one table.
    """
    seeds, geometry, choices = ([read_json(path) for path in files] for files in (measured, spaces, selections))
    searches = {(selected.dataset, selected.method): selected for selected in map(Selected.load, best)}
    levels = {name: run.level for name, run in study.runs.items()}
    refuse_mixtures(seeds, measured, searches, levels)
    refuse_strangers(seeds, geometry, spaces)
    refuse_strangers(seeds, choices, selections)
    runs = [run for seed in seeds for run in _run_rows(seed, searches[seed["dataset"], seed["method"]])]
    _write(output / "runs.csv", RUNS, runs)
    _write(output / "curves.csv", CURVES, (row for seed in seeds for row in _curve_rows(seed)))
    _write(output / "selection.csv", SELECTION, (row for seed in choices for row in seed["rows"]))
    trials = [row for path in histories for row in _trial_rows(path)]
    _write(output / "trials.csv", TRIALS, trials)
    _write(output / "costs.csv", COSTS, _cost_rows(trials, seeds, geometry, choices))
    _write(output / "best.csv", BEST, map(_best_row, searches.values()))
    description = _describe(study, name, folds, runs, papers)
    with whole(output / "study.json") as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n")
    _write(output / "published.csv", published.RESULTS, published.results(study, papers, _counts(description)))
    measures = [row for seed in [*seeds, *geometry] for row in _metric_rows(name, seed)]
    _write(output / "metrics.csv", METRICS, measures)


def refuse_mixtures(
    seeds: Sequence[dict],
    files: Sequence[Path],
    searches: Mapping[tuple[str, str], Selected],
    levels: Mapping[str, str | None],
) -> None:
    """ValueError if two models, or a model and its search, were made by different code, data, weights or protocols.

    `levels`: run -> level of a factor, each of which has a protocol, and so trunk and pixels, of its own. Likewise if
    they were measured by different code, or trained with another setting than the one their search chose.
    """
    first: dict[tuple, tuple[Any, Path]] = {}
    for seed, file in zip(seeds, files, strict=True):
        search = searches[seed["dataset"], seed["method"]]
        chosen = {"trial": search.trial, "parameters": search.parameters}
        for record in seed["records"]:
            if {"trial": record["trial"], "parameters": record["parameters"]} != chosen:
                raise ValueError(
                    f"{file}: trained with trial {record['trial']} {record['parameters']}; its search chose "
                    f"trial {search.trial} {search.parameters}: delete the folder {file.parent} and run again"
                )
            facts = [*record["made_by"].items(), *search.made_by.items()]
            facts += [("test", seed["test"]), ("metrics", seed["code"]), ("setting", record["trial_fingerprint"])]
            facts += [("embeddings", embedded["code"]) for embedded in seed["embedded"]]
            for what, value in facts:
                of_dataset = seed["dataset"] if what in ("data", "test", "setting") else None
                of_method = seed["method"] if what in ("method", "setting") else None
                of_level = levels.get(seed["method"]) if what in OF_THE_PROTOCOL else None
                expected, where = first.setdefault((what, of_dataset, of_method, of_level), (value, file))
                if value != expected:
                    raise ValueError(
                        f"{file}: made with other {what} than {where}; one table holds one {what}: "
                        f"delete the older of the folders {file.parent} and {where.parent} (or the searches behind "
                        "them, if those are older) and run again"
                    )


def refuse_strangers(seeds: Sequence[dict], others: Sequence[dict], files: Sequence[Path]) -> None:
    """ValueError if something else was measured of other models than the metrics, of other pixels or by mixed code."""
    own = {(seed["dataset"], seed["method"], seed["seed"]): seed for seed in seeds}
    for other, file in zip(others, files, strict=True):
        seed = own[other["dataset"], other["method"], other["seed"]]
        facts = {"models": seed["models"], "test": seed["test"], "code": others[0]["code"]}
        facts["data"] = seed["records"][0]["made_by"]["data"]
        for what, value in facts.items():
            if other.get(what, value) != value:
                raise ValueError(f"{file}: of other {what} than the metrics beside it: delete it and run again")


def _metric_rows(name: str, seed: dict) -> Iterable[dict]:
    identity = {"study": name, "dataset": seed["dataset"], "method": seed["method"], "seed": seed["seed"]}
    return (identity | row for row in seed["metrics"])


def _run_rows(seed: dict, search: Selected) -> Iterable[dict]:
    for record, embedded in zip(seed["records"], seed["embedded"], strict=True):
        made_by = record["provenance"]
        yield (
            made_by
            | record["made_by"]
            | record
            | {
                "versions": _versions(made_by),
                "search": search.fingerprint,
                "parameters": json.dumps(record["parameters"], sort_keys=True),
                "best_map_at_r": record["score"],
                "torch": made_by["versions"]["torch"],
                "resumed": len(record["resumed"]),
                "test": seed["test"],
                "model": embedded["model"],
                "embeddings": embedded["sha256"],
                "embedding_seconds": embedded["seconds"],
                "embedded_by": _by(embedded["provenance"]),
                "measured_by": _by(seed["provenance"]),
                "measuring_seconds": seed["seconds"],
                "measuring_code": seed["code"],
            }
        )


def _versions(provenance: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(provenance["versions"].items()))


def _by(provenance: Mapping[str, Any]) -> str:
    """Commit, versions and hardware of a stage after the training, which has columns of its own, in one cell."""
    facts = (provenance["commit"], _versions(provenance), provenance["device"], provenance["host"])
    return "; ".join(facts)


def _cost_rows(
    trials: Sequence[dict], seeds: Sequence[dict], geometry: Sequence[dict], choices: Sequence[dict]
) -> Iterable[dict]:
    """What each stage took: GPU-hours where its jobs ran on a GPU, hours times threads where on a CPU."""
    spent: dict[tuple, list[float]] = {}
    for stage, run, job in _jobs(trials, seeds, geometry, choices):
        if job["seconds"]:  # else nothing ran, as where a method has no setting to train
            hours = job["seconds"] / 3600 * (1 if job["device_type"] == "cuda" else job["threads"])
            spent.setdefault((run["dataset"], run["method"], stage, job["device_type"]), []).append(hours)
    for place, hours in spent.items():
        yield dict(zip(COSTS, (*place, len(hours), fsum(hours)), strict=True))


def _jobs(
    trials: Sequence[dict], seeds: Sequence[dict], geometry: Sequence[dict], choices: Sequence[dict]
) -> Iterable[tuple[str, dict, dict]]:
    """Everything that a study runs on pixels or embeddings: its stage, whose it is, and what was measured of it."""
    yield from (("search", trial, trial) for trial in trials)
    for stage, parts in (("final", "records"), ("embedding", "embedded")):
        yield from ((stage, seed, part | part["provenance"]) for seed in seeds for part in seed[parts])
    for stage, measured in (("measuring", seeds), ("geometry", geometry), ("checkpoints", choices)):
        yield from ((stage, seed, seed | seed["provenance"]) for seed in measured)


def _curve_rows(seed: dict) -> Iterable[dict]:
    for record in seed["records"]:
        identity = {"dataset": seed["dataset"], "method": seed["method"], "stage": "final", "number": seed["seed"]}
        yield from (identity | {"fold": record["fold"]} | point for point in record["curve"])


def _trial_rows(history: Path) -> Iterable[dict]:
    search = read_json(history)
    for trial in search["trials"]:
        identity = {"dataset": search["dataset"], "method": search["method"], "trial": trial["number"]}
        parameters = json.dumps(trial["parameters"], sort_keys=True)
        yield from (identity | {"parameters": parameters} | fold for fold in trial["folds"])


def _best_row(selected: Selected) -> dict:
    values = selected.model_dump()
    return values | {
        "parameters": json.dumps(values["parameters"], sort_keys=True),
        "edges": json.dumps(values["edges"], sort_keys=True),
        "ranges": json.dumps({k: r.model_dump(exclude_defaults=True) for k, r in sorted(selected.ranges.items())}),
    }


def _describe(study: Study, name: str, folds: Sequence[Path], runs: Sequence[dict], papers: Path) -> dict[str, Any]:
    trains = {run["method"]: run["steps"] > 0 or run["failure"] is not None for run in runs}
    described = {name: _describe_method(study, run.method, trains[name]) for name, run in study.runs.items()}
    return {
        "study": name,
        "title": study.title,
        "description": study.description,
        "datasets": [_describe_dataset(study, d.name, path) for d, path in zip(study.datasets, folds, strict=True)],
        "methods": [described[method.name] for method in study.methods],
        "retrieval": {name: {"title": way.title} for name, way in study.retrieval.items()},
        "pairs": study.pairs,
        "factors": [_describe_factor(study, name, described) for name in study.factors],
        "hyperparameters": published.origin_of(study),
        "counterpart": _counterpart(study, papers),
        "protocol": study.protocol.model_dump(),
        "protocol_help": {key: field.description for key, field in Protocol.model_fields.items()},
    }


def _describe_method(study: Study, method: Method, trains: bool) -> dict[str, Any]:
    return {
        "name": method.name,
        "file": method.plugin,
        "title": _title(study, method, trains),
        "ranges": method.searched(),
        "fixed": method.fixed,
        "images_per_class": method.images_of_a_class(),
        "trains": trains,
    }


def _describe_factor(study: Study, name: str, described: Mapping[str, dict]) -> dict[str, Any]:
    """A factor with its levels, what each changes, and the runs on it: method -> description of the run."""
    factor = study.factors[name]
    levels = [
        {
            "name": level,
            "title": changes.title or level,
            "at": changes.at,
            "changes": changes.protocol | changes.fixed | _images(changes.images_per_class),
            "runs": {
                run.base: described[n] for n, run in study.runs.items() if (run.factor, run.level) == (name, level)
            },
        }
        for level, changes in factor.levels.items()
    ]
    varied = [run.base for run in study.runs.values() if run.factor == name]
    described_factor = {key: getattr(factor, key) for key in ("title", "curve", "study", "at")}
    return {"name": name, **described_factor, "methods": list(dict.fromkeys(varied)), "levels": levels}


def _images(per_class: int | None) -> dict[str, int]:
    return {} if per_class is None else {"images_per_class": per_class}


def _title(study: Study, method: Method, trains: bool) -> str:
    """A method's title; a trunk that is neither trained nor pretrained is called what it is."""
    return method.heading if trains or study.protocol.weights else "Untrained"


def _describe_dataset(study: Study, name: str, folds: Path) -> dict[str, Any]:
    entry = study.dataset(name)
    with folds.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = {}
    for half in ("trainval", "test"):
        images = [int(row["images"]) for row in rows if row["half"] == half]
        counts |= {f"classes_{half}": len(images), f"images_{half}": sum(images)}
    return {"name": name, **entry.describe(), **counts}


def _counts(description: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Data set -> number of its classes and of its images."""
    return {
        entry["name"]: tuple(entry[f"{what}_trainval"] + entry[f"{what}_test"] for what in ("classes", "images"))
        for entry in description["datasets"]
    }


def _counterpart(study: Study, papers: Path) -> dict[str, Any] | None:
    """The paper whose numbers stand beside the study's, and its correlations, which are no values of a method."""
    if study.published is None:
        return None
    paper = published.Paper.of(study.published, papers)
    about = {"title": paper.title, "url": paper.url, "setting": study.published.setting}
    return about | {"correlations": published.correlations(study, papers)}


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
