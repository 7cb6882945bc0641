"""Train folds of one trial of the search."""

from pathlib import Path

from dml.checkpoint import Checkpoint
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

    The state of each fold stays until all are written: of a job that is killed only what is made again is lost.
    """
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    protocol, setting = Study.load(study).protocol, Trial.load(trial)
    states = [path.with_suffix(".state") for path in output]
    for k, path, state in zip(fold, output, states, strict=True):
        _, record = run_fold(setting, protocol, data, k, ("search", number), device, threads, state=state)
        write_json(path, record | {"trial": number})
    for state in states:
        Checkpoint(state).remove()


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
