"""Papers' numbers beside a study's own: a folder of workflow/published/ for each paper, with its paper.yaml."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from dml import plugins
from dml.checked import Checked, read_yaml
from dml.protocol import Protocol
from dml.search import Range
from dml.study import DEFAULTS, PUBLISHED, SEARCH, Counterpart, Run, Study

RESULTS = ["dataset", "embedding", "method", "metric", "mean", "half_width", "source", "note", "reason"]
"""What `results` says of each published value; `reason`: why it is not comparable, else empty."""
PLAN_OF_A_SEARCH = ("trials", "sobol_trials", "trials_per_round")
TRAINING = "training"
"""What `embedding` calls measures of training images: they are no shares, and not printed in percent."""


class PaperDataset(Checked):
    """A data set as the paper used it."""

    classes: int
    images: int
    protocol: dict[str, Any] = Field(default={}, description="what differs between the paper's data sets")
    images_per_class: int | None = Field(
        default=None, description="in a batch, of all methods, where it differs between the paper's data sets"
    )
    constants: dict[str, dict[str, Any]] = Field(
        default={}, description="method -> hyperparameter -> value on this set"
    )


class PaperMethod(Checked):
    """What a method was in the paper beside its searched hyperparameters."""

    file: str | None = Field(
        default=None, description="a file of dml/methods/, where the name is another: a paper may have it twice"
    )
    images_per_class: int | None = Field(default=None, description="in a batch; null where it is not known")
    constants: dict[str, Any] = Field(default={}, description="hyperparameter -> value, on all data sets")
    unknown: str | None = Field(default=None, description="why it cannot be done as in the paper")


class Setting(Checked):
    """One of the paper's experiments."""

    protocol: dict[str, Any] = Field(default={}, description="what differs between the paper's experiments")
    unlike: str | None = Field(default=None, description="as the paper's `unlike`, of this experiment")
    datasets: dict[str, PaperDataset]


class Paper(Checked):
    """A paper.yaml."""

    title: str
    url: str
    unlike: str | None = Field(
        default=None, description="what no study does as the paper did, so that none of its values is comparable"
    )
    protocol: dict[str, Any] = Field(description="values of a study's protocol, as the paper had them")
    methods: dict[str, PaperMethod]
    settings: dict[str, Setting]

    @classmethod
    def of(cls, counterpart: Counterpart, published: Path) -> Self:
        """The paper a study names. ValueError with the choices if there is no such paper or setting."""
        papers = sorted(path.parent.name for path in published.glob("*/paper.yaml"))
        if counterpart.paper not in papers:
            raise ValueError(f"published.paper: no paper '{counterpart.paper}'; choose from: {', '.join(papers)}")
        paper = cls.load(published / counterpart.paper / "paper.yaml")
        if counterpart.setting not in paper.settings:
            raise ValueError(
                f"published.setting: {counterpart.paper} has no '{counterpart.setting}'; choose from: "
                f"{', '.join(paper.settings)}"
            )
        named = {row["method"] for row in _rows(published / counterpart.paper / "results.csv", counterpart.setting)}
        if named - set(paper.methods):
            raise ValueError(
                f"{published / counterpart.paper / 'paper.yaml'}: methods: '{min(named - set(paper.methods))}' is "
                "missing, which results.csv has"
            )
        return paper

    @model_validator(mode="after")
    def _protocol_keys_exist(self) -> Self:
        settings = self.settings.values()
        datasets = [dataset for setting in settings for dataset in setting.datasets.values()]
        for values in (self, *settings, *datasets):
            unknown = sorted(set(values.protocol) - set(Protocol.model_fields))
            if unknown:
                raise ValueError(f"unknown protocol key '{unknown[0]}'")
        if "weight_decay" not in self.protocol:
            raise ValueError("protocol: the key 'weight_decay' is missing")
        return self

    @model_validator(mode="after")
    def _methods_exist(self) -> Self:
        for name, method in self.methods.items():
            plugins.source_path("methods", method.file or name)
        for setting in self.settings.values():
            for dataset in setting.datasets.values():
                unknown = sorted(set(dataset.constants) - set(self.methods))
                if unknown:
                    raise ValueError(f"constants: '{unknown[0]}' is none of the paper's methods")
        return self

    def protocol_of(self, setting: str, dataset: str) -> dict[str, Any]:
        """What the paper had in one experiment on one data set."""
        return self.protocol | self.settings[setting].protocol | self.settings[setting].datasets[dataset].protocol

    def constants_of(self, setting: str, dataset: str, method: str) -> dict[str, Any]:
        """The hyperparameters of a method that the paper did not search."""
        of_dataset = self.settings[setting].datasets[dataset].constants.get(method, {})
        return {"loss_weight_decay": self.protocol["weight_decay"]} | self.methods[method].constants | of_dataset


def check_counterpart(study: Study, study_file: Path, published: Path) -> None:
    """ValueError with the choices if a study names a paper, or an experiment of it, that is not there."""
    if study.published is not None:
        try:
            Paper.of(study.published, published)
        except ValueError as error:
            raise ValueError(f"{study_file}: {error}") from None


def given_hyperparameters(
    study: Study, study_file: Path, published: Path
) -> dict[tuple[str, str], dict[str, Any]] | None:
    """The hyperparameters of each (data set, run) of a study that takes them from elsewhere; None if it searches.

    ValueError naming the file, data set, method and hyperparameter if one has no value, or none that it can have.
    """
    if study.searches:
        return None
    origin, values = _values_of(study, study_file, published)
    return {
        (dataset.name, name): _of_a_method(
            _given(values.get(dataset.name, {}), run),
            run.method.search_ranges(),
            f"{origin}: {run.base} on {dataset.name}",
        )
        for dataset in study.datasets
        for name, run in study.runs.items()
    }


def _given(of_methods: Mapping[str, Mapping[str, Any]], run: Run) -> dict[str, Any]:
    """The values of a run: those of its method, but for what its level holds constant."""
    given = of_methods.get(run.method.name, of_methods.get(run.base, {}))
    return {name: value for name, value in given.items() if run.level is None or name not in run.method.fixed}


def origin_of(study: Study) -> str:
    """Where the hyperparameters come from, in words for the report."""
    if study.hyperparameters == PUBLISHED:
        return f"published: {study.published.paper}, {study.published.setting}"
    if study.hyperparameters == DEFAULTS:
        return "the defaults of the methods' files"
    return study.hyperparameters


def results(study: Study, published: Path, counts: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """The published values of the study's data sets and methods: rows with the columns `RESULTS`, values as shares.

    (Those of training images are what they are.) `counts`: data set -> its number of classes and of images. Empty for a
    study without a counterpart.
    """
    if study.published is None:
        return []
    paper = Paper.of(study.published, published)
    folder, setting = published / study.published.paper, study.published.setting
    used = [name for name in counts if name in paper.settings[setting].datasets]
    of_datasets = {name: _differences(study, paper, name, counts[name]) for name in used}
    ranges = _published_ranges(folder, setting)
    rows = []
    for row in _rows(folder / "results.csv", setting):
        if row["dataset"] in used and row["method"] in {method.name for method in study.methods}:
            of_paper = ranges.get((row["dataset"], row["method"]), {})
            own = [
                *_other_origin(study, row["method"], of_paper),
                *_other_search(study, row["method"], of_paper, paper),
                *_other_constants(study, row["dataset"], row["method"], of_paper, paper),
            ]
            reasons = [*of_datasets[row["dataset"]], *own]
            scale = 1 if row["embedding"] == TRAINING else 100
            shares = {key: float(row[key]) / scale if row[key] else "" for key in ("mean", "half_width")}
            rows.append({key: row[key] for key in RESULTS if key in row} | shares | {"reason": "; ".join(reasons)})
    return rows


def correlations(study: Study, published: Path) -> list[dict[str, Any]]:
    """Pearson's r of a measure of training images and P@1 over the paper's methods, on the study's data sets.

    One {dataset, measure, methods, r} for each row of correlations.csv that says over how many `methods`. Empty for a
    study without a counterpart, and for a paper without that file.
    """
    file = published / study.published.paper / "correlations.csv" if study.published else None
    if file is None or not file.exists():
        return []
    datasets = {dataset.name for dataset in study.datasets}
    return [
        {
            "dataset": row["dataset"],
            "measure": row["metric"],
            "methods": int(row["methods"]),
            "r": float(row["correlation"]),
        }
        for row in _rows(file, study.published.setting)
        if row["dataset"] in datasets and row["with_metric"] == "precision_at_1" and row["methods"]
    ]


def _values_of(study: Study, study_file: Path, published: Path) -> tuple[Path, dict[str, dict[str, dict]]]:
    """The file the values stand in, and data set -> method -> hyperparameter -> value."""
    if study.hyperparameters == DEFAULTS:
        defaults = {name: run.method.defaults() for name, run in study.runs.items()}
        return Path("dml/methods"), {dataset.name: defaults for dataset in study.datasets}
    if study.hyperparameters != PUBLISHED:
        file = study_file.parent / study.hyperparameters
        if not file.is_file():
            raise ValueError(
                f"{study_file}: hyperparameters: '{study.hyperparameters}' is none of search, defaults and published, "
                f"and no file {file} is there"
            )
        values = read_yaml(file)
        if not _is_nested(values):
            raise ValueError(f"{file}: expected data set -> method -> hyperparameter -> value")
        _refuse_surplus(study, file, values)
        return file, values
    folder, setting = published / study.published.paper, study.published.setting
    return folder, _values_of_the_paper(Paper.of(study.published, published), folder, setting)


def _values_of_the_paper(paper: Paper, folder: Path, setting: str) -> dict[str, dict[str, dict]]:
    """What the paper held constant, and the best values of what it searched."""
    values = {
        dataset: {method: paper.constants_of(setting, dataset, method) for method in paper.methods}
        for dataset in paper.settings[setting].datasets
    }
    for (dataset, method), of_method in _published_ranges(folder, setting).items():
        for name, row in of_method.items():
            values[dataset][method][name] = int(row["best"]) if row["integer"] == "true" else float(row["best"])
    return values


def _refuse_surplus(study: Study, file: Path, values: Mapping[str, Mapping[str, Mapping]]) -> None:
    """ValueError for a value that would not be used: a slip of the pen, or one that the study holds constant."""
    datasets = {dataset.name for dataset in study.datasets} | set(plugins.names("datasets"))
    methods = {method.name for method in study.methods}
    for dataset, of_methods in values.items():
        if dataset not in datasets:
            raise ValueError(f"{file}: '{dataset}' is no data set of the study or of dml/datasets/")
        for method, of_method in of_methods.items():
            if method not in methods | set(plugins.names("methods")):
                raise ValueError(f"{file}: {dataset}: '{method}' is no method of the study or of dml/methods/")
            for name in of_method:
                if method in methods and name not in study.method(method).search_ranges():
                    raise ValueError(
                        f"{file}: {dataset}: {method}: '{name}' is no hyperparameter that a search would choose; what "
                        "is constant stands in the study, under `fixed`"
                    )


def _is_nested(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(methods, dict) and all(isinstance(of_method, dict) for of_method in methods.values())
        for methods in values.values()
    )


def _of_a_method(values: Mapping[str, Any], ranges: Mapping[str, Range], origin: str) -> dict[str, Any]:
    """The values of exactly the hyperparameters that would be searched."""
    for name, searched in ranges.items():
        if name not in values:
            raise ValueError(
                f"{origin}: no value for '{name}': hold it constant in the study (fixed), or let the study search"
            )
        try:
            searched.refuse(values[name])
        except ValueError as error:
            raise ValueError(f"{origin}: {name}: {error}") from None
    return {name: values[name] for name in ranges}


def _differences(study: Study, paper: Paper, dataset: str, counts: tuple[int, int]) -> list[str]:
    """What is not as in the paper, and makes values of a data set incomparable."""
    own, theirs = study.protocol.model_dump(), paper.protocol_of(study.published.setting, dataset)
    setting = paper.settings[study.published.setting]
    found, in_paper = [reason for reason in (paper.unlike, setting.unlike) if reason], setting.datasets[dataset]
    if counts != (in_paper.classes, in_paper.images):
        found.append(f"{counts[0]} classes with {counts[1]} images, not {in_paper.classes} with {in_paper.images}")
    compared = {key: value for key, value in theirs.items() if study.searches or key not in PLAN_OF_A_SEARCH}
    others = {key: value for key, value in compared.items() if not _agrees(own[key], value)}
    return found + [f"{key} is {_in_words(own[key])}, not {_in_words(value)}" for key, value in others.items()]


def _agrees(own: Any, theirs: Any) -> bool:
    """Whether a value is the paper's; of nested ones what the paper's has. Hashes and bounds may be cut short."""
    if isinstance(theirs, dict):
        return isinstance(own, dict) and all(
            str(own.get(key)).startswith(str(value)) or str(value).startswith(str(own.get(key)))
            for key, value in theirs.items()
        )
    if isinstance(own, list) and isinstance(theirs, list) and len(own) == len(theirs):
        return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(own, theirs, strict=True))
    return own == theirs


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return f"sha256 {value['sha256'][:9]}" if value.get("sha256") else value["file"]
    if isinstance(value, list):
        between = " to " if any(isinstance(number, float) for number in value) else ", "  # bounds, or epochs
        return between.join(f"{number:g}" for number in value) or "none"
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def _published_ranges(folder: Path, setting: str) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """(data set, method) -> hyperparameter -> the row of hyperparameters.csv, which a paper without searches lacks."""
    found: dict = {}
    file = folder / "hyperparameters.csv"
    for row in _rows(file, setting) if file.exists() else []:
        found.setdefault((row["dataset"], row["method"]), {})[row["parameter"]] = row
    return found


def _other_origin(study: Study, method: str, theirs: Mapping[str, Mapping[str, str]]) -> Iterable[str]:
    """That hyperparameters come from where a search, or values that could be compared, cannot be told."""
    told = (SEARCH, PUBLISHED) if theirs else (SEARCH, PUBLISHED, DEFAULTS)
    if study.hyperparameters not in told and study.method(method).search_ranges():
        yield "the hyperparameters are of another origin"


def _other_search(study: Study, method: str, theirs: Mapping[str, Mapping[str, str]], paper: Paper) -> Iterable[str]:
    """How the search of a method differs from the paper's, whose rows of hyperparameters.csv are `theirs`."""
    if not study.searches:
        return
    own = study.method(method).search_ranges()
    for name in sorted(set(own) | set(theirs)):
        if name not in theirs:
            yield f"{name} is searched, in the paper it was not"
        elif name not in own:
            yield f"{name} is held constant, in the paper it was searched"
        elif not _same_range(own[name], theirs[name]):
            yield f"{name} is searched in other bounds than {theirs[name]['low']} to {theirs[name]['high']}"
    trials = {int(row["trials"]) for row in theirs.values()} - {study.trials(method)}
    if trials and study.protocol.trials == paper.protocol.get("trials"):  # else said once, for all methods
        yield f"trials are {study.trials(method)}, not {trials.pop()}"


def _other_constants(
    study: Study, dataset: str, method: str, theirs: Mapping[str, Mapping[str, str]], paper: Paper
) -> Iterable[str]:
    """How a method differs from the paper's in what is not searched."""
    entry, known, setting = study.method(method), paper.methods[method], study.published.setting
    if entry.plugin != (known.file or method):
        yield f"it is another method than {known.file or method}"
        return
    if known.unknown:
        yield known.unknown
    images_per_class = paper.settings[setting].datasets[dataset].images_per_class or known.images_per_class
    if images_per_class not in (None, entry.images_of_a_class()):
        yield f"images_per_class is {entry.images_of_a_class()}, not {images_per_class}"
    constants = paper.constants_of(setting, dataset, method)
    own = plugins.constructor_defaults("methods", entry.plugin) | entry.fixed
    own = {name: value for name, value in own.items() if name not in entry.search_ranges()}
    if study.hyperparameters == DEFAULTS and not theirs:
        own |= entry.defaults()
    for name, value in sorted(own.items()):
        if name in theirs and not study.searches and value != float(theirs[name]["best"]):
            yield f"{name} is {value}, not {theirs[name]['best']}"
        elif name not in theirs and name not in constants:
            yield f"what {name} was in the paper is not known"
        elif name not in theirs and value != constants[name]:
            yield f"{name} is {value}, not {constants[name]}"


def _same_range(own: Range, row: Mapping[str, str]) -> bool:
    kinds = [str(own.log).lower() == row["log"], str(own.integer).lower() == row["integer"]]
    return own.choices is None and all(kinds) and (own.low, own.high) == (float(row["low"]), float(row["high"]))


def _rows(file: Path, setting: str) -> Sequence[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return [row for row in csv.DictReader(opened) if row["setting"] == setting]
