"""Exported models: a folder of networks, and what makes of any picture the embedding that the study measured.

The folder is written by `python -m dml.export` and opened by `dml.load`. It holds safetensors and JSON: opening it runs
no code that comes with it.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
from pydantic import Field
from tqdm import tqdm

from dml.checked import Checked
from dml.embedding import BATCH_SIZE, concatenate
from dml.finished import Finished
from dml.images import PackedImages, decode, resize_shorter_side, rgb

DESCRIPTION = "model.json"
COMPARISON = (
    "cosine similarity: the embeddings of all networks, each scaled to length 1, are joined and scaled to length 1 "
    "again; the dot product of those of two pictures is their similarity"
)

Picture = str | Path | PIL.Image.Image | np.ndarray
"""A file, an opened image, or uint8 RGB pixels (H, W, 3)."""


class Preprocessing(Checked):
    """From a picture to what the networks see."""

    upright: bool = Field(description="whether pictures are turned as their EXIF orientation says")
    resize: int = Field(description="shorter side, pixels: bilinear, antialiased, as Pillow does")
    crop_size: int = Field(description="side of the square in the middle that is cut out, pixels")
    channels: Literal["RGB", "BGR"] = Field(description="their order")
    mean: list[float] = Field(description="subtracted from pixels of 0-255, in the order of the channels")
    std: list[float] = Field(description="what they are divided by then")


class NetworkFile(Checked):
    """The tensors of one fold's network."""

    file: str = Field(pattern="^[^/]+$")
    sha256: str


class Description(Checked):
    """What model.json holds: all that it takes to use the networks."""

    dataset: str
    method: str
    plugin: str | None = Field(description="file of dml/methods/; null for a loss of pytorch-metric-learning")
    seed: int
    network: dict[str, Any] = Field(description="keys of the protocol that say how the networks are built")
    networks: list[NetworkFile]
    preprocessing: Preprocessing
    comparison: str

    @classmethod
    def of(cls, folder: Path) -> "Description":
        """Read it. ValueError with one line if the folder has none, or if it is not as `dml.export` writes it."""
        path = folder / DESCRIPTION
        try:
            return cls.check(json.loads(path.read_text(encoding="utf-8")), str(path))
        except OSError:
            raise ValueError(f"{path}: no such file: expected is a folder that `python -m dml.export` wrote") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}): export the model again") from None


class Exported:
    """The networks of all folds of one seed, on a device (by default a GPU if there is one).

    ValueError with one line if a file is missing, or is not the one that was exported.
    """

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        import torch

        folder = Path(folder)
        self.description = Description.of(folder)
        self.preprocessing = self.description.preprocessing
        for network in self.description.networks:
            _check(folder / network.file, network.sha256)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._networks = [self._open(folder, network, device) for network in self.description.networks]

    def embed(self, images: Sequence[Picture], progress: bool = False) -> np.ndarray:
        """(N, D) float32, rows of length 1: the concatenated embeddings of N pictures, in their order.

        The dot product of two rows is the cosine similarity. Pictures are paths, PIL images or uint8 RGB arrays
        (H, W, 3), of any sizes. ValueError naming the one that cannot be read.
        """
        one = isinstance(images, str | Path | PIL.Image.Image) or getattr(images, "ndim", 4) != 4
        if one or not len(images):
            raise ValueError("images: expected a list of one picture or more; for a single one write [picture]")
        batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
        return np.concatenate([self._embed_batch(batch) for batch in tqdm(batches, unit="batch", disable=not progress)])

    def opened(self, image: Picture) -> PIL.Image.Image:
        """A picture in 8-bit RGB, turned upright where the study's images were: before it is resized."""
        upright = self.preprocessing.upright
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"expected uint8 pixels (H, W, 3), not {image.dtype} {image.shape}")
            return PIL.Image.fromarray(image)
        if isinstance(image, PIL.Image.Image):
            return rgb(PIL.ImageOps.exif_transpose(image) if upright else image)
        try:
            return decode(Path(image).read_bytes(), str(image), upright)
        except OSError as error:
            raise ValueError(f"{image}: cannot be read ({error.strerror})") from None

    def pixels(self, image: Picture) -> np.ndarray:
        """(H, W, 3) uint8 RGB: a picture resized as the study's images were, before the square is cut out.

        What `embed` makes of these pixels is what it makes of the picture.
        """
        return np.asarray(resize_shorter_side(self.opened(image), self.preprocessing.resize))

    def _open(self, folder: Path, described: NetworkFile, device: str) -> Finished:
        values = self.preprocessing
        protocol = self.description.network | {"resize": values.resize, "crop_size": values.crop_size}
        record = {"model": described.sha256, "plugin": self.description.plugin, "protocol": protocol}
        finished = Finished(folder / described.file, record, device)
        network = finished.network
        # The folder's, not those of the trunk's code: what the networks were trained with.
        network.channels, network.mean, network.std = values.channels, values.mean, values.std
        return finished

    def _embed_batch(self, batch: Sequence[Picture]) -> np.ndarray:
        for image in batch:
            if isinstance(image, PIL.Image.Image):
                image.load()  # here: two threads must not read one file, if an image is there twice
        with ThreadPoolExecutor() as pool:
            packed = _packed(list(pool.map(self.pixels, batch)))
        return concatenate([network.embed(packed) for network in self._networks])


def _check(path: Path, sha256: str) -> None:
    """Before it is opened: what `dml.model.load_model` finds damaged it sets aside, to be trained anew."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): copy the whole folder, or export again") from None
    if digest != sha256:
        raise ValueError(f"{path}: damaged: not the checksum in {DESCRIPTION}: copy the folder again, or export again")


def _packed(images: Sequence[np.ndarray]) -> PackedImages:
    heights, widths = np.array([image.shape[:2] for image in images], dtype=np.int64).T
    lengths = heights * widths * 3
    unknown = np.zeros(len(images), dtype=np.int64)
    pixels = np.concatenate([image.ravel() for image in images])
    return PackedImages(pixels, np.cumsum(lengths) - lengths, heights, widths, unknown, unknown.astype(str), "")
