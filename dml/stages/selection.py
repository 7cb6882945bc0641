"""Measure the models of all validations of one seed on the test half: what would choosing by the test feign?"""

from pathlib import Path

from dml.evaluation import measure_checkpoints
from dml.record import read_json
from dml.stages import run


def main(checkpoints: list[Path], models: list[Path], test: Path, device: str, threads: int, output: Path) -> None:
    """Write what was measured of each; nothing is chosen by it."""
    records = [read_json(model.with_name("record.json")) for model in models]
    measure_checkpoints(checkpoints, models, records, test.with_suffix(""), output, device, threads)


if __name__ == "__main__":
    run(main, checkpoints=[Path], models=[Path], test=Path, device=str, threads=int, output=Path)
