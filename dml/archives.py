"""Where a data set's images lie: archives are unpacked safely or read in place, a user's copy is found and checked."""

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import md5, sha256
from pathlib import Path

from tqdm import tqdm

from dml.downloading import one_at_a_time
from dml.images import Image, read
from dml.splits import half_of

TARS = (".tgz", ".tar.gz", ".tar")
DEPTH = 2
"""So many folders above it what is looked for may lie."""


def unpack(archive: Path, folder: Path) -> Path:
    """`folder` with all that a .tgz, .tar.gz or .tar holds. It is there only when complete: then nothing is done.

    ValueError for an archive that is damaged, or with a member that would not stay in the folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.unpacking")
    with one_at_a_time(folder):
        if not folder.is_dir():
            shutil.rmtree(staging, ignore_errors=True)  # left by an unpacking that was killed
            try:
                staging.mkdir()
                _extract(archive, staging)
                staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return folder


def copies(source: Path, destination: Path, *archives: str) -> Iterator[Path]:
    """The folders and zips in which to look for the images that a user has as `source`.

    First `source` itself, then the `archives` in it, by their names; a tar is unpacked into `destination`. ValueError
    if `source` is neither a folder nor an archive.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise ValueError(f"{source}: no such folder or archive")
    found = [source, *(source / name for name in archives if (source / name).is_file())]
    for copy in found:
        if copy.name.endswith(TARS) and copy.is_file():
            status = copy.stat()  # another archive under the same name is unpacked anew
            identity = repr((str(copy.resolve()), status.st_size, status.st_mtime_ns))
            stem = next(copy.name.removesuffix(ending) for ending in TARS if copy.name.endswith(ending))
            yield unpack(copy, destination / f"{stem}-{sha256(identity.encode()).hexdigest()[:8]}")
        elif copy.is_dir() or zipfile.is_zipfile(copy):
            yield copy
        else:
            raise ValueError(f"{copy}: neither a folder nor an intact archive (.zip {' '.join(TARS)})")


class Files:
    """A folder, or a folder in a zip archive, alike. Paths are relative to it, with slashes; "" is itself."""

    def __init__(self, container: Path, inside: str = ""):
        is_zip = container.is_file()
        self.container, self._inside = (container, inside) if is_zip else (container / inside, "")
        self._members = _members(container) if is_zip else None

    def __str__(self) -> str:
        return f"{self.container}: {self._inside}" if self._inside else str(self.container)

    def has(self, path: str) -> bool:
        """Whether there is a file or folder."""
        if self._members is None:
            return os.path.exists(self.container / path)
        full = f"{self._inside}{path}".rstrip("/")
        folder, _, name = full.rpartition("/")
        return full == "" or name in self._members.get(folder, {})

    def first(self, *paths: str) -> str | None:
        """The first path that is there."""
        return next(filter(self.has, paths), None)

    def folders(self, path: str = "") -> list[str]:
        """The names of the folders in a folder, sorted, hidden ones left out."""
        return [name for name, is_folder in self._entries(path) if is_folder]

    def files(self, path: str = "") -> list[str]:
        """The names of the files in a folder, sorted, hidden ones left out."""
        return [name for name, is_folder in self._entries(path) if not is_folder]

    def below(self, path: str) -> "Files":
        """What lies in a folder of it; "" is itself."""
        return Files(self.container, f"{self._inside}{path}/") if path else self

    def image(self, path: str, label_name: str, part: str = "") -> Image:
        """The image at `path`."""
        return Image(str(self.container), f"{self._inside}{path}", label_name, part)

    def read(self, path: str) -> bytes:
        """The bytes of a file. ValueError naming it."""
        return read(self.image(path, ""))

    def rows(self, path: str, columns: int, skip: int = 0) -> list[list[str]]:
        """The lines of a text file but the first `skip`, split at blanks. ValueError if one has not so many columns."""
        result = []
        for number, line in enumerate(self.read(path).decode(errors="replace").splitlines(), 1):
            row = line.split()
            if number > skip and row:
                if len(row) != columns:
                    raise ValueError(
                        f"{self.image(path, '').name}, line {number}: {len(row)} columns, expected {columns}; "
                        "the file is damaged or of another data set: get it again"
                    )
                result.append(row)
        return result

    def _entries(self, path: str) -> list[tuple[str, bool]]:
        if self._members is None:
            with os.scandir(self.container / path) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries]
        else:
            found = list(self._members.get(f"{self._inside}{path}".rstrip("/"), {}).items())
        return sorted(entry for entry in found if not entry[0].startswith(".") and entry[0] != "__MACOSX")


def find(container: Path, *required: str | tuple[str, ...]) -> Files | None:
    """The first folder with all that is `required`: the container itself, or one at most `DEPTH` folders down.

    Of a tuple of paths one is enough.
    """
    level = [Files(container)]
    for depth in range(DEPTH + 1):
        for files in level:
            if all(files.first(*([paths] if isinstance(paths, str) else paths)) for paths in required):
                return files
        if depth < DEPTH:
            level = [files.below(name) for files in level for name in _folders_that_may_be_read(files)]
    return None


def _folders_that_may_be_read(files: Files) -> list[str]:
    try:
        return files.folders()
    except PermissionError:
        return []


def check(
    name: str,
    images: Sequence[Image],
    classes: int,
    num_images: int,
    spots: Mapping[str, str] | None = None,
    trainval: int | None = None,
) -> list[Image]:
    """The images of the data set `name`, if they are all there, as many as they must be, and the right ones.

    `spots`: path, or its end -> md5 of one image. `trainval`: so many images has the first half of the classes, which
    finds out annotations with other numbers. ValueError saying what is wrong.
    """
    check_presence(name, images)
    check_counts(name, images, classes, num_images)
    if trainval is not None:
        check_trainval(name, images, trainval)
    check_spots(name, images, spots or {})
    return list(images)


def check_presence(name: str, images: Sequence[Image]) -> None:
    """ValueError naming the first image that is listed and not there."""
    places = {container: Files(Path(container)) for container in {image.container for image in images}}
    missing = [image for image in images if not places[image.container].has(image.path)]
    if missing:
        raise ValueError(
            f"{name}: {missing[0].name} is missing, {len(missing)} of {len(images)} images in all; this copy is "
            "incomplete: delete it and get it, or unpack it, again"
        )


def check_counts(name: str, images: Sequence[Image], classes: int, num_images: int) -> None:
    """ValueError if there are not so many classes and images."""
    found = len({image.label_name for image in images}), len(images)
    if found != (classes, num_images):
        where = " and ".join(sorted({image.container for image in images})) or "no images"
        raise ValueError(
            f"{name}: {where}: {found[0]:,} classes with {found[1]:,} images, expected {classes:,} with "
            f"{num_images:,}; this copy is incomplete or another selection: delete it and get the original"
        )


def check_trainval(name: str, images: Sequence[Image], trainval: int) -> None:
    """ValueError if the first half of the classes has not so many images."""
    found = len(half_of(images, "trainval")[0])
    if found != trainval:
        raise ValueError(
            f"{name}: {images[0].container}: {found:,} images in the first half of the classes, expected {trainval:,}; "
            "the classes are numbered otherwise: get the original annotations"
        )


def check_parts(name: str, images: Sequence[Image], parts: Mapping[str, int]) -> None:
    """ValueError if the parts have not so many images."""
    found = Counter(image.part for image in images)
    if found != parts:
        told = (", ".join(f"{part} {number:,}" for part, number in numbers.items()) for numbers in (found, parts))
        raise ValueError(
            f"{name}: {images[0].container}: images of the parts: {next(told)}; expected {next(told)}: get the data "
            "set's own lists"
        )


def check_spots(name: str, images: Sequence[Image], spots: Mapping[str, str]) -> None:
    """ValueError if one of a few images, path (or its end) -> md5, has other bytes than it must have."""
    for path, expected in spots.items():
        image = next((image for image in images if f"/{image.path}".endswith(f"/{path}")), None)
        if image is None:
            raise ValueError(f"{name}: {images[0].container}: no image {path}; expected as in the original archive")
        found = md5(read(image), usedforsecurity=False).hexdigest()
        if found != expected:
            raise ValueError(
                f"{name}: {image.name}: md5 is {found}, expected {expected}; the images are not the original ones, "
                "another packaging may be numbered differently: get the original"
            )


def _extract(archive: Path, folder: Path) -> None:
    try:
        with open(archive, "rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            progress = {"desc": archive.name, "total": archive.stat().st_size, "unit_scale": True, "mininterval": 5}
            with tqdm.wrapattr(file, "read", **progress) as counted:
                stream = gzip.GzipFile(fileobj=counted) if is_gzip else counted
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    for member in tar:
                        _extract_member(archive, tar, member, folder)
                    end = tar.offset
                while is_gzip and stream.read(1 << 20):  # what it sums up to stands at its end
                    pass
            if not is_gzip:
                file.seek(end)  # tarfile takes a header that it cannot read for the end
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise EOFError("the archive has no end")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{archive}: not an intact archive ({error}); delete it and get it again") from error


def _extract_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    try:
        if member.name.startswith("/"):
            raise tarfile.AbsolutePathError(member)
        tar.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(
            f"{archive}: its member {member.name} would not stay in the folder or is no plain file ({error}); nothing "
            "of it is used: get the archive from another source"
        ) from error


def _members(archive: Path) -> dict[str, dict[str, bool]]:
    """The folders of a zip: their entries, and which of these are folders."""
    status = archive.stat()
    return _members_of_version(archive, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _members_of_version(archive: Path, modified_ns: int, size: int) -> dict[str, dict[str, bool]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: not an intact zip archive ({error}); delete it and get it again") from error
    members: dict[str, dict[str, bool]] = defaultdict(dict)
    for name in names:
        is_folder, path = name.endswith("/"), name.rstrip("/")
        while path:
            folder, _, last = path.rpartition("/")
            members[folder][last] = is_folder
            is_folder, path = True, folder
    return dict(members)
