"""Search pictures with a picture: `python -m dml.find MODEL_FOLDER IMAGES --query PICTURE --output page.html`.

The model is one that `python -m dml.export` wrote; the page is one file that needs no network.
"""

import argparse
import base64
import io
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
from tqdm import tqdm

import dml
from dml.datasets.folder import ENDINGS
from dml.embedding import BATCH_SIZE
from dml.exported import Exported
from dml.files import write_bytes
from dml.page import template

PICTURE_SIDE = 240
"""Longer side of a picture on the page, pixels."""


@dataclass(frozen=True)
class Search:
    """What queries find in a folder."""

    folder: Path
    searched: int
    """Pictures of the folder that can be read."""
    unreadable: list[str]
    """Of the others, which they are and why."""
    found: dict[Path, list[tuple[Path, float]]]
    """Query -> the pictures most similar to it and their cosine similarities, most similar first."""


def find(model: Exported, folder: Path, queries: Sequence[Path], number: int, progress: bool = False) -> Search:
    """The `number` pictures of a folder that are most similar to each query, which itself is left out.

    Of equals the first by path comes first. ValueError with one line if a query cannot be read, or where there is
    nothing to search.
    """
    if number < 1:
        raise ValueError(f"number: {number}; expected at least 1")
    of_queries, paths = model.embed(queries), _pictures(folder)
    embedded, unreadable = _embedded(model, paths, progress)
    if not embedded:
        raise ValueError(f"{folder}: none of its pictures can be read: {unreadable[0]}")
    found = {query: _nearest(query, x, embedded, number) for query, x in zip(queries, of_queries, strict=True)}
    return Search(folder, len(embedded), unreadable, found)


def page(model: Exported, search: Search) -> str:
    """One HTML page with the queries, what they found, and the pictures in it."""

    def shown(path: Path, name: str, similarity: float | None = None) -> dict:
        return {"name": name, "jpeg": _jpeg(model.opened(path)), "similarity": similarity}

    rows = [
        {
            "query": shown(query, query.name),
            "neighbours": [shown(path, path.relative_to(search.folder).as_posix(), s) for path, s in neighbours],
        }
        for query, neighbours in search.found.items()
    ]
    return template("find").render(search=search, rows=rows, model=model.description)


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder and of those below it, by their endings; what is hidden is passed over."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS and path.is_file()]
    found = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise ValueError(f"{folder}: no pictures in it ({' '.join(ENDINGS)})")
    return found


def _embedded(model: Exported, paths: Sequence[Path], progress: bool) -> tuple[dict[Path, np.ndarray], list[str]]:
    """The embeddings of the pictures that can be read, and why others cannot."""
    embedded, unreadable = {}, []
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), unit="picture", disable=not progress) as bar:
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            seen = dict(zip(batch, pool.map(partial(_pixels_or_reason, model), batch), strict=True))
            unreadable += [reason for reason in seen.values() if isinstance(reason, str)]
            pixels = {path: pixels for path, pixels in seen.items() if not isinstance(pixels, str)}
            if pixels:
                embedded |= zip(pixels, model.embed(list(pixels.values())), strict=True)
            bar.update(len(batch))
    return embedded, unreadable


def _pixels_or_reason(model: Exported, path: Path) -> np.ndarray | str:
    try:
        return model.pixels(path)
    except ValueError as error:
        return str(error)


def _nearest(
    query: Path, vector: np.ndarray, embedded: Mapping[Path, np.ndarray], number: int
) -> list[tuple[Path, float]]:
    others = [path for path in embedded if path.resolve() != query.resolve()]
    similarities = np.array([embedded[path] @ vector for path in others])
    return [(others[i], float(similarities[i])) for i in np.argsort(-similarities, kind="stable")[:number]]


def _jpeg(image: PIL.Image.Image) -> str:
    """A picture as a small JPEG, base64."""
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Find the pictures of a folder that are most similar to a picture, and show them on a page."""
    parser = argparse.ArgumentParser(prog="python -m dml.find", description=main.__doc__)
    parser.add_argument("model", type=Path, help="a folder that `python -m dml.export` wrote")
    parser.add_argument("images", type=Path, help="the folder to search, with those below it")
    parser.add_argument("--query", type=Path, nargs="+", required=True, help="the picture, or several")
    parser.add_argument("--number", type=int, default=12, help="how many to show (12)")
    parser.add_argument("--output", type=Path, required=True, help="the page to write (.html)")
    parser.add_argument("--device", help="such as cpu or cuda:1; by default a GPU if there is one")
    arguments = parser.parse_args()
    try:
        model = dml.load(arguments.model, arguments.device)
        search = find(model, arguments.images, arguments.query, arguments.number, progress=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.output, page(model, search).encode())
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{search.searched} pictures searched, {len(search.unreadable)} unreadable: {arguments.output}")


if __name__ == "__main__":
    main()
