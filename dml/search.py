"""Hyperparameter search: the next trial from the history so far, and the best of a finished history.

There is no state but the history: optuna's samplers are rebuilt from it for each proposal, so a proposal is the same
in any process. The first trials follow a scrambled Sobol sequence, the rest a Gaussian process with expected
improvement, as in the paper (which used Ax; its process was given the spread over folds as observation noise, here the
noise is fitted).
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import fmean, stdev
from typing import Any, Self

from pydantic import Field, model_validator

from dml.checked import Checked, looks_numeric
from dml.seeds import derive_seed


class Range(Checked):
    """Where a hyperparameter is searched: from low to high, or among choices."""

    low: float | None = Field(default=None, description="lowest value")
    high: float | None = Field(default=None, description="highest value")
    log: bool = Field(default=False, description="search on a logarithmic scale")
    integer: bool = Field(default=False, description="whole numbers only")
    choices: list[Any] | None = Field(default=None, min_length=1, description="the values to choose from")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise ValueError("a range has either choices or low and high, not both")
            for choice in self.choices:
                if looks_numeric(choice) or isinstance(choice, float) and not math.isfinite(choice):
                    raise ValueError(
                        f"choices: expected finite numbers, not {choice!r} (YAML reads 1e-5 as text: 1.0e-5)"
                    )
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 on a logarithmic scale")
        if self.integer and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"low {self.low:g} and high {self.high:g} must be whole numbers where integer is true")
        return self

    def refuse(self, value: Any) -> None:
        """ValueError if a value is none that a hyperparameter with this range can have; it may lie outside of it."""
        if self.choices is not None:
            kinds = {type(choice) for choice in self.choices}
            if type(value) not in kinds and not (type(value) is int and float in kinds):
                raise ValueError(f"expected one like {', '.join(map(repr, self.choices))}, not {value!r}")
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"expected a finite number, not {value!r} (YAML reads 1e-5 as text: 1.0e-5)")
        if self.integer and not float(value).is_integer():
            raise ValueError(f"expected a whole number, not {value!r}")
        if self.log and value <= 0:
            raise ValueError(f"expected a number above 0, not {value!r}")

    def grid(self) -> list[Any]:
        """Every value, where there are finitely many. ValueError where there are not."""
        if self.choices is not None:
            return list(self.choices)
        if not self.integer:
            raise ValueError("a grid needs integer: true, or choices")
        return list(range(int(self.low), int(self.high) + 1))

    def edge(self, value: Any) -> str | None:
        """'low' or 'high' if the value lies within 1 % of that end of the range (on its scale), else None."""
        if self.choices is not None:
            return None
        scale = math.log if self.log else float
        position = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return "low" if position <= 0.01 else "high" if position >= 0.99 else None


FOLD_KEYS = ("fold", "score", "best_step", "steps", "failure", "seconds", "made_by")
"""What the history keeps of a fold's record."""


@dataclass(frozen=True)
class Tried:
    """One finished trial: the score is the mean over folds of the best validation MAP@R, 0 if any fold failed."""

    number: int
    parameters: dict[str, Any]
    score: float
    sem: float | None
    folds: list[dict]
    failure: str | None


def tried(number: int, parameters: Mapping[str, Any], folds: Sequence[dict]) -> Tried:
    """Score a trial from its folds' records. A failed fold makes the trial a failed one, scored worst."""
    folds = [{key: fold[key] for key in FOLD_KEYS} | _hardware(fold) for fold in folds]
    reasons = [f"fold {fold['fold']}: {fold['failure']}" for fold in folds if fold["failure"]]
    if reasons:
        return Tried(number, dict(parameters), 0.0, None, folds, "; ".join(reasons))
    scores = [fold["score"] for fold in folds]
    sem = stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None
    return Tried(number, dict(parameters), fmean(scores), sem, folds, None)


def _hardware(fold: Mapping[str, Any]) -> dict[str, Any]:
    return {key: fold["provenance"].get(key) for key in ("device_type", "threads")}


def grid(ranges: Mapping[str, Range]) -> list[dict[str, Any]]:
    """Every combination of the values of all ranges: what a study tries instead of searching, where it says so."""
    ordered = sorted(ranges)
    return [dict(zip(ordered, values, strict=True)) for values in product(*(ranges[name].grid() for name in ordered))]


def propose(
    ranges: Mapping[str, Range],
    history: Sequence[Tried],
    number: int,
    *,
    sobol_trials: int,
    per_round: int,
    seed: int,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The hyperparameters of trial `number`, given the trials of all rounds before its own.

    Trials of one round (`per_round` of them) do not see each other's scores; the Gaussian process treats those already
    proposed as running, so a round holds different settings. `names` (data set, method) give each search draws of its
    own; the Sobol points depend on the seed alone, so searches over the same ranges start alike, as in the paper.
    """
    if not ranges:
        return {}
    first_of_round = number - number % per_round
    known = sorted((t for t in history if t.number < first_of_round), key=lambda t: t.number)
    assert len(known) == first_of_round, "a proposal needs every trial of the rounds before"
    space = {name: _distribution(ranges[name]) for name in sorted(ranges)}
    if number < sobol_trials:
        return _sobol_point(space, number, seed)
    sampler_seed = derive_seed(seed, *names, "proposal", first_of_round) % 2**32
    return _gaussian_process_point(space, known, first_of_round, number, sobol_trials, seed, sampler_seed)


def best(history: Sequence[Tried]) -> Tried:
    """The trial with the highest score; the earliest of equals. A failed one only if all failed."""
    return max(history, key=lambda t: (t.failure is None, t.score, -t.number))


def edges(ranges: Mapping[str, Range], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Which hyperparameters lie on an edge of their range, and on which: the range may be too narrow."""
    found = {name: ranges[name].edge(value) for name, value in sorted(parameters.items()) if name in ranges}
    return {name: side for name, side in found.items() if side}


def extend_history(history: Sequence[Tried], folds: Sequence[Mapping]) -> list[Tried]:
    """The history with one more round: the records of all folds of its trials."""
    new = []
    for number in sorted({fold["trial"] for fold in folds}):
        own = sorted((fold for fold in folds if fold["trial"] == number), key=lambda fold: fold["fold"])
        new.append(tried(number, own[0]["parameters"], own))
    return [*history, *new]


def to_json(history: Sequence[Tried]) -> list[dict]:
    """History as plain values."""
    return [asdict(t) for t in history]


def from_json(rows: Sequence[dict]) -> list[Tried]:
    """History from plain values."""
    return [Tried(**row) for row in rows]


class Selected(Checked):
    """The outcome of a closed search."""

    dataset: str
    method: str
    trial: int
    parameters: dict[str, Any]
    score: float | None
    sem: float | None
    edges: dict[str, str]
    ranges: dict[str, Range]
    trials: int
    failed_trials: int
    failure: str | None
    origin: str = Field(default="search", description="search, or where the values come from that were not searched")
    fingerprint: str = Field(description="hash of the whole history: which search chose this")
    made_by: dict[str, str | None] = Field(description="fingerprints of the search's code, data, weights and protocol")


def close(dataset: str, method: str, ranges: Mapping[str, Range], history: Sequence[Tried]) -> Selected:
    """The best trial of a finished search; with its `failure` only if every trial failed.

    ValueError as `refuse_mixture` raises it.
    """
    refuse_mixture(dataset, method, history)
    winner = best(history)
    scored = [{"parameters": t.parameters, "scores": [fold["score"] for fold in t.folds]} for t in history]
    return Selected(
        dataset=dataset,
        method=method,
        trial=winner.number,
        parameters=winner.parameters,
        score=winner.score,
        sem=winner.sem,
        edges=edges(ranges, winner.parameters),
        ranges=dict(ranges),
        trials=len(history),
        failed_trials=sum(t.failure is not None for t in history),
        failure=winner.failure and f"every trial failed; trial {winner.number}: {winner.failure}",
        fingerprint=_hash(scored),
        made_by=history[0].folds[0]["made_by"],
    )


def refuse_mixture(dataset: str, method: str, history: Sequence[Tried]) -> None:
    """ValueError if the trials of a search were trained with different code, data, weights or protocols."""
    for t in history:
        expected = history[0].folds[0]["made_by"]
        for what in expected:
            if any(fold["made_by"][what] != expected[what] for fold in t.folds):
                raise ValueError(
                    f"the search of {method} on {dataset}: trial {t.number} was trained with other {what} than "
                    "trial 0: delete the search's folder and run again"
                )


def given(
    dataset: str, method: str, ranges: Mapping[str, Range], parameters: Mapping[str, Any], origin: str
) -> Selected:
    """Hyperparameters that were not searched but taken from `origin`, in the place of a search's outcome."""
    return Selected(
        dataset=dataset,
        method=method,
        trial=0,
        parameters=dict(parameters),
        score=None,
        sem=None,
        edges=edges(ranges, parameters),
        ranges=dict(ranges),
        trials=0,
        failed_trials=0,
        failure=None,
        origin=origin,
        fingerprint=_hash([origin, dict(parameters)]),
        made_by={},
    )


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _distribution(searched: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if searched.choices is not None:
        return CategoricalDistribution(searched.choices)
    if searched.integer:
        return IntDistribution(int(searched.low), int(searched.high), log=searched.log)
    return FloatDistribution(searched.low, searched.high, log=searched.log)


def _sobol_point(space: dict, number: int, seed: int) -> dict[str, Any]:
    import optuna

    study = _empty_study(None)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=derive_seed(seed, "sobol") % 2**32)
    for _ in range(number + 1):  # the sampler counts its points in the study: the n-th call gives the n-th point
        point = sampler.sample_relative(study, None, space)
    return {name: point[name] for name in space}


def _gaussian_process_point(
    space: dict,
    known: Sequence[Tried],
    first_of_round: int,
    number: int,
    sobol_trials: int,
    seed: int,
    sampler_seed: int,
) -> dict[str, Any]:
    import optuna

    sampler = optuna.samplers.GPSampler(seed=sampler_seed, n_startup_trials=0)
    study = _empty_study(sampler)
    for t in known:
        study.add_trial(optuna.trial.create_trial(params=t.parameters, distributions=space, value=t.score))
    for waiting in range(first_of_round, number):
        if waiting < sobol_trials:
            study.enqueue_trial(_sobol_point(space, waiting, seed))
        study.ask(space)
    return dict(study.ask(space).params)


def _empty_study(sampler: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=sampler)
