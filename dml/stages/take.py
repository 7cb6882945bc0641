"""Take the hyperparameters of one method from elsewhere instead of searching them."""

import json
from pathlib import Path

from dml.stages import run
from dml.study import Study
from dml.trial import BestTrial


def main(study: Path, method: str, values: str, output: Path) -> None:
    """Write the setting to train, as a search's winner; `values` is JSON."""
    trial = Study.load(study).method(method).trial(json.loads(values))
    BestTrial(number=0, trial=trial).save(output)


if __name__ == "__main__":
    run(main, study=Path, method=str, values=str, output=Path)
