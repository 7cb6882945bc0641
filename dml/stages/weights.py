"""Get the pretrained weights of a trunk, checked."""

import os
from pathlib import Path

from dml.downloading import mirrors_from, obtain
from dml.stages import run


def main(sha256: str, url: list[str], output: Path) -> None:
    """Take the file from a mirror or download it."""
    obtain(output.name, url, sha256, None, output.parent, mirrors_from(None, os.environ))


if __name__ == "__main__":
    run(main, sha256=str, url=[str], output=Path)
