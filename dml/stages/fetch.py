"""Get a data set: its archives, and the list of its images with their classes.

Where the user has a copy already is the environment's to say, DML_COPIES: as with mirrors, a change of it makes nothing
again.
"""

import json
import os
from pathlib import Path

from dml import plugins
from dml.downloading import mirrors_from
from dml.listing import write_image_list
from dml.stages import run


def main(plugin: str, source: Path | None, archives: Path, output: Path) -> None:
    """Download or generate a data set, or look through a folder or zip of images, and list what is there."""
    dataset = plugins.load("datasets", plugin)
    print(f"{dataset.TITLE}. Source: {dataset.SOURCE}. Terms: {dataset.TERMS}.", flush=True)
    archives.mkdir(parents=True, exist_ok=True)
    copies = json.loads(os.environ.get("DML_COPIES", "{}"))
    copy = copies.get(plugin) or copies.get(plugins.literal("datasets", plugin, "ARCHIVES_OF"))
    source = Path(copy) if copy else source
    write_image_list(dataset.prepare(archives, mirrors_from(None, os.environ), source), output)


if __name__ == "__main__":
    run(main, plugin=str, source=(Path,), archives=Path, output=Path)
