"""Images: read from folders and archives, decoded, and packed as the raw pixels of one split."""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
from tqdm import tqdm


class Image(NamedTuple):
    """Where the bytes of one image are, and its class. A row of images.csv."""

    container: str
    """A folder or a zip archive."""
    path: str
    """Inside the container."""
    label_name: str
    """The class."""
    part: str = ""
    """Where the data set fixes its own split: train, test, query or gallery. Else empty: the classes are halved."""

    @property
    def name(self) -> str:
        """What error messages call it."""
        return f"{self.container}: {self.path}"


def read(image: Image) -> bytes:
    """The bytes of an image file. Archives are read in place, never unpacked. ValueError naming the image."""
    try:
        if os.path.isdir(image.container):
            return Path(image.container, image.path).read_bytes()
        status = os.stat(image.container)
        return _archive(image.container, status.st_mtime_ns, status.st_size).read(image.path)
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: encrypted, or an unknown compression
        raise ValueError(f"{image.name}: cannot be read ({error})") from error


def decode(data: bytes, name: str, upright: bool = False) -> PIL.Image.Image:
    """The image in `data` as 8-bit RGB; `name` is what an error calls it.

    Grey, 1-bit, palette and CMYK images are converted, transparent pixels lie on white, 16-bit grey is scaled to 8
    bits, animations give their first frame. With `upright`, the image is turned as its EXIF orientation says, as
    phones write it. ValueError where the data is damaged, cut short or of floating-point pixels.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as opened:
            opened.load()
            image = PIL.ImageOps.exif_transpose(opened) if upright else opened
            return rgb(image)
    except PIL.UnidentifiedImageError as error:  # whose own text is the address of the bytes in memory
        raise ValueError(f"{name}: not a readable image (of no format that Pillow knows)") from error
    except Exception as error:  # on damaged data decoders raise nearly anything: SyntaxError, struct.error, IndexError
        raise ValueError(f"{name}: not a readable image ({error})") from error


def resize_shorter_side(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """The image with its shorter side `side` pixels long: torchvision's Resize(side) on a PIL image, bit by bit."""
    shorter, longer = sorted(image.size)
    resized = side, int(side * longer / shorter)
    size = resized if image.width <= image.height else resized[::-1]
    return image if size == image.size else image.resize(size, PIL.Image.Resampling.BILINEAR)


def pack(
    images: Sequence[Image],
    labels: Sequence[int],
    side: int,
    stem: Path,
    upright: bool,
    workers: int = 1,
    progress: bool = True,
    queries: Sequence[bool] | None = None,
) -> str:
    """Decode and resize images once, write them as `<stem>.pixels`, `.npz` and `.sha256`, and give their fingerprint.

    `.pixels` holds the images one after the other, each uint8 (height, width, RGB); `.npz` holds heights, widths,
    labels (int32), paths and, where the data set tells queries from the gallery, which images are `queries`; `.sha256`
    holds the fingerprint, a hash of everything in the other two. The bytes do not
    depend on `workers`, the number of decoding threads. All three appear when all are complete, `.sha256` last.
    ValueError naming the image that cannot be read.
    """
    if not len(images) == len(labels) > 0:
        raise ValueError(
            f"{stem}: expected as many labels as images, and at least one; got {len(labels)}, {len(images)}"
        )
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = _files(stem)
    unfinished = [file.with_name(file.name + ".part") for file in files]
    try:
        digest, sizes = hashlib.sha256(), []
        with open(unfinished[0], "wb") as pixels_file:
            decoded = _decoded(images, side, upright, workers)
            for pixels in tqdm(decoded, stem.name, len(images), unit="image", mininterval=5, disable=not progress):
                pixels_file.write(pixels)
                digest.update(pixels)
                sizes.append(pixels.shape[:2])
            pixels_file.flush()
            os.fsync(pixels_file.fileno())  # only their number is looked at when they are opened
        index = _index(sizes, labels, [image.path for image in images])
        index |= {} if queries is None else {"queries": np.array(queries, dtype=bool)}
        with open(unfinished[1], "wb") as index_file:
            np.savez(index_file, **index)
        fingerprint = _add_index(digest, index)
        unfinished[2].write_text(fingerprint + "\n")
        files[2].unlink(missing_ok=True)
        for temporary, file in zip(unfinished, files, strict=True):
            os.replace(temporary, file)
    finally:
        for temporary in unfinished:
            temporary.unlink(missing_ok=True)
    return fingerprint


@dataclass(frozen=True, eq=False)
class PackedImages:
    """N images in memory, or on disk behind a read-only memory map. `images[i]` is a (H, W, 3) uint8 RGB view."""

    pixels: np.ndarray
    """Flat uint8: the images' pixels."""
    offsets: np.ndarray
    """(N,) int64: where each image begins in `pixels`."""
    heights: np.ndarray
    """(N,) int64, pixels."""
    widths: np.ndarray
    """(N,) int64, pixels."""
    labels: np.ndarray
    """(N,) int64: positions in the sorted list of all the data set's classes."""
    paths: np.ndarray
    """(N,) str, inside their container."""
    fingerprint: str
    """Of the packed split; a subset keeps the fingerprint of the whole."""
    queries: np.ndarray | None = None
    """(N,) bool: the queries, the other images being the gallery. None where every image is both."""

    @classmethod
    def open(cls, stem: Path) -> "PackedImages":
        """The packed split `<stem>.*`. ValueError if the sizes of its files do not agree."""
        pixels_file, index_file, fingerprint_file = _files(Path(stem))
        fingerprint = fingerprint_file.read_text().strip()
        with np.load(index_file) as index:
            heights, widths, labels = (index[key].astype(np.int64) for key in ("heights", "widths", "labels"))
            paths, queries = index["paths"], index.get("queries")
        lengths = heights * widths * 3
        if pixels_file.stat().st_size != lengths.sum():
            raise ValueError(
                f"{pixels_file}: {pixels_file.stat().st_size} bytes, expected {lengths.sum()} after {index_file.name}; "
                "delete it to have it packed again"
            )
        pixels = np.memmap(pixels_file, np.uint8, "r").view(np.ndarray)
        return cls(pixels, np.cumsum(lengths) - lengths, heights, widths, labels, paths, fingerprint, queries)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> np.ndarray:
        begin, height, width = self.offsets[i], self.heights[i], self.widths[i]
        return self.pixels[begin : begin + height * width * 3].reshape(height, width, 3)

    def subset(self, indices: np.ndarray) -> "PackedImages":
        """The images at `indices`, in that order, over the same pixels."""
        chosen = (column[indices] for column in (self.offsets, self.heights, self.widths, self.labels, self.paths))
        queries = None if self.queries is None else self.queries[indices]
        return PackedImages(self.pixels, *chosen, self.fingerprint, queries)


@lru_cache(maxsize=16)
def _archive(path: str, modified_ns: int, size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels; expected integers")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels outside 0..65535; expected 8 or 16 bits")
    return PIL.Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _decoded(images: Sequence[Image], side: int, upright: bool, workers: int) -> Iterator[np.ndarray]:
    work = partial(_decode_and_resize, side=side, upright=upright)
    if workers == 1:
        yield from map(work, images)
        return
    # Block by block: a pool's map would run ahead of the writer and hold the whole split in memory.
    block = 16 * workers
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(images), block):
            yield from pool.map(work, images[begin : begin + block])


def _decode_and_resize(image: Image, side: int, upright: bool) -> np.ndarray:
    return np.asarray(resize_shorter_side(decode(read(image), image.name, upright), side))


def _files(stem: Path) -> list[Path]:
    return [stem.with_name(stem.name + ending) for ending in (".pixels", ".npz", ".sha256")]


def _index(sizes: Sequence[tuple[int, int]], labels: Sequence[int], paths: Sequence[str]) -> dict[str, np.ndarray]:
    heights, widths = np.array(list(sizes), dtype=np.int32).T.copy()
    return {
        "heights": heights,
        "widths": widths,
        "labels": np.array(labels, dtype=np.int32),
        "paths": np.array(paths, dtype=str),
    }


def _add_index(digest: "hashlib._Hash", index: dict[str, np.ndarray]) -> str:
    for key, column in index.items():
        digest.update(f"{key} {column.dtype.str} {column.shape}".encode())
        digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()
