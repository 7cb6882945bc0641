"""A study: data sets x methods under one protocol, read from a file of `workflow/studies/` and checked completely."""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from dml import plugins, pml_arguments
from dml.checked import Checked, looks_numeric, read_yaml
from dml.protocol import Protocol
from dml.sampling import HIERARCHICAL
from dml.search import Range, grid
from dml.trial import OPTIMISER, SIZES, Trial

NAME = "^[a-z0-9][a-z0-9_]*$"
LOSS_LEARNING_RATE = Range(low=1e-6, high=1.0, log=True)
"""Where the paper searches the learning rate of a loss's own weights."""

RECALL_AT = [1, 2, 4, 8, 10, 100, 1000]
"""The K of Recall@K that tables show where the data set's file names no others."""


class Dataset(Checked):
    """One data set of a study: a file of dml/datasets/, or any folder or zip of images with class folders inside."""

    name: str = Field(
        json_schema_extra={"pattern": NAME},
        description="a file of dml/datasets/, or a free name where `folder` is given",
    )
    folder: str | None = Field(default=None, description="your images: a folder or a zip with one folder per class")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.folder is None:
            plugins.source_path("datasets", self.name)
            if self.name == "folder":
                raise ValueError("the data set 'folder' needs the key `folder`: the path of your images")
            return self
        _refuse_name(self.name)
        if self.name in plugins.names("datasets"):
            raise ValueError(
                f"'{self.name}' is a file of dml/datasets/: give your own images another name; if you have that data "
                f"set already, say where in config.yaml: copies: {{{self.name}: {self.folder}}}"
            )
        if not self.path().exists():
            raise ValueError(f"{self.folder} does not exist: give a folder or a zip with one folder per class")
        return self

    @property
    def plugin(self) -> str:
        """The file of dml/datasets/ that reads it."""
        return "folder" if self.folder else self.name

    def code(self) -> str:
        """A hash of the code that lists its images, and of the archives they come from.

        What the file says of itself does not count, nor where archives are found: a new address retrains nothing.
        """
        of = plugins.literal("datasets", self.plugin, "ARCHIVES_OF", self.plugin)
        archives = plugins.literal("datasets", of, "ARCHIVES", [])
        contents = [{key: value for key, value in archive.items() if key != "urls"} for archive in archives]
        said = {"ARCHIVES", "TITLE", "SOURCE", "TERMS", "SPOTS", "RECALL_AT", "WANTED"}
        code = plugins.fingerprint("datasets", self.plugin, leave_out=said)
        return hashlib.sha256(repr((code, contents)).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Its title, source and terms of use, and at which K its recall is usually given."""
        literals = {k.lower(): plugins.literal("datasets", self.plugin, k, "") for k in ("TITLE", "SOURCE", "TERMS")}
        literals["recall_at"] = plugins.literal("datasets", self.plugin, "RECALL_AT", RECALL_AT)
        return literals | ({"title": self.name, "source": self.folder} if self.folder else {})

    def listing(self) -> str | None:
        """A digest of the user's folder or zip as it is now; None for the data sets that never change."""
        from dml.datasets.folder import listing_digest

        return listing_digest(self.path()) if self.folder else None

    def check_classes(self, folds: int) -> None:
        """ValueError naming the data set if its classes cannot make the folds. Reads names of files, no image."""
        from dml.datasets.folder import prepare
        from dml.splits import check_class_sizes, check_number_of_classes

        if self.folder is None:
            known = plugins.literal("datasets", self.name, "CLASSES")
            if known is not None:  # else it is found out when the images are there
                check_number_of_classes(self.name, known, folds)
        else:
            images = prepare(Path(), source=self.path())
            check_number_of_classes(self.folder, len({image.label_name for image in images}), folds)
            check_class_sizes(self.folder, images)

    def refuse_namesake(self, image_list: Path) -> None:
        """ValueError if `image_list`, an images.csv made before, is of another folder with the same name."""
        if self.folder is None or not image_list.exists():
            return
        from dml.listing import read_image_list

        listed = read_image_list(image_list)[0].container
        if Path(listed).resolve() != self.path().resolve():
            raise ValueError(
                f"{self.folder}: the name '{self.name}' is taken by {listed}: rename your folder, or delete "
                f"{image_list.parent} if these are the same images in a new place"
            )

    def path(self) -> Path:
        """The user's folder or zip."""
        return Path(os.path.expanduser(self.folder))


class Method(Checked):
    """One method of a study: its name, and what the study changes about it."""

    name: str = Field(
        json_schema_extra={"pattern": NAME},
        description="a file of dml/methods/, or a free name where `file` or `pml_loss` is given",
    )
    file: str | None = Field(
        default=None, description="a file of dml/methods/, where it stands in the study more than once or renamed"
    )
    title: str | None = Field(default=None, description="what tables call it; default: the title of its file")
    ranges: dict[str, Range] = Field(default={}, description="search ranges that replace the method's own")
    fixed: dict[str, Any] = Field(
        default={},
        description="hyperparameters held constant instead of searched; loss_lr and loss_weight_decay are those of the "
        "optimiser of the loss's own weights",
    )
    grid: bool = Field(
        default=False,
        description="try every combination of its values, which must be whole numbers or choices, instead of searching",
    )
    images_per_class: int | None = Field(default=None, ge=1, description="images of a class in a batch")
    pml_loss: dict[str, Any] | None = Field(
        default=None,
        description="any loss of pytorch-metric-learning, {Class: {argument: value}}; a range in place of a value is "
        "searched",
    )
    pml_miner: dict[str, Any] | None = Field(default=None, description="any miner of pytorch-metric-learning, likewise")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.pml_loss is None:
            plugins.source_path("methods", self.plugin)
            if self.pml_miner is not None:
                raise ValueError("pml_miner needs a pml_loss")
        elif self.file is not None:
            raise ValueError("file and pml_loss name two losses: keep one")
        else:
            pml_arguments.refuse_numbers_as_text(self.pml_loss, self.pml_miner)
        if self.plugin != self.name:
            _refuse_name(self.name)
            if self.name in plugins.names("methods"):
                raise ValueError(f"'{self.name}' is a file of dml/methods/: give this method another name")
        twice = sorted(set(self.ranges) & set(self.fixed))
        if twice:
            raise ValueError(f"'{twice[0]}' is both in ranges and in fixed: keep one")
        own, known = self.own_ranges(), self.hyperparameters()
        unknown = sorted((set(self.ranges) | set(self.fixed)) - known)
        if unknown:
            raise ValueError(
                f"'{unknown[0]}' is no hyperparameter of {self.name}; it has: {', '.join(sorted(known)) or 'none'}"
            )
        if self.plugin:
            self._check_against(plugins.constructor_arguments("methods", self.plugin), self.search_ranges())
        self._check_values(own | ({"loss_lr": LOSS_LEARNING_RATE} if self.pml_loss else {}))
        if self.grid:
            self.check_grid()
        return self

    def hyperparameters(self) -> set[str]:
        """The names of all that can be searched or held constant."""
        known = set(self.own_ranges())
        if self.plugin:
            known |= set(plugins.constructor_arguments("methods", self.plugin)) - set(SIZES)
        else:
            known |= {"loss_lr"}
        return known | {"loss_weight_decay"} if "loss_lr" in known else known

    def check_grid(self) -> None:
        """ValueError naming the range that has infinitely many values."""
        for name, searched in self.search_ranges().items():
            try:
                searched.grid()
            except ValueError as error:
                raise ValueError(f"grid: {name}: {error}") from None

    def _check_values(self, like: dict[str, Range]) -> None:
        """What the study says of a hyperparameter is of the kind that the method's own range says."""
        for name, value in self.fixed.items():
            _refuse_value(f"fixed.{name}", value, like.get(name))
        for name, searched in self.ranges.items():
            values = [searched.low, searched.high] if searched.choices is None else searched.choices
            for value in values:
                _refuse_value(f"ranges.{name}", value, like.get(name))
            if name in like and like[name].integer and searched.choices is None and not searched.integer:
                raise ValueError(f"ranges.{name}: only whole numbers make sense: add integer: true")

    def _check_against(self, arguments: dict[str, bool], ranges: dict[str, Range]) -> None:
        """Every required argument has a value, and every range an argument: a slip in a method's file is found here."""
        given = set(ranges) | set(self.fixed) | set(SIZES)
        missing = sorted(name for name, required in arguments.items() if required and name not in given)
        if missing:
            raise ValueError(
                f"dml/methods/{self.plugin}.py: no range for '{missing[0]}': add it to RANGES or to `fixed`"
            )
        unknown = sorted(set(ranges) - set(arguments) - set(OPTIMISER))
        if unknown:
            raise ValueError(f"dml/methods/{self.plugin}.py: RANGES has '{unknown[0]}', which __init__ does not take")

    @property
    def plugin(self) -> str | None:
        """The file of dml/methods/; None where the loss is one of pytorch-metric-learning."""
        return None if self.pml_loss else self.file or self.name

    @property
    def heading(self) -> str:
        """What tables call it."""
        return self.title or (plugins.literal("methods", self.plugin, "TITLE") if self.plugin else self.name)

    def defaults(self) -> dict[str, Any]:
        """The values that its file gives to what would be searched. ValueError if it gives none."""
        if self.plugin is None:
            raise ValueError(
                f"{self.name}: a loss of PML has no file with defaults: give values in place of its ranges"
            )
        given = plugins.literal("methods", self.plugin, "DEFAULTS", {})
        return {name: given[name] for name in self.search_ranges() if name in given}

    def own_ranges(self) -> dict[str, Range]:
        """The ranges of the method's file or of its PML description."""
        if self.pml_loss is None:
            origin, own = f"dml/methods/{self.plugin}.py", plugins.literal("methods", self.plugin, "RANGES", {})
        else:
            origin, own = self.name, pml_arguments.ranges(self.pml_loss, self.pml_miner)
        return {name: Range.check(values, f"{origin}: {name}") for name, values in own.items()}

    def search_ranges(self) -> dict[str, Range]:
        """What is searched: the method's own ranges, those of the study in their place, without what is fixed."""
        ranges = self.own_ranges() | self.ranges
        return {name: ranges[name] for name in sorted(ranges) if name not in self.fixed}

    def searched(self) -> dict[str, dict]:
        """`search_ranges` as plain values."""
        return {name: searched.model_dump(exclude_defaults=True) for name, searched in self.search_ranges().items()}

    def images_of_a_class(self) -> int:
        """How many images of a class a batch holds."""
        if self.images_per_class is not None:
            return self.images_per_class
        return 4 if self.pml_loss else plugins.literal("methods", self.plugin, "IMAGES_PER_CLASS", 4)

    def trial(self, parameters: dict[str, Any]) -> Trial:
        """One setting of the hyperparameters."""
        return Trial(
            method=self.name,
            file=self.file,
            images_per_class=self.images_of_a_class(),
            parameters=parameters,
            fixed=self.fixed,
            pml_loss=self.pml_loss,
            pml_miner=self.pml_miner,
        )

    def fingerprint(self) -> str:
        """A hash of the method's code."""
        return self.trial({}).code()


def _refuse_name(name: str) -> None:
    if not re.match(NAME, name):
        raise ValueError(f"'{name}': expected a name of lower-case letters, digits and underscores")


def _refuse_value(key: str, value: Any, like: Range | None) -> None:
    """ValueError naming the key if a hyperparameter cannot have a value; `like` is the range its method gives it."""
    try:
        if like is not None:
            like.refuse(value)
        elif looks_numeric(value) or isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected a finite number, not {value!r} (YAML reads 1e-5 as text: 1.0e-5)")
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _named(entry: Any) -> Any:
    return {"name": entry} if isinstance(entry, str) else entry


SEARCH, PUBLISHED, DEFAULTS = "search", "published", "defaults"

OF_THE_STUDY = ("folds", "seeds", "seed", "trials", "sobol_trials", "trials_per_round")
"""What of the protocol is the same on all levels of all factors."""


class Level(Checked):
    """One value of a factor: what it changes of the study."""

    at: float | None = Field(default=None, description="where it stands on the axis of a curve, where it is a number")
    title: str | None = Field(default=None, description="what tables and figures call it; default: its name")
    protocol: dict[str, Any] = Field(default={}, description="values of the protocol that replace the study's")
    fixed: dict[str, Any] = Field(
        default={}, description="hyperparameters held constant, of the methods that have them; at least one must"
    )
    images_per_class: int | None = Field(
        default=None, ge=1, description="images of a class in a batch, for all methods"
    )
    methods: list[str] | None = Field(
        default=None, min_length=1, description="which of the factor's methods; default: all that it changes"
    )


class Factor(Checked):
    """Something that the study varies beside its methods, one value at a time, everything else as in its protocol."""

    title: str = Field(description="what is varied: factors with the same title share a figure")
    curve: str = Field(default="", description="what tells this factor from others with the same title")
    study: str | None = Field(
        default=None, description="what the study's own value is called; null: it does not belong to this factor"
    )
    at: float | None = Field(default=None, description="where the study's own value stands on the axis of a curve")
    levels: dict[str, Level] = Field(min_length=1, description="name -> what changes")
    methods: list[str] | None = Field(
        default=None, min_length=1, description="which methods; default: all that are trained"
    )


class Rerank(Checked):
    """k-reciprocal re-ranking: see dml/reranking.py."""

    k1: int = Field(default=20, ge=1, description="neighbours that may be k-reciprocal")
    k2: int = Field(default=6, ge=1, description="neighbours whose sets are averaged")
    weight: float = Field(default=0.3, ge=0, le=1, description="of the original distance in the final one")


class Retrieval(Checked):
    """Another way to compare the same models' images: it trains nothing."""

    title: str = Field(description="what tables and figures call it")
    pooling: Literal["average", "max", "average_max"] | None = Field(
        default=None, description="pooling in the place of the protocol's, when the trained head is applied"
    )
    beta: float | None = Field(
        default=None, ge=0, description="adds so much of the embedding before it is normalised to the normalised one"
    )
    binary: bool = Field(default=False, description="compare signs only: one bit a dimension, Hamming distance")
    rerank: Rerank | None = Field(
        default=None, description="re-rank by k-reciprocal neighbours; looks at all test images"
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not (self.pooling or self.beta or self.binary or self.rerank):
            raise ValueError("changes nothing: give one of pooling, beta, binary and rerank")
        if self.binary and self.beta:
            raise ValueError("beta changes no sign, and so no binary code: keep one")
        return self


class Run(NamedTuple):
    """A method under a protocol: the study's own, or that of a level of a factor."""

    method: Method
    protocol: Protocol
    base: str
    """The method's name in the study."""
    factor: str | None = None
    level: str | None = None


class Counterpart(Checked):
    """A paper whose numbers stand beside the study's: a folder of workflow/published/ and one of its settings."""

    paper: str = Field(description="a folder of workflow/published/")
    setting: str = Field(description="which of the paper's experiments, as its paper.yaml calls it")


class Study(Checked):
    """A study file."""

    title: str = Field(description="heading of the report")
    description: str = Field(default="", description="what the study asks, a sentence or two")
    datasets: list[Annotated[Dataset, BeforeValidator(_named, json_schema_input_type=str | Dataset)]] = Field(
        default=[], description="names of data sets, or {name, folder}; `images` in config.yaml adds a folder"
    )
    methods: list[Annotated[Method, BeforeValidator(_named, json_schema_input_type=str | Method)]] = Field(
        min_length=1, description="names of methods, or {name, ...} to change ranges or to name a PML loss"
    )
    protocol: Protocol = Field(description="what is equal for all methods")
    hyperparameters: str = Field(
        default=SEARCH,
        description="where they come from: `search`; `defaults`, those of the methods' files, most of them their "
        "authors'; `published`, the best values of the paper under `published`; or a YAML file (its path from the "
        "study's), data set -> method -> hyperparameter -> value. Only a search trains trials, the others cost none",
    )
    factors: dict[str, Factor] = Field(default={}, description="what is varied beside the methods: name -> factor")
    retrieval: dict[str, Retrieval] = Field(
        default={}, description="other ways to compare the embeddings of the final models: name -> what is done"
    )
    pairs: dict[str, str] = Field(
        default={},
        description="method -> the method that it adds something to: the report shows the gain of each pair; runs on "
        "levels of factors are called METHOD-LEVEL",
    )
    embedding_space: bool = Field(
        default=False, description="embed the classes that final models were trained on, and measure their geometry"
    )
    checkpoints: bool = Field(
        default=False,
        description="keep the final models of every validation, and measure what choosing one by the test would feign; "
        "for small networks: all of them stay in memory and in the state of an interrupted training",
    )
    toys: list[str] = Field(default=[], description="figures of made-up data that belong to the study")
    published: Counterpart | None = Field(
        default=None, description="a paper whose numbers stand beside this study's in its report"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for kind, entries in (("dataset", self.datasets), ("method", self.methods)):
            names = [entry.name for entry in entries]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the {kind} '{twice[0]}' stands there twice: give each its own name")
        self._check_factors()
        for name in self.retrieval:
            _refuse_name(name)
        self._check_pairs()
        for toy in self.toys:
            if plugins.literal("figures", toy, "NEEDS") != "toys":
                raise ValueError(f"toys: '{toy}' is no figure of made-up data")
        for run in self.runs.values():
            self._check_run(run)
        if self.hyperparameters == PUBLISHED and self.published is None:
            raise ValueError("hyperparameters: published needs to know by whom: give the key `published`")
        return self

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Everything that is run on each data set, by name: the methods, then each level of each factor.

        The run of a method on a level is called METHOD-LEVEL. A level that changes nothing for a method has no run of
        it. ValueError if a level changes nothing for any.
        """
        runs = {method.name: Run(method, self.protocol, method.name) for method in self.methods}
        for factor, of_factor in self.factors.items():
            for level, changes in of_factor.levels.items():
                origin = f"factors.{factor}.levels.{level}"
                protocol = self._protocol_on(origin, changes)
                for method in self._varied(of_factor, changes):
                    changed = _on_level(origin, method, of_factor, level)
                    if protocol != self.protocol or _setting(changed) != _setting(method):
                        runs[changed.name] = Run(changed, protocol, method.name, factor, level)
                if not any(run.level == level for run in runs.values()):
                    raise ValueError(f"{origin}: changes nothing of the study: give other values, or leave it out")
        return runs

    @property
    def searches(self) -> bool:
        """Whether hyperparameters are searched, not taken from elsewhere."""
        return self.hyperparameters == SEARCH

    def dataset(self, name: str) -> Dataset:
        return next(dataset for dataset in self.datasets if dataset.name == name)

    def method(self, name: str) -> Method:
        """The method of a run."""
        return self.runs[name].method

    def protocol_of(self, name: str) -> Protocol:
        """The protocol of a run."""
        return self.runs[name].protocol

    def views(self) -> list[str]:
        """What is kept of the test images beside their embeddings, for other ways of retrieval."""
        ways = self.retrieval.values()
        wanted = {way.pooling or "raw" for way in ways if way.pooling or way.beta}
        return sorted(wanted - {"average_max"} | ({"average", "max"} if "average_max" in wanted else set()))

    def shown(self, kind: str) -> list[str]:
        """The plug-ins of a kind, tables or figures, that the study has something for: what a file's NEEDS names."""
        needs = {name: plugins.literal(kind, name, "NEEDS") for name in plugins.names(kind)}
        return [
            n for n, key in needs.items() if key is None or (n in self.toys if key == "toys" else getattr(self, key))
        ]

    def teacher_of(self, name: str) -> str | None:
        """The run whose finished models a run learns from: on the same level if it is there, or the study's own."""
        run = self.runs[name]
        wanted = plugins.literal("methods", run.method.plugin, "TEACHER") if run.method.plugin else None
        if wanted is None:
            return None
        same = [n for n, r in self.runs.items() if r.method.plugin == wanted and r.level in (run.level, None)]
        on_level = [n for n in same if self.runs[n].level == run.level]
        teachers = [n for n in on_level or same if self.runs[n].base == wanted] or on_level or same
        if not teachers:
            raise ValueError(f"method '{name}' learns from a finished '{wanted}': add `- {wanted}` to the methods")
        if len(teachers) > 1:
            raise ValueError(
                f"method '{name}' learns from a finished '{wanted}', and {' and '.join(teachers)} are such: call one "
                f"of them '{wanted}'"
            )
        return teachers[0]

    def _varied(self, factor: Factor, level: Level) -> list[Method]:
        """The methods that a level of a factor is for."""
        trained = [method.name for method in self.methods if method.plugin != "pretrained"]
        of_factor = trained if factor.methods is None else factor.methods
        chosen = of_factor if level.methods is None else level.methods
        return [method for method in self.methods if method.name in chosen]

    def _check_pairs(self) -> None:
        for name, base in self.pairs.items():
            for run in (name, base):
                if run not in self.runs:
                    raise ValueError(
                        f"pairs: '{run}' is neither a method of the study nor one on a level, METHOD-LEVEL"
                    )
            if base == name or self.pairs.get(base) == name:
                raise ValueError(
                    f"pairs: '{name}' adds something to '{base}', which cannot be: one is the other's base"
                )

    def _protocol_on(self, origin: str, level: Level) -> Protocol:
        """The study's protocol with what a level changes."""
        changes = dict(level.protocol)
        for key in OF_THE_STUDY:
            if key in changes:
                raise ValueError(
                    f"{origin}.protocol: '{key}' is the same on all levels: set it in the study's protocol"
                )
        if "trunk" in changes:
            if "weights" not in changes:
                raise ValueError(f"{origin}.protocol: another trunk needs its `weights`: pretrained, a file, or null")
            changes = {"pooling": None} | changes
        return Protocol.check(self.protocol.model_dump() | changes, f"{origin}.protocol")

    def _check_factors(self) -> None:
        levels = [level for factor in self.factors.values() for level in factor.levels]
        names = {method.name for method in self.methods}
        for name, factor in self.factors.items():
            for chosen in (factor.methods, *(changes.methods for changes in factor.levels.values())):
                unknown = sorted(set(chosen or []) - names)
                if unknown:
                    raise ValueError(f"factors.{name}: '{unknown[0]}' is no method of the study")
            if factor.at is not None and factor.study is None:
                raise ValueError(f"factors.{name}: `at` needs `study`: what the study's own value is called")
            places = [level.at for level in factor.levels.values()] + [factor.at] * (factor.study is not None)
            if any(place is None for place in places) and any(place is not None for place in places):
                raise ValueError(
                    f"factors.{name}: give `at` to all of its levels and, if it has `study`, to itself, or to none"
                )
            for level, changes in factor.levels.items():
                _refuse_name(level)
                if levels.count(level) > 1:
                    raise ValueError(f"the level '{level}' stands there twice: give each its own name")
                known = {key for method in self._varied(factor, changes) for key in method.hyperparameters()}
                for key in changes.fixed:
                    if key not in known:
                        raise ValueError(f"factors.{name}.levels.{level}: no method has the hyperparameter '{key}'")

    def _check_run(self, run: Run) -> None:
        """ValueError if a batch of the protocol does not suit a method, or what it learns from is not there."""
        name, images, batch = run.method.name, run.method.images_of_a_class(), run.protocol.batch_size
        if batch % images or batch // images < 2:
            raise ValueError(
                f"method '{name}' wants {images} images per class: protocol.batch_size {batch} must be a multiple of "
                "it that holds at least 2 classes"
            )
        large = run.method.plugin and plugins.literal("methods", run.method.plugin, "BATCH_EXCEEDS_EMBEDDING")
        if large and batch <= run.protocol.embedding_size:
            raise ValueError(
                f"method '{name}' learns nothing from batches of no more images than an embedding has numbers: "
                f"protocol.batch_size {batch} must be above protocol.embedding_size {run.protocol.embedding_size}"
            )
        self.teacher_of(name)
        batches = run.method.plugin and plugins.literal("methods", run.method.plugin, "BATCHES")
        if batches and batches != HIERARCHICAL:
            raise ValueError(
                f"dml/methods/{run.method.plugin}.py: BATCHES is '{batches}'; it may be '{HIERARCHICAL}' or left out"
            )
        if batches:
            for dataset in self.datasets:
                if not plugins.defines("datasets", dataset.plugin, "super_class"):
                    raise ValueError(
                        f"method '{name}' takes batches of two super-classes, and '{dataset.name}' has none: leave one "
                        "of them out"
                    )

    def check_pml(self, origin: str) -> None:
        """Build every named loss and miner of pytorch-metric-learning once. ValueError naming origin and method."""
        for method in self.methods:
            if method.pml_loss is not None:
                from dml.pml import check

                try:
                    has_weights = check(method.pml_loss, method.pml_miner)
                except ValueError as error:
                    raise ValueError(f"{origin}: method '{method.name}': {error}") from None
                given = "loss_lr" in {*method.search_ranges(), *method.fixed}
                if has_weights and not given:
                    raise ValueError(
                        f"{origin}: method '{method.name}': the loss has weights of its own: give their learning "
                        "rate a range, ranges: {loss_lr: {low: 1.0e-6, high: 1, log: true}}"
                    )
                if given and not has_weights:
                    raise ValueError(
                        f"{origin}: method '{method.name}': the loss has no weights of its own: leave out loss_lr"
                    )

    def trials(self, method: str) -> int:
        """How many trials a method gets: one where there is nothing to search, none where nothing is searched."""
        entry = self.method(method)
        if not self.searches:
            return 0
        if entry.grid:
            return len(grid(entry.search_ranges()))
        return self.protocol.trials if entry.search_ranges() else 1


def _on_level(origin: str, method: Method, factor: Factor, level: str) -> Method:
    """A method as it is on a level of a factor. ValueError naming `origin` if it cannot have a value."""
    changes = factor.levels[level]
    fixed = {key: value for key, value in changes.fixed.items() if key in method.hyperparameters()}
    values = {
        "ranges": {key: searched for key, searched in method.ranges.items() if key not in fixed},
        "fixed": method.fixed | fixed,
        "images_per_class": changes.images_per_class or method.images_per_class,
        "title": ", ".join(filter(None, [method.heading, factor.curve, changes.title or level])),
    }
    changed = Method.check(dict(method) | values, f"{origin}, method '{method.name}'")
    return changed.model_copy(update={"name": f"{method.name}-{level}", "file": method.plugin})


def _setting(method: Method) -> tuple:
    """What tells a method on a level from the method without."""
    return method.images_of_a_class(), method.fixed, method.search_ranges()


def load_study(path: Path, images: str | Sequence[str] | None = None) -> Study:
    """Read and check a study file; `images` are folders or zips that become data sets named after them."""
    values = read_yaml(path)
    if isinstance(values, dict) and images:
        own = own_images(images)
        named = values.get("datasets") or []
        if isinstance(named, list):
            values = values | {"datasets": [*named, *({"name": own_name(i), "folder": i} for i in own)]}
    study = Study.check(values, str(path))
    if not study.datasets:
        raise ValueError(
            f"{path}: no data set: name one under `datasets`, or give your own folder with --config images=FOLDER"
        )
    return study


def own_images(images: str | Sequence[str] | None) -> list[str]:
    """The folders or zips that `images` of config.yaml names: none, one or several."""
    return [os.path.expanduser(path) for path in ([images] if isinstance(images, str) else images or [])]


def study_path(name: str, folder: Path) -> Path:
    """The file of a study, named or given by its path. ValueError with the choices."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"study '{name}': no file {path}; choose from: {known}, or give the path of a study file")
    own = folder / path.name
    if own.is_file() and not own.samefile(path):
        raise ValueError(f"{path}: {own} has the same name, and the results would have: rename your study")
    if not re.match(NAME, path.stem):
        raise ValueError(f"{path}: a study's file name is made of lower-case letters, digits and underscores")
    return path


def own_name(path: str) -> str:
    """The data set name of a folder or zip: its own name in lower-case letters, digits and underscores."""
    return re.sub("[^a-z0-9]+", "_", Path(path).resolve().name.lower().removesuffix(".zip")).strip("_") or "images"
