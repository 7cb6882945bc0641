"""Write down what the study consists of, for `python -m dml.progress`."""

from pathlib import Path

from dml.record import write_json
from dml.stages import run


def main(datasets: list[str], methods: list[str], trials: list[int], folds: int, seeds: int, output: Path) -> None:
    """Write the data sets, the methods with their numbers of trials, and the numbers of folds and seeds."""
    named = [{"name": name, "trials": count} for name, count in zip(methods, trials, strict=True)]
    write_json(output, {"datasets": datasets, "methods": named, "folds": folds, "seeds": seeds})


if __name__ == "__main__":
    run(main, datasets=[str], methods=[str], trials=[int], folds=int, seeds=int, output=Path)
