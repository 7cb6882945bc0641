"""Close the search of one method: the whole history and its best trial."""

from pathlib import Path

from dml.files import remove
from dml.record import read_json, write_json
from dml.search import close, extend_history, from_json, to_json
from dml.stages import run
from dml.study import Study
from dml.trial import BestTrial, Trial


def main(
    study: Path,
    dataset: str,
    method: str,
    history: Path,
    settings: list[Path],
    folds: list[Path],
    output: Path,
    output_trial: Path,
    output_history: Path,
) -> None:
    """Write the finished history, its best trial, and that trial's setting; `settings` are all trials', in order."""
    known = from_json(read_json(history))
    known = extend_history(known, [read_json(path) for path in folds])
    write_json(output_history, {"dataset": dataset, "method": method, "trials": to_json(known)})
    selected = close(dataset, method, Study.load(study).method(method).search_ranges(), known)
    trial = Trial.load(settings[selected.trial])
    best = BestTrial(number=selected.trial, trial=trial, failure=selected.failure, made_by=selected.made_by)
    best.save(output_trial)
    selected.save(output)
    for path in folds:
        remove(path.with_suffix(".state"))


if __name__ == "__main__":
    run(
        main,
        study=Path,
        dataset=str,
        method=str,
        history=Path,
        settings=[Path],
        folds=[Path],
        output=Path,
        output_trial=Path,
        output_history=Path,
    )
