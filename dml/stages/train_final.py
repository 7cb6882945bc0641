"""Train folds of one seed with the best trial of a closed search."""

from pathlib import Path

from dml.checkpoint import Checkpoint
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

    The state of each fold stays until all are written: of a job that is killed only what is made again is lost.
    """
    data = Data(dataset, trainval.with_suffix(""), folds, weights)
    protocol, best = Study.load(study).protocol, BestTrial.load(trial)
    states = [path.with_suffix(".state") for path in output]
    for k, path, state in zip(fold, output, states, strict=True):
        run = ("final", seed)
        model, record = run_fold(best.trial, protocol, data, k, run, device, threads, best.failure, state)
        record |= {"seed": seed, "trial": best.number, "model": save_model(model, path)}
        write_json(path.with_name("record.json"), record)
    for state in states:
        Checkpoint(state).remove()


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
