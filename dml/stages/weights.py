"""Get the pretrained weights of a trunk, checked."""

import os
from pathlib import Path

from dml.downloading import mirrors_from, obtain
from dml.stages import run


def main(sha256: str | None, sha1: str | None, url: list[str], output: Path) -> None:
    """Take the file from a mirror or download it."""
    obtain(output.name, url, output.parent, mirrors_from(None, os.environ), sha256=sha256, sha1=sha1)


if __name__ == "__main__":
    run(main, sha256=(str,), sha1=(str,), url=[str], output=Path)
