"""Train folds of one seed with the best trial of a closed search."""

from pathlib import Path

from dml.model import save_model
from dml.record import write_json
from dml.runs import Data, run_fold
from dml.stages import run
from dml.study import Study
from dml.trial import BestTrial


def main(
    study: Path,
    dataset: str,
    seed: int,
    trial: Path,
    trainval: Path,
    folds: Path,
    weights: Path | None,
    teacher: list[Path],
    device: str,
    threads: int,
    fold: list[int],
    output: list[Path],
    output_checkpoints: list[Path],
) -> None:
    """Write each fold's model, and its record beside it; where asked, the models of all validations.

    `teacher`: the models of the folds that it learns from.

    The state of each fold stays until `embed` has used the model: what a job that is killed has written, Snakemake
    removes.
    """
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    best = BestTrial.load(trial)
    protocol = Study.load(study).protocol_of(best.trial.method)
    none = [None] * len(fold)
    for k, path, of_teacher, kept in zip(fold, output, teacher or none, output_checkpoints or none, strict=True):
        model, record = run_fold(
            best.trial, protocol, data, k, ("final", seed), device, threads, path.with_suffix(".state"),
            failure=best.failure, searched_with=best.made_by, teacher=of_teacher, checkpoints=kept,
        )  # fmt: skip
        record |= {"seed": seed, "trial": best.number, "model": save_model(model, path)}
        write_json(path.with_name("record.json"), record)


if __name__ == "__main__":
    run(
        main,
        study=Path,
        dataset=str,
        seed=int,
        trial=Path,
        trainval=Path,
        folds=Path,
        weights=(Path,),
        teacher=[Path],
        device=str,
        threads=int,
        fold=[int],
        output=[Path],
        output_checkpoints=[Path],
    )
