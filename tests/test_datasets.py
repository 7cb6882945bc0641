import hashlib
import inspect
import io
import os
import shutil
import unicodedata
import zipfile
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from dml import plugins
from dml.datasets import folder, glyphs, omniglot_small
from dml.images import decode, read

NAMES = plugins.names("datasets")


# --- what every data set says of itself


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_says_what_it_is(name):
    for constant in ("TITLE", "SOURCE", "TERMS"):
        text = plugins.literal("datasets", name, constant)
        assert isinstance(text, str) and text.strip()
    assert isinstance(plugins.literal("datasets", name, "UPRIGHT", False), bool)
    for archive in plugins.literal("datasets", name, "ARCHIVES", []):
        digits = {"sha256": 64, "md5": 32}
        assert {"name", "urls"} < set(archive) <= {"name", "urls", "size", *digits}
        checksums = {kind: archive[kind] for kind in digits if kind in archive}
        assert checksums and all(len(text) == digits[kind] and int(text, 16) for kind, text in checksums.items())
        assert archive.get("size", 1) > 0
        assert archive["urls"] and all("://" in url for url in archive["urls"])


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_is_prepared_the_same_way(name):
    parameters = inspect.signature(plugins.load("datasets", name).prepare).parameters
    assert list(parameters) == ["destination", "mirrors", "source"]


@pytest.mark.parametrize("module", [glyphs, omniglot_small])
def test_a_source_is_refused_where_there_is_none(tmp_path, module):
    with pytest.raises(ValueError, match=f"{tmp_path}"):
        module.prepare(tmp_path, [], tmp_path)


# --- Omniglot


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch):
    """A mirror with two miniature archives that share the alphabet Greek."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    archives = []
    for number, alphabets in ((1, ("Greek", "Balinese")), (2, ("Greek", "Tagalog"))):
        name = f"images_background_small{number}.zip"
        with zipfile.ZipFile(mirror / name, "w") as opened:
            for alphabet in alphabets:
                opened.writestr(f"images_background_small{number}/{alphabet}/", b"")
                for character in (1, 2):
                    for drawing in (1, 2, 3):
                        data = io.BytesIO()
                        ink = np.random.default_rng([len(alphabet), character, drawing]).random((9, 9)) > 0.5
                        PIL.Image.fromarray(ink).save(data, "PNG")
                        folder_name = f"images_background_small{number}/{alphabet}/character{character:02d}"
                        opened.writestr(f"{folder_name}/00{character}_{drawing:02d}.png", data.getvalue())
        content = (mirror / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        archives.append({"name": name, "urls": [], "sha256": sha256, "size": len(content)})
    monkeypatch.setattr(omniglot_small, "ARCHIVES", archives)
    monkeypatch.setattr(omniglot_small, "CLASSES", 6)
    monkeypatch.setattr(omniglot_small, "IMAGES", 18)
    return mirror


def test_omniglot_takes_shared_alphabets_once(tmp_path, small_omniglot):
    images = omniglot_small.prepare(tmp_path / "data", [str(small_omniglot)])
    assert Counter(image.label_name for image in images) == {
        f"{alphabet}/character{character}": 3
        for alphabet in ("Balinese", "Greek", "Tagalog")
        for character in ("01", "02")
    }
    assert len({read(image) for image in images}) == 18
    decoded = np.asarray(decode(read(images[0]), "x"))
    assert decoded.shape == (9, 9, 3)
    assert set(np.unique(decoded)) == {0, 255}
    assert {os.path.dirname(image.container) for image in images} == {str(tmp_path / "data")}


def test_omniglot_with_other_counts_is_not_believed(tmp_path, small_omniglot, monkeypatch):
    monkeypatch.setattr(omniglot_small, "IMAGES", 19)
    with pytest.raises(AssertionError, match="6 classes, 18 images"):
        omniglot_small.prepare(tmp_path / "data", [str(small_omniglot)])


def test_omniglot_that_cannot_be_had_is_named(tmp_path, small_omniglot):
    with pytest.raises(ValueError, match=r"images_background_small1\.zip could not be obtained"):
        omniglot_small.prepare(tmp_path / "data", [])


# --- own images


def build(root, files):
    """Write files (path -> bytes; None: a small image) into a folder, and give it."""
    for path, data in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            PIL.Image.new("RGB", (4, 3), (10, 20, 30)).save(file, "PNG")
        else:
            file.write_bytes(data)
    return root


def zipped(root, file):
    with zipfile.ZipFile(file, "w") as opened:
        for path in root.rglob("*"):
            opened.write(path, path.relative_to(root))
    return file


def listed(source, tmp_path):
    return [(image.label_name, image.path) for image in folder.prepare(tmp_path / "unused", [], source)]


BIRDS = {
    "birds/images/robin/1.jpg": None,
    "birds/images/robin/2.JPEG": None,
    "birds/images/owl/3.PNG": None,
    "birds/images/owl/4.webp": None,
}
CLUTTER = {
    "birds/metadata/classes.txt": b"robin, owl",
    "birds/LICENSE": b"free",
    "birds/images/.DS_Store": b"",
    "birds/images/owl/Thumbs.db": b"",
    "birds/images/owl/._3.png": b"not an image",
    "birds/.cache/small/1.jpg": None,
    "__MACOSX/birds/images/owl/3.png": b"not an image",
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_classes_are_the_folders_that_differ(tmp_path, kind):
    source = build(tmp_path / "source", BIRDS | CLUTTER)
    if kind == "zip":
        source = zipped(source, tmp_path / "birds.zip")
    assert listed(source, tmp_path) == [
        ("owl", "birds/images/owl/3.PNG"),
        ("owl", "birds/images/owl/4.webp"),
        ("robin", "birds/images/robin/1.jpg"),
        ("robin", "birds/images/robin/2.JPEG"),
    ]
    for image in folder.prepare(tmp_path, [], source):
        assert image.container == str(source)
        assert decode(read(image), image.name).size == (4, 3)
    assert not (tmp_path / "unused").exists()


def test_classes_may_have_several_levels(tmp_path):
    source = build(tmp_path / "s", {"Greek/01/1.png": None, "Greek/02/1.png": None, "Latin/01/1.png": None})
    assert [name for name, _ in listed(source, tmp_path)] == ["Greek/01", "Greek/02", "Latin/01"]


def test_the_order_is_the_same_in_a_folder_and_a_zip(tmp_path):
    names = ["a", "a-b", "a b", "B", "ä"]
    source = build(tmp_path / "s", {f"{name}/{i}.png": None for name in names for i in (10, 9)})
    assert listed(source, tmp_path) == listed(zipped(source, tmp_path / "s.zip"), tmp_path)


def test_zip_entries_with_backslashes_or_a_leading_dot_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as opened:
        opened.writestr("pictures\\owl\\1.png", b"one")
        opened.writestr("./pictures/robin/2.png", b"two")
    images = folder.prepare(tmp_path, [], tmp_path / "w.zip")
    assert [(image.label_name, read(image)) for image in images] == [("owl", b"one"), ("robin", b"two")]


def test_entries_that_lead_out_of_an_archive_are_no_images(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        for path in ("../outside/1.png", "owl/1.png", "robin/1.png"):
            opened.writestr(path, b"x")
    assert [name for name, _ in listed(tmp_path / "evil.zip", tmp_path)] == ["owl", "robin"]


def test_linked_class_folders_are_followed_but_not_in_circles(tmp_path):
    build(tmp_path / "elsewhere", {"owl/1.png": None})
    source = build(tmp_path / "s", {"robin/1.png": None})
    (source / "owl").symlink_to(tmp_path / "elsewhere" / "owl")
    (source / "robin" / "again").symlink_to(source)
    assert listed(source, tmp_path) == [("owl", "owl/1.png"), ("robin", "robin/1.png")]


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    build(tmp_path / "pictures", {"owl/1.png": None, "robin/1.png": None})
    assert len(listed("~/pictures", tmp_path)) == 2
    assert folder.listing_digest("~/pictures") == folder.listing_digest(tmp_path / "pictures")


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "files, message",
    [
        ({"owl/1.heic": b"", "owl/2.heic": b"", "README": b""}, r"no images \(.*\.jpg .*found 2 \.heic, 1 README"),
        ({".hidden/owl/1.png": None}, "no images .* found nothing"),
        ({"1.png": None, "2.png": None}, "all images lie in the folder itself; expected one folder per class"),
        ({"birds/owl/1.png": None}, "all images lie in 'birds/owl'; expected one folder per class"),
        ({"1.png": None, "owl/2.png": None}, "images lie both in the folder itself and in owl below it"),
        ({"birds/1.png": None, "birds/owl/2.png": None}, "images lie both in 'birds' and in birds/owl below it"),
        (
            {"robin/1.png": None, "owl/2.png": None, "owl/old/3.png": None},
            "images lie both in 'owl' and in owl/old below it",
        ),
        (
            {"train/owl/1.png": None, "train/robin/2.png": None, "test/owl/3.png": None},
            "the class owl lies in test and train",
        ),
    ],
)
def test_folders_that_are_not_clear_are_refused(tmp_path, kind, files, message):
    source = build(tmp_path / "source", files)
    if kind == "zip":
        source = zipped(source, tmp_path / "source.zip")
    with pytest.raises(ValueError, match=f"^{source}: {message}"):
        folder.prepare(tmp_path, [], source)


def test_disjoint_classes_in_train_and_test_are_fine(tmp_path):
    source = build(tmp_path / "s", {"train/owl/1.png": None, "test/robin/1.png": None})
    assert [name for name, _ in listed(source, tmp_path)] == ["test/robin", "train/owl"]


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path):
    (tmp_path / "birds.tgz").write_bytes(b"\x1f\x8b not a zip")
    whole = zipped(build(tmp_path / "s", BIRDS), tmp_path / "s.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    for name in ("birds.tgz", "cut.zip"):
        with pytest.raises(ValueError, match=rf"{name}: neither a folder nor an intact zip archive"):
            folder.prepare(tmp_path, [], tmp_path / name)
    for refuse in (lambda path: folder.prepare(tmp_path, [], path), folder.listing_digest):
        with pytest.raises(ValueError, match="birds: no such folder or file"):
            refuse(tmp_path / "birds")
    with pytest.raises(ValueError, match="which images"):
        folder.prepare(tmp_path)


def test_the_digest_follows_the_images(tmp_path):
    source = build(tmp_path / "s", BIRDS)
    digests = [folder.listing_digest(source)]
    assert folder.listing_digest(source) == digests[0]

    owls = source / "birds" / "images" / "owl"
    for change in (
        lambda: build(source, {"birds/images/owl/5.png": None}),
        lambda: os.utime(owls / "5.png", (1_000_000_000, 1_000_000_000)),
        lambda: (owls / "5.png").write_bytes(b"another"),
        lambda: (owls / "5.png").rename(owls / "6.png"),
        lambda: owls.rename(owls.with_name("eagle")),
        lambda: shutil.rmtree(owls.with_name("eagle")),
        lambda: (source / "birds" / "images" / "link.png").symlink_to("nowhere.png"),
    ):
        change()
        digests.append(folder.listing_digest(source))
    assert len(set(digests)) == 8
    build(source, {".cache/1.png": None, "birds/images/.DS_Store": b"a file browser was here", "birds/notes.txt": b""})
    assert folder.listing_digest(source) == digests[-1]


def test_the_digest_follows_the_archive(tmp_path):
    archive = zipped(build(tmp_path / "s", BIRDS), tmp_path / "s.zip")
    first = folder.listing_digest(archive)
    assert folder.listing_digest(archive) == first
    os.utime(archive, (1_000_000_000, 1_000_000_000))
    assert folder.listing_digest(archive) != first


# --- glyphs


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(images, their pixels (N, 40, 40), their classes (N,) as numbers)"""
    images = glyphs.prepare(tmp_path_factory.mktemp("glyphs"))
    pixels = [np.asarray(decode(read(image), image.name)) for image in images]
    names = sorted({image.label_name for image in images})
    return images, np.stack(pixels)[..., 0], np.array([names.index(image.label_name) for image in images])


def test_glyphs_have_as_many_classes_and_pictures_as_they_say(drawn):
    images, pixels, labels = drawn
    assert pixels.shape == (120 * 20, 40, 40)
    assert np.bincount(labels).tolist() == [20] * 120
    assert len({image.tobytes() for image in pixels}) == len(images)


def test_glyphs_are_the_same_bytes_every_time(drawn, tmp_path):
    glyphs.prepare(tmp_path)
    first = drawn[0][0].container
    with open(first, "rb") as one, open(tmp_path / "glyphs.zip", "rb") as other:
        assert one.read() == other.read()


def test_glyph_names_say_which_character_and_mix_scripts_in_both_halves(drawn):
    characters = glyphs.class_characters()
    assert sorted(characters) == list(characters) == sorted({image.label_name for image in drawn[0]})
    for name, character in characters.items():
        assert name[4:].replace("_", " ") == unicodedata.name(character).lower()
    scripts = [unicodedata.name(character).split()[0] for character in characters.values()]
    for half in (scripts[:60], scripts[60:]):
        counts = Counter(half)
        assert counts["LATIN"] >= 15 and counts["GREEK"] >= 5 and counts["CYRILLIC"] >= 5 and counts["DIGIT"] >= 3


def test_every_glyph_is_drawn_and_in_twelve_faces_or_more():
    faces = glyphs.UNICODE_FACES + glyphs.TEX_FACES
    missing = {glyphs._mask("\U000f1234", face).tobytes() for face in faces}  # for private use, in no face
    seen = set()
    for character in glyphs.CHARACTERS:
        masks = [mask.tobytes() for mask in glyphs._masks(character)]
        assert len(masks) == len(set(masks)) >= 12
        assert all(max(mask) == 255 for mask in masks)
        assert missing.isdisjoint(masks)
        assert seen.isdisjoint(masks)
        seen.update(masks)


def test_glyphs_are_neither_trivial_nor_hopeless(drawn):
    """Nearest neighbours by pixels find the character more often than chance (1 in 60), yet mostly fail."""
    _, pixels, labels = drawn
    test = labels >= 60
    rows = pixels[test].reshape(test.sum(), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -2)
    found = labels[test][similarity.argmax(axis=1)] == labels[test]
    assert 0.2 < found.mean() < 0.7
