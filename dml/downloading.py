"""Files from elsewhere: taken from a mirror or downloaded, and never used unless their checksum is right."""

import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError

from tqdm import tqdm

TIMEOUT = 60
"""Seconds without a byte after which a server counts as silent."""
WAITS = (1, 5)
"""Seconds before a second and a third attempt where the connection was cut."""
_CHUNK = 1 << 20
_HTML = "an HTML page instead of the file (an error, a login, a quota?)"
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; dml)"}


def obtain(
    name: str, urls: Sequence[str], sha256: str, size: int | None, destination: Path, mirrors: Sequence[str] = ()
) -> Path:
    """`destination`/`name` with this checksum and `size` in bytes (None: not known), fetched unless it is there.

    `sha256` may be its first digits, eight or more, where no more is published (PyTorch's file names carry eight).
    The mirrors come first, then the urls, each in order. A mirror is a folder that holds `name`, or an address that
    ends before /`name`. A source that gives something else is passed over. The file appears when it is complete and
    checked. ValueError with every source's reason if none gives the file.
    """
    file = Path(destination) / name
    failures = []
    if file.exists():
        reason = _mistake(file, sha256, size)
        if reason is None:
            return file
        failures.append(f"{file}: {reason}")
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{name}.{os.getpid()}.part")
    try:
        for source in [*(os.path.join(mirror, name) for mirror in mirrors), *urls]:
            try:
                _take(source, unfinished, size)
                reason = _mistake(unfinished, sha256, size)
            except _Unavailable as error:
                reason = str(error)
            if reason is None:
                os.replace(unfinished, file)
                return file
            failures.append(f"{source}: {reason}")
    finally:
        unfinished.unlink(missing_ok=True)
    raise ValueError(
        f"{name} could not be obtained ({'; '.join(failures) or 'no source is known'}): put it into the folder "
        f"{file.parent}, or name a folder or address that has it as `mirror` in config.yaml or in the environment "
        "variable DML_MIRROR"
    )


def mirrors_from(setting: str | Sequence[str] | None, environment: Mapping[str, str]) -> list[str]:
    """The mirrors to try: those of config.yaml's `mirror` (one, or a list), then DML_MIRROR's, separated by commas.

    ValueError for a setting that is neither.
    """
    configured = [setting] if isinstance(setting, str) else setting or []
    if not (isinstance(configured, list | tuple) and all(isinstance(mirror, str) for mirror in configured)):
        raise ValueError(f"config.yaml: mirror is {setting!r}; expected a folder or an address, or a list of them")
    from_environment = environment.get("DML_MIRROR", "").split(",")
    mirrors = [mirror.strip() for mirror in [*configured, *from_environment]]
    return [mirror if _is_address(mirror) else os.path.expanduser(mirror) for mirror in mirrors if mirror]


class _Unavailable(Exception):
    """A source does not give the file; says why."""


def _mistake(file: Path, sha256: str, size: int | None) -> str | None:
    """What is wrong with a file, or None."""
    with open(file, "rb") as opened:
        if _is_html(opened.read(512)):
            return _HTML
        opened.seek(0)
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found.startswith(sha256) and size in (None, file.stat().st_size):
        return None
    expected_size = "" if size is None else f" ({size} bytes)"
    return f"sha256 is {found} ({file.stat().st_size} bytes), expected {sha256}{expected_size}"


def _take(source: str, target: Path, size: int | None) -> None:
    """Write what `source` gives to `target`, asking again where a connection was cut."""
    if not _is_address(source):
        if not (os.path.isfile(source) and os.access(source, os.R_OK)):
            raise _Unavailable("not readable" if os.path.isfile(source) else "no such file")
        shutil.copyfile(source, target)
        return
    for wait in (*WAITS, None):
        try:
            return _download(source, target, size)
        except (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError) as error:
            if wait is None:
                raise _Unavailable(f"{str(error) or type(error).__name__}, {len(WAITS) + 1} times") from error
            time.sleep(wait)


def _download(url: str, target: Path, size: int | None) -> None:
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=_HEADERS), timeout=TIMEOUT)
    except HTTPError as error:
        busy = error.code == 429 or error.code >= 500
        raise (ConnectionError if busy else _Unavailable)(f"HTTP {error.code} {error.reason}") from error
    except URLError as error:
        raise _Unavailable(f"no connection ({error.reason})") from error
    announced = int(response.headers["Content-Length"] or 0) or None
    progress = tqdm(desc=target.stem, total=announced or size, unit="B", unit_scale=True, disable=None)
    with response, progress, open(target, "wb") as file:
        while chunk := response.read(_CHUNK):
            if file.tell() == 0 and _is_html(chunk):
                raise _Unavailable(_HTML)
            file.write(chunk)
            progress.update(len(chunk))
            if size is not None and file.tell() > size:
                raise _Unavailable(f"more than the expected {size} bytes")
        if file.tell() < (announced or 0):
            raise ConnectionError(f"the connection was cut after {file.tell()} of {announced} bytes")


def _is_address(source: str) -> bool:
    return "://" in source


def _is_html(beginning: bytes) -> bool:
    return beginning.lstrip().lower().startswith((b"<!doctype html", b"<html"))
