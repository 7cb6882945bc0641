"""What the workflow itself costs: planning, starting processes, and a whole study outside training and evaluation."""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import yaml
from matplotlib.figure import Figure

from benchmarks import limits
from dml.checked import read_yaml
from dml.plotting import INK, PALETTE

TITLE = "Workflow"
ABOUT = """Alone: it has no peer. Planned is the whole paper with `snakemake -n`, its methods on its three data sets in
one study, every fold a job of its own. A stage starts with `--help`: Python and the imports that every one of its
processes pays for. The demo study is run from an empty folder on two cores; of its core-seconds (seconds times cores)
those inside training and evaluation are the sums of its report's costs, and the rest is outside: imports, proposals,
packing, the report, and cores that wait."""

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "workflow" / "studies"
PAPER = [STUDIES / f"reality_check_{name}.yaml" for name in ("cub", "cars", "sop")]
CORES = min(2, limits.cores())
INSIDE = {
    "search": "training, search",
    "final": "training, final runs",
    "embedding": "embedding",
    "measuring": "measuring",
}
"""Stages in the report's costs."""
SECONDS, CPU_SECONDS, MEGABYTES, JOBS = "seconds", "seconds of a processor", "megabytes", "jobs"
CORE_SECONDS, SHARE = "core-seconds", "share"
START = "start: "


LAUNCHER = """
import resource, subprocess, sys, time
begin = time.perf_counter()
answer = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
seconds, used = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
if answer.returncode:
    sys.exit(answer.stdout[-2000:])
print(answer.stdout)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""A small process between: Linux counts the memory of the one that starts a command as memory of the command."""


class Finished(NamedTuple):
    seconds: float
    cpu_seconds: float
    """Of the command and all that it started."""
    megabytes: float
    """At its peak, of the largest process."""
    output: str


def measure(repetitions: int) -> pd.DataFrame:
    """A row for each quantity of each case, with the most that it may be; the demo runs once."""
    rows = [*planning(), *starts(repetitions), *demo()]
    return pd.DataFrame(rows, columns=["case", "what", "value", "at_most"])


def draw(table: pd.DataFrame) -> Figure:
    """The starts of all stages, and what the demo spends its core-seconds on."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    started = table[table["case"].str.startswith(START)].sort_values("value", ascending=False)
    bars = left.barh(started["case"].str.removeprefix(START), started["value"], 0.62, color=PALETTE[0])
    left.bar_label(bars, fmt="%.2g", padding=3, color=INK)
    left.set_xlabel("seconds until a stage can begin")
    spent = table[table["what"] == CORE_SECONDS].iloc[::-1]
    bars = right.barh(spent["case"].str.removeprefix("demo: "), spent["value"], 0.62, color=PALETTE[0])
    right.bar_label(bars, fmt="%.3g", padding=3, color=INK)
    right.set_xlabel("core-seconds of the demo")
    for axes in (left, right):
        axes.margins(x=0.15)
    return figure


def planning() -> Iterator[tuple]:
    """The plan of the paper: its methods as the study of the last data set has them."""
    with TemporaryDirectory() as folder:
        study = read_yaml(PAPER[-1]) | {"datasets": [name for path in PAPER for name in read_yaml(path)["datasets"]]}
        Path(folder, "paper.yaml").write_text(yaml.safe_dump(study))
        plan = snakemake(Path(folder), "-n", study="paper.yaml", folds_per_job=1)
    case = "plan: the paper, three data sets"
    yield case, JOBS, int(re.search(r"^total +(\d+)$", plan.output, re.MULTILINE)[1]), None
    yield case, SECONDS, plan.seconds, 30.0
    yield case, CPU_SECONDS, plan.cpu_seconds, None
    yield case, MEGABYTES, plan.megabytes, 1000.0


def starts(repetitions: int) -> Iterator[tuple]:
    """How long each stage takes until it could begin."""
    for path in sorted((ROOT / "dml" / "stages").glob("[a-z]*.py")):
        command = [sys.executable, "-m", f"dml.stages.{path.stem}", "--help"]
        taken = [finished(command, ROOT).seconds for _ in range(repetitions)]
        yield START + path.stem, SECONDS, statistics.median(taken), None


def demo() -> Iterator[tuple]:
    """The demo study from nothing to its report."""
    with TemporaryDirectory() as folder:
        run = snakemake(Path(folder), "--cores", str(CORES), study="demo")
        costs = pd.read_csv(Path(folder, "reports", "demo", "tables", "costs.csv"))
    inside = (costs.groupby("stage")["hours"].sum() * 3600).loc[list(INSIDE)]
    of_all, outside = run.seconds * CORES, run.seconds * CORES - inside.sum()
    yield "demo", SECONDS, run.seconds, None
    for stage, seconds in inside.items():
        yield f"demo: {INSIDE[stage]}", CORE_SECONDS, seconds, None
    yield "demo: outside of these", CORE_SECONDS, outside, of_all / 4
    yield "demo: outside of these", SHARE, outside / of_all, 0.25


def snakemake(folder: Path, *arguments: str, **config: str | int) -> Finished:
    """Run the project's workflow in another folder."""
    values = [f"{key}={value}" for key, value in config.items()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments]
    return finished([*command, "--config", *values], folder)


def finished(command: list[str], folder: Path) -> Finished:
    """Run a command to its end. CalledProcessError if it fails, and what it said is on stderr then."""
    # a setting of the session that started the benchmark, a mirror say, is none of what is measured
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DML_"))}
    launched = [sys.executable, "-c", LAUNCHER, *command]
    answer = subprocess.run(launched, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    output, _, used = answer.stdout.rstrip().rpartition("\n")
    return Finished(*map(float, used.split()), output)
