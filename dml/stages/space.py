"""Measure the geometry of the training classes' embeddings, of the final models of one seed."""

from pathlib import Path

from dml.embedding_space import measure_space
from dml.record import read_json
from dml.stages import run


def main(models: list[Path], trainval: Path, folds: Path, device: str, threads: int, output: Path) -> None:
    """Write the measures of each fold's model."""
    records = [read_json(model.with_name("record.json")) for model in models]
    measure_space(models, records, trainval.with_suffix(""), folds, output, device, threads)


if __name__ == "__main__":
    run(main, models=[Path], trainval=Path, folds=Path, device=str, threads=int, output=Path)
