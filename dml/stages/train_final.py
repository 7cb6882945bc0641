"""Train folds of one seed with the best trial of a closed search."""

from pathlib import Path

from dml.model import save_model
from dml.record import write_json
from dml.runs import Data, run_fold
from dml.search import Selected
from dml.stages import run
from dml.study import Study
from dml.trial import Trial


def main(
    study: Path,
    dataset: str,
    seed: int,
    trial: Path,
    best: Path,
    trainval: Path,
    folds: Path,
    weights: Path | None,
    device: str,
    threads: int,
    fold: list[int],
    output: list[Path],
) -> None:
    """Write each fold's model, and its record beside it."""
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    checked, selected, setting = Study.load(study), Selected.load(best), Trial.load(trial)
    chosen = {"number": selected.trial, "search": selected.fingerprint, "made_by": selected.made_by}
    for k, path in zip(fold, output, strict=True):
        model, record = run_fold(
            setting, checked.protocol, data, k, ("final", seed), device, threads, failure=selected.failure
        )
        save_model(model, path)
        write_json(path.with_name("record.json"), record | {"seed": seed, "trial": chosen})


if __name__ == "__main__":
    run(
        main,
        study=Path,
        dataset=str,
        seed=int,
        trial=Path,
        best=Path,
        trainval=Path,
        folds=Path,
        weights=(Path,),
        device=str,
        threads=int,
        fold=[int],
        output=[Path],
    )
