"""The keys of study files and of config.yaml as JSON schemas (for editors) and as a page: `python -m dml.schemas`."""

import json
from pathlib import Path

from dml.checked import Checked
from dml.protocol import Protocol, Weights
from dml.search import Range
from dml.settings import Settings
from dml.study import Counterpart, Dataset, Factor, Level, Method, Rerank, Retrieval, Study

INTRODUCTION = """# Study files

A study is a file of this folder, or any YAML file given by its path: `snakemake --cores all --config study=NAME`.
Unknown keys and wrong types are refused before anything runs. The defaults of `protocol` are those of *A Metric
Learning Reality Check* (ECCV 2020); a study names what it changes. For completion and checks in an editor, put
`# yaml-language-server: $schema=../schemas/study.json` into the first line.
"""
SECTIONS = {
    "The study": Study,
    "An entry of `datasets`, where a name is not enough": Dataset,
    "An entry of `methods`, where a name is not enough": Method,
    "A range: of `ranges`, or in place of an argument of `pml_loss` and `pml_miner`": Range,
    "An entry of `factors`": Factor,
    "A level of a factor: a value of `levels`": Level,
    "An entry of `retrieval`": Retrieval,
    "`rerank` of an entry of `retrieval`": Rerank,
    "`published`": Counterpart,
    "`protocol`": Protocol,
    "`protocol.weights`": Weights,
    "config.yaml": Settings,
}


def files() -> dict[str, str]:
    """Path in the project -> content of everything that is written from the models of study files and config.yaml."""
    schemas = {"study": Study, "config": Settings}
    written = {
        f"workflow/schemas/{name}.json": json.dumps(model.model_json_schema(), indent=1) + "\n"
        for name, model in schemas.items()
    }
    return written | {"workflow/studies/README.md": _page()}


def _page() -> str:
    parts = [INTRODUCTION]
    for heading, model in SECTIONS.items():
        parts.append(f"## {heading}\n\n| key | default | meaning |\n|---|---|---|\n{_rows(model)}\n")
    return "\n".join(parts)


def _rows(model: type[Checked]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        meaning = field.description.replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    for path, content in files().items():
        Path(path).write_text(content)
