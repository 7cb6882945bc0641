"""Measure the test embeddings of one seed, separated and concatenated."""

from pathlib import Path

from dml.evaluation import measure_seed
from dml.record import read_json
from dml.stages import run
from dml.study import Study


def main(study: Path, embeddings: list[Path], test: Path, output: Path, output_queries: Path) -> None:
    """Write every metric, with the records of the models that gave it, and the per-query values."""
    ways = Study.load(study).retrieval
    records = [read_json(path.with_name("record.json")) for path in embeddings]
    measure_seed(embeddings, records, test.with_suffix(""), output, output_queries, ways)


if __name__ == "__main__":
    run(main, study=Path, embeddings=[Path], test=Path, output=Path, output_queries=Path)
