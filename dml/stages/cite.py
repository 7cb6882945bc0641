"""Say where the hyperparameters of one method come from that were not searched."""

import json
from pathlib import Path

from dml.record import write_json
from dml.search import given
from dml.stages import run
from dml.study import Study


def main(study: Path, dataset: str, method: str, values: str, origin: str, output: Path, output_history: Path) -> None:
    """Write what a search says of its winner, and its history, here empty; `values` is JSON."""
    ranges = Study.load(study).method(method).search_ranges()
    write_json(output_history, {"dataset": dataset, "method": method, "trials": []})
    given(dataset, method, ranges, json.loads(values), origin).save(output)


if __name__ == "__main__":
    run(main, study=Path, dataset=str, method=str, values=str, origin=str, output=Path, output_history=Path)
