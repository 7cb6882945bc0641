"""Decode and resize one half of a data set, once, into a file of uint8 pixels."""

from pathlib import Path

from dml import plugins
from dml.images import pack
from dml.listing import read_image_list
from dml.splits import half_of, queries_of
from dml.stages import run


def main(plugin: str, images: Path, half: str, side: int, threads: int, output: Path) -> None:
    """Pack the trainval or the test images; `output` is the fingerprint, the pixels lie beside it."""
    listed = read_image_list(images)
    positions, labels = half_of(listed, half)
    chosen, upright = [listed[i] for i in positions], plugins.literal("datasets", plugin, "UPRIGHT", False)
    pack(chosen, labels, side, output.with_suffix(""), upright=upright, workers=threads, queries=queries_of(chosen))


if __name__ == "__main__":
    run(main, plugin=str, images=Path, half=str, side=int, threads=int, output=Path)
