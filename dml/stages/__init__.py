"""One small script per rule of the workflow: arguments in, one call into the library, files out."""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dml.files import NO_ROOM


def run(main: Callable[..., None], **arguments: Any) -> None:
    """Call a stage with its command line: `name=type` is one value, `name=[type]` several, `name=(type,)` optional.

    What a user can mend is a ValueError, or a full disk: it ends the stage with one line instead of a traceback.
    """
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
    for name, value in values.items():
        if name.startswith("output"):
            for path in value if isinstance(value, list) else [value]:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        main(**values)
    except ValueError as error:
        if not _is_ours(error):
            raise
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        sys.exit(
            f"error: {error.filename or 'a file'}: could not be written ({error.strerror}); make room and run the same "
            "command again: nothing that is finished is lost"
        )


def _is_ours(error: ValueError) -> bool:
    """Whether the package itself raised it, as its way to say what a user can mend; others' errors are bugs."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])
