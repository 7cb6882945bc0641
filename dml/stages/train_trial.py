"""Train folds of one trial of the search."""

from itertools import repeat
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
    teacher: list[Path],
    device: str,
    threads: int,
    fold: list[int],
    output: list[Path],
) -> None:
    """Write each fold's record: score, curve, failure if any. `teacher`: the models of the folds that it learns from.

    The state of each fold stays until its results are in the history: what a job that is killed has written, Snakemake
    removes.
    """
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    setting = Trial.load(trial)
    protocol = Study.load(study).protocol_of(setting.method)
    for k, path, model in zip(fold, output, teacher or repeat(None, len(fold)), strict=True):
        state = path.with_suffix(".state")
        _, record = run_fold(setting, protocol, data, k, ("search", number), device, threads, state, teacher=model)
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
        teacher=[Path],
        device=str,
        threads=int,
        fold=[int],
        output=[Path],
    )
