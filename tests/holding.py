"""A training that stands still at a known place, as a process that hangs: then a test may do to it what it likes."""

import os
import signal
import time
from pathlib import Path

# Python reads a file of this name at its start. Where the file `hold` lies beside it, with a number n in it, one
# training stops when its state is about to be written for the n-th time, in the place of the one before.
SITECUSTOMIZE = """
import os, pathlib, signal, sys

here = pathlib.Path(__file__).parent
states = []


def hold(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".state"):
        states.append(arguments[1])
        if len(states) == count:
            (here / "hold").unlink()
            (here / "held").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)


if any(argument.startswith("dml.stages.train_") for argument in sys.orig_argv) and (here / "hold").exists():
    count = int((here / "hold").read_text())
    sys.addaudithook(hold)
"""


def hold_at(folder: Path, states: int) -> None:
    """Let the next training that has `folder` on its PYTHONPATH stand still there."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (folder / "hold").write_text(str(states))


def held(folder: Path) -> int | None:
    """The process that stands still, if it does so already."""
    try:
        pid = int((folder / "held").read_text())
        return pid if _state(pid) == "T" else None
    except (OSError, ValueError):
        return None


def wait_until_held(folder: Path, process, seconds: float = 120) -> int:
    """The process that stands still. `process` is what started it, and must not end before."""
    end = time.monotonic() + seconds
    while (pid := held(folder)) is None:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return pid


def let_go(pid: int, number: int | None = None) -> None:
    """Let it run on, with a signal that it gets first."""
    if number is not None:
        os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)


def has_ended(pid: int) -> bool:
    return _state(pid) in ("Z", None)


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None
