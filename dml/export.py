"""The winner in hand: `python -m dml.export results/STUDY --output FOLDER`.

Writes the models of a finished study's best method, or of another one, as a folder that anyone can use with `dml.load`
and `python -m dml.find`: a safetensors file for each fold, model.json (see `dml.exported.Description`), and README.md,
a model card made from the record.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from dml import plugins
from dml.exported import COMPARISON, DESCRIPTION, Description
from dml.files import read_bytes, write_bytes
from dml.record import read_json, write_json
from dml.results import (
    EMBEDDINGS,
    HEADLINE_METRICS,
    RANKING,
    Results,
    estimate,
    failure_reason,
    metric_title,
    per_seed,
    ranked_methods,
)
from dml.stats import paired_comparison
from dml.tabulation import listed, percent, plain

NETWORK = ("trunk", "pooling", "head_layernorm", "head_bias", "embedding_size", "precision")
"""Keys of a protocol that say how a finished network is built."""


@dataclass(frozen=True)
class Chosen:
    """What is exported."""

    dataset: str
    method: str
    seed: int


def export(
    folder: Path, output: Path, dataset: str | None = None, method: str | None = None, seed: int | None = None
) -> Chosen:
    """Write the models of all folds of one seed of a method from the results of a study; give which they were.

    By default the best method by `dml.results.RANKING`, and its first seed of which no fold failed: a seed chosen by
    its test results would look better than it is. ValueError with one line where there is no such model, where a file
    of it is not the one that the study measured, or where `output` holds something already.
    """
    results = Results.load(folder)
    chosen = _chosen(results, dataset, method, seed)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: not an empty folder: name another one, or delete it")
    runs = _runs(results, chosen)
    of_seed = folder / chosen.dataset / chosen.method / "seeds" / str(chosen.seed)
    models = [of_seed / f"fold{fold}" / "model.safetensors" for fold in runs["fold"]]
    records = [_record(model, sha256) for model, sha256 in zip(models, runs["model"], strict=True)]

    output.mkdir(parents=True, exist_ok=True)
    networks = []
    for model, record in zip(models, records, strict=True):
        file = f"fold{record['fold']}.safetensors"
        networks.append({"file": file, "sha256": write_bytes(output / file, read_bytes(model, record["model"]))})
    description = _description(chosen, records[0], networks)
    write_bytes(output / "README.md", _card(results, chosen, records, description).encode())
    write_json(output / DESCRIPTION, description.model_dump())  # last: a folder that has it is complete
    return chosen


def _chosen(results: Results, dataset: str | None, method: str | None, seed: int | None) -> Chosen:
    if dataset is None and len(results.datasets) > 1:
        raise ValueError(f"the study has several data sets: choose one with --dataset: {', '.join(results.datasets)}")
    dataset = _one_of("data set", dataset or next(iter(results.datasets)), results.datasets)
    method = _one_of("method", method or ranked_methods(results, dataset)[0], results.titles)
    r = results.runs
    seeds = list(r["seed"][(r["dataset"] == dataset) & (r["method"] == method)].unique())
    values = per_seed(results, dataset, *RANKING, names=[method])
    if method not in values:
        raise ValueError(f"{method} on {dataset}: nothing to export: {failure_reason(results, dataset, method)}")
    whole = list(values[method].dropna().index)
    chosen = Chosen(dataset, method, int(whole[0] if seed is None else _one_of("seed", seed, seeds)))
    if chosen.seed not in whole:
        reason = next(filter(None, _runs(results, chosen)["failure"]), "no result")
        raise ValueError(
            f"{method} on {dataset}: a fold of seed {seed} failed: {reason}; choose from: {', '.join(map(str, whole))}"
        )
    return chosen


def _one_of(what: str, name: Any, known: Sequence | Mapping) -> Any:
    if name not in known:
        raise ValueError(f"unknown {what} '{name}'; choose from: {', '.join(map(str, known))}")
    return name


def _runs(results: Results, chosen: Chosen) -> pd.DataFrame:
    r = results.runs
    mine = (r["dataset"] == chosen.dataset) & (r["method"] == chosen.method) & (r["seed"] == chosen.seed)
    return r[mine].sort_values("fold")


def _record(model: Path, measured: str) -> dict[str, Any]:
    """The record of a training. ValueError if it is gone, or of another model than the one that was measured."""
    path = model.with_name("record.json")
    for file in (path, model):
        if not file.is_file():
            raise ValueError(f"{file}: no such file: run the study again, and it is made anew")
    record = read_json(path)
    if record["model"] != measured:
        raise ValueError(f"{path}: of another model than the one that the study measured: run the study again")
    return record


def _description(chosen: Chosen, record: Mapping[str, Any], networks: Sequence[Mapping[str, str]]) -> Description:
    protocol = record["protocol"]
    channels, mean, std = (plugins.literal("trunks", protocol["trunk"], key) for key in ("CHANNELS", "MEAN", "STD"))
    values = {
        "dataset": chosen.dataset,
        "method": chosen.method,
        "plugin": record["plugin"],
        "seed": chosen.seed,
        "network": {key: protocol[key] for key in NETWORK},
        "networks": list(networks),
        "preprocessing": {
            "upright": plugins.literal("datasets", _dataset_plugin(chosen.dataset), "UPRIGHT", False),
            "resize": protocol["resize"],
            "crop_size": protocol["crop_size"],
            "channels": channels,
            "mean": list(mean),
            "std": list(std),
        },
        "comparison": _comparison(record["plugin"]),
    }
    return Description.check(values, "export")


def _comparison(plugin: str | None) -> str:
    """How pictures are compared, in words, for those who do without `dml`."""
    from dml.method import Method  # here: PyTorch takes seconds, and what cannot be exported is refused at once

    if plugin is None or plugins.load_class("methods", plugin, Method).retrieval is Method.retrieval:
        return COMPARISON
    return f"what `retrieval` in dml/methods/{plugin}.py makes of each network's embedding, then by {COMPARISON}"


def _dataset_plugin(name: str) -> str:
    """The file of dml/datasets/: images of the user's own never have the name of one."""
    return name if name in plugins.names("datasets") else "folder"


def _card(results: Results, chosen: Chosen, records: Sequence[Mapping[str, Any]], description: Description) -> str:
    """README.md: what the models are, what they were trained on, how good they are, and how they are used."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals["plain"] = plain
    plugin = _dataset_plugin(chosen.dataset)
    return environment.get_template("model_card.md.j2").render(
        study=results.study,
        method=results.titles[chosen.method],
        chosen=chosen,
        data=next(entry for entry in results.study["datasets"] if entry["name"] == chosen.dataset),
        # not the record's, which of the user's own images is a path on the user's machine
        source=plugins.literal("datasets", plugin, "SOURCE", ""),
        record=records[0],
        networks=list(zip(description.networks, records, strict=True)),
        protocol=yaml.safe_dump(records[0]["protocol"], sort_keys=False, allow_unicode=True),
        metrics=[metric_title(metric) for metric in HEADLINE_METRICS],
        accuracy=[_accuracy(results, chosen, embedding) for embedding in reversed(EMBEDDINGS)],
        rank=_rank(results, chosen),
        tied=_tied(results, chosen),
        comparison=description.comparison,
    )


def _accuracy(results: Results, chosen: Chosen, embedding: str) -> dict[str, Any]:
    """The method's mean over seeds with its interval, and the exported seed's own value, of each metric."""
    values = {
        metric: per_seed(results, chosen.dataset, embedding, metric, names=[chosen.method])[chosen.method]
        for metric in HEADLINE_METRICS
    }
    found = {metric: estimate(results, chosen.method, of_metric) for metric, of_metric in values.items()}
    return {
        "embedding": embedding,
        "n": found[RANKING[1]][2],
        "mean": [percent(mean, half_width) for mean, half_width, _ in found.values()],
        "own": [percent(of_metric[chosen.seed]) for of_metric in values.values()],
    }


def _rank(results: Results, chosen: Chosen) -> int | None:
    """Its place in the study's ranking; None for a method on a level of a factor, which is not ranked."""
    ranked = ranked_methods(results, chosen.dataset)
    return ranked.index(chosen.method) + 1 if chosen.method in ranked else None


def _tied(results: Results, chosen: Chosen) -> str:
    """The other methods of the study that a paired test over seeds does not tell from it."""
    values = per_seed(results, chosen.dataset, *RANKING)
    if chosen.method not in values:
        return ""
    found = paired_comparison(values, chosen.method)
    return listed([results.methods[name] for name in found.index[found["tied"]] if name != chosen.method])


def main() -> None:
    """Write the best method's models as a folder that anyone can use."""
    parser = argparse.ArgumentParser(prog="python -m dml.export", description=main.__doc__)
    parser.add_argument("results", type=Path, help="the study's folder: results/NAME")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder, or one to be made")
    parser.add_argument("--dataset", help="where the study has several")
    parser.add_argument("--method", help="another than the best, by its name in the study")
    parser.add_argument("--seed", type=int, help="another than the first of which no fold failed")
    arguments = parser.parse_args()
    try:
        chosen = export(arguments.results, arguments.output, arguments.dataset, arguments.method, arguments.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{chosen.method} on {chosen.dataset}, seed {chosen.seed}: {arguments.output}")


if __name__ == "__main__":
    main()
