"""Topics, each measured in a process of its own: its memory and its threads touch no other."""

import gc
import io
import json
import os
import pkgutil
import shlex
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from benchmarks import topics
from dml import record
from dml.files import write_bytes
from dml.plotting import STYLE

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "numba", "faiss-gpu", "faiss-cpu",
    "pytorch-metric-learning", "snakemake",
)  # fmt: skip
REDRAW = 0
"""In place of repetitions: measure nothing."""


def names() -> list[str]:
    """All topics: the files of `benchmarks/topics/`, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(topics.__path__))


def run_apart(name: str, repetitions: int, folder: Path, command: dict[str, str]) -> bool:
    """Measure and draw a topic in a new process. Whether all went well; what did not is in `<name>.failed`."""
    failed = folder / f"{name}.failed"
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(run, name, repetitions, folder, command).result()
    except Exception as error:  # whatever it is, the other topics are measured
        failed.write_text("".join(traceback.format_exception(error)))
        return False
    failed.unlink(missing_ok=True)
    return True


def run(name: str, repetitions: int, folder: Path, command: dict[str, str]) -> None:
    """Write `<name>.csv`, what made it (`<name>.json`), then its figure, `<name>.svg`."""
    topic = import_module(f"benchmarks.topics.{name}")
    table_file, made_file = folder / f"{name}.csv", folder / f"{name}.json"
    gc.freeze()  # before each call garbage is collected, and to look through the libraries takes a third of a second
    if repetitions != REDRAW:
        begin = time.monotonic()
        table = topic.measure(repetitions)
        made = command | {"repetitions": repetitions, "seconds": time.monotonic() - begin, "machine": machine()}
        write_bytes(table_file, table.to_csv(index=False).encode())
    else:
        made = json.loads(made_file.read_text())
    record.write_json(made_file, made | {"title": topic.TITLE, "about": topic.ABOUT})
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        svg = io.BytesIO()
        topic.draw(pd.read_csv(table_file)).savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    write_bytes(folder / f"{name}.svg", svg.getvalue())


def command_of(arguments: list[str]) -> dict[str, str]:
    """When and how this run was started: what its topics have in common."""
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    return {"run": datetime.now().astimezone().isoformat(timespec="seconds"), "command": command}


def machine() -> dict[str, Any]:
    """What these numbers are numbers of: hardware, versions, commit."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    installed = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return {
        "Processor": record.hardware("cpu")["device"],
        "Cores": str(len(os.sched_getaffinity(0))),
        "Memory": f"{memory / 2**30:.0f} GiB",
        "GPU": ", ".join(gpu) or "no GPU",
        "Versions": ", ".join(f"{package} {number}" for package, number in installed.items()),
        "Commit": record.commit(),
    }
