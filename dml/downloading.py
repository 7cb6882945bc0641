"""Files from elsewhere: taken from a mirror or downloaded, and never used unless their checksum is right."""

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

TIMEOUT = 60
"""Seconds without a byte after which a server counts as silent."""
WAITS = (1, 5)
"""Seconds before a second and a third attempt where the connection was cut."""
PROGRESS = 1 << 20
"""Bytes with which an attempt that was cut has got on: the attempts are counted anew."""
_CHUNK = 1 << 16
_HTML = "an HTML page instead of the file (an error, a login, a quota?)"
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; dml)"}


def obtain(
    name: str,
    urls: Sequence[str],
    destination: Path,
    mirrors: Sequence[str] = (),
    *,
    size: int | None = None,
    sha256: str | None = None,
    sha1: str | None = None,
    md5: str | None = None,
) -> Path:
    """`destination`/`name` with this `size` in bytes and these checksums, fetched unless it is there.

    All that are given must be right; of `sha256` the first digits are enough, eight or more, where no more is published
    (PyTorch's file names carry eight). Without any checksum only HTML pages are recognised: the caller vouches for the
    sources.
    The mirrors come first, then the urls, each in order. A mirror is a folder that holds `name`, or an address that
    ends before /`name`. A source that ends in .zip where `name` does not is an archive that holds `name`. A source that
    gives something else is passed over. The file appears when it is complete and checked; another process that wants it
    too waits meanwhile. A download that breaks off stays as `name`.part, and the next one goes on from there, from
    whatever source: the checksum decides. So without a checksum each attempt starts from the beginning. ValueError with
    every source's reason if none gives the file.
    """
    file = Path(destination) / name
    given = {"sha256": sha256, "sha1": sha1, "md5": md5}
    checksums = {kind: digits.lower() for kind, digits in given.items() if digits}
    if file.exists() and _mistake(file, size, checksums) is None:
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished, packed = (file.with_name(f"{name}{ending}") for ending in (".part", ".zip.part"))
    with one_at_a_time(file):
        failures = []
        if file.exists():
            reason = _mistake(file, size, checksums)
            if reason is None:
                return file
            failures.append(f"{file}: {reason}")
        try:
            for source in [*(os.path.join(mirror, name) for mirror in mirrors), *urls]:
                archive = packed if _ends_in_zip(source) and not _ends_in_zip(name) else None
                reason = _fetch(source, unfinished, archive, size, checksums)
                if reason is None:
                    os.replace(unfinished, file)
                    packed.unlink(missing_ok=True)
                    return file
                failures.append(f"{source}: {reason}")
        finally:
            if not checksums:
                unfinished.unlink(missing_ok=True)
                packed.unlink(missing_ok=True)
    kept = f"; {unfinished} holds the first {_size(unfinished)} bytes, to go on from" if unfinished.exists() else ""
    raise ValueError(
        f"{name} could not be obtained ({'; '.join(failures) or 'no source is known'}{kept}): put it into the folder "
        f"{file.parent}, or name a folder or address that has it as `mirror` in config.yaml or in the environment "
        "variable DML_MIRROR"
    )


def check_file(file: Path, *, sha256: str | None = None, sha1: str | None = None) -> None:
    """ValueError naming the file if its checksums are not these; as in `obtain`, `sha256` may be its first digits."""
    reason = _mistake(file, None, {kind: value for kind, value in (("sha256", sha256), ("sha1", sha1)) if value})
    if reason:
        raise ValueError(f"{file}: {reason}: delete it, to have it fetched again, or put the right file there")


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """While one process makes `path`, others that want to make it wait here. `path`.lock is there meanwhile."""
    lock = path.with_name(f"{path.name}.lock")
    descriptor = _locked(lock)
    while not _is(descriptor, lock):  # who had the lock before has removed the file: nobody else sees this one
        os.close(descriptor)
        descriptor = _locked(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def mirrors_from(setting: str | Sequence[str] | None, environment: Mapping[str, str]) -> list[str]:
    """The mirrors to try: those of config.yaml's `mirror` (one, or a list), then DML_MIRROR's, separated by commas.

    ValueError for a setting that is neither.
    """
    configured = [setting] if isinstance(setting, str) else setting or []
    if not (isinstance(configured, list | tuple) and all(isinstance(mirror, str) for mirror in configured)):
        raise ValueError(f"config.yaml: mirror is {setting!r}; expected a folder or an address, or a list of them")
    from_environment = environment.get("DML_MIRROR", "").split(",")
    mirrors = [mirror.strip() for mirror in [*configured, *from_environment]]
    return [mirror if is_address(mirror) else os.path.expanduser(mirror) for mirror in mirrors if mirror]


def is_address(source: str) -> bool:
    """Whether a source or mirror is a URL, else it is a path."""
    return "://" in source


class _Unavailable(Exception):
    """A source does not give the file; says why."""


def _locked(lock: Path) -> int:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{lock.with_suffix('')}: another process makes it, waiting", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks; there the checksum alone decides
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return descriptor


def _is(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _mistake(file: Path, size: int | None, checksums: Mapping[str, str]) -> str | None:
    """What is wrong with a file, or None."""
    found_size = _size(file)
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in checksums}
    with open(file, "rb") as opened:
        if _is_html(opened.read(512)):
            return _HTML
        if size is not None and found_size > size:
            return f"more than the expected {size} bytes"
        opened.seek(0)
        while digests and (chunk := opened.read(1 << 20)):
            for digest in digests.values():
                digest.update(chunk)
    expected_size = "" if size is None else f" ({size} bytes)"
    for kind, expected in checksums.items():
        found = digests[kind].hexdigest()
        if found[: len(expected) if kind == "sha256" else None] != expected:
            return f"{kind} is {found} ({found_size} bytes), expected {expected}{expected_size}"
    return None if size in (None, found_size) else f"{found_size} bytes, expected {size}"


def _fetch(
    source: str, unfinished: Path, archive: Path | None, size: int | None, checksums: Mapping[str, str]
) -> str | None:
    """Write what `source` gives to `unfinished`, by way of `archive` if it is a zip. What is wrong with it, or None."""
    target = archive or unfinished
    for last in (False, True):
        try:
            continued = _take(source, target, size if archive is None else None, bool(checksums))
        except _Unavailable as error:
            return str(error)
        reason = _take_out(archive, unfinished) if archive else None
        reason = reason or _mistake(unfinished, size, checksums)
        if reason is None:
            return None
        target.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
        if last or not continued:  # else what was there before may be to blame: once more from the beginning
            return reason


def _take(source: str, target: Path, size: int | None, resume: bool) -> bool:
    """Write what `source` gives to `target`, asking again where a connection was cut; whether it went on there."""
    if not is_address(source):
        if not (os.path.isfile(source) and os.access(source, os.R_OK)):
            raise _Unavailable("not readable" if os.path.isfile(source) else "no such file")
        aside = target.with_name(f"{target.name}.copy")  # a copy that breaks off does not cost what a download left
        try:
            shutil.copyfile(source, aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        return False
    attempts, reached = 0, _size(target)
    while True:
        try:
            return _download(source, target, size, resume)
        except (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError) as error:
            attempts = 1 if _size(target) - reached >= PROGRESS else attempts + 1
            reached = max(reached, _size(target))
            if attempts > len(WAITS):
                raise _Unavailable(f"{str(error) or type(error).__name__}, {attempts} times") from error
            time.sleep(WAITS[attempts - 1])


def _download(url: str, target: Path, size: int | None, resume: bool) -> bool:
    """One request. Whether it went on after what `target` had."""
    begin = _size(target) if resume else 0
    if begin and size is not None and begin >= size:
        return True
    # No compression is asked for: what is sent in spite of that is the file as it is kept (.tgz as gzip of a .tar).
    headers = _HEADERS | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and begin:  # nothing after that: it is complete, or another file
            return True
        busy = error.code == 429 or error.code >= 500
        raise (ConnectionError if busy else _Unavailable)(f"HTTP {error.code} {error.reason}") from error
    except URLError as error:
        raise _Unavailable(f"no connection ({error.reason})") from error
    with response:
        if response.status != 206:
            begin = 0  # all of it, asked or not
        elif not re.match(rf"bytes {begin}-", response.headers["Content-Range"] or ""):
            if not begin:
                raise _Unavailable("a part of the file that was not asked for")
            return _download(url, target, size, resume=False)
        return _write(response, target, begin, size)


def _write(response: http.client.HTTPResponse, target: Path, begin: int, size: int | None) -> bool:
    announced = response.headers["Content-Length"] or ""
    total = begin + int(announced) if announced.isdecimal() else None
    chunk = response.read(_CHUNK)
    # Before the target is opened: neither a page nor nothing at all replaces what came so far.
    if response.headers.get_content_type() == "text/html" or (not begin and _is_html(chunk)):
        raise _Unavailable(_HTML)
    if not chunk and total:
        raise ConnectionError(f"the connection was cut after {begin} of {total} bytes")
    progress = tqdm(desc=target.stem, initial=begin, total=total or size, unit="B", unit_scale=True, mininterval=5)
    with progress, open(target, "ab" if begin else "wb") as file:
        while chunk:
            file.write(chunk)
            progress.update(len(chunk))
            if size is not None and file.tell() > size:
                return begin > 0  # the check says so
            chunk = response.read(_CHUNK)
        if file.tell() < (total or 0):
            raise ConnectionError(f"the connection was cut after {file.tell()} of {total} bytes")
    return begin > 0


def _take_out(archive: Path, target: Path) -> str | None:
    """Write the member of a zip that `target`.part is named after; what is wrong with the archive, or None."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [name for name in opened.namelist() if name.rpartition("/")[2] == target.stem]
            if len(members) != 1:
                return f"a zip archive with {len(members)} files {target.stem}, expected one"
            with opened.open(members[0]) as member, open(target, "wb") as file:
                shutil.copyfileobj(member, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return f"not an intact zip archive ({error})"
    return None


def _ends_in_zip(source: str) -> bool:
    return (urlsplit(source).path if is_address(source) else source).lower().endswith(".zip")


def _is_html(beginning: bytes) -> bool:
    return beginning.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
