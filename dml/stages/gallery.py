"""Draw the retrieval gallery of one data set for its best method."""

import csv
from pathlib import Path

from dml.finished import load_embeddings
from dml.gallery import gallery
from dml.images import PackedImages
from dml.record import write_json
from dml.results import Results, ranked_methods
from dml.stages import run


def main(
    results: Path, dataset: str, embeddings: list[Path], methods: list[str], folds: Path, test: Path, output: Path
) -> None:
    """`embeddings` are those of one seed, as many of each of `methods`, in their order."""
    found = Results.load(results.parent)
    ranked, each = ranked_methods(found, dataset), len(embeddings) // len(methods)
    files = {method: embeddings[i * each :][:each] for i, method in enumerate(methods)}
    best = next((method for method in ranked if all(len(load_embeddings(path)) for path in files[method])), None)
    if best is None:  # every method failed: there is nothing to show
        write_json(output, {"dataset": dataset, "method": ranked[0], "rows": []})
        return
    own = files[best]
    with folds.open(newline="", encoding="utf-8") as file:
        class_names = {int(row["label"]): row["class"] for row in csv.DictReader(file)}
    packed = PackedImages.open(test.with_suffix(""))
    write_json(output, gallery(dataset, best, own, packed, class_names, found.study["protocol"]["seed"]))


if __name__ == "__main__":
    run(
        main,
        results=Path,
        dataset=str,
        embeddings=[Path],
        methods=[str],
        folds=Path,
        test=Path,
        output=Path,
    )
