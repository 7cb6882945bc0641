"""Record the trials of the round before, and propose the next one from the history."""

from pathlib import Path

from dml.files import remove
from dml.record import read_json, write_json
from dml.search import extend_history, from_json, grid, propose, refuse_mixture, to_json
from dml.stages import run
from dml.study import Study


def main(
    study: Path,
    dataset: str,
    method: str,
    number: int,
    history: Path | None,
    folds: list[Path],
    output: Path,
    output_history: Path,
) -> None:
    """Write the setting of trial `number` and the history it was proposed from.

    With the trials of the round before on record, the states of their trainings go.
    """
    checked = Study.load(study)
    entry, protocol = checked.method(method), checked.protocol_of(method)
    known = from_json(read_json(history)) if history else []
    known = extend_history(known, [read_json(path) for path in folds])
    refuse_mixture(dataset, method, known)
    if entry.grid:
        parameters = grid(entry.search_ranges())[number]
    else:
        parameters = propose(
            entry.search_ranges(),
            known,
            number,
            sobol_trials=protocol.sobol_trials,
            per_round=protocol.trials_per_round,
            seed=protocol.seed,
            names=(dataset, method),
        )
    write_json(output_history, to_json(known))
    entry.trial(parameters).save(output)
    for path in folds:
        remove(path.with_suffix(".state"))


if __name__ == "__main__":
    run(
        main,
        study=Path,
        dataset=str,
        method=str,
        number=int,
        history=(Path,),
        folds=[Path],
        output=Path,
        output_history=Path,
    )
