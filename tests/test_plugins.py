"""Names, literals and fingerprints of plug-ins; checked files; named seeds; lists of images."""

import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import Field

from dml import plugins
from dml.checked import Checked, read_yaml
from dml.images import Image
from dml.listing import COLUMNS, read_image_list, write_image_list
from dml.method import Method
from dml.protocol import TRAINING_CODE
from dml.seeds import derive_seed, generator
from dml.study import Study

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------------------------------------------------ no torch


def imported_after(code):
    """The top-level modules that a fresh process has imported after running some code."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def test_a_study_is_read_and_planned_without_torch():
    found = imported_after("""
from pathlib import Path
from dml import plugins
from dml.downloading import mirrors_from
from dml.settings import Settings
from dml.study import load_study
for file in sorted(Path("workflow/studies").glob("*.yaml")):
    study = load_study(file, ["dml"])
    for method in study.methods:
        method.fingerprint(), method.searched(), method.title, study.trials(method.name)
    for dataset in study.datasets:
        dataset.listing(), plugins.fingerprint("datasets", dataset.plugin)
    study.protocol.trunk_code(), study.protocol.training_values()
""")
    assert "dml" in found and "yaml" in found
    assert not found & {"torch", "torchvision", "pytorch_metric_learning", "optuna", "faiss", "sklearn", "pandas"}
    assert "snakemake" not in found


def test_stages_that_compute_nothing_with_torch_do_not_import_it():
    stages = ("fetch", "split", "pack", "weights", "propose", "select", "measure", "collect")
    found = imported_after(f"from dml.stages import {', '.join(stages)}\nimport dml.record, dml.evaluation")
    assert not found & {"torch", "torchvision", "pytorch_metric_learning", "snakemake"}


def test_the_metrics_do_not_import_torch():
    found = imported_after(
        "from dml import plugins\nfrom dml.measuring import measure\n"
        "from dml.neighbours import neighbours\nimport numpy as np\n"
        "measure(neighbours(np.eye(6), np.arange(6) // 2))"
    )
    assert "faiss" in found and "torch" not in found


# ---------------------------------------------------------------------------------------------------- names and classes


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package of its own, to which a test gives plug-ins: (kind, name, source) -> file."""
    monkeypatch.setattr(plugins, "_PACKAGE", tmp_path)

    def add(name, source, kind="methods"):
        path = tmp_path / kind / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return path

    return add


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_the_folder_is_the_registry(kind):
    names = plugins.names(kind)
    files = {path.stem for path in (ROOT / "dml" / kind).glob("*.py")} - {"__init__"}
    assert names == sorted(files) and names
    for name in names:
        assert plugins.source_path(kind, name) == ROOT / "dml" / kind / f"{name}.py"


def test_a_new_file_is_a_new_name_and_private_files_are_none(package):
    package("b", "")
    package("a", "")
    package("_shared", "")
    package("__init__", "")
    assert plugins.names("methods") == ["a", "b"]
    package("c", "")
    assert plugins.names("methods") == ["a", "b", "c"]
    assert plugins.names("tables") == []


@pytest.mark.parametrize("name", ["contrastiv", "__init__", "../method", "", "Contrastive", "contrastive.py"])
@pytest.mark.parametrize("read", [plugins.load, plugins.source_path, plugins.fingerprint], ids=lambda f: f.__name__)
def test_unknown_names_list_the_choices(read, name):
    with pytest.raises(ValueError) as raised:
        read("methods", name)
    assert str(raised.value).startswith(f"unknown name '{name}' in methods; choose from: a_bier, angular, arcface")
    assert "triplet" in str(raised.value) and "\n" not in str(raised.value)


def test_the_class_of_a_file_is_the_one_it_defines():
    assert plugins.load_class("methods", "contrastive", Method).__name__ == "Contrastive"
    assert (
        plugins.load_class("methods", "margin_class", Method).__name__ == "MarginClass"
    )  # not Margin, which it imports


@pytest.mark.parametrize("kind, name, count", [("metrics", "map_at_r", 0), ("trunks", "convnet", 0)])
def test_a_file_without_the_class_is_named(kind, name, count):
    with pytest.raises(ValueError, match=f"dml/{kind}/{name}.py: expected one subclass of Method, found {count}"):
        plugins.load_class(kind, name, Method)


# ------------------------------------------------------------------------------------------------------------- literals


def test_literals_are_read_from_the_source_that_is_never_run(package):
    package(
        "m",
        "raise SystemExit\nTITLE = 'One'\nRANGES = {'a': {'low': 1e-6, 'high': -1.0, 'log': True}}\nA = B = (1, 2)\n",
    )
    assert plugins.literal("methods", "m", "TITLE") == "One"
    assert plugins.literal("methods", "m", "RANGES") == {"a": {"low": 1e-6, "high": -1.0, "log": True}}
    assert plugins.literal("methods", "m", "A") == plugins.literal("methods", "m", "B") == (1, 2)
    assert plugins.literal("methods", "m", "NOTHING") is None
    assert plugins.literal("methods", "m", "NOTHING", 4) == 4


def test_only_constants_of_the_module_count(package):
    package("m", "def f():\n    TITLE = 1\nclass C:\n    TITLE = 2\n")
    assert plugins.literal("methods", "m", "TITLE") is None


@pytest.mark.parametrize("source", ["TITLE = str(1)", "TITLE = OTHER", "TITLE = 'a'.upper()", "TITLE = 2 * 3"])
def test_what_is_no_plain_literal_is_refused(package, source):
    package("m", source)
    with pytest.raises(ValueError, match="dml/methods/m.py: TITLE must be a plain literal"):
        plugins.literal("methods", "m", "TITLE")


def test_the_arguments_of_a_constructor_and_of_the_one_it_builds_on(package):
    package("base", "class A:\n    def __init__(self, num_classes, margin, *, beta=1): pass\n")
    package("child", "from dml.methods.base import A\nclass B(A):\n    def __init__(self, epsilon): pass\n")
    assert plugins.constructor_arguments("methods", "base") == {"num_classes": True, "margin": True, "beta": False}
    inherited = {"num_classes": False, "margin": False, "beta": False}
    assert plugins.constructor_arguments("methods", "child") == {"epsilon": True} | inherited


# --------------------------------------------------------------------------------------------------------- fingerprints

SOURCE = '''"""A docstring."""

import math

SCALE = 2.0  # a comment


class A:
    """Of a class."""

    def f(self, x):
        """Of a function."""
        return SCALE * math.sqrt(x)
'''


def fingerprint_of(package, source):
    package("m", source)
    return plugins.fingerprint("methods", "m")


@pytest.mark.parametrize(
    "old, new",
    [
        ("# a comment", "# another"),
        ("  # a comment", ""),
        ("A docstring.", "Another."),
        ('"""A docstring."""\n', ""),
        ("Of a class.", "Of the class:\n\n    with a second line."),
        ('        """Of a function."""\n', ""),
        ("\n\n\nclass", "\n\n\n\n# ----\n\nclass"),
        ("SCALE * math", "(SCALE\n            * math"),
        ("2.0", "2.00"),
    ],
)  # fmt: skip
def test_what_changes_nothing_keeps_the_fingerprint(package, old, new):
    assert old in SOURCE
    changed = SOURCE.replace(old, new)
    changed = changed.replace("sqrt(x)", "sqrt(x))") if new.startswith("(") else changed
    assert changed != SOURCE
    assert fingerprint_of(package, changed) == fingerprint_of(package, SOURCE)


@pytest.mark.parametrize(
    "old, new",
    [
        ("2.0", "2.1"), ("SCALE * ", "SCALE + "), ("math.sqrt", "math.exp"), ("(self, x)", "(self, x=1)"),
        ("class A:", "class A(dict):"), ("def f", "@staticmethod\n    def f"), ("SCALE = 2.0", "SCALE = '2.0'"),
        ("return", "yield"), ("        return", "        x = x\n        return"),
    ],
)  # fmt: skip
def test_what_changes_something_changes_the_fingerprint(package, old, new):
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert fingerprint_of(package, changed) != fingerprint_of(package, SOURCE)


@pytest.mark.parametrize(
    "statement",
    ["from dml.methods.base import A", "from dml.methods import base", "import dml.methods.base"],
)
@pytest.mark.parametrize("through", [False, True], ids=["directly", "through another"])
def test_siblings_that_a_file_imports_are_part_of_it(package, statement, through):
    package("base", SOURCE)
    package("alone", SOURCE)
    package("child", f"{statement}\n")
    package("middle", "from dml.methods.child import A\n")
    name = "middle" if through else "child"
    before = plugins.fingerprint("methods", name), plugins.fingerprint("methods", "alone")
    package("base", SOURCE.replace("2.0", "2.1"))
    assert plugins.fingerprint("methods", name) != before[0]
    assert plugins.fingerprint("methods", "alone") == before[1]


def test_files_that_import_each_other_come_to_an_end(package):
    package("a", "from dml.methods.b import B\n")
    package("b", "from dml.methods.a import A\n")
    assert len({plugins.fingerprint("methods", name) for name in "ab"}) == 2


def test_what_a_file_imports_from_elsewhere_is_not_part_of_it(package):
    package("m", "import torch\nfrom dml import pairs\nfrom dml.method import Method\nfrom dml.trunks.x import y\n")
    assert len(plugins.fingerprint("methods", "m")) == 16


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_plug_ins_have_different_fingerprints(kind):
    prints = {name: plugins.fingerprint(kind, name) for name in plugins.names(kind)}
    assert len(set(prints.values())) == len(prints)
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in prints.values())


def test_the_files_of_the_training_code_are_there():
    assert all(path.is_file() for path in TRAINING_CODE)
    assert len({path.name for path in TRAINING_CODE}) == len(TRAINING_CODE) >= 11


# -------------------------------------------------------------------------------------------------------- checked files


class Inner(Checked):
    rate: float = Field(gt=0)
    steps: int = 3


class Outer(Checked):
    name: str
    inner: Inner
    several: list[Inner] = []
    named: dict[str, Inner] = {}
    maybe: Inner | None = None


RIGHT = {"name": "ü", "inner": {"rate": 1e-05}, "several": [{"rate": 2.0}], "named": {"x": {"rate": 0.1, "steps": 4}}}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    value = Outer.check(RIGHT, "here")
    value.save(tmp_path / "a.yaml")
    assert Outer.load(tmp_path / "a.yaml") == value
    text = (tmp_path / "a.yaml").read_text()
    assert text.index("inner:") < text.index("maybe:") < text.index("name:") < text.index("several:")
    assert "ü" in text
    Outer.check(dict(reversed(RIGHT.items())), "here").save(tmp_path / "b.yaml")
    assert (tmp_path / "b.yaml").read_text() == text


def test_values_never_change():
    value = Outer.check(RIGHT, "here")
    with pytest.raises(ValueError, match="frozen"):
        value.name = "other"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"nmae": 1}, "unknown key 'nmae'; known keys here: name, inner, several, named, maybe"),
        ({"inner": {"rate": 1.0, "raet": 1}}, "unknown key 'inner.raet'; known keys here: rate, steps"),
        ({"several": [{"rate": 1.0}, {"rate": 1.0, "x": 1}]},
         "unknown key 'several.1.x'; known keys here: rate, steps"),
        ({"named": {"a": {"rate": 1.0, "x": 1}}}, "unknown key 'named.a.x'; known keys here: rate, steps"),
        ({"maybe": {"rate": 1.0, "x": 1}}, "unknown key 'maybe.x'; known keys here: rate, steps"),
        ({"inner": {}}, "the key 'inner.rate' is missing"),
        ({"name": 3}, "name: input should be a valid string, not 3"),
        ({"inner": {"rate": 1.0, "steps": 2.5}}, "inner.steps: input should be a valid integer, not 2.5"),
        ({"inner": {"rate": True}}, "inner.rate: input should be a valid number, not True"),
        ({"inner": {"rate": -1.0}}, "inner.rate: input should be greater than 0, not -1.0"),
        ({"inner": {"rate": "1e-5"}},
         "inner.rate: input should be a valid number, not '1e-5' (a number without quotes; YAML reads 1e-5 as text: "
         "write 1.0e-5)"),
    ],
)  # fmt: skip
def test_the_first_mistake_is_told_in_one_line(change, message):
    with pytest.raises(ValueError) as raised:
        Outer.check(RIGHT | change, "here.yaml")
    assert str(raised.value) == f"here.yaml: {message}"


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(ValueError, match=f"{tmp_path}/a.yaml: not a text file"):
        Outer.load(tmp_path / "a.yaml")


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_a_file_that_holds_no_keys(tmp_path, values):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=f"{tmp_path}/a.yaml: expected keys with values \\(key: value\\), not "):
        Outer.load(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("a: [1", "not valid YAML: "),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: "),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError) as raised:
        read_yaml(path)
    assert str(raised.value).startswith(f"{path}: {message}") and "\n" not in str(raised.value)


def test_studies_are_checked_files():
    assert issubclass(Study, Checked)


# ---------------------------------------------------------------------------------------------------------------- seeds


def test_seeds_are_the_same_everywhere_and_always():
    assert derive_seed(0, "final", 3, 1) == 1098765356261376592
    assert derive_seed("a") == 7299139317422481125
    assert generator(0, "crops").random() == 0.9343484625185476


def test_every_name_of_a_seed_and_its_place_counts():
    names = [(0,), (1,), ("a",), (0, 0), (0, 1), (1, 0), ("a", "b"), ("b", "a"), ("ab",), ("a", ""), (0, "a", 1), (-1,)]
    seeds = [derive_seed(*name) for name in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derive_seed(*name) for name in names]


def test_seeds_are_spread_evenly():
    shares = np.array([derive_seed(0, "final", i) for i in range(2000)]) / 2**63
    assert np.histogram(shares, 10, (0, 1))[0].min() > 140
    assert abs(np.corrcoef(shares[1:], shares[:-1])[0, 1]) < 0.1


def test_a_generator_is_one_for_its_names():
    first, again, other = (generator(3, name).integers(0, 2**60, 5).tolist() for name in ("a", "a", "b"))
    assert first == again and first != other


# ---------------------------------------------------------------------------------------------------------- image lists


@pytest.fixture
def listed(tmp_path):
    """Images in a folder and a zip, their contents by path."""
    contents = {f"{c}/{i}.png": f"{c}{i}".encode() for c in "ab" for i in range(3)}
    folder = tmp_path / "in, a folder"
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as opened:
        for path, content in contents.items():
            opened.writestr(path, content)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    names = {"a": 'the "first", ü', "b": "another"}
    images = [
        Image(str(folder if i % 2 else tmp_path / "z.zip"), path, names[path[0]]) for i, path in enumerate(contents)
    ]
    return images, contents


def test_an_image_list_is_read_as_it_was_written(tmp_path, listed):
    images, contents = listed
    write_image_list(images, tmp_path / "images.csv")
    found = read_image_list(tmp_path / "images.csv")
    assert sorted(found) == sorted(images)
    assert found == sorted(images, key=lambda image: (image.label_name, image.path))
    lines = (tmp_path / "images.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) == "class,container,path,part,crc32"
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == [f"{zlib.crc32(contents[i.path]):08x}" for i in found]


def test_equal_images_are_equal_bytes_in_whatever_order_they_come(tmp_path, listed):
    images, _ = listed
    write_image_list(images, tmp_path / "1.csv")
    write_image_list(images[::-1], tmp_path / "2.csv")
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_a_changed_image_changes_the_list(tmp_path, listed):
    images, _ = listed
    write_image_list(images, tmp_path / "1.csv")
    Path(images[1].container, images[1].path).write_bytes(b"changed")
    write_image_list(images, tmp_path / "2.csv")
    assert (tmp_path / "1.csv").read_bytes() != (tmp_path / "2.csv").read_bytes()


def test_an_image_that_cannot_be_read_is_named_and_leaves_no_list(tmp_path, listed):
    images, _ = listed
    with pytest.raises(ValueError, match="gone.png: cannot be read"):
        write_image_list([*images, Image(str(tmp_path), "gone.png", "c")], tmp_path / "images.csv")
    assert not (tmp_path / "images.csv").exists()
