"""The benchmarks' archives in miniature: 16 classes of 4 small pictures, in the originals' files, folders and formats.

A miniature has `files`, the archives as they are downloaded; `literals`, which take the place of those in the data
set's source, so that its code runs on them; and `layouts`, copies as users have them.
"""

import ast
import gzip
import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

CLASSES, PER_CLASS = 16, 4
IMAGES = CLASSES * PER_CLASS
SIZE = 300, 260


class Miniature(NamedTuple):
    files: dict[str, Path]
    literals: dict[str, Any]
    layouts: dict[str, Path]


def patch(source: str, literals: Mapping[str, Any]) -> str:
    """A data set's source text with other values of top-level constants."""
    lines = source.splitlines(keepends=True)
    waiting = dict(literals)
    for statement in reversed(ast.parse(source).body):
        names = [target.id for target in getattr(statement, "targets", []) if isinstance(target, ast.Name)]
        for name in set(names) & set(waiting):
            lines[statement.lineno - 1 : statement.end_lineno] = [f"{name} = {waiting.pop(name)!r}\n"]
    assert not waiting, f"no constants {sorted(waiting)}"
    return "".join(lines)


def picture(*key: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """A smooth random picture; the first number of `key` gives its main colour."""
    rng = np.random.default_rng(key)
    colours = np.random.default_rng(key[0]).uniform(30, 225, 3) + rng.normal(0, 25, (4, 5, 3))
    image = PIL.Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).resize(SIZE, PIL.Image.Resampling.BICUBIC)
    if mode == "RGBA":
        image.putalpha(200)
    data = io.BytesIO()
    image.convert(mode).save(data, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return data.getvalue()


def write(folder: Path, contents: Mapping[str, bytes | str]) -> Path:
    """`folder` with these files."""
    for path, content in contents.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zipped(folder: Path, file: Path) -> Path:
    """A .zip of what is in a folder, folders listed too, as most programs write it; always the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as opened:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir():
                opened.writestr(zipfile.ZipInfo(f"{name}/"), b"")
            else:
                opened.writestr(zipfile.ZipInfo(name), path.read_bytes())
    return file


def tarred(folder: Path, file: Path) -> Path:
    """A .tgz, or .tar, of what is in a folder; always the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as opened:
        for path in sorted(folder.iterdir()):
            opened.add(path, path.name, filter=_timeless)
    file.write_bytes(data.getvalue() if file.suffix == ".tar" else gzip.compress(data.getvalue(), mtime=0))
    return file


def _timeless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0
    return member


def under(folder: Path, **places: Path) -> Path:
    """`folder` with copies of files or folders: path, its slashes written as __ -> original."""
    for path, original in places.items():
        target = folder / path.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(original, target)
    return folder


def beside(folder: Path, *originals: Path) -> Path:
    """`folder` with copies of files, under their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for original in originals:
        shutil.copy(original, folder)
    return folder


def described(files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """ARCHIVES of these files, which lie where their urls say."""
    return [
        {
            "name": name,
            "urls": [file.as_uri()],
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
        }
        for name, file in files.items()
    ]


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


# --- CUB-200-2011

BIRDS = [
    "001.Black_footed_Albatross",
    "002.Laysan_Albatross",
    "003.Sooty_Albatross",
    "004.Groove_billed_Ani",
    "005.Crested_Auklet",
    "006.Least_Auklet",
    "007.Parakeet_Auklet",
    "008.Rhinoceros_Auklet",
    "009.Brewer_Blackbird",
    "010.Red_winged_Blackbird",
    "011.Rusty_Blackbird",
    "012.Yellow_headed_Blackbird",
    "013.Bobolink",
    "014.Indigo_Bunting",
    "015.Lazuli_Bunting",
    "016.Painted_Bunting",
]


def cub200(folder: Path) -> Miniature:
    images, listed = {}, []
    for number, bird in enumerate(BIRDS, 1):
        for i in range(1, PER_CLASS + 1):
            name = bird[4:].title() if number % 2 else bird[4:]  # letter case is mixed in the original, too
            path = f"{bird}/{name}_{i:04d}_{796000 + 111 * i + number}.jpg"
            images[path] = picture(number, i, mode="L" if (number, i) == (3, 2) else "RGB")  # a few are grey
            listed.append((len(listed) + 1, path, number, i % 2))
    lists = {
        "images.txt": "".join(f"{i} {path}\n" for i, path, _, _ in listed),
        "image_class_labels.txt": "".join(f"{i} {number}\n" for i, _, number, _ in listed),
        "train_test_split.txt": "".join(f"{i} {flag}\n" for i, _, _, flag in listed),
        "bounding_boxes.txt": "".join(f"{i} 60.0 27.0 125.0 91.0\n" for i, *_ in listed),
        "classes.txt": "".join(f"{number} {bird}\n" for number, bird in enumerate(BIRDS, 1)),
        "README": "Caltech-UCSD Birds-200-2011\n",
        "parts/parts.txt": "1 back\n2 beak\n",
    }
    whole = write(folder / "unpacked", {"attributes.txt": "1 has_bill_shape::curved\n"})
    write(whole / "CUB_200_2011", lists | {f"images/{path}": data for path, data in images.items()})
    tgz = tarred(whole, folder / "CUB_200_2011.tgz")
    files = {"CUB_200_2011.tgz": tgz}
    spot = next(iter(images))
    literals = {
        "ARCHIVES": described(files),
        "CLASSES": CLASSES,
        "IMAGES": IMAGES,
        "TRAINVAL_IMAGES": IMAGES // 2,
        "SPOTS": {spot: md5(images[spot])},
    }
    layouts = {
        "the folder": whole / "CUB_200_2011",
        "a folder with it": whole,
        "two folders above it": under(folder / "above", birds__data=whole / "CUB_200_2011"),
        "its images": whole / "CUB_200_2011" / "images",
        "images without lists": under(folder / "bare", images=whole / "CUB_200_2011" / "images"),
        "the archive": tgz,
        "a folder with the archive": beside(folder / "downloads", tgz),
        "a zip": zipped(whole, folder / "birds.zip"),
        "a zip of the images": zipped(whole / "CUB_200_2011" / "images", folder / "bird images.zip"),
        "a tar": tarred(whole, folder / "birds.tar"),
    }
    return Miniature(files, literals, layouts)


# --- Cars196

CARS = [
    "AM General Hummer SUV 2000",
    "Acura RL Sedan 2012",
    "Acura TL Sedan 2012",
    "Aston Martin V8 Vantage Coupe 2012",
    "Audi 100 Wagon 1994",
    "BMW 3 Series Wagon 2012",
    "BMW 1 Series Coupe 2012",
    "Chevrolet Corvette ZR1 2012",
    "Dodge Caravan Minivan 1997",
    "FIAT 500 Abarth 2012",
    "Ford F-450 Super Duty Crew Cab 2012",
    "Geo Metro Convertible 1993",
    "HUMMER H3T Crew Cab 2010",
    "Ram C/V Cargo Van Minivan 2012",
    "Plymouth Neon Coupe 1999",
    "smart fortwo Convertible 2012",
]
assert sorted(CARS) != CARS  # class ids are not in the order of names


def cars196(folder: Path) -> Miniature:
    # Rows run in class order but for one step back, and every class is in both official halves.
    order = [(number, i) for number in range(1, CLASSES + 1) for i in range(PER_CLASS)]
    order.append(order.pop(5))
    images = [picture(100 + number, i, mode="L" if (number, i) == (2, 0) else "RGB") for number, i in order]
    annos = [
        {"relative_im_path": f"car_ims/{row:06d}.jpg", **_box(), "class": number, "test": i % 2}
        for row, (number, i) in enumerate(order, 1)
    ]
    one_set = write(folder / "one", {row["relative_im_path"]: image for row, image in zip(annos, images, strict=True)})
    _save_mat(one_set / "cars_annos.mat", annos)

    two_sets = folder / "two"
    shuffled = np.random.default_rng(0).permutation(IMAGES)
    for half, flag in (("train", 0), ("test", 1)):
        chosen = [k for k in shuffled if order[k][1] % 2 == flag]
        rows = [{**_box(), "class": order[k][0], "fname": f"{n:05d}.jpg"} for n, k in enumerate(chosen, 1)]
        write(two_sets, {f"cars_{half}/{row['fname']}": images[k] for row, k in zip(rows, chosen, strict=True)})
        unlabelled = [{key: value for key, value in row.items() if key != "class"} for row in rows]
        write(two_sets, {"devkit/README.txt": "This file gives documentation for the cars 196 dataset.\n"})
        _save_mat(two_sets / f"devkit/cars_{half}_annos.mat", rows if half == "train" else unlabelled, names=False)
        if half == "test":
            _save_mat(two_sets / "cars_test_annos_withlabels.mat", rows, names=False)
    _save_mat(two_sets / "devkit/cars_meta.mat")

    classes = folder / "classes"
    for k, (number, i) in enumerate(order):
        folder_name = CARS[number - 1].replace("/", "-")
        write(classes, {f"car_data/car_data/{('train', 'test')[i % 2]}/{folder_name}/{k + 1:05d}.jpg": images[k]})
    lines = {half: [f"{k + 1:05d}.jpg,1,2,30,40,{order[k][0]}\n" for k in range(IMAGES)] for half in ("train", "test")}
    write(classes, {"names.csv": "".join(f"{name}\r\n" for name in CARS)})
    write(classes, {f"anno_{half}.csv": "".join(rows) for half, rows in lines.items()})

    ims = tarred(under(folder / "ims", car_ims=one_set / "car_ims"), folder / "car_ims.tgz")
    files = {"cars_annos.mat": one_set / "cars_annos.mat", "car_ims.tgz": ims}
    literals = {
        "ARCHIVES": described(files),
        "CLASSES": CLASSES,
        "IMAGES": IMAGES,
        "TRAINVAL_IMAGES": IMAGES // 2,
        "SPOTS": {"car_ims/000001.jpg": md5(images[0]), f"car_ims/{IMAGES:06d}.jpg": md5(images[-1])},
    }
    kaggle = under(
        folder / "kaggle",
        cars_train__cars_train=two_sets / "cars_train",
        cars_test__cars_test=two_sets / "cars_test",
        devkit=two_sets / "devkit",
    )
    beside(kaggle, one_set / "cars_annos.mat", two_sets / "cars_test_annos_withlabels.mat")  # the first is of no use
    in_devkit = under(folder / "in devkit", **{name: two_sets / name for name in ("cars_train", "cars_test", "devkit")})
    beside(in_devkit / "devkit", two_sets / "cars_test_annos_withlabels.mat")
    layouts = {
        "one set": one_set,
        "one set in a folder": under(folder / "more", cars=one_set),
        "one set, zipped": zipped(one_set, folder / "cars.zip"),
        "one set, tarred": tarred(under(folder / "parent", CARS196=one_set), folder / "cars.tgz"),
        "car_ims.tgz with the annotations beside it": beside(folder / "downloads", *files.values()) / "car_ims.tgz",
        "a folder with the archive": folder / "downloads",
        "two sets": two_sets,
        "two sets, all lists in devkit": in_devkit,
        "two sets of Kaggle": kaggle,
        "two sets of Kaggle, zipped": zipped(kaggle, folder / "kaggle.zip"),
        "class folders": classes,
        "class folders, zipped": zipped(classes, folder / "classes.zip"),
    }
    return Miniature(files, literals, layouts)


def _box() -> dict[str, int]:
    return {"bbox_x1": 10, "bbox_y1": 20, "bbox_x2": 280, "bbox_y2": 240}


def _save_mat(file: Path, rows: list[dict[str, Any]] | None = None, names: bool = True) -> None:
    """1xN structs with fields of one value each, and a 1xN cell of names, as Matlab writes them."""
    from scipy.io import savemat

    values = {}
    if rows is not None:
        values["annotations"] = np.empty((1, len(rows)), dtype=[(key, object) for key in rows[0]])
        for n, row in enumerate(rows):
            for key, value in row.items():
                values["annotations"][key][0, n] = value if isinstance(value, str) else np.array([[value]], np.uint16)
    if names:
        values["class_names"] = np.empty((1, CLASSES), dtype=object)
        values["class_names"][0, :] = CARS
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, values)


# --- Stanford Online Products

PRODUCTS = ["bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle", "lamp", "mug", "sofa", "stapler", "table"]
PRODUCTS.append("toaster")
FIRST_TEST_PRODUCT = 10
"""The official lists are not the halves."""


def sop(folder: Path) -> Miniature:
    images, lists = {}, {"train": [], "test": []}
    for number in range(1, CLASSES + 1):
        part = "train" if number < FIRST_TEST_PRODUCT else "test"
        kind = (number - 1) % len(PRODUCTS)
        for i in range(PER_CLASS):
            path = f"{PRODUCTS[kind]}_final/{111085122000 + 871 * number}_{i}.JPG"
            odd = {"mode": "RGBA", "kind": "PNG"} if (number, i) == (4, 1) else {}  # not all that is called JPG is one
            images[path] = picture(200 + number, i, **odd)
            lists[part].append(f"{len(images)} {number} {kind + 1} {path}\n")
    header = "image_id class_id super_class_id path\n"
    texts = {f"Ebay_{part}.txt": header + "".join(rows) for part, rows in lists.items()}
    texts["Ebay_info.txt"] = header + "".join(lists["train"] + lists["test"])
    whole = write(folder / "unpacked" / "Stanford_Online_Products", texts | images)
    file = zipped(whole.parent, folder / "Stanford_Online_Products.zip")
    first, *_, last = images
    literals = {
        "ARCHIVES": described({file.name: file}),
        "CLASSES": CLASSES,
        "IMAGES": IMAGES,
        "SPOTS": {path: md5(images[path]) for path in (first, last)},
    }
    layouts = {
        "the folder": whole,
        "a folder with it": whole.parent,
        "two folders above it": under(folder / "above", data__sop=whole),
        "the archive": file,
        "a folder with the archive": beside(folder / "downloads", file),
        "a zip of what is in the folder": zipped(whole, folder / "products.zip"),
        "a tgz": tarred(whole.parent, folder / "products.tgz"),
    }
    return Miniature({file.name: file}, literals, layouts)


def sop_official(folder: Path) -> Miniature:
    """The files are those of `sop`, whose literals must be replaced too."""
    made = sop(folder)
    parts = {"train": (FIRST_TEST_PRODUCT - 1) * PER_CLASS, "test": (CLASSES - FIRST_TEST_PRODUCT + 1) * PER_CLASS}
    return made._replace(literals={"CLASSES": CLASSES, "IMAGES": IMAGES, "PARTS": parts})


# --- In-Shop


def in_shop(folder: Path) -> Miniature:
    """`files` cannot be downloaded: they are to be put into the folder of archives, a mirror or a copy."""
    images, rows = {}, []
    for number in range(1, CLASSES + 1):
        item = f"id_{7 * number:08d}"
        category = ("WOMEN/Dresses", "MEN/Denim", "WOMEN/Blouses_Shirts")[number % 3]
        for i, view in enumerate(("front", "side", "back", "full")):
            path = f"img/{category}/{item}/{1 + i // 2:02d}_{1 + i}_{view}.jpg"
            images[path] = picture(300 + number, i)
            rows.append((path, item, "train" if number <= CLASSES // 2 else ("query", "gallery")[i % 2]))
    # Columns are padded with blanks, and the lists of queries and gallery are mixed.
    table = "".join(f"{path:<70}{item:<15}{status:<10}\n" for path, item, status in rows)
    text = f"{len(rows)}\nimage_name item_id evaluation_status\n{table}"
    loose = write(folder / "loose", images)
    img = zipped(loose, folder / "flat" / "img.zip")
    listed = write(folder / "flat", {"list_eval_partition.txt": text}) / "list_eval_partition.txt"
    half = CLASSES // 2 * PER_CLASS
    literals = {
        "CLASSES": CLASSES,
        "IMAGES": IMAGES,
        "PARTS": {"train": half, "query": half // 2, "gallery": half // 2},
    }
    original = beside(folder / "drive" / "In-shop Clothes Retrieval Benchmark" / "Img", img).parent
    beside(original / "Eval", listed)
    write(original / "Anno", {"list_bbox_inshop.txt": "1\nimage_name clothes_type pose_type x_1 y_1 x_2 y_2\n"})
    unpacked = under(folder / "unpacked", Img__img=loose / "img", Eval=original / "Eval")
    flat_unpacked = beside(under(folder / "flat unpacked", img=loose / "img"), listed)
    only = zipped(loose / "img", folder / "without img" / "img.zip").parent
    layouts = {
        "two files": folder / "flat",
        "the original folders": original,
        "a folder with them": folder / "drive",
        "two folders above them": under(folder / "above", DeepFashion__in_shop=original),
        "its archive of images": folder / "flat" / "img.zip",
        "its folder of images": original / "Img",
        "unpacked in the original folders": unpacked,
        "unpacked": flat_unpacked,
        "unpacked, zipped": zipped(unpacked, folder / "in shop.zip"),
        "unpacked, tarred": tarred(flat_unpacked, folder / "in shop.tgz"),
        "an archive of what is in img": beside(only, listed),
    }
    return Miniature({"img.zip": img, "list_eval_partition.txt": listed}, literals, layouts)


# --- Omniglot

ALPHABETS = {"images_background": ("Greek", "Latin"), "images_evaluation": ("Keble", "Tengwar")}


def omniglot(folder: Path) -> Miniature:
    files = {}
    for half, alphabets in ALPHABETS.items():
        for a, alphabet in enumerate(alphabets):
            for character in range(1, 5):
                for drawing in range(1, PER_CLASS + 1):
                    path = f"{half}/{alphabet}/character{character:02d}/{100 * a + character:04d}_{drawing:02d}.png"
                    write(folder / half, {path: _drawing(len(files), a, character, drawing)})
        files[f"{half}.zip"] = zipped(folder / half, folder / "python" / f"{half}.zip")
    literals = {"ARCHIVES": described(files), "CLASSES": CLASSES, "IMAGES": IMAGES}
    unpacked = under(
        folder / "omniglot-py", **{half: folder / half / half for half in ALPHABETS}
    )  # as torchvision does
    layouts = {
        "two archives": folder / "python",
        "two archives in the repository": under(folder / "repository", python=folder / "python"),
        "unpacked": unpacked,
        "a folder with it": under(folder / "data", omniglot=unpacked),
        "zipped": zipped(unpacked, folder / "omniglot.zip"),
        "tarred": tarred(unpacked, folder / "omniglot.tar.gz"),
    }
    return Miniature(files, literals, layouts)


def _drawing(*key: int) -> bytes:
    """105x105, 1 bit, ink is 0."""
    y, x = np.mgrid[:105, :105]
    rng = np.random.default_rng(key)
    strokes = [abs((x - rng.uniform(20, 85)) * np.cos(t) + (y - rng.uniform(20, 85)) * np.sin(t)) < 2 for t in key]
    data = io.BytesIO()
    PIL.Image.fromarray(~np.any(strokes, axis=0)).save(data, "PNG")
    return data.getvalue()
