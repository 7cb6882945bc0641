"""Train folds of one trial of the search."""

from pathlib import Path

from dml.record import write_json
from dml.runs import Data, run_fold
from dml.stages import run
from dml.study import Study
from dml.trial import Trial


def main(
    study: Path,
    dataset: str,
    number: int,
    trial: Path,
    trainval: Path,
    folds: Path,
    weights: Path | None,
    device: str,
    threads: int,
    fold: list[int],
    output: list[Path],
) -> None:
    """Write each fold's record: score, curve, failure if any.

    The state of each fold stays until its results are in the history: what a job that is killed has written, Snakemake
    removes.
    """
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    protocol, setting = Study.load(study).protocol, Trial.load(trial)
    for k, path in zip(fold, output, strict=True):
        state = path.with_suffix(".state")
        _, record = run_fold(setting, protocol, data, k, ("search", number), device, threads, state)
        write_json(path, record | {"trial": number})


if __name__ == "__main__":
    run(
        main,
        study=Path,
        dataset=str,
        number=int,
        trial=Path,
        trainval=Path,
        folds=Path,
        weights=(Path,),
        device=str,
        threads=int,
        fold=[int],
        output=[Path],
    )
