"""One small script per rule of the workflow: arguments in, one call into the library, files out."""

import argparse
import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dml.files import NO_ROOM

PARENT = os.getppid()
"""The process that started this one, looked up before the imports of a stage, which take seconds."""
PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>."""


def run(main: Callable[..., None], **arguments: Any) -> None:
    """Call a stage with its command line: `name=type` is one value, `name=[type]` several, `name=(type,)` optional.

    What a user can mend is a ValueError, or a full disk: it ends the stage with one line instead of a traceback. The
    end of the process that started this one (Snakemake, even by kill -9) ends it too: else a job whose workflow is gone
    would keep its GPU, and work beside the one that is started in its place.
    """
    _end_with_parent()
    parser = argparse.ArgumentParser(
        prog=f"python -m {sys.modules['__main__'].__spec__.name}", description=main.__doc__
    )
    for name, kind in arguments.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(kind, list):
            parser.add_argument(option, nargs="*", type=kind[0], default=[])
        elif isinstance(kind, tuple):
            parser.add_argument(option, nargs="?", type=kind[0])
        else:
            parser.add_argument(option, type=kind, required=True)
    values = vars(parser.parse_args())
    for path in _outputs(values):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        main(**values)
    except ValueError as error:
        if not _is_ours(error):
            raise
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        name = error.filename or next(str(path) for path in _outputs(values))
        sys.exit(
            f"error: {name}: could not be written ({error.strerror}); make room and run the same "
            "command again: nothing that is finished is lost"
        )
    finally:
        gc.freeze()  # else Python looks at every object of PyTorch once more before it ends: half a second a process


def _outputs(values: Mapping[str, Any]) -> list[Path]:
    named = [value for name, value in values.items() if name.startswith("output")]
    return [path for value in named for path in (value if isinstance(value, list) else [value])]


def _end_with_parent() -> None:
    """Turn signals to stop into SystemExit, so that nothing half-written is left, and have one sent by the kernel."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != PARENT:
            sys.exit("the process that started this one has ended")


def _is_ours(error: ValueError) -> bool:
    """Whether the package itself raised it, as its way to say what a user can mend; others' errors are bugs."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])
