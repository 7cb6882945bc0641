"""Unpacking, finding and checking what a user or a server has."""

import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from miniatures import tarred, under, write, zipped

from dml.archives import Files, check, check_parts, copies, find, unpack

FILES = {"a/1.jpg": b"one", "a/b/2.jpg": b"two" * 1000, "list.txt": b"x"}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "original", FILES)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- unpacking


@pytest.mark.parametrize("name", ["x.tgz", "x.tar.gz", "x.tar"])
def test_a_tar_is_unpacked(tmp_path, folder, name):
    archive = tarred(folder, tmp_path / name)
    target = tmp_path / "new" / "here"
    assert unpack(archive, target) == target
    assert content(target) == FILES
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_is_there_is_complete_and_the_archive_not_needed(tmp_path, folder):
    assert unpack(tmp_path / "gone.tgz", folder) == folder
    assert content(folder) == FILES


def member(name, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, 3 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/etc/outside"),
        member("link", tarfile.SYMTYPE, "../outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "../outside"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=["..", "a/../..", "absolute", "link", "absolute link", "hard link", "device", "pipe"],
)
def test_nothing_leaves_the_folder(tmp_path, bad):
    archive = tmp_path / "x.tgz"
    with tarfile.open(archive, "w:gz") as opened:
        for info in (member("good"), bad):
            opened.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(ValueError) as caught:
        unpack(archive, tmp_path / "inside" / "here")
    assert str(archive) in str(caught.value) and f"member {bad.name} " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "inside").iterdir()) == []
    assert not (tmp_path / "outside").exists() and not (tmp_path / "inside" / "outside").exists()


def damaged(data):
    middle = len(data) // 2
    return {
        "cut": data[:middle],
        "cut at the end": data[:-4],
        "changed": data[:middle] + bytes(20) + data[middle + 20 :],
        "changed at the end": data[:-8] + b"\x01" * 4 + data[-4:],
        "empty": b"",
        "something else": b"not an archive at all" * 100,
    }


@pytest.mark.parametrize("kind", damaged(b""))
def test_a_damaged_archive_is_named(tmp_path, folder, kind):
    write(folder, {f"noise/{i}": os.urandom(2000) for i in range(10)})
    archive = tarred(folder, tmp_path / "x.tgz")
    archive.write_bytes(damaged(archive.read_bytes())[kind])
    with pytest.raises(ValueError, match=r"x\.tgz: not an intact archive .*; delete it and get it again"):
        unpack(archive, tmp_path / "new" / "here")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_a_tar_that_ends_between_its_files_is_damaged(tmp_path, folder, blocks):
    archive = tarred(folder, tmp_path / "x.tar")
    archive.write_bytes(archive.read_bytes()[: 512 * blocks])
    with pytest.raises(ValueError, match=r"x\.tar: not an intact archive"):
        unpack(archive, tmp_path / "here")


SCRIPT = """
import sys
from pathlib import Path
from dml import archives
def hang(*arguments):
    real(*arguments)
    (Path(sys.argv[2]) / "reached").touch()
    sys.stdin.read()
real, archives._extract_member = archives._extract_member, hang
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]) / "here")
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_an_unpacking_that_is_killed_leaves_no_folder_and_the_next_one_clears_up(tmp_path, folder, by):
    archive = tarred(folder, tmp_path / "x.tgz")
    new = tmp_path / "new"
    new.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(archive), str(new)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE) as process:
        for _ in range(1000):
            if (new / "reached").exists():
                break
            time.sleep(0.02)
        process.send_signal(by)
        process.wait(20)
    (new / "reached").unlink()
    assert not (new / "here").exists()
    unpack(archive, new / "here")
    assert content(new / "here") == FILES
    assert list(new.iterdir()) == [new / "here"]


# --- a user's copy


def test_a_copy_is_looked_for_in_itself_and_in_archives_in_it(tmp_path, folder):
    source = tmp_path / "source"
    tgz, file = tarred(folder, source / "x.tgz"), zipped(folder, source / "x.zip")
    inside = list(copies(source, tmp_path / "new", "x.tgz", "x.zip", "y.zip"))
    assert inside[0] == source and inside[2] == file
    assert content(inside[1]) == FILES and inside[1].parent == tmp_path / "new"
    assert list(copies(tgz, tmp_path / "new")) == inside[1:2]
    assert list(copies(file, tmp_path / "new")) == [file]
    assert next(copies(source, tmp_path / "none", "x.tgz")) == source
    assert not (tmp_path / "none").exists()  # no archive is unpacked before it is needed


def test_a_copy_under_the_name_of_another_is_another(tmp_path, folder):
    archive = tarred(folder, tmp_path / "x.tgz")
    first = next(copies(archive, tmp_path / "new"))
    tarred(write(folder, {"more": b"more"}), archive)
    second = next(copies(archive, tmp_path / "new"))
    assert (content(first), content(second)) == (FILES, FILES | {"more": b"more"})


def test_a_copy_in_the_home_folder(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(copies(Path("~/original"), tmp_path)) == [folder]


@pytest.mark.parametrize("name, data", [("gone", None), ("x.txt", b"text"), ("x.zip", b"PK" + bytes(100))])
def test_what_is_no_copy_is_named(tmp_path, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{tmp_path / name}: (no such|neither)"):
        list(copies(tmp_path / name, tmp_path))


# --- folders and zips, alike


@pytest.fixture(params=["folder", "zip", "zip without folders", "below a folder", "below in a zip"])
def files(request, tmp_path, folder):
    write(folder, {"a/.hidden": b"", ".hidden/x": b"", "__MACOSX/a/1.jpg": b"", "z/y/x.txt": b"1 2\n\n 3   4 \n5 6"})
    if request.param == "folder":
        return Files(folder)
    if request.param == "zip":
        return Files(zipped(folder, tmp_path / "x.zip"))
    if request.param == "zip without folders":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
            for path, data in content(folder).items():
                opened.writestr(path, data)
        return Files(tmp_path / "x.zip")
    parent = under(tmp_path / "parent", above__below=folder)
    if request.param == "below a folder":
        return Files(parent).below("above").below("below")
    return Files(zipped(parent, tmp_path / "x.zip")).below("above/below")


def test_files_are_found_and_read(files):
    assert files.folders() == ["a", "z"] and files.files() == ["list.txt"]
    assert files.folders("a") == ["b"] and files.files("a") == ["1.jpg"]
    assert files.files("z/y") == ["x.txt"] and files.folders("z/y") == []
    for path in ("a", "a/", "a/1.jpg", "a/b", "a/b/2.jpg", ""):
        assert files.has(path), path
    for path in ("b", "a/2.jpg", "a/b/2", "a/1.jpg/x", "a/b/c/2.jpg"):
        assert not files.has(path), path
    assert files.first("b", "a/b", "a") == "a/b" and files.first("b") is None
    assert files.read("a/b/2.jpg") == FILES["a/b/2.jpg"]
    below = files.below("a")
    assert below.files() == ["1.jpg"] and below.read("b/2.jpg") == FILES["a/b/2.jpg"] and not below.has("list.txt")
    assert files.image("a/1.jpg", "name", "train")[2:] == ("name", "train")
    with pytest.raises(ValueError, match=r"a/9\.jpg: cannot be read"):
        files.read("a/9.jpg")


def test_rows_of_a_text(files):
    assert files.rows("z/y/x.txt", 2) == [["1", "2"], ["3", "4"], ["5", "6"]]
    assert files.rows("z/y/x.txt", 2, skip=1) == [["3", "4"], ["5", "6"]]
    with pytest.raises(ValueError, match=r"z/y/x\.txt, line 1: 2 columns, expected 3"):
        files.rows("z/y/x.txt", 3)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_required_is_found_up_to_two_folders_down(tmp_path, kind):
    root = write(tmp_path / "root", {"a/b/c/1": "", "a/b/2": "", "x/b/c/1": "", "x/b/2": "", "x/3": "", ".h/4": ""})
    container = root if kind == "folder" else zipped(root, tmp_path / "x.zip")

    def path_of(*required):
        found = find(container, *required)
        return found and found.image("", "").path

    prefix = "a/b/" if kind == "zip" else ""
    assert path_of("2", "c") == prefix
    assert find(container, "c/1").container == (root / "a/b" if kind == "folder" else container)
    assert str(find(container, "a", "x")) == str(container)
    assert str(find(container, "3")).endswith("x" if kind == "folder" else "x/")
    assert find(container, ("none", "3")).read("3") == b""
    for required in ["1", "4", "b/3", ("none", "nothing")]:  # 1 lies too deep, 4 is hidden
        assert find(container, required) is None
    assert find(container, "2", "3") is None


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(ValueError, match=r"x\.zip: not an intact zip archive .*; delete it"):
        find(tmp_path / "x.zip", "a")


# --- checks


@pytest.fixture(params=["folder", "zip"])
def images(request, tmp_path):
    folder = write(tmp_path / "pictures", {f"{c}/{i}.jpg": f"{c}{i}" for c in "ab" for i in range(3)})
    files = Files(folder if request.param == "folder" else zipped(folder, tmp_path / "pictures.zip"))
    return [files.image(f"{c}/{i}.jpg", c, "train" if c == "a" else "test") for c in "ab" for i in range(3)]


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def test_what_is_right_is_given_back(images):
    spots = {"a/1.jpg": md5("a1"), "2.jpg": md5("a2")}
    assert check("set", images, 2, 6, spots) == check("set", images, 2, 6) == images
    check_parts("set", images, {"train": 3, "test": 3})


@pytest.mark.parametrize("classes, number", [(3, 6), (2, 7), (2, 5), (1, 6)])
def test_other_numbers_are_refused(images, classes, number):
    with pytest.raises(ValueError) as caught:
        check("set", images, classes, number)
    for part in (
        "set: ", images[0].container, "2 classes with 6 images", f"expected {classes} with {number}; ", "the original",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_missing_images_are_named_and_counted(images):
    images += [images[0]._replace(path=f"b/{i}.jpg") for i in (7, 8)]
    with pytest.raises(ValueError, match=r"set: .*b/7\.jpg is missing, 2 of 8 images in all; .*delete it and get it"):
        check("set", images, 2, 6)


def test_other_bytes_are_refused(images):
    with pytest.raises(ValueError) as caught:
        check("set", images, 2, 6, {"a/1.jpg": md5("a1"), "b/0.jpg": md5("b1")})
    for part in ("set: ", "b/0.jpg: ", md5("b0"), md5("b1"), "numbered differently", "get the original"):
        assert part in str(caught.value)
    for path in ("a/9.jpg", "a/1", "/1.jpg.jpg"):
        with pytest.raises(ValueError, match=f"no image {path}; "):
            check("set", images, 2, 6, {path: md5("a1")})


@pytest.mark.parametrize("parts", [{"train": 3}, {"train": 2, "test": 4}, {"train": 3, "query": 1, "gallery": 2}])
def test_other_parts_are_refused(images, parts):
    with pytest.raises(ValueError, match="images of the parts: train 3, test 3; expected train "):
        check_parts("set", images, parts)


def test_no_images_at_all_are_too_few():
    with pytest.raises(ValueError, match="set: no images: 0 classes with 0 images, expected 2 with 6"):
        check("set", [], 2, 6)


def test_a_gzip_is_recognised_by_its_content(tmp_path, folder):
    tar = tarred(folder, tmp_path / "x.tar")
    (tmp_path / "y.tar").write_bytes(gzip.compress(tar.read_bytes()))
    (tmp_path / "y.tgz").write_bytes(tar.read_bytes())
    for name in ("y.tar", "y.tgz"):
        assert content(unpack(tmp_path / name, tmp_path / f"from {name}")) == FILES
