"""Take the hyperparameters of one method from elsewhere instead of searching them."""

import json
from pathlib import Path

from dml.record import write_json
from dml.search import given
from dml.stages import run
from dml.study import Study
from dml.trial import BestTrial


def main(
    study: Path,
    dataset: str,
    method: str,
    values: str,
    origin: str,
    output: Path,
    output_trial: Path,
    output_history: Path,
) -> None:
    """Write what a search writes: a history, empty here, its outcome and the setting to train; `values` is JSON."""
    entry, parameters = Study.load(study).method(method), json.loads(values)
    write_json(output_history, {"dataset": dataset, "method": method, "trials": []})
    BestTrial(number=0, trial=entry.trial(parameters)).save(output_trial)
    given(dataset, method, entry.search_ranges(), parameters, origin).save(output)


if __name__ == "__main__":
    run(
        main,
        study=Path,
        dataset=str,
        method=str,
        values=str,
        origin=str,
        output=Path,
        output_trial=Path,
        output_history=Path,
    )
