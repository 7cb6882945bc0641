"""Anybody's images: a folder, or a .zip, that holds one folder of images per class."""

import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

from dml.images import Image

TITLE = "Own images"
SOURCE = "a folder or zip archive of the user's"
TERMS = "those of the images' owner"
UPRIGHT = True

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTITIONS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval", "query", "gallery"}


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images of the folder or .zip `source`; they stay where they are, an archive is not unpacked.

    An image's class is the folder it lies in, named from the level at which the folders differ: in
    `birds/images/robin/1.jpg` it is `robin` if all images lie under `birds/images`. Hidden files, `__MACOSX` and files
    that are not images are passed over. `destination` and `mirrors` are not used. ValueError where there is nothing to
    learn from, or where the classes are not clear.
    """
    if source is None:
        raise ValueError("folder: which images? Give the path of a folder or a .zip that has one folder per class")
    source = Path(source).expanduser()
    files = {path: name for path, name in _files_of(source).items() if all(map(_is_visible, path.parts))}
    images = sorted(filter(_is_image, files), key=lambda path: path.parts)
    if not images:
        others = Counter(path.suffix.lower() or path.name for path in files)
        found = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5)) or "nothing"
        raise ValueError(f"{source}: no images ({' '.join(ENDINGS)}); found {found}")
    common = _common_parts(images)
    classes = [PurePosixPath(*path.parent.parts[common:]) for path in images]
    _check(source, {path.parent for path in images}, set(classes))
    return [Image(str(source), files[path], str(name)) for path, name in zip(images, classes, strict=True)]


def listing_digest(source: Path) -> str:
    """A hash that changes when images are added, removed, renamed or written anew, without looking into them.

    Of the path, size and time of change of every image in a folder, or of the .zip.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        images = [source / path for path in _files_of(source) if _is_image(path)]
    elif source.exists():
        images = [source]
    else:
        raise ValueError(f"{source}: no such folder or file")
    seen = []
    for path in sorted(images):
        status = path.stat(follow_symlinks=path.exists())  # a link that leads nowhere is named when it is read
        seen.append((str(path.relative_to(source)), status.st_size, status.st_mtime_ns))
    return sha256(repr(seen).encode()).hexdigest()


def _files_of(source: Path) -> dict[PurePosixPath, str]:
    """Every file: its path, and what `source` calls it."""
    if source.is_dir():
        return {folder / file: str(folder / file) for folder, files in _walk(source) for file in files}
    if not source.exists():
        raise ValueError(f"{source}: no such folder or file; give a folder or a .zip that has one folder per class")
    try:
        with zipfile.ZipFile(source) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source}: neither a folder nor an intact zip archive ({error})") from error
    # Some archives are written with backslashes or with ./ in front.
    return {PurePosixPath(name.replace("\\", "/")): name for name in names}


def _walk(source: Path) -> Iterator[tuple[PurePosixPath, list[str]]]:
    """(folder relative to `source`, its files), hidden folders left out; links are followed."""
    for folder, subfolders, files in os.walk(source, onerror=_refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if _is_visible(name) and not _leads_back(Path(folder, name))]
        yield PurePosixPath(Path(folder).relative_to(source).as_posix()), files


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename}: cannot be read ({error.strerror})")


def _is_image(path: PurePosixPath) -> bool:
    return path.suffix.lower() in ENDINGS and all(map(_is_visible, path.parts))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _common_parts(images: Sequence[PurePosixPath]) -> int:
    """How many leading folders all images share."""
    first, last = min(path.parent.parts for path in images), max(path.parent.parts for path in images)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return same


def _check(source: Path, folders: set[PurePosixPath], classes: set[PurePosixPath]) -> None:
    if len(folders) == 1:
        raise ValueError(
            f"{source}: all images lie in {_in_words(*folders)}; expected one folder per class, two at least"
        )
    for folder in sorted(folders):
        for holder in folders.intersection(folder.parents):
            raise ValueError(
                f"{source}: images lie both in {_in_words(holder)} and in {folder} below it; "
                "expected one folder per class"
            )
    partitions_of = defaultdict(set)
    for name in classes:
        if len(name.parts) > 1 and name.parts[0].lower() in PARTITIONS:
            partitions_of[name.parts[1:]].add(name.parts[0])
    for name, partitions in sorted(partitions_of.items()):
        if len(partitions) > 1:
            raise ValueError(
                f"{source}: the class {'/'.join(name)} lies in {' and '.join(sorted(partitions))}; put all images of a "
                "class into one folder, the benchmark splits by class"
            )


def _in_words(folder: PurePosixPath) -> str:
    return f"'{folder}'" if folder.parts else "the folder itself"
