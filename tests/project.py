"""The real workflow in an empty folder, for the tests that run it."""

import csv
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np

from dml.neighbours import neighbours

ROOT = Path(__file__).parents[1]
PARTS = ["Snakefile", "config.yaml", "pyproject.toml", "workflow", "dml", "envs", "profiles", "tests/studies"]
SMOKE = "tests/studies/smoke.yaml"


@cache
def compile_loops():
    """What numba compiled lies beside the sources and is copied with them: else every copy would compile it anew."""
    neighbours(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1]))


class Project:
    """A copy of the project in an empty folder."""

    def __init__(self, folder):
        self.folder = folder
        compile_loops()
        for part in PARTS:
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("*.pyc"))
            else:
                shutil.copy(ROOT / part, target)

    def copy(self, folder):
        """The project as it is now, with its data and results, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        copied = Project.__new__(Project)
        copied.folder = folder
        return copied

    def snakemake(self, *arguments, study=SMOKE, config=(), fails=False):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DML_"))}
        answer = subprocess.run(
            [Path(sys.executable).parent / "snakemake", *arguments, "--config", f"study={study}", *config],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert (answer.returncode != 0) == fails, answer.stdout
        return answer.stdout

    def plan(self, *arguments, **options):
        """The jobs of a dry run: dicts of rule, input, output and wildcards."""
        text = self.snakemake("-n", *arguments, **options)
        jobs = []
        for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", text)[1:]:
            fields = dict(re.findall(r"^    (input|output|wildcards|reason): (.*)$", block, re.MULTILINE))
            job = {"rule": re.match(r"(?:local)?rule (\w+):", block)[1], "reason": fields.get("reason", "")}
            job |= {key: fields[key].split(", ") if key in fields else [] for key in ("input", "output")}
            jobs.append(job | {"wildcards": dict(w.split("=") for w in fields.get("wildcards", "").split(", ") if w)})
        return jobs

    def files(self, folder):
        """Relative path -> bytes of all files below a folder."""
        return {
            p.relative_to(self.folder / folder): p.read_bytes()
            for p in (self.folder / folder).rglob("*")
            if p.is_file()
        }

    def rows(self, file="results/smoke/metrics.csv"):
        with (self.folder / file).open(newline="") as opened:
            return list(csv.DictReader(opened))
