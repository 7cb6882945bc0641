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
    device: str,
    threads: int,
    fold: list[int],
    output: list[Path],
) -> None:
    """Write each fold's model, and its record beside it.

    The state of each fold stays until `embed` has used the model: what a job that is killed has written, Snakemake
    removes.
    """
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    protocol, best = Study.load(study).protocol, BestTrial.load(trial)
    for k, path in zip(fold, output, strict=True):
        model, record = run_fold(
            best.trial, protocol, data, k, ("final", seed), device, threads, path.with_suffix(".state"),
            failure=best.failure, searched_with=best.made_by,
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
        device=str,
        threads=int,
        fold=[int],
        output=[Path],
    )
