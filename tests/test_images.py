import io
import os
import zipfile

import numpy as np
import PIL.Image
import pytest
from torchvision.transforms import Resize

from dml import images
from dml.images import Image, PackedImages, decode, pack, read, resize_shorter_side


def photograph(rng, height, width):
    """(height, width, 3) uint8: smooth, with some noise."""
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image, format="PNG", **options):
    data = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    image.save(data, format, **options)
    return data.getvalue()


@pytest.fixture
def archive(tmp_path, rng):
    """A zip of eleven images of different sizes: (file, images, their pixels)."""
    pixels = [photograph(rng, *rng.integers(20, 90, 2)) for _ in range(11)]
    file = tmp_path / "images.zip"
    with zipfile.ZipFile(file, "w") as opened:
        for i, image in enumerate(pixels):
            opened.writestr(f"c{i % 3}/{i}.png", encoded(image))
    return file, [Image(str(file), f"c{i % 3}/{i}.png", f"c{i % 3}") for i in range(11)], pixels


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# --- reading


def test_read_from_a_folder_and_from_an_archive(tmp_path):
    (tmp_path / "folder" / "c").mkdir(parents=True)
    (tmp_path / "folder" / "c" / "x.png").write_bytes(b"in a folder")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("c/x.png", b"in an archive")
    assert read(Image(str(tmp_path / "folder"), "c/x.png", "c")) == b"in a folder"
    assert read(Image(str(tmp_path / "a.zip"), "c/x.png", "c")) == b"in an archive"


def test_a_replaced_archive_is_read_anew(tmp_path):
    for content in (b"first", b"second"):
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as opened:
            opened.writestr("x.png", content)
        os.replace(tmp_path / "new.zip", tmp_path / "a.zip")
        assert read(Image(str(tmp_path / "a.zip"), "x.png", "c")) == content


@pytest.mark.parametrize("container", ["folder", "a.zip", "nothing.zip", "text.zip", "damaged.zip", "encrypted.zip"])
def test_what_cannot_be_read_is_named(tmp_path, container):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("other.png", b"x")
    with zipfile.ZipFile(tmp_path / "intact.zip", "w") as opened:
        opened.writestr("c/x.png", b"0123456789")
    intact = (tmp_path / "intact.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(intact.replace(b"0123456789", b"0123x56789"))
    entry = intact.index(b"PK\x01\x02")  # the flags of the directory's entry are 8 bytes behind
    (tmp_path / "encrypted.zip").write_bytes(intact[: entry + 8] + b"\x01" + intact[entry + 9 :])
    image = Image(str(tmp_path / container), "c/x.png", "c")
    with pytest.raises(ValueError, match=rf"{container}: c/x\.png: cannot be read \(.+\)"):
        read(image)


# --- decoding


def modes():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    colour = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    alpha = rng.choice([0, 255], (5, 7)).astype(np.uint8)
    deep = rng.integers(0, 65536, (5, 7)).astype(np.uint16)
    on_white = np.where(alpha[..., None] == 0, 255, colour)
    threefold = np.repeat(grey[..., None], 3, axis=2)
    palette = PIL.Image.fromarray(grey % 4).convert("P")
    palette.putpalette([1, 2, 3, 40, 50, 60, 70, 80, 90, 200, 210, 220])
    palette_colours = np.array([[1, 2, 3], [40, 50, 60], [70, 80, 90], [200, 210, 220]])
    opaque = palette_colours[np.asarray(palette)]
    yield "colour", encoded(colour), colour
    yield "grey", encoded(grey), threefold
    yield "one bit", encoded(PIL.Image.fromarray(grey > 99)), np.repeat((grey > 99)[..., None] * 255, 3, axis=2)
    yield "palette", encoded(palette), opaque
    transparent = np.where(np.asarray(palette)[..., None] == 2, 255, opaque)
    yield "palette, transparent", encoded(palette, transparency=2), transparent
    yield "gif, transparent", encoded(palette, "GIF", transparency=2), transparent
    yield "alpha", encoded(np.dstack([colour, alpha])), on_white
    yield "grey, alpha", encoded(np.dstack([grey, alpha])), np.where(alpha[..., None] == 0, 255, threefold)
    yield "16 bits", encoded(deep), np.repeat(np.rint(deep / 257)[..., None], 3, axis=2)
    yield (
        "16 bits, pgm",
        encoded(PIL.Image.fromarray(deep), "PPM"),
        np.repeat(np.rint(deep / 257)[..., None], 3, axis=2),
    )
    yield "16 bits, big-endian tiff", big_endian_tiff(deep), np.repeat(np.rint(deep / 257)[..., None], 3, axis=2)
    ink = 255 - np.dstack([colour, np.zeros_like(grey)])
    ink[..., 3] = 0
    yield "cmyk", encoded(PIL.Image.fromarray(ink, "CMYK"), "TIFF"), colour


def big_endian_tiff(pixels):
    """An uncompressed grey TIFF as a scanner or microscope writes it."""
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    tags.append((279, 2 * pixels.size))
    directory = len(tags).to_bytes(2, "big")
    for tag, value in tags:
        directory += tag.to_bytes(2, "big") + b"\x00\x04" + (1).to_bytes(4, "big") + value.to_bytes(4, "big")
    head = b"MM\x00\x2a" + (8).to_bytes(4, "big") + directory + bytes(4)
    return head.ljust(122, b"\0") + pixels.astype(">u2").tobytes()


@pytest.mark.parametrize("name, data, expected", list(modes()), ids=[name for name, *_ in modes()])
def test_every_kind_of_image_becomes_rgb(name, data, expected):
    image = decode(data, name)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_half_transparent_pixels_are_mixed_with_white():
    image = decode(encoded(np.full((1, 1, 4), (0, 100, 200, 128), dtype=np.uint8)), "x")
    np.testing.assert_allclose(np.asarray(image)[0, 0], np.array([0, 100, 200]) * 128 / 255 + 127, atol=1)


def test_an_animation_gives_its_first_frame():
    frames = [PIL.Image.new("L", (4, 4), value) for value in (10, 200)]
    image = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "x")
    np.testing.assert_array_equal(np.asarray(image), 10)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_an_image_that_is_cut_short_is_named(rng, format):
    data = encoded(photograph(rng, 40, 50), format)
    assert decode(data, "whole").size == (50, 40)
    for length in (0, 3, len(data) // 3, len(data) * 2 // 3, len(data) - len(data) // 10):
        with pytest.raises(ValueError, match=r"^birds\.zip: robin/1\.jpg: not a readable image"):
            decode(data[:length], "birds.zip: robin/1.jpg")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_data_gives_an_image_or_a_named_error(rng, format):
    data = encoded(photograph(rng, 8, 9), format)
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged), "x.jpg").mode == "RGB"
        except ValueError as error:
            assert str(error).startswith("x.jpg: not a readable image")


@pytest.mark.parametrize("data", [b"<!DOCTYPE html>", encoded(np.zeros((2, 2), np.float32), "TIFF")])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ValueError, match=r"x\.jpg: not a readable image"):
        decode(data, "x.jpg")


TURNS = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image.transpose(1, 0, 2), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_upright_follows_the_orientation_that_a_phone_writes(rng, orientation):
    pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(pixels, exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(data, "x", upright=True)), TURNS[orientation](pixels))
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), pixels)


# --- resizing


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (257, 256), (256, 999), (40, 41), (77, 77), (105, 1000)])
@pytest.mark.parametrize("side", [256, 40])
def test_resizing_is_torchvisions(rng, size, side):
    image = PIL.Image.fromarray(photograph(rng, *size))
    resized = resize_shorter_side(image, side)
    assert min(resized.size) == side
    np.testing.assert_array_equal(np.asarray(resized), np.asarray(Resize(side)(image)))


# --- packing


def packed(stem, listed, labels, **options):
    return pack(listed, labels, 32, stem, upright=False, progress=False, **options)


def test_packed_images_are_the_decoded_and_resized_ones(tmp_path, archive):
    _, listed, pixels = archive
    labels = [7, 3, 9] * 3 + [7, 3]
    fingerprint = packed(tmp_path / "deep" / "cub.test", listed, labels)
    opened = PackedImages.open(tmp_path / "deep" / "cub.test")
    assert len(opened) == len(listed)
    assert opened.fingerprint == fingerprint == (tmp_path / "deep" / "cub.test.sha256").read_text().strip()
    assert opened.labels.dtype == np.int64
    assert opened.labels.tolist() == labels
    assert opened.paths.tolist() == [image.path for image in listed]
    for i, original in enumerate(pixels):
        expected = np.asarray(resize_shorter_side(PIL.Image.fromarray(original), 32))
        np.testing.assert_array_equal(opened[i], expected)
        assert (opened.heights[i], opened.widths[i]) == expected.shape[:2]
    assert not opened[0].flags.writeable
    assert sorted(file.name for file in (tmp_path / "deep").iterdir()) == [
        "cub.test.npz",
        "cub.test.pixels",
        "cub.test.sha256",
    ]


def test_the_bytes_do_not_depend_on_the_workers(tmp_path, archive):
    _, listed, _ = archive
    many = listed * 10
    for workers in (1, 3):
        packed(tmp_path / f"w{workers}", many, range(len(many)), workers=workers)
    for ending in (".pixels", ".npz", ".sha256"):
        assert (tmp_path / f"w1{ending}").read_bytes() == (tmp_path / f"w3{ending}").read_bytes()


def test_the_fingerprint_is_of_everything(tmp_path, archive):
    file, listed, _ = archive
    labels = list(range(11))
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr("c0/other.png", opened.read("c0/0.png"))
    renamed = [listed[0]._replace(path="c0/other.png"), *listed[1:]]
    cases = [
        (listed, labels),
        (listed[::-1], labels),
        (listed, labels[::-1]),
        (renamed, labels),
        (listed[:-1], labels[:-1]),
    ]
    prints = [packed(tmp_path / "x", images, labels) for images, labels in cases]
    assert len(set(prints)) == len(cases)
    assert packed(tmp_path / "x", listed, labels) == prints[0]


def test_upright_reaches_the_pixels(tmp_path, rng):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "x.png").write_bytes(encoded(photograph(rng, 32, 64), exif=exif))
    for upright, shape in ((False, (32, 64, 3)), (True, (64, 32, 3))):
        pack([Image(str(tmp_path), "x.png", "c")], [0], 32, tmp_path / "u", upright, progress=False)
        assert PackedImages.open(tmp_path / "u")[0].shape == shape


@pytest.mark.parametrize("workers", [1, 3])
def test_an_image_that_does_not_decode_is_named_and_the_packed_files_stay_as_they_were(tmp_path, archive, workers):
    file, listed, _ = archive
    packed(tmp_path / "x", listed, range(11))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("x.*")}
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr("c0/broken.png", b"no image")
    with pytest.raises(ValueError, match=r"images\.zip: c0/broken\.png: not a readable image"):
        packed(tmp_path / "x", [*listed, Image(str(file), "c0/broken.png", "c0")], range(12), workers=workers)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("x.*")} == before


def test_a_mixture_of_two_packings_is_never_opened(tmp_path, archive, monkeypatch):
    _, listed, _ = archive
    packed(tmp_path / "x", listed, range(11))
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(images.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "x", listed[::-1], range(11))
    with pytest.raises(FileNotFoundError, match=r"x\.sha256"):
        PackedImages.open(tmp_path / "x")


def test_pixels_cut_short_are_noticed(tmp_path, archive):
    _, listed, _ = archive
    packed(tmp_path / "x", listed, range(11))
    pixels = tmp_path / "x.pixels"
    intact = pixels.read_bytes()
    pixels.write_bytes(intact[:-1])
    with pytest.raises(ValueError, match=rf"{pixels}: {len(intact) - 1} bytes, expected {len(intact)}"):
        PackedImages.open(tmp_path / "x")


def test_a_subset_is_a_view(tmp_path, archive):
    _, listed, _ = archive
    packed(tmp_path / "x", listed, range(11))
    whole = PackedImages.open(tmp_path / "x")
    subset = whole.subset(np.array([5, 2, 5, 10]))
    assert len(subset) == 4
    assert subset.labels.tolist() == [5, 2, 5, 10]
    assert subset.paths.tolist() == [listed[i].path for i in (5, 2, 5, 10)]
    assert subset.fingerprint == whole.fingerprint
    for mine, theirs in enumerate((5, 2, 5, 10)):
        np.testing.assert_array_equal(subset[mine], whole[theirs])
        assert np.shares_memory(subset[mine], whole[theirs])
    np.testing.assert_array_equal(subset.subset(np.array([1]))[0], whole[2])
    with pytest.raises(IndexError):
        subset[4]


@pytest.mark.parametrize("count, labels", [(0, []), (2, [0])])
def test_nothing_to_pack_or_labels_missing(tmp_path, archive, count, labels):
    with pytest.raises(ValueError, match=f"got {len(labels)}, {count}"):
        packed(tmp_path / "x", archive[1][:count], labels)
    assert not list(tmp_path.glob("x.*"))
