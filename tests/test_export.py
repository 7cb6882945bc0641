"""Exported models: the study's own embeddings of any picture, a card, refusals; and the search of a folder."""

import base64
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import example_results
import numpy as np
import pandas as pd
import PIL.Image
import pytest

import dml
from dml import find
from dml.datasets import omniglot
from dml.embedding import concatenate
from dml.export import Chosen, export
from dml.export import main as export_main
from dml.finished import embed_test, load_embeddings
from dml.images import Image, PackedImages, pack
from dml.model import save_model
from dml.protocol import Protocol
from dml.record import read_json, write_json
from dml.runs import Data, run_fold
from dml.trial import Trial

ROOT = Path(__file__).parents[1]
FOLDS = 3
TRIALS = {
    "contrastive": Trial(method="contrastive", images_per_class=4, parameters={"pos_margin": 0.0, "neg_margin": 0.8}),
    "triplet": Trial(
        method="triplet", file="a_bier", images_per_class=4,
        parameters={"beta": 0.5, "negative_cost": 25.0, "adversary": 1e-3, "loss_lr": 1e-5},
    ),
}  # fmt: skip
"""The triplets of the made-up results are A-BIER here, which has a `retrieval` of its own."""
PROTOCOL = Protocol(
    trunk="convnet", embedding_size=16, freeze_batchnorm="nothing", resize=20, crop_size=16, crop_scale=[0.6, 1.0],
    flip=0.0, learning_rate=1e-3, batch_size=12, epoch_steps=2, max_epochs=1, evaluate_every=1, patience=5, folds=FOLDS,
)  # fmt: skip


def picture(i: int) -> tuple[str, bytes]:
    """The name and the bytes of a picture of any size and of a kind that must be converted: of all kinds in turn."""
    rng = np.random.default_rng(i)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(small).resize(rng.integers(21, 60, 2).tolist())
    kind = ("turned", "grey", "palette", "transparent", "deep", "cmyk", "plain")[i % 7]
    exif, format = PIL.Image.Exif(), "PNG"
    if kind == "turned":
        exif[0x0112], format = 6, "JPEG"
    if kind == "deep":
        image = PIL.Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
    if kind == "transparent":
        image.putalpha(image.convert("L"))
    if kind in ("grey", "palette", "cmyk"):
        image = image.convert({"grey": "L", "palette": "P", "cmyk": "CMYK"}[kind])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if kind == "cmyk" else format, exif=exif)
    return f"{kind}_{i:02}.{'jpg' if kind in ('turned', 'cmyk') else 'png'}", buffer.getvalue()


@pytest.fixture(scope="module")
def study(tmp_path_factory, stripes_data) -> SimpleNamespace:
    """Made-up results of which two methods have models, trained on stripes, that have embedded 70 real files."""
    folder = tmp_path_factory.mktemp("study")
    results = example_results.write(folder / "results" / "example")
    files = dict(map(picture, range(70)))
    (folder / "photos").mkdir()
    for name, data in files.items():
        (folder / "photos" / name).write_bytes(data)
    listed = [Image(str(folder / "photos"), name, "a") for name in sorted(files)]
    pack(listed, [0] * len(listed), PROTOCOL.resize, folder / "test", upright=True, progress=False)
    data = Data("birds1", stripes_data.trainval, stripes_data.folds, None)
    for name, trial in TRIALS.items():
        for fold in range(FOLDS):
            path = results / "birds1" / name / "seeds" / "0" / f"fold{fold}" / "model.safetensors"
            path.parent.mkdir(parents=True)
            model, record = run_fold(trial, PROTOCOL, data, fold, ("final", 0), "cpu", threads=1)
            record |= {"seed": 0, "trial": 4, "model": save_model(model, path)}
            write_json(path.with_name("record.json"), record)
            embed_test(path, record, folder / "test", path.with_name("embeddings.npy"), "cpu", threads=1)
        tell_of_models(results, name)
    return SimpleNamespace(results=results, photos=[Path(i.container, i.path) for i in listed], test=folder / "test")


def tell_of_models(results: Path, method: str) -> None:
    """Have the table of runs name the models that are there."""
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    runs = runs[runs["fold"] < FOLDS].set_index(["dataset", "method", "seed", "fold"])
    for fold in range(FOLDS):
        record = read_json(results / "birds1" / method / "seeds" / "0" / f"fold{fold}" / "record.json")
        runs.loc[("birds1", method, 0, fold), "model"] = record["model"]
    runs.reset_index().to_csv(results / "runs.csv", index=False)


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "winner"
    assert export(study.results, output, dataset="birds1") == Chosen("birds1", "contrastive", 0)
    return output


@pytest.fixture
def own_copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


def measured(study, method: str) -> np.ndarray:
    """What the study compared its test images by."""
    folder = study.results / "birds1" / method / "seeds" / "0"
    return concatenate([load_embeddings(folder / f"fold{fold}" / "embeddings.npy") for fold in range(FOLDS)])


# ------------------------------------------------------------------------------------------------------ the embeddings


@pytest.mark.parametrize("method", TRIALS)
def test_files_get_the_embeddings_that_the_study_measured(study, tmp_path, method):
    export(study.results, tmp_path / "model", "birds1", method)
    found = dml.load(tmp_path / "model", "cpu").embed(study.photos)
    assert found.dtype == np.float32 and found.shape == (70, FOLDS * 16)
    np.testing.assert_array_equal(found, measured(study, method))


def test_opened_images_and_pixels_get_those_of_their_files(study, exported):
    model = dml.load(str(exported), "cpu")
    expected = measured(study, "contrastive")
    np.testing.assert_array_equal(model.embed([str(path) for path in study.photos]), expected)
    np.testing.assert_array_equal(model.embed([PIL.Image.open(path) for path in study.photos]), expected)
    packed = PackedImages.open(study.test)
    np.testing.assert_array_equal(model.embed([packed[i] for i in range(len(packed))]), expected)
    np.testing.assert_array_equal(model.embed([model.pixels(path) for path in study.photos]), expected)


def test_pixels_of_any_size_are_resized(study, exported):
    model = dml.load(exported, "cpu")
    large = np.stack([np.asarray(PIL.Image.open(study.photos[0]).convert("RGB").resize((50, 40)))] * 2)
    assert model.pixels(large[0]).shape == (20, 25, 3)
    np.testing.assert_array_equal(model.embed(large), model.embed([PIL.Image.fromarray(image) for image in large]))


def test_an_image_may_stand_there_twice(study, exported):
    opened = PIL.Image.open(study.photos[0])
    found = dml.load(exported, "cpu").embed([opened] * 8)
    np.testing.assert_array_equal(found, found[[0] * 8])


def test_the_file_says_how_pictures_are_prepared(own_copy, study):
    turned = [path for path in study.photos if "turned" in path.name][:3]
    before = dml.load(own_copy, "cpu").embed(turned)
    described = read_json(own_copy / "model.json")
    assert described["preprocessing"] == {
        "upright": True, "resize": 20, "crop_size": 16, "channels": "RGB", "mean": [127.5] * 3, "std": [127.5] * 3
    }  # fmt: skip
    others = {"upright": False, "resize": 18, "crop_size": 12, "channels": "BGR", "mean": [90.0] * 3, "std": [60.0] * 3}
    for key, value in others.items():
        changed = described["preprocessing"] | {key: value}
        write_json(own_copy / "model.json", described | {"preprocessing": changed})
        assert (np.abs(dml.load(own_copy, "cpu").embed(turned) - before).max(axis=1) > 1e-4).all(), key


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "expected a list of one picture or more"),
        ("a.jpg", "for a single one write \\[picture\\]"),
        (np.zeros((9, 9, 3), np.uint8), "for a single one write \\[picture\\]"),
        ([np.zeros((9, 9, 3))], "expected uint8 pixels \\(H, W, 3\\), not float64 \\(9, 9, 3\\)"),
        ([np.zeros((9, 9), np.uint8)], "expected uint8 pixels \\(H, W, 3\\), not uint8 \\(9, 9\\)"),
        (["nowhere.jpg"], "^nowhere.jpg: cannot be read \\(No such file or directory\\)$"),
        ([__file__], "test_export.py: not a readable image"),
    ],
)
def test_what_is_no_picture_is_refused(exported, images, message):
    with pytest.raises(ValueError, match=message):
        dml.load(exported, "cpu").embed(images)


def test_pytorch_is_not_loaded_before_it_is_needed():
    code = "import sys, dml, dml.export; assert 'torch' not in sys.modules; assert callable(dml.load)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---------------------------------------------------------------------------------------------------------- the folder


def test_equal_input_gives_equal_bytes(study, exported, tmp_path):
    export(study.results, tmp_path / "again", "birds1")
    names = {"README.md", "model.json", *(f"fold{fold}.safetensors" for fold in range(FOLDS))}
    assert {path.name for path in exported.iterdir()} == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_the_card_tells_where_the_model_comes_from(exported, study):
    card = (exported / "README.md").read_text()
    assert card.startswith("# Contrastive on Birds 1\n\n3 networks (convnet)")
    # seeds 0.39, 0.40, 0.41; t with 2 degrees of freedom is 4.303
    assert "| separated | 3 | 70.00 ± 2.48 | 50.00 ± 2.48 | 40.00 ± 2.48 |" in card
    assert "| concatenated, seed 0 | | 74.00 | 54.00 | 44.00 |" in card
    assert "number 1 of 5 methods by separated MAP@R" in card
    assert "does not tell it from: Triplet." in card
    assert "Birds 1: 5000 images of 100 classes." in card and "Terms of the data: research." in card
    assert "Hyperparameters (search): neg_margin: 0.8; pos_margin: 0." in card
    record = read_json(study.results / "birds1/contrastive/seeds/0/fold1/record.json")
    for fact in (record["model"], record["random_seed"], record["provenance"]["commit"], record["made_by"]["data"]):
        assert str(fact) in card
    assert "crop_size: 16\n" in card and "\n\n\n" not in card
    assert "started from random weights" in card and record["provenance"]["host"] not in card.split()


def test_the_card_does_not_tell_where_the_users_own_images_lie(study, exported):
    assert "https://example.org/birds" in (study.results / "study.json").read_text()
    card = (exported / "README.md").read_text()
    assert "example.org/birds" not in card and "a folder or zip archive of the user's" in card


def test_of_a_known_data_set_the_source_is_told_and_pictures_are_as_it_packs_them(study, tmp_path):
    results = shutil.copytree(study.results, tmp_path / "results")
    (results / "birds1").rename(results / "omniglot")
    for path in (*results.glob("*.csv"), results / "study.json"):
        path.write_text(path.read_text().replace("birds1", "omniglot"))
    export(results, tmp_path / "model", "omniglot")
    assert read_json(tmp_path / "model" / "model.json")["preprocessing"]["upright"] is False
    assert f"Source: {omniglot.SOURCE}." in (tmp_path / "model" / "README.md").read_text()


def test_the_lines_of_the_card_run(exported, study, tmp_path, monkeypatch):
    card = (exported / "README.md").read_text().replace("PATH/OF/THIS/FOLDER", str(exported))
    (code,), (command,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL), re.findall(r"    python (-m .*)", card)
    monkeypatch.chdir(tmp_path)
    for name, path in zip(("a.jpg", "b.jpg"), study.photos, strict=False):
        shutil.copy(path, name)
    exec(code, found := {})
    expected = measured(study, "contrastive")[:2]
    assert found["similarity"] == pytest.approx(expected[0] @ expected[1], abs=1e-5)

    arguments = command.replace("PATH/TO/photos", str(study.photos[0].parent)).split()
    answer = subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "70 pictures searched, 0 unreadable: found.html\n", answer.stderr
    assert len(Pictures(Path("found.html").read_text()).shown) == 13


def test_another_method_is_described_as_what_it_is(study, tmp_path):
    export(study.results, tmp_path / "model", "birds1", "triplet", 0)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "number 2 of 5 methods" in card and "best of several" not in card
    compared = read_json(tmp_path / "model" / "model.json")["comparison"]
    assert compared.startswith(
        "what `retrieval` in dml/methods/a_bier.py makes of each network's embedding, then by cos"
    )
    assert compared in card


def test_a_method_on_a_level_of_a_factor_can_be_had(study, tmp_path):
    results, name = example_results.write(tmp_path / "results", everything=True), "contrastive-d64"
    shutil.copytree(study.results / "birds1" / "contrastive", results / "birds1" / name)
    tell_of_models(results, name)
    assert export(results, tmp_path / "model", "birds1", name).method == name
    assert "it is one of the variants that its methods were tried in" in (tmp_path / "model" / "README.md").read_text()


def test_the_card_names_the_weights_that_the_trunk_started_from(study, tmp_path):
    results = shutil.copytree(study.results, tmp_path / "results")
    path = results / "birds1/contrastive/seeds/0/fold0/record.json"
    record = read_json(path)
    write_json(path, record | {"made_by": record["made_by"] | {"weights": "1234abcd" * 8}})
    export(results, tmp_path / "model", "birds1")
    assert f"weights with the SHA-256 `{'1234abcd' * 8}`" in (tmp_path / "model" / "README.md").read_text()


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "named, message",
    [
        ({}, "^the study has several data sets: choose one with --dataset: birds1, birds2$"),
        ({"dataset": "cats"}, "^unknown data set 'cats'; choose from: birds1, birds2$"),
        ({"dataset": "birds1", "method": "x"}, "^unknown method 'x'; choose from: pretrained, contrastive, triplet, m"),
        ({"dataset": "birds1", "seed": 9}, "^unknown seed '9'; choose from: 0, 1, 2$"),
        (
            {"dataset": "birds1", "method": "proxy_nca"},
            "proxy_nca on birds1: nothing to export: fold 0: the loss is NaN",
        ),
        ({"dataset": "birds2", "method": "margin", "seed": 2}, "a fold of seed 2 failed: .*; choose from: 0, 1$"),
        ({"dataset": "birds1", "seed": 1}, "contrastive/seeds/1/fold0/record.json: no such file: run the study again"),
    ],
)
def test_what_cannot_be_exported_is_refused(study, tmp_path, named, message):
    with pytest.raises(ValueError, match=message):
        export(study.results, tmp_path / "model", **named)
    assert not (tmp_path / "model").exists()


def test_without_a_seed_it_is_the_first_that_did_not_fail(study, tmp_path):
    results = shutil.copytree(study.results, tmp_path / "results")
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    runs.loc[(runs["method"] == "contrastive") & (runs["seed"] == 0) & (runs["fold"] == 1), "failure"] = "NaN"
    runs.to_csv(results / "runs.csv", index=False)
    with pytest.raises(
        ValueError, match="contrastive/seeds/1/fold0/record.json: no such file"
    ):  # it has no models here
        export(results, tmp_path / "model", "birds1", "contrastive")


def test_the_command_exports_or_says_in_one_line_why_not(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--output", str(tmp_path / "model")])
    with pytest.raises(
        SystemExit, match=f"^error: {tmp_path}/metrics.csv: no such file: run the study's `collect` first$"
    ):
        export_main()
    named = ["--dataset", "birds1", "--method", "triplet", "--seed", "0"]
    monkeypatch.setattr(sys, "argv", ["", str(study.results), "--output", str(tmp_path / "model"), *named])
    export_main()
    assert capsys.readouterr().out == f"triplet on birds1, seed 0: {tmp_path}/model\n"


def test_a_model_that_was_not_measured_is_refused(study, tmp_path):
    results = shutil.copytree(study.results, tmp_path / "results")
    path = results / "birds1/contrastive/seeds/0/fold2/record.json"
    write_json(path, read_json(path) | {"model": "0" * 64})
    with pytest.raises(ValueError, match="fold2/record.json: of another model than the one that the study measured"):
        export(results, tmp_path / "model", "birds1")
    assert not (tmp_path / "model").exists()


def test_nothing_is_written_over(study, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for output in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ValueError, match="not an empty folder: name another one, or delete it"):
            export(study.results, output, "birds1")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_damaged_or_incomplete_folder_is_not_loaded(own_copy):
    file = own_copy / "fold1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="fold1.safetensors: damaged: not the checksum in model.json: copy the folder"):
        dml.load(own_copy, "cpu")
    file.unlink()
    with pytest.raises(
        ValueError, match="fold1.safetensors: cannot be read .*: copy the whole folder, or export again"
    ):
        dml.load(own_copy, "cpu")
    assert len(list(own_copy.iterdir())) == 4  # nothing was set aside


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "model.json: no such file: expected is a folder that `python -m dml.export` wrote$"),
        ("{", "model.json: not valid JSON .*: export the model again$"),
        ("{}", "model.json: the key 'dataset' is missing$"),
    ],
)
def test_a_folder_without_its_description_is_not_loaded(own_copy, text, message):
    (own_copy / "model.json").unlink()
    if text is not None:
        (own_copy / "model.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        dml.load(own_copy, "cpu")


def test_files_outside_the_folder_are_not_opened(own_copy):
    described = read_json(own_copy / "model.json")
    described["networks"][0]["file"] = "../fold0.safetensors"
    write_json(own_copy / "model.json", described)
    with pytest.raises(ValueError, match=r"model.json: networks.0.file: string should match pattern"):
        dml.load(own_copy, "cpu")


# ---------------------------------------------------------------------------------------------------------- the search


class Pictures(HTMLParser):
    """The pictures of a page and their texts, and everything that it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown, self.fetched, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if tag == "img":
            self.shown.append((attributes["alt"], attributes["src"]))
        self.fetched += [v for k, v in attributes.items() if k in ("src", "href") and not v.startswith("data:")]


@pytest.fixture
def album(study, tmp_path) -> Path:
    """Folders of pictures, with names of all kinds, one that is hidden and one that is none."""
    folder = tmp_path / "album"
    (folder / "a & <b>").mkdir(parents=True)
    (folder / ".trash").mkdir()
    for i, path in enumerate(study.photos[:20]):
        shutil.copy(path, folder / ("a & <b>" if i % 2 else "") / path.name)
    shutil.copy(study.photos[0], folder / ".trash" / "hidden.jpg")
    (folder / "<i>.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("none either")
    return folder


def test_the_most_similar_pictures_are_found(exported, study, album):
    model = dml.load(exported, "cpu")
    inside, outside = album / study.photos[0].name, study.photos[30]
    search = find.find(model, album, [inside, outside], number=5)
    vectors = dict(zip([p.name for p in study.photos], measured(study, "contrastive"), strict=True))
    for query in (inside, outside):
        others = [path.name for path in study.photos[:20] if path.name != query.name]
        expected = sorted(((float(vectors[name] @ vectors[query.name]), name) for name in others), reverse=True)[:5]
        assert [path.name for path, _ in search.found[query]] == [name for _, name in expected]
        np.testing.assert_allclose([s for _, s in search.found[query]], [s for s, _ in expected], atol=1e-5)
    assert search.searched == 20
    (reason,) = search.unreadable
    assert reason.startswith(f"{album}/<i>.jpg: not a readable image")


def test_the_page_is_one_file_and_shows_what_was_found(exported, study, album, tmp_path, monkeypatch, capsys):
    query = album / study.photos[0].name
    arguments = [exported, album, "--query", query, "--number", 4, "--output", tmp_path / "new/page.html"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    find.main()
    assert capsys.readouterr().out == f"20 pictures searched, 1 unreadable: {tmp_path}/new/page.html\n"
    page = (tmp_path / "new/page.html").read_text()
    parsed = Pictures(page)
    search = find.find(dml.load(exported, "cpu"), album, [query], number=4)
    names = [path.relative_to(album).as_posix() for path, _ in search.found[query]]
    expected = [f"Query: {query.name}", *(f"Number {i}: {name}" for i, name in enumerate(names, 1))]
    assert [alt for alt, _ in parsed.shown] == expected
    assert parsed.fetched == [] and "i" not in parsed.tags and "b" not in parsed.tags
    for _, source in parsed.shown:
        image = PIL.Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        assert PROTOCOL.resize < max(image.size) <= find.PICTURE_SIDE
    for _, similarity in search.found[query]:
        assert f"<br>{similarity:.3f}</figcaption>" in page
    assert "&lt;i&gt;.jpg: not a readable image" in page and "could not be read (1)" in page
    assert find.page(dml.load(exported, "cpu"), search) == page


def test_a_folder_smaller_than_the_number_is_shown_whole(exported, study, tmp_path):
    (tmp_path / "few").mkdir()
    for path in study.photos[:2]:
        shutil.copy(path, tmp_path / "few")
    search = find.find(dml.load(exported, "cpu"), tmp_path / "few", [study.photos[5]], number=12)
    assert len(search.found[study.photos[5]]) == 2


def test_equals_stand_in_the_order_of_their_paths(exported, study, tmp_path):
    (tmp_path / "equal").mkdir()
    for name in ("b.png", "a.png", "c.png"):
        shutil.copy(study.photos[3], tmp_path / "equal" / name)
    search = find.find(dml.load(exported, "cpu"), tmp_path / "equal", [study.photos[5]], number=3)
    assert [path.name for path, _ in search.found[study.photos[5]]] == ["a.png", "b.png", "c.png"]


def test_where_nothing_can_be_searched_one_line_says_so(exported, study, tmp_path):
    model, query = dml.load(exported, "cpu"), study.photos[0]
    for folder, message in [("nowhere", "nowhere: no such folder$"), ("", "no pictures in it \\(.jpg .jpeg")]:
        with pytest.raises(ValueError, match=message):
            find.find(model, tmp_path / folder, [query], 3)
    with pytest.raises(ValueError, match="^number: 0; expected at least 1$"):
        find.find(model, query.parent, [query], 0)
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of its pictures can be read: .*bad.jpg: not a readable image"):
        find.find(model, tmp_path, [query], 3)
    with pytest.raises(ValueError, match="^x.jpg: cannot be read"):
        find.find(model, query.parent, [Path("x.jpg")], 3)


def test_the_lines_of_the_readme_run(study, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    python (-m dml\.(?:export|find) [^#\n]*)", readme, re.MULTILINE)
    code = re.findall(r"^    >>> ([^#\n]*)", readme, re.MULTILINE)
    assert len(commands) == 2 and len(code) == 2
    monkeypatch.chdir(tmp_path)
    results = shutil.copytree(study.results, Path("results/demo"))
    described = read_json(results / "study.json")
    write_json(results / "study.json", described | {"datasets": described["datasets"][:1]})
    shutil.copytree(study.photos[0].parent, "PATH/TO/photos")
    shutil.copy(study.photos[0], "PATH/TO/photo.jpg")
    for command in commands:
        answer = subprocess.run(
            [sys.executable, *command.split()], env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
    assert len(Pictures(Path("found.html").read_text()).shown) == 13
    exec(code[0], names := {})
    np.testing.assert_allclose(eval(code[1], names), measured(study, "contrastive")[:1], atol=1e-6)
