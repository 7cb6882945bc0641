"""Writing files so that one that is there is whole, and noticing one that no longer is."""

import errno
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota or a limit on the size of files answers when it is exhausted."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` when all went well, else it is gone.

    What was written is on the disk before it gets its name: a machine that loses its power leaves no empty file.
    An error that says that there is no room names `path`.
    """
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
