"""Get the pretrained weights of a study's trunks, checked."""

import os
from pathlib import Path

from dml.downloading import mirrors_from, obtain
from dml.stages import run
from dml.study import Study


def main(study: Path, output: Path) -> None:
    """Take the file from a mirror or download it."""
    every = (run.protocol.weights for run in Study.load(study).runs.values())
    weights = next(weights for weights in every if weights and weights.file == output.name)
    mirrors = mirrors_from(None, os.environ)
    obtain(output.name, weights.urls, output.parent, mirrors, sha256=weights.sha256, sha1=weights.sha1)


if __name__ == "__main__":
    run(main, study=Path, output=Path)
