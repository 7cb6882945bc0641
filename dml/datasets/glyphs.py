"""Printed characters, drawn from the fonts that matplotlib ships: a real retrieval task that needs no download.

A class is a character, an image is that character in one type face, slightly distorted: find the same character in
other type faces. 120 classes of 20 grey pictures, 40x40 pixels. Characters that fewer than 20 faces have (12 or more
do) repeat some faces with another distortion.
"""

import io
import os
import unicodedata
import zipfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter, ImageFont

from dml.files import whole
from dml.images import Image
from dml.seeds import generator

TITLE = "Glyphs"
SOURCE = "drawn from the fonts that come with matplotlib"
TERMS = "free (fonts: Bitstream Vera, STIX and BaKoMa licences)"

# A person tells any two of these apart in any type face: of characters that share a shape (A of three alphabets, o and
# zero, C and c at another size, slanted a and alpha, l and I) at most one is here.
LETTERS_AND_DIGITS = "ABCDEFGHJKLMNPQRSTVWXYZabdefghijmnqrtuy0123456789"
GREEK = "ΓΔΘΛΞΠΣΦΨΩβδεζλξσω"
CYRILLIC = "БДЖИЙЦЧШЩЪЫЭЮЯЉЊЂ"
MORE_LATIN = "ÆŒŁĐĦ"
SIGNS = "!#$%&()*+<=>?@[]{}§¶†‡±÷¿£€¥©«»"
CHARACTERS = LETTERS_AND_DIGITS + GREEK + CYRILLIC + MORE_LATIN + SIGNS
CLASSES = 120
PICTURES = 20
SIDE = 40

UNICODE_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)
# TeX's own encodings: only the letters and digits stand where Unicode has them.
TEX_FACES = ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10")

_FONT_SIZE = 112
_ENLARGED = 4 * SIDE
_STROKES = (ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3), ImageFilter.MaxFilter(5))
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """Draw all pictures into `destination`/glyphs.zip and list them.

    The same versions of matplotlib and Pillow draw the same bytes. `mirrors` is not used; a `source` is refused.
    """
    if source is not None:
        raise ValueError(f"glyphs: is drawn, and cannot be read from {source}; for images of your own use `folder`")
    destination = Path(destination)
    destination.mkdir(parents=True, exist_ok=True)
    archive = destination / "glyphs.zip"
    rng = generator("glyphs")
    images = []
    with whole(archive) as unfinished, zipfile.ZipFile(unfinished, "w") as opened:
        for label_name, character in class_characters().items():
            masks = _masks(character)
            # Every face once before any face twice.
            faces = [*rng.permutation(len(masks)), *rng.permutation(len(masks))][:PICTURES]
            for number, face in enumerate(faces):
                path = f"{label_name}/{number:02d}.png"
                opened.writestr(zipfile.ZipInfo(path, _ZIP_TIME), _png(_picture(masks[face], rng)))
                images.append(Image(str(archive), path, label_name))
    return images


def class_characters() -> dict[str, str]:
    """Class name -> character, e.g. '017_greek_small_letter_beta'.

    The numbers come from a shuffle (by hash), because a study halves the sorted classes and cuts folds out of them:
    this way every part holds a mix of scripts, and validation tells something about the test.
    """
    assert len(set(CHARACTERS)) == CLASSES
    shuffled = sorted(CHARACTERS, key=lambda character: sha256(character.encode()).digest())
    return {
        f"{number:03d}_{unicodedata.name(character).lower().replace(' ', '_')}": character
        for number, character in enumerate(shuffled)
    }


def super_class(image: Image) -> str:
    """The script of a character, the first word of its name in Unicode; or that it is a digit or a sign."""
    word = image.label_name.split("_")[1]
    return word if word in ("latin", "greek", "cyrillic", "digit") else "sign"


def _masks(character: str) -> list[Pillow.Image]:
    """The character in every face that has it, white on black and centred; faces that share a drawing count once."""
    masks = {}
    for face in UNICODE_FACES + (TEX_FACES if character in LETTERS_AND_DIGITS else ()):
        # A character outside the map would be drawn as an empty box.
        if ord(character) in _character_map(face):
            mask = _mask(character, face)
            masks.setdefault(mask.tobytes(), mask)
    assert 2 * len(masks) >= PICTURES, f"{character} is in {len(masks)} faces only"
    return list(masks.values())


def _file(face: str) -> str:
    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")


@cache
def _character_map(face: str) -> dict[int, int]:
    return FT2Font(_file(face)).get_charmap()


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    # The basic layout is in every Pillow; the other one is used where a library happens to be installed.
    return ImageFont.truetype(_file(face), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _mask(character: str, face: str) -> Pillow.Image:
    left, top, right, bottom = _font(face).getbbox(character)
    mask = Pillow.new("L", (_ENLARGED, _ENLARGED))
    corner = (_ENLARGED - left - right) // 2, (_ENLARGED - top - bottom) // 2
    ImageDraw.Draw(mask).text(corner, character, fill=255, font=_font(face))
    return mask


def _picture(mask: Pillow.Image, rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) uint8: the character turned, sheared, scaled and moved, its strokes changed, on paper."""
    moved = mask.transform(mask.size, Pillow.Transform.AFFINE, _affine(rng), Pillow.Resampling.BILINEAR)
    stroked = moved.filter(_STROKES[rng.integers(len(_STROKES))])
    blurred = stroked.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    ink = np.asarray(blurred.reduce(_ENLARGED // SIDE)) / 255
    paper, colour = rng.uniform(165, 255), rng.uniform(0, 100)
    grey = paper + (colour - paper) * ink + rng.normal(0, rng.uniform(0, 10), ink.shape)
    return np.rint(grey.clip(0, 255)).astype(np.uint8)


def _affine(rng: np.random.Generator) -> tuple[float, ...]:
    """The six numbers of Pillow's affine transform, which maps places in the picture to places in the mask."""
    angle, shear = rng.uniform(-0.22, 0.22), rng.uniform(-0.2, 0.2)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turned @ [[1, shear], [0, 1]] / rng.uniform(0.85, 1.2, size=2)
    centre = np.full(2, _ENLARGED / 2)
    offset = centre - matrix @ (centre + rng.uniform(-0.08, 0.08, size=2) * _ENLARGED)
    return (*matrix[0], offset[0], *matrix[1], offset[1])


def _png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Pillow.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
