"""One GPU for each process, where several processes of a machine train at the same time.

Snakemake counts GPUs (`--resources gpu=N`) but does not say which one a job gets. So every process takes one itself. A
GPU has as many slots as trainings may share it; a slot is a file, and a process has it for as long as it holds the
file's lock. The system takes the lock from a process that ends, however it ends: nothing is ever to be cleaned up.
"""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Lease:
    """A GPU, by its position among those that this process sees, and the locked file that makes it ours."""

    gpu: int
    lock: IO


@cache
def lease_of_this_process(count: int) -> Lease:
    """The one of the `count` visible GPUs that this process has, from its first question to its end."""
    return lease(
        names_of_gpus(count, os.environ),
        int(os.environ.get("DML_TRAININGS_PER_GPU", 1)),
        folder_of_leases(os.environ),
    )


def names_of_gpus(count: int, environment: Mapping[str, str]) -> list[str]:
    """What the visible GPUs are called in all processes: by CUDA_VISIBLE_DEVICES where that is set, else by index."""
    entries = [entry.strip() for entry in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")][:count]
    return entries if len(entries) == count and all(entries) else [str(index) for index in range(count)]


def folder_of_leases(environment: Mapping[str, str]) -> Path:
    """Where this user's locks are on this machine. A job of SLURM has its own: its GPUs are numbered anew."""
    parts = ["dml_gpus", str(os.getuid()), environment.get("SLURM_JOB_ID", "")]
    return Path(tempfile.gettempdir(), "_".join(part for part in parts if part))


def lease(gpus: Sequence[str], trainings_per_gpu: int, folder: Path, pause: float = 1.0) -> Lease:
    """Take a slot of the least used GPU; wait until there is one, asking every `pause` seconds."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user: set TMPDIR to a folder of your own")
    begin = time.monotonic()
    found = _take(gpus, trainings_per_gpu, folder)
    if found is None:
        each = "1 training" if trainings_per_gpu == 1 else f"{trainings_per_gpu} trainings"
        print(
            f"waiting for a GPU: every one is taken ({len(gpus)} of them, {each} each); with "
            f"--resources gpu={len(gpus) * trainings_per_gpu} Snakemake starts no more jobs than that",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        while found is None:
            time.sleep(pause)
            found = _take(gpus, trainings_per_gpu, folder)
        print(f"GPU {gpus[found.gpu]} is free after {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return found


def _take(gpus: Sequence[str], trainings_per_gpu: int, folder: Path) -> Lease | None:
    """A free slot of the least used GPU; None where all are taken."""
    # One process at a time looks: what it has seen is still so when it takes.
    with _locked(folder / "choosing"):
        # Also slots that another process counts and we do not: it may allow more trainings per GPU.
        used = [sum(_is_locked(slot) for slot in folder.glob(f"{_stem(gpu)}.*")) for gpu in gpus]
        least = min(range(len(gpus)), key=used.__getitem__)
        if used[least] >= trainings_per_gpu:
            return None
        slots = (folder / f"{_stem(gpus[least])}.{k}" for k in range(trainings_per_gpu))
        return Lease(least, _locked(next(slot for slot in slots if not _is_locked(slot))))


def _stem(gpu: str) -> str:
    return "gpu_" + re.sub(r"[^\w-]", "_", gpu)  # names of parts of a GPU may hold slashes


def _locked(path: Path) -> IO:
    """The file, locked until it is closed; waits for whoever has the lock."""
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
