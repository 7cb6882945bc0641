"""The benchmarks' data sets, on miniatures of their archives: every packaging gives the same images and classes."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import miniatures
import numpy as np
import pytest
from miniatures import CLASSES, IMAGES, PER_CLASS, beside, patch, write
from server import HTML, in_turn, serve, serve_ranges

from dml import plugins
from dml.datasets import cars196, cub200, in_shop, omniglot, sop, sop_official
from dml.images import decode, read
from dml.splits import class_halves, folds, half_of, queries_of

SETS = {
    "cub200": cub200,
    "cars196": cars196,
    "sop": sop,
    "sop_official": sop_official,
    "in_shop": in_shop,
    "omniglot": omniglot,
}
LAYOUTS = {
    "cub200": 10,
    "cars196": 12,
    "sop": 7,
    "sop_official": 7,
    "in_shop": 11,
    "omniglot": 6,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> Miniature; made once, never changed."""
    folder = tmp_path_factory.mktemp("miniatures")
    return {name: getattr(miniatures, name)(folder / name) for name in SETS}


@pytest.fixture
def made_small(made, monkeypatch):
    """The same, and the data sets' files have the miniatures' constants."""
    for name, module in SETS.items():
        for constant, value in made[name].literals.items():
            monkeypatch.setattr(module, constant, value)
    return made


def contents(images):
    """What images are, apart from where: class, part and bytes."""
    return sorted((image.label_name, image.part, hashlib.md5(read(image)).hexdigest()) for image in images)


def refused(name, source, destination=None):
    """The one line with which a copy is refused."""
    with pytest.raises(ValueError) as caught:
        SETS[name].prepare(destination or Path("/nowhere"), [], source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def copy_of(tmp_path, original):
    """A copy of a layout, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


# --- the true constants


def test_the_numbers_of_the_papers():
    numbers = {name: (module.CLASSES, module.IMAGES) for name, module in SETS.items()}
    assert numbers == {
        "cub200": (200, 11788),
        "cars196": (196, 16185),
        "sop": (22634, 120053),
        "sop_official": (22634, 120053),
        "in_shop": (7982, 52712),
        "omniglot": (1623, 32460),
    }
    assert (cub200.TRAINVAL_IMAGES, cars196.TRAINVAL_IMAGES) == (5864, 8054)
    assert sop_official.PARTS == {"train": 59551, "test": 60502}
    assert in_shop.PARTS == {"train": 25882, "query": 14218, "gallery": 12612}
    for module in (sop_official, in_shop):
        assert sum(module.PARTS.values()) == module.IMAGES


def test_the_archives_are_those_that_others_have_checked():
    known = {archive["name"]: archive for module in SETS.values() for archive in getattr(module, "ARCHIVES", [])}
    assert {name: (a.get("size"), a.get("sha256", "")[:8], a.get("md5", "")[:8]) for name, a in known.items()} == {
        "CUB_200_2011.tgz": (1150585339, "0c685df5", "97eceeb1"),
        "cars_annos.mat": (None, "", "b407c608"),
        "car_ims.tgz": (1956628579, "4d96e3e3", ""),
        "Stanford_Online_Products.zip": (3083860082, "b04fa782", "7f73d41a"),
        "images_background.zip": (9464212, "ad41ab67", "68d2efa1"),
        "images_evaluation.zip": (6462886, "1f61a8f3", "6b91aef0"),
    }
    for archive in known.values():
        assert [len(archive[kind]) for kind in ("sha256", "md5") if kind in archive] in ([64, 32], [64], [32])
    assert in_shop.ARCHIVES == [] and sop_official.ARCHIVES_OF == "sop"


def test_the_spots_are_those_that_others_check():
    assert {path: value[:6] for module in (cub200, cars196, sop) for path, value in module.SPOTS.items()} == {
        "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg": "4c84da",
        "car_ims/000001.jpg": "2d44a2",
        "car_ims/016185.jpg": "bab296",
        "bicycle_final/111265328556_0.JPG": "77420a",
        "chair_final/111182689872_0.JPG": "ce78d1",
        "table_final/111194782300_0.JPG": "8203e0",
        "toaster_final/111157129195_0.JPG": "d6c24e",
    }


@pytest.mark.parametrize("name", SETS)
def test_what_is_told_of_a_set_is_told_in_plain_constants(name):
    for constant in ("TITLE", "SOURCE", "TERMS", "CLASSES", "IMAGES", "RECALL_AT" if name != "omniglot" else "TITLE"):
        assert plugins.literal("datasets", name, constant)
    assert plugins.literal("datasets", name, "SOURCE").startswith("https://")
    assert not plugins.literal("datasets", name, "TERMS").endswith(".")


# --- every packaging


@pytest.mark.parametrize("name, layout", [(name, i) for name, number in LAYOUTS.items() for i in range(number)])
def test_every_layout_gives_the_same_images(made_small, tmp_path, name, layout):
    layouts = list(made_small[name].layouts.values())
    images = SETS[name].prepare(tmp_path / "archives", [], layouts[layout])
    assert len(set(images)) == IMAGES
    assert len({image.label_name for image in images}) == CLASSES
    assert contents(images) == contents(SETS[name].prepare(tmp_path / "archives", [], layouts[0]))
    pixels = [np.asarray(decode(read(image), image.name)) for image in images]
    assert {array.shape[2] for array in pixels} == {3} and {array.dtype.name for array in pixels} == {"uint8"}
    assert {array.shape[:2] for array in pixels} == ({(105, 105)} if name == "omniglot" else {(260, 300)})


def test_every_layout_is_among_them(made):
    assert {name: len(miniature.layouts) for name, miniature in made.items()} == LAYOUTS


def test_labels_sort_as_the_class_ids_do(made_small, tmp_path):
    for name in SETS:
        source = next(iter(made_small[name].layouts.values()))
        labels = sorted({image.label_name for image in SETS[name].prepare(tmp_path, [], source)})
        if name == "cub200":
            assert labels == miniatures.BIRDS
        if name == "cars196":
            assert labels == [f"{number:03d} {car}" for number, car in enumerate(miniatures.CARS, 1)]
            assert "014 Ram C/V Cargo Van Minivan 2012" in labels
        if name.startswith("sop"):
            assert labels[:4] == ["00001 bicycle", "00002 cabinet", "00003 chair", "00004 coffee_maker"]
            assert labels[11:13] == ["00012 toaster", "00013 bicycle"]
        if name == "in_shop":
            assert labels[:2] == ["id_00000007", "id_00000014"]
        if name == "omniglot":
            assert labels[:5] == [f"Greek/character{i:02d}" for i in range(1, 5)] + ["Keble/character01"]


def test_who_splits_by_class_has_no_parts_and_who_has_parts_keeps_them(made_small, tmp_path):
    found = {}
    for name in SETS:
        images = SETS[name].prepare(tmp_path, [], next(iter(made_small[name].layouts.values())))
        found[name] = Counter(image.part for image in images)
        halves = class_halves(name, images)
        first_test = miniatures.FIRST_TEST_PRODUCT if name == "sop_official" else CLASSES // 2 + 1
        assert (len(halves.trainval), len(halves.test)) == (first_test - 1, CLASSES - first_test + 1)
        assert halves.trainval + halves.test == sorted({image.label_name for image in images})
        assert len(half_of(images, "trainval")[0]) == (first_test - 1) * PER_CLASS
        assert (queries_of(images) is not None) == (name == "in_shop")
        assert folds(len(halves.trainval), 4)
    none = {"": IMAGES}
    assert found == {
        "cub200": none,
        "cars196": none,
        "omniglot": none,
        "sop": none,
        "sop_official": {"train": 36, "test": 28},
        "in_shop": {"train": 32, "query": 16, "gallery": 16},
    }


# --- downloads


DOWNLOADED = ["cub200", "cars196", "sop", "sop_official", "omniglot"]


def module_of_archives(name):
    return sop if name == "sop_official" else SETS[name]


def serve_files(server, made_small, monkeypatch, name, answer):
    """The files of a set at two addresses: the first answers otherwise, the second as it should."""
    archives = []
    for archive in module_of_archives(name).ARCHIVES:
        content = made_small[name].files[archive["name"]].read_bytes()
        urls = [f"/first/{archive['name']}", f"/second/{archive['name']}"]
        server.answers |= {urls[0]: answer(content), urls[1]: serve(content)}
        archives.append(archive | {"urls": [server.address + url for url in urls]})
    monkeypatch.setattr(module_of_archives(name), "ARCHIVES", archives)
    return archives


ANSWERS = {
    "right": (serve, 0),
    "cut, then the rest": (lambda content: in_turn(serve(content[:1000], len(content)), serve_ranges(content)), 0),
    "cut, then all": (lambda content: in_turn(serve(content[:1000], len(content)), serve(content)), 0),
    "always cut": (lambda content: serve(content[:1000], len(content)), 1),
    "other bytes": (lambda content: serve(content[::-1]), 1),
    "a page": (lambda content: serve(HTML), 1),
    "gone": (lambda content: lambda handler: handler.send_error(404), 1),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", DOWNLOADED)
def test_what_is_downloaded_is_what_a_user_may_have(server, made_small, tmp_path, monkeypatch, name, answer):
    behaviour, seconds = ANSWERS[answer]
    archives = serve_files(server, made_small, monkeypatch, name, behaviour)
    images = SETS[name].prepare(tmp_path / "archives")
    assert contents(images) == contents(SETS[name].prepare(tmp_path, [], next(iter(made_small[name].layouts.values()))))
    assert {Path(image.container).is_relative_to(tmp_path / "archives") for image in images} == {True}
    paths = [path for path, _ in server.requests]
    assert not any(path.startswith("HEAD") for path in paths)
    assert sum(path.startswith("/second") for path in paths) == seconds * len(archives)
    left = {path.name for path in (tmp_path / "archives").iterdir()}
    assert {archive["name"] for archive in archives} <= left
    assert not [name for name in left if name.endswith((".part", ".lock", ".unpacking"))]

    server.requests.clear()
    assert SETS[name].prepare(tmp_path / "archives") == images
    assert server.requests == []


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_miniature_is_fetched_from_where_it_lies(made_small, tmp_path, name):
    assert len(SETS[name].prepare(tmp_path)) == IMAGES
    for file in made_small[name].files.values():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", DOWNLOADED)
def test_mirrors_come_first(made_small, tmp_path, monkeypatch, name):
    mirror = beside(tmp_path / "mirror", *made_small[name].files.values())
    module = module_of_archives(name)
    monkeypatch.setattr(module, "ARCHIVES", [archive | {"urls": []} for archive in module.ARCHIVES])
    images = SETS[name].prepare(tmp_path / "archives", [str(tmp_path / "none"), str(mirror)])
    assert len(images) == IMAGES
    if name in ("cub200", "cars196"):  # what is unpacked is enough
        for file in (tmp_path / "archives").glob("*.tgz"):
            file.unlink()
        assert SETS[name].prepare(tmp_path / "archives") == images


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_source_the_error_says_what_to_do(made_small, tmp_path, monkeypatch, name):
    module = module_of_archives(name)
    monkeypatch.setattr(module, "ARCHIVES", [archive | {"urls": []} for archive in module.ARCHIVES])
    message = refused(name, None, tmp_path)
    assert f"{module.ARCHIVES[0]['name']} could not be obtained" in message
    assert str(tmp_path) in message and "DML_MIRROR" in message


def test_what_to_do_without_cars(made_small, tmp_path, monkeypatch):
    monkeypatch.setattr(cars196, "ARCHIVES", [archive | {"urls": []} for archive in cars196.ARCHIVES])
    message = refused("cars196", None, tmp_path)
    for part in (
        "the original host is gone", f"put a copy into {tmp_path}", "copies: {cars196: FOLDER}", "car_ims.tgz",
        "cars_annos.mat", "cars_train/ and cars_test/", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat",
        "cars_test_annos_withlabels.mat", "names.csv",
    ):  # fmt: skip
        assert part in message
    # Whichever packaging is put there is used.
    for layout in ("one set", "two sets of Kaggle", "class folders"):
        destination = Path(shutil.copytree(made_small["cars196"].layouts[layout], tmp_path / layout))
        assert len(cars196.prepare(destination)) == IMAGES


def test_a_source_is_taken_instead_of_what_is_at_hand(made_small, tmp_path):
    mirror = str(next(iter(made_small["sop"].files.values())).parent)
    other = copy_of(tmp_path, made_small["sop"].layouts["the folder"])
    images = sop.prepare(tmp_path / "archives", [mirror], other)
    assert {image.container for image in images} == {str(other)}
    assert not (tmp_path / "archives").exists()


# --- In-Shop, which cannot be downloaded


@pytest.mark.parametrize("place", ["destination", "mirror", "nested in a mirror"])
def test_in_shop_is_looked_for_where_files_are_put(made_small, tmp_path, place):
    layouts = made_small["in_shop"].layouts
    empty = tmp_path / "empty"
    empty.mkdir()
    destination, mirrors = empty, ["https://example.org/files", str(tmp_path / "none"), str(empty)]
    if place == "destination":
        destination = layouts["two files"]
    else:
        mirrors.append(str(layouts["two files" if place == "mirror" else "a folder with them"]))
    images = in_shop.prepare(destination, mirrors)
    assert contents(images) == contents(in_shop.prepare(empty, [], layouts["two files"]))
    assert list(empty.iterdir()) == []


def test_without_in_shop_the_error_says_what_to_put_where(made_small, tmp_path):
    message = refused("in_shop", None, tmp_path / "archives")
    for part in (
        str(tmp_path / "archives"), "img.zip", "list_eval_partition.txt", "256x256", "not img_highres", in_shop.SOURCE,
        "https://drive.google.com/drive/folders/0B7EVK8r0v71pVDZFQXRsMDZCX1E", "copies: {in_shop: FOLDER}",
    ):  # fmt: skip
        assert part in message
    for file, missing in (("img.zip", "list_eval_partition.txt"), ("list_eval_partition.txt", "img.zip")):
        source = beside(tmp_path / f"only {file}", made_small["in_shop"].files[file])
        assert f"{source} has no {missing}; " in refused("in_shop", source)
        assert f"{source} has no {missing}; " in refused("in_shop", None, source)


def test_the_list_of_in_shop_must_be_whole(made_small, tmp_path):
    source = copy_of(tmp_path, made_small["in_shop"].layouts["two files"])
    listed = source / "list_eval_partition.txt"
    lines = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join(lines[:-1]))
    assert "list_eval_partition.txt has 63 rows, not as many as its first line says" in refused("in_shop", source)
    listed.write_text("63\n" + "".join(lines[1:-1]))
    assert "16 classes with 63 images, expected 16 with 64" in refused("in_shop", source)
    listed.write_text("".join(lines).replace("gallery", "query  ", 1))
    assert "query 17, gallery 15; expected train 32, query 16, gallery 16" in refused("in_shop", source)
    listed.write_text("")
    assert "has 0 rows" in refused("in_shop", source)


# --- copies that are not right


def first_image(name, source):
    return SETS[name].prepare(Path("/nowhere"), [], source)[0]


EDITABLE = {
    "cub200": ["the folder", "images without lists"],
    "cars196": ["one set", "two sets", "two sets of Kaggle", "class folders"],
    "sop": ["the folder"],
    "sop_official": ["the folder"],
    "in_shop": ["unpacked in the original folders"],
    "omniglot": ["unpacked"],
}


@pytest.mark.parametrize("name, layout", [(name, layout) for name, layouts in EDITABLE.items() for layout in layouts])
def test_a_copy_that_lacks_images_is_refused(made_small, tmp_path, name, layout):
    source = copy_of(tmp_path, made_small[name].layouts[layout])
    images = SETS[name].prepare(tmp_path, [], source)
    for image in images[5:8]:
        Path(image.container, image.path).unlink()
    message = refused(name, source, tmp_path)
    if layout in ("images without lists", "class folders", "unpacked"):  # nobody says which
        assert f"{CLASSES} classes with {IMAGES - 3} images, expected {CLASSES} with {IMAGES}" in message
    else:
        assert f"{images[5].name} is missing, 3 of {IMAGES} images in all" in message
    assert name.removesuffix("_official") in message and "get" in message


@pytest.mark.parametrize("module", [cub200, cars196])
def test_classes_that_are_numbered_otherwise_are_noticed(made_small, monkeypatch, module):
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, "TRAINVAL_IMAGES", IMAGES // 2 + 1)
    source = next(iter(made_small[name].layouts.values()))
    assert "32 images in the first half of the classes, expected 33" in refused(name, source)


@pytest.mark.parametrize("name", SETS)
def test_other_numbers_are_refused(made_small, tmp_path, monkeypatch, name):
    source = next(iter(made_small[name].layouts.values()))
    module = module_of_archives(name)
    for constant, value in (("CLASSES", CLASSES + 1), ("IMAGES", IMAGES - 1)):
        with monkeypatch.context() as patched:
            patched.setattr(module, constant, value)
            assert f"16 classes with 64 images, expected {module.CLASSES} with {module.IMAGES}" in refused(name, source)


@pytest.mark.parametrize(
    "name, layout, path",
    [
        ("cub200", "the folder", f"images/{miniatures.BIRDS[0]}"),
        ("cub200", "its images", miniatures.BIRDS[0]),
        ("cars196", "one set", "car_ims"),
        ("sop", "the folder", "bicycle_final"),
    ],
)
def test_images_under_other_names_are_refused(made_small, tmp_path, name, layout, path):
    source = copy_of(tmp_path, made_small[name].layouts[layout])
    first, second, *_ = sorted((source / path).iterdir())
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    message = refused(name, source)
    expected = next(iter(made_small[name].literals["SPOTS"].values()))
    assert first.name in message and expected in message and hashlib.md5(second_bytes).hexdigest() in message
    assert "numbered differently" in message


def test_the_other_forms_of_cars_have_other_names_and_no_spots(made_small, monkeypatch):
    monkeypatch.setattr(cars196, "SPOTS", {"car_ims/000001.jpg": "0" * 32})
    layouts = made_small["cars196"].layouts
    assert "md5 is" in refused("cars196", layouts["one set"])
    for layout in ("two sets", "class folders"):
        cars196.prepare(Path("/nowhere"), [], layouts[layout])


@pytest.mark.parametrize(
    "layout, file, missing",
    [
        ("one set", "cars_annos.mat", "cars_annos.mat"),
        ("two sets", "devkit/cars_train_annos.mat", "cars_train_annos.mat"),
        ("two sets", "devkit/cars_meta.mat", "cars_meta.mat"),
        ("two sets", "cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat"),
        ("two sets of Kaggle", "cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat"),
    ],
)
def test_missing_annotations_of_cars_are_named(made_small, tmp_path, layout, file, missing):
    source = copy_of(tmp_path, made_small["cars196"].layouts[layout])
    (source / file).write_bytes(b"not a .mat file" * 100)
    assert f"{missing} cannot be read" in refused("cars196", source)
    (source / file).unlink()
    message = refused("cars196", source)
    assert f"{missing} is missing; expected either car_ims/" in message and str(source) in message


def test_annotations_without_labels_are_refused(made_small, tmp_path):
    source = copy_of(tmp_path, made_small["cars196"].layouts["two sets"])
    shutil.copy(source / "devkit/cars_test_annos.mat", source / "cars_test_annos_withlabels.mat")
    assert "cars_test_annos_withlabels.mat" in refused("cars196", source)


def test_class_folders_of_cars_need_their_names(made_small, tmp_path):
    source = copy_of(tmp_path, made_small["cars196"].layouts["class folders"])
    names = (source / "names.csv").read_text()
    (source / "names.csv").write_text(names.replace("C/V", "C-V"))  # as some write it
    assert "014 Ram C-V Cargo Van Minivan 2012" in {i.label_name for i in cars196.prepare(tmp_path, [], source)}
    (source / "names.csv").write_text(names.replace("Audi", "Opel"))
    assert "train/Audi 100 Wagon 1994 is no class of names.csv" in refused("cars196", source)
    (source / "names.csv").unlink()
    assert "no copy is there in any known form" in refused("cars196", source)


def test_lists_of_cub_decide_and_must_fit(made_small, tmp_path):
    source = copy_of(tmp_path, made_small["cub200"].layouts["the folder"])
    classes = (source / "classes.txt").read_text()
    (source / "classes.txt").write_text(classes.replace("013.Bobolink", "013.Other"))
    assert "013.Other" in {image.label_name for image in cub200.prepare(tmp_path, [], source)}
    (source / "classes.txt").write_text(classes.replace("13 013.Bobolink\n", ""))
    assert "image 49 has no class" in refused("cub200", source)
    (source / "classes.txt").write_text(classes.replace("013.Bobolink", "013. Bobolink"))
    assert "classes.txt, line 13: 3 columns, expected 2" in refused("cub200", source)
    (source / "classes.txt").unlink()  # then the folders decide
    assert "013.Bobolink" in {image.label_name for image in cub200.prepare(tmp_path, [], source)}


@pytest.mark.parametrize("name", SETS)
def test_what_holds_none_of_it_is_refused_with_what_is_expected(made_small, tmp_path, name):
    source = write(tmp_path / "other", {"a/1.jpg": b"", "b/2.jpg": b""})
    message = refused(name, source, tmp_path)
    assert str(source) in message
    words = {
        "cub200": "the folder CUB_200_2011",
        "cars196": "cars_annos.mat",
        "sop": "Ebay_train.txt and Ebay_test.txt",
        "sop_official": "Ebay_train.txt and Ebay_test.txt",
        "in_shop": "list_eval_partition.txt",
        "omniglot": "images_background/ and images_evaluation/",
    }
    assert words[name] in message
    gone = refused(name, tmp_path / "gone", tmp_path)
    assert f"{tmp_path / 'gone'}: no such folder or archive" in gone
    (tmp_path / "damaged.tgz").write_bytes(b"\x1f\x8b" + bytes(100))
    assert "damaged.tgz: not an intact archive" in refused(name, tmp_path / "damaged.tgz", tmp_path / "new")


def test_an_archive_in_an_archive_is_named(made_small, tmp_path):
    miniatures.zipped(made_small["in_shop"].layouts["two files"], tmp_path / "both.zip")
    assert "img.zip is an archive in an archive; unpack" in refused("in_shop", tmp_path / "both.zip")


def test_lists_of_sop_that_are_other_lists_are_refused(made_small, tmp_path):
    source = copy_of(tmp_path, made_small["sop"].layouts["the folder"])
    train, test = (source / f"Ebay_{part}.txt" for part in ("train", "test"))
    row = test.read_text().splitlines(keepends=True)[-1]
    test.write_text(test.read_text().replace(row, ""))
    train.write_text(train.read_text() + row)
    assert len(sop.prepare(tmp_path, [], source)) == IMAGES
    assert "sop_official: " in refused("sop_official", source)
    assert "train 37, test 27; expected train 36, test 28" in refused("sop_official", source)
    train.write_text(train.read_text().replace(row, row.replace(" ", ",")))
    assert "Ebay_train.txt, line 38: 1 columns, expected 4" in refused("sop", source)


# --- the miniatures themselves


def test_the_miniatures_are_always_the_same(made, made_small, tmp_path):
    for name in ("cub200", "sop", "in_shop", "omniglot"):
        again = getattr(miniatures, name)(tmp_path / name)
        assert {n: f.read_bytes() for n, f in again.files.items()} == {
            n: f.read_bytes() for n, f in made[name].files.items()
        }
    assert (
        len({data for _, _, data in contents(sop.prepare(tmp_path, [], made["sop"].layouts["the folder"]))}) == IMAGES
    )


@pytest.mark.parametrize("name", SETS)
def test_constants_are_replaced_in_the_source(made, name):
    source = plugins.source_path("datasets", name).read_text()
    namespace = {}
    exec(compile(patch(source, made[name].literals), name, "exec"), namespace)
    for constant, value in made[name].literals.items():
        assert namespace[constant] == value
    assert namespace["TITLE"] == SETS[name].TITLE
    assert namespace["prepare"].__doc__ == SETS[name].prepare.__doc__
    with pytest.raises(AssertionError, match="TYTLE"):
        patch(source, {"TYTLE": 1})
