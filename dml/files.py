"""Writing files so that one that is there is whole, and noticing one that no longer is."""

import errno
import glob
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota or a limit on the size of files answers when it is exhausted."""

HOUR = 3600


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` when all went well, else it is gone.

    What was written is on the disk before it gets its name: a machine that loses its power leaves no empty file.
    An error that says that there is no room names `path`.
    """
    remove_leftovers(path)
    # with the machine's name: a shared disk may be written from several, whose processes have equal numbers
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in NO_ROOM:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed had begun to write to `path`; not what one that lives is writing."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        node, _, number = temporary.name.removeprefix(f".{path.name}.").rpartition(".")
        with suppress(OSError, ValueError):
            # Of another machine's processes only the age tells: none writes for an hour.
            long_ago = time.time() - temporary.stat().st_mtime > HOUR
            if long_ago if node != platform.node() else not _lives(int(number)):
                temporary.unlink()


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what killed processes left of it."""
    path.unlink(missing_ok=True)
    remove_leftovers(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_bytes(path: Path, data: bytes) -> str:
    """Write a whole file; gives the SHA-256 of what is in it."""
    with whole(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path, sha256: str) -> bytes:
    """The bytes of a file that `write_bytes` wrote. ValueError if they are others: then it is set aside."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        set_aside(path, f"damaged: {len(data)} bytes whose checksum is not the one on record")
    return data


def set_aside(path: Path, why: str) -> NoReturn:
    """Take a damaged file out of the way, so that the next run makes it anew. Raises the ValueError that says so."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    raise ValueError(f"{path}: {why}; set aside as {aside.name}: run the same command again and it is made anew")
