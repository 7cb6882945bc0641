"""Embed the test half with the finished models of one seed."""

from pathlib import Path

from dml.files import remove
from dml.finished import embed_test
from dml.record import read_json
from dml.stages import run


def main(models: list[Path], test: Path, device: str, threads: int, views: list[str], output: list[Path]) -> None:
    """Write the L2-normalised embeddings of each fold's model, and beside them what made them, and the `views`.

    The states of trainings whose models have served go.
    """
    for model, path in zip(models, output, strict=True):
        record = read_json(model.with_name("record.json"))
        embed_test(model, record, test.with_suffix(""), path, device, threads, views)
        remove(model.with_suffix(".state"))


if __name__ == "__main__":
    run(main, models=[Path], test=Path, device=str, threads=int, views=[str], output=[Path])
