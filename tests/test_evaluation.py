"""From finished models to the metrics of a seed, and the gallery."""

import base64
import hashlib
import io
import json
import subprocess
import sys

import example_results
import numpy as np
import PIL.Image
import pytest
import reference_ranking
import torch

from dml.embedding import embed, normalise_rows
from dml.embedding_space import describe, measure_space
from dml.evaluation import compared, measure_checkpoints, measure_seed
from dml.files import write_bytes
from dml.finished import embed_test, load_embeddings
from dml.gallery import THUMBNAIL, gallery, thumbnail
from dml.images import PackedImages
from dml.measuring import measure
from dml.methods.a_bier import ABIER
from dml.model import Model, Pooling, load_model, save_checkpoints, save_model
from dml.neighbours import neighbours
from dml.protocol import Weights
from dml.record import embedding_code, write_json
from dml.reranking import reranked
from dml.splits import read_folds
from dml.stages.gallery import main as write_gallery
from dml.study import Rerank, Retrieval
from dml.training import of_classes, train
from dml.trial import Trial

FOLDS = 3


def write_embeddings(file, array, test):
    """As `embed_test` leaves them, of a model whose checksum is `model` followed by the file's name."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    made = {"sha256": write_bytes(file, buffer.getvalue()), "model": f"model {file.stem}", "code": embedding_code()}
    write_json(file.with_suffix(".json"), made | {"test": test.fingerprint, "seconds": 1.0, "provenance": {}})


@pytest.fixture
def records(protocol):
    """What `measure_seed` needs of the records of three finished trainings."""
    return [
        {
            "dataset": "stripes", "method": "contrastive", "plugin": "contrastive", "seed": 4, "fold": k,
            "failure": None, "embedding_size": 8, "protocol": protocol.training_values(),
            "model": f"model embeddings{k}",
        }
        for k in range(FOLDS)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ embedding


def by_hand(model, images, crop_size):
    """Unit vectors of the central crops, one image at a time."""
    vectors = []
    for i in range(len(images)):
        height, width = images[i].shape[:2]
        top, left = round((height - crop_size) / 2), round((width - crop_size) / 2)
        crop = images[i][top : top + crop_size, left : left + crop_size]
        with torch.inference_mode():
            vector = model.eval()(torch.tensor(crop).permute(2, 0, 1)[None]).embeddings[0].numpy()
        vectors.append(vector / np.sqrt((vector**2).sum()))
    return np.array(vectors)


@pytest.mark.parametrize("has_head, size", [(True, 8), (False, 128)], ids=["with a head", "the trunk alone"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "gem", "head_layernorm": True, "head_bias": False, "freeze_batchnorm": "everything"},
        {"pooling": "max", "weights": Weights(file="w.pth", urls=["https://example.org/w.pth"])},
    ],
    ids=["as it is", "other head", "pretrained"],
)
def test_a_saved_model_embeds_the_test_half(
    tmp_path, stripes_data, held_out, protocol, records, has_head, size, settings
):
    torch.manual_seed(1)
    protocol = protocol.model_copy(update=settings)
    model = Model(protocol, has_head)
    if has_head and protocol.pooling == "gem":
        model.pooling.p.data += 2  # as training may leave it
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean -= 0.1  # in use only if the statistics are saved, loaded and not those of the batch
    record = records[0] | {"embedding_size": size, "protocol": json.loads(json.dumps(protocol.training_values()))}
    record["model"] = save_model(model, tmp_path / "model.safetensors")
    embed_test(tmp_path / "model.safetensors", record, stripes_data.test, tmp_path / "e.npy", "cpu", threads=1)
    found = np.load(tmp_path / "e.npy")
    assert found.dtype == np.float32 and found.shape == (72, size)
    np.testing.assert_allclose(found, by_hand(model, held_out, protocol.crop_size), atol=1e-5)


def test_a_failed_training_has_no_embeddings_and_no_model_is_read(tmp_path, stripes_data, records):
    failed = records[0] | {"failure": "diverged"}
    embed_test(tmp_path / "there is none", failed, stripes_data.test, tmp_path / "e.npy", "cpu", threads=1)
    assert np.load(tmp_path / "e.npy").shape == (0, 8)


def cut(file, share=0.5):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def altered(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, altered, lambda file: file.write_bytes(b"")], ids=["cut", "altered", "empty"])
def test_a_damaged_model_is_set_aside(tmp_path, stripes_data, protocol, records, damage):
    file = tmp_path / "model.safetensors"
    record = records[0] | {"model": save_model(Model(protocol, has_head=True), file)}
    damage(file)
    found = file.read_bytes()
    with pytest.raises(ValueError, match="model.safetensors: damaged.*run the same command again"):
        embed_test(file, record, stripes_data.test, tmp_path / "e.npy", "cpu", threads=1)
    assert not file.exists() and not (tmp_path / "e.npy").exists()  # so that the workflow makes it again
    assert (tmp_path / "model.safetensors.damaged").read_bytes() == found


def test_embeddings_say_what_made_them(tmp_path, stripes_data, held_out, protocol, records):
    record = records[0] | {"model": save_model(Model(protocol, has_head=True), tmp_path / "model.safetensors")}
    embed_test(tmp_path / "model.safetensors", record, stripes_data.test, tmp_path / "e.npy", "cpu", threads=1)
    made = json.loads((tmp_path / "e.json").read_text())
    assert made["sha256"] == hashlib.sha256((tmp_path / "e.npy").read_bytes()).hexdigest()
    assert (made["model"], made["test"], made["code"]) == (record["model"], held_out.fingerprint, embedding_code())
    assert made["seconds"] > 0 and made["provenance"]["device_type"] == "cpu"
    assert (load_embeddings(tmp_path / "e.npy") == np.load(tmp_path / "e.npy")).all()


# ------------------------------------------------------------------------------------------------------------ measuring


@pytest.fixture
def embeddings(tmp_path, held_out):
    """Three folds' embeddings of the test half that know a little of the classes; files and arrays."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(FOLDS, 20, 6))
    arrays = [
        (centre[held_out.labels] + 1.5 * rng.normal(size=(len(held_out), 6))).astype(np.float32) for centre in centres
    ]
    arrays = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in arrays]
    files = [tmp_path / f"embeddings{k}.npy" for k in range(FOLDS)]
    for file, array in zip(files, arrays, strict=True):
        write_embeddings(file, array, held_out)
    return files, arrays


@pytest.fixture
def measured(tmp_path, stripes_data, records, embeddings):
    """What `measure_seed` writes: (values, per-query values)."""
    measure_seed(embeddings[0], records, stripes_data.test, tmp_path / "metrics.json", tmp_path / "queries.npz")
    with np.load(tmp_path / "queries.npz") as queries:
        return json.loads((tmp_path / "metrics.json").read_text()), dict(queries)


def value_of(found, embedding, fold, metric):
    (row,) = [r for r in found["metrics"] if (r["embedding"], r["fold"], r["metric"]) == (embedding, fold, metric)]
    return row["value"]


def test_metrics_are_those_of_each_fold_alone_and_of_all_joined(measured, embeddings, held_out):
    found, _ = measured
    _, arrays = embeddings
    joined = np.concatenate(arrays, axis=1) / np.sqrt(FOLDS)
    for kind, fold, vectors in [*(("separated", k, a) for k, a in enumerate(arrays)), ("concatenated", None, joined)]:
        expected = reference_ranking.retrieval_metrics(vectors, held_out.labels)
        for metric, values in expected.items():
            assert value_of(found, kind, fold, metric) == pytest.approx(np.mean(values), abs=1e-6), (kind, fold, metric)
        assert 0.2 < value_of(found, kind, fold, "nmi") < 1
        assert value_of(found, kind, fold, "ami") < value_of(found, kind, fold, "nmi")
    assert len({row["value"] for row in found["metrics"] if row["metric"] == "map_at_r"}) == FOLDS + 1
    assert value_of(found, "concatenated", None, "map_at_r") > max(
        value_of(found, "separated", k, "map_at_r") for k in range(FOLDS)
    )


def test_every_metric_stands_there_once_for_every_embedding(measured):
    found, _ = measured
    keys = [(row["embedding"], row["fold"], row["metric"]) for row in found["metrics"]]
    metrics = {row["metric"] for row in found["metrics"]}
    assert {"precision_at_1", "r_precision", "map_at_r", "mean_average_precision", "nmi", "ami"} < metrics
    assert len(set(keys)) == len(keys) == (FOLDS + 1) * len(metrics)
    assert {row["n_queries"] for row in found["metrics"]} == {72}


def test_every_query_s_value_is_kept_and_their_mean_is_the_value(measured):
    found, queries = measured
    assert queries.pop("queries").tolist() == list(range(72))
    clustering = {"nmi", "ami", "f1"}
    expected = [
        f"{row['embedding']}/{'all' if row['fold'] is None else row['fold']}/{row['metric']}"
        for row in found["metrics"]
        if row["metric"] not in clustering
    ]
    assert sorted(queries) == sorted(expected)
    for key, values in queries.items():
        kind, fold, metric = key.split("/")
        assert values.shape == (72,) and values.dtype == np.float32
        expected = value_of(found, kind, None if fold == "all" else int(fold), metric)
        assert values.mean(dtype=np.float64) == pytest.approx(expected, abs=1e-6)


def test_the_values_know_their_models_and_images(measured, records, held_out):
    found, _ = measured
    assert (found["dataset"], found["method"], found["seed"]) == ("stripes", "contrastive", 4)
    assert found["records"] == records
    assert found["test"] == held_out.fingerprint
    assert found["failure"] is None


def test_measuring_again_gives_equal_values(tmp_path, stripes_data, records, embeddings, measured):
    def but_for_the_time():
        found = json.loads((tmp_path / "metrics.json").read_text())
        return {key: value for key, value in found.items() if key not in ("seconds", "provenance")}

    first, queries = but_for_the_time(), (tmp_path / "queries.npz").read_bytes()
    measure_seed(embeddings[0], records, stripes_data.test, tmp_path / "metrics.json", tmp_path / "queries.npz")
    assert but_for_the_time() == first and (tmp_path / "queries.npz").read_bytes() == queries
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []


def test_measuring_does_not_load_pytorch(tmp_path, stripes_data, records, embeddings):
    """Nothing of it needs PyTorch, whose import takes as long as all the rest."""
    program = "import json, sys; from pathlib import Path; from dml.evaluation import measure_seed\n"
    program += "files, records, *rest = json.loads(sys.argv[1])\n"
    program += "measure_seed([Path(file) for file in files], records, *map(Path, rest))\n"
    program += "assert 'torch' not in sys.modules"
    paths = [str(path) for path in (stripes_data.test, tmp_path / "metrics.json", tmp_path / "queries.npz")]
    arguments = json.dumps([[str(file) for file in embeddings[0]], records, *paths])
    subprocess.run([sys.executable, "-c", program, arguments], check=True)
    assert (tmp_path / "queries.npz").exists()


def test_the_seed_decides_the_clustering_and_nothing_else(tmp_path, stripes_data, records, embeddings, measured):
    others = [record | {"seed": 5} for record in records]
    measure_seed(embeddings[0], others, stripes_data.test, tmp_path / "other.json", tmp_path / "other.npz")
    other, (found, _) = json.loads((tmp_path / "other.json").read_text()), measured
    changed = {a["metric"] for a, b in zip(found["metrics"], other["metrics"], strict=True) if a != b}
    assert changed and changed <= {"nmi", "ami", "f1"}


# ---------------------------------------------------------------------------------------------- other ways of retrieval


@pytest.fixture
def raw(tmp_path, held_out):
    """Folders as `embed_test` leaves them, with all views: files, and raw embeddings by view."""
    rng, files, arrays = np.random.default_rng(1), [], []
    for k in range(FOLDS):
        folder = tmp_path / f"fold{k}"
        folder.mkdir()
        centres = rng.normal(size=(20, 6))[held_out.labels]
        kinds = ("raw", "average", "max")
        views = {view: (centres + rng.normal(size=centres.shape)).astype(np.float32) for view in kinds}
        sums = {}
        for name, array in {**views, "embeddings": normalise_rows(views["raw"])}.items():
            np.save(folder / f"{name}.npy", array)
            sums[name] = hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
        made = {"sha256": sums.pop("embeddings"), "views": sums, "model": f"model embeddings{k}"}
        made |= {"code": embedding_code(), "test": held_out.fingerprint, "seconds": 1.0, "provenance": {}}
        write_json(folder / "embeddings.json", made)
        files.append(folder / "embeddings.npy")
        arrays.append(views)
    return files, arrays


def unit(vectors):
    return vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))


WAYS = {
    "max": (Retrieval(title="Max", pooling="max"), lambda views: unit(views["max"])),
    "mixed": (Retrieval(title="Both", pooling="average_max"), lambda views: unit(views["average"] + views["max"])),
    "beta": (Retrieval(title="Beta", beta=0.5), lambda views: unit(views["raw"]) + 0.5 * views["raw"]),
    "binary": (Retrieval(title="Binary", binary=True), lambda views: (views["raw"] > 0).astype(np.float32)),
    "both": (
        Retrieval(title="Max, beta", pooling="max", beta=2.0), lambda views: unit(views["max"]) + 2 * views["max"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_other_ways_of_retrieval_compare_what_they_say(name, raw):
    (files, arrays), (way, expected) = raw, WAYS[name]
    folds, joined = compared(files, way)
    for found, views in zip(folds, arrays, strict=True):
        np.testing.assert_allclose(found, expected(views), rtol=1e-5, atol=1e-6)
    side_by_side = np.concatenate([expected(views) for views in arrays], axis=1)
    if not (way.beta or way.binary):
        side_by_side /= np.sqrt(FOLDS)
    np.testing.assert_allclose(joined, side_by_side, rtol=1e-5, atol=1e-6)


def test_other_ways_of_retrieval_are_measured_beside_the_plain_one(tmp_path, stripes_data, held_out, records, raw):
    ways = {name: way for name, (way, _) in WAYS.items()}
    ways["again"] = Retrieval(title="Again", rerank=Rerank(k1=4, k2=2))
    measure_seed(raw[0], records, stripes_data.test, tmp_path / "m.json", tmp_path / "q.npz", ways)
    rows = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert {row["retrieval"] for row in rows} == {"", *ways}
    metrics = {name: {row["metric"] for row in rows if row["retrieval"] == name} for name in ("", *ways)}
    assert all(metrics[name] == metrics[""] - {"nmi", "ami", "f1"} for name in ways)
    values = {
        (row["retrieval"], row["fold"]): row["value"]
        for row in rows
        if (row["embedding"], row["metric"]) == ("separated", "map_at_r")
    }
    for name, (_, expected) in WAYS.items():
        for k, views in enumerate(raw[1]):
            of_loops = reference_ranking.retrieval_metrics(expected(views), held_out.labels)["map_at_r"]
            assert values[name, k] == pytest.approx(np.mean(of_loops), abs=1e-6), (name, k)
    assert values["again", 0] == np.mean(
        measure(reranked(unit(raw[1][0]["raw"]), held_out.labels, k1=4, k2=2), clusters=False)["map_at_r"]
    )


@pytest.mark.parametrize("values", [{}, {"binary": True, "beta": 0.1}, {"pooling": "token"}])
def test_a_way_of_retrieval_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValueError, match="Nothing"):
        Retrieval.check({"title": "Nothing"} | values, "Nothing")


def test_views_are_embedded_beside_the_embeddings(tmp_path, protocol, stripes_data, held_out):
    settings = protocol.model_copy(update={"head_layernorm": True})
    torch.manual_seed(1)
    model = Model(settings, has_head=True)
    record = {"protocol": settings.training_values(), "embedding_size": 8, "failure": None, "plugin": "contrastive"}
    record["model"] = save_model(model, tmp_path / "model.safetensors")
    views = ["average", "max", "raw"]
    embed_test(tmp_path / "model.safetensors", record, stripes_data.test, tmp_path / "e.npy", "cpu", 1, views)
    found = {view: load_embeddings(tmp_path / "e.npy", view) for view in views}
    np.testing.assert_array_equal(found["raw"], found["average"])  # which is the pooling of the protocol
    np.testing.assert_array_equal(load_embeddings(tmp_path / "e.npy"), normalise_rows(found["raw"]))
    model.pooling = Pooling("max", learns=False)
    np.testing.assert_allclose(normalise_rows(found["max"]), embed(model, held_out, 16), atol=1e-6)
    (tmp_path / "max.npy").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="max.npy"):
        load_embeddings(tmp_path / "e.npy", "max")


def test_images_are_compared_by_what_their_method_compares_them_by(tmp_path, protocol, stripes_data):
    torch.manual_seed(1)
    settings = protocol.model_copy(update={"embedding_size": 16})
    model, embeddings = Model(settings, has_head=True), {}
    record = {"protocol": settings.training_values(), "embedding_size": 16, "failure": None}
    record["model"] = save_model(model, tmp_path / "model.safetensors")
    for plugin in ("a_bier", "contrastive", None):
        file = tmp_path / f"{plugin}.npy"
        embed_test(tmp_path / "model.safetensors", record | {"plugin": plugin}, stripes_data.test, file, "cpu", 1)
        embeddings[plugin] = load_embeddings(file)
    np.testing.assert_array_equal(embeddings["contrastive"], embeddings[None])
    expected = ABIER.retrieval(torch.from_numpy(embeddings[None])).numpy()
    np.testing.assert_allclose(embeddings["a_bier"], normalise_rows(expected), atol=1e-5)
    assert not np.allclose(embeddings["a_bier"], embeddings[None], atol=0.01)


# ------------------------------------------------------------------------------ training classes, and other checkpoints


@pytest.fixture
def finals(tmp_path, protocol, stripes_data, trainval):
    """Final models of two folds as `train_final` leaves them, the models of all validations, and their records."""
    models, checkpoints, records = [], [], []
    trial = Trial(method="contrastive", images_per_class=4, parameters={"pos_margin": 0.0, "neg_margin": 0.8})
    for k in (0, 2):
        outcome = train(trial, protocol, trainval, read_folds(stripes_data.folds)[k], seed=k, keep=True)
        models.append(tmp_path / f"fold{k}.safetensors")
        checkpoints.append(tmp_path / f"checkpoints{k}.safetensors")
        kept = save_checkpoints(outcome.kept, checkpoints[-1])
        records.append({
            "dataset": "stripes", "method": "contrastive", "plugin": "contrastive", "seed": 3, "fold": k,
            "failure": None, "protocol": protocol.training_values(), "model": save_model(outcome.model, models[-1]),
            "curve": outcome.curve, "best_step": outcome.best_step, "checkpoints": kept,
        })  # fmt: skip
    return models, checkpoints, records


def test_the_geometry_is_that_of_each_model_s_training_classes(tmp_path, finals, protocol, stripes_data, trainval):
    models, _, records = finals
    measure_space(models, records, stripes_data.trainval, stripes_data.folds, tmp_path / "space.json", "cpu", 1)
    found = json.loads((tmp_path / "space.json").read_text())
    assert (found["dataset"], found["method"], found["seed"]) == ("stripes", "contrastive", 3)
    for model, record in zip(models, records, strict=True):
        images, labels = of_classes(trainval, read_folds(stripes_data.folds)[record["fold"]].train)
        expected = describe(embed(load_model(model, record), images, protocol.crop_size), labels)
        rows = [row for row in found["metrics"] if row["fold"] == record["fold"]]
        assert {row["metric"]: row["value"] for row in rows} == pytest.approx(expected)
        places = {(row["embedding"], row["retrieval"], row["n_queries"]) for row in rows}
        assert places == {("training", "", len(labels))}


def test_the_models_of_all_validations_are_measured(tmp_path, finals, protocol, stripes_data, held_out):
    models, checkpoints, records = finals
    measure_checkpoints(checkpoints, models, records, stripes_data.test, tmp_path / "selection.json", "cpu", 1)
    found = json.loads((tmp_path / "selection.json").read_text())
    assert found["models"] == [record["model"] for record in records] and found["test"] == held_out.fingerprint
    rows = found["rows"]
    assert [(row["fold"], row["step"]) for row in rows] == [(0, 2), (0, 4), (2, 2), (2, 4)]
    for model, record in zip(models, records, strict=True):
        own = [row for row in rows if row["fold"] == record["fold"]]
        assert [row["validation"] for row in own] == [point["map_at_r"] for point in record["curve"][1:]]
        (chosen,) = [row for row in own if row["chosen"]]
        assert chosen["step"] == record["best_step"]
        embeddings = embed(load_model(model, record), held_out, protocol.crop_size)
        expected = measure(neighbours(embeddings, held_out.labels), clusters=False)
        assert chosen["map_at_r"] == np.mean(expected["map_at_r"])
        assert chosen["precision_at_1"] == np.mean(expected["precision_at_1"])
    assert len({row["map_at_r"] for row in rows}) > 2


def test_of_a_failed_training_neither_is_measured(tmp_path, finals, stripes_data):
    models, checkpoints, records = finals
    failed = [record | {"failure": "diverged"} for record in records]
    measure_space(models, failed, stripes_data.trainval, stripes_data.folds, tmp_path / "space.json", "cpu", 1)
    measure_checkpoints(checkpoints, models, failed, stripes_data.test, tmp_path / "selection.json", "cpu", 1)
    assert json.loads((tmp_path / "space.json").read_text())["metrics"] == []
    assert json.loads((tmp_path / "selection.json").read_text())["rows"] == []


def test_models_of_other_validations_than_those_of_the_record_are_refused(tmp_path, finals, stripes_data):
    models, checkpoints, records = finals
    arguments = (stripes_data.test, tmp_path / "selection.json", "cpu", 1)
    longer = [record | {"curve": [*record["curve"], {"step": 6, "map_at_r": 0.5}]} for record in records]
    with pytest.raises(ValueError, match=r"checkpoints0.safetensors: no model of step 6: delete"):
        measure_checkpoints(checkpoints, models, longer, *arguments)
    with pytest.raises(ValueError, match=r"checkpoints2.safetensors: damaged"):
        measure_checkpoints(checkpoints[::-1], models, records, *arguments)


# ------------------------------------------------------------------------------------------------------------- failures


def test_a_failed_fold_leaves_the_seed_without_metrics_and_with_the_reason(
    tmp_path, stripes_data, held_out, records, embeddings
):
    files, _ = embeddings
    records[0]["failure"], records[2]["failure"] = "diverged: loss nan", "every trial failed"
    for k in (0, 2):
        write_embeddings(files[k], np.empty((0, 8), dtype=np.float32), held_out)
    measure_seed(files, records, stripes_data.test, tmp_path / "metrics.json", tmp_path / "queries.npz")
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["metrics"] == []
    assert found["failure"] == "fold 0: diverged: loss nan; fold 2: every trial failed"
    assert len(found["records"]) == FOLDS
    with np.load(tmp_path / "queries.npz") as queries:
        assert list(queries) == []


def test_as_many_embeddings_as_records(tmp_path, stripes_data, records, embeddings):
    with pytest.raises(ValueError):
        measure_seed(embeddings[0][:2], records, stripes_data.test, tmp_path / "m.json", tmp_path / "q.npz")
    assert not (tmp_path / "m.json").exists() and not (tmp_path / "q.npz").exists()


@pytest.mark.parametrize("damage", [cut, altered])
def test_damaged_embeddings_are_set_aside(tmp_path, stripes_data, records, embeddings, damage):
    files, _ = embeddings
    damage(files[1])
    with pytest.raises(ValueError, match="embeddings1.npy: damaged.*run the same command again"):
        measure_seed(files, records, stripes_data.test, tmp_path / "m.json", tmp_path / "q.npz")
    assert not files[1].exists() and files[0].exists() and not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("what", ["model", "test", "code"])
def test_embeddings_of_another_model_images_or_code_are_refused(tmp_path, stripes_data, records, embeddings, what):
    files, _ = embeddings
    made = json.loads(files[2].with_suffix(".json").read_text())
    write_json(files[2].with_suffix(".json"), made | {what: "another"})
    with pytest.raises(ValueError, match=f"embeddings2.npy: of another {what} than .*; delete it"):
        measure_seed(files, records, stripes_data.test, tmp_path / "m.json", tmp_path / "q.npz")
    assert files[2].exists() and not (tmp_path / "m.json").exists()


# -------------------------------------------------------------------------------------------------------------- gallery


CLASS_NAMES = {0: "zero", 1: "one", 2: "two", 3: "three"}


def pictured(labels):
    """Images whose first pixel is their position."""
    count = len(labels)
    pixels = np.full((count, 5, 4, 3), 128, dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(count)[:, None]
    sizes = (np.arange(count) * 60, np.full(count, 5), np.full(count, 4))
    return PackedImages(pixels.ravel(), *sizes, np.array(labels), np.arange(count).astype(str), "f")


def decoded(picture):
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(picture["png"]))))


def position(picture):
    return int(decoded(picture)[0, 0, 0])


@pytest.fixture
def line(tmp_path):
    """24 images on an arc, so that neighbours are those next in line: (files of two folds, angles)."""

    def save(labels):
        angles = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.05, len(labels)))
        files = [tmp_path / "0.npy", tmp_path / "1.npy"]
        for file in files:
            write_embeddings(file, np.stack([np.cos(angles), np.sin(angles)], axis=1), pictured(labels))
        return files, angles

    return save


def drawn(line, labels, seed=0, dataset="d"):
    files, angles = line(labels)
    return gallery(dataset, "m", files, pictured(labels), CLASS_NAMES, seed), angles


def is_failure(row):
    return not row["neighbours"][0]["right"]


def test_the_neighbours_are_the_nearest_in_order_with_their_classes(line):
    labels = np.repeat([0, 1, 2, 3], 6)
    found, angles = drawn(line, labels)
    assert (found["dataset"], found["method"]) == ("d", "m")
    for row in found["rows"]:
        query = position(row["query"])
        assert row["query"]["class"] == CLASS_NAMES[labels[query]]
        distances = np.abs(angles - angles[query])
        assert [position(near) for near in row["neighbours"]] == np.argsort(distances)[1:9].tolist()
        for near in row["neighbours"]:
            assert near["right"] is bool(labels[position(near)] == labels[query])
            assert near["class"] == CLASS_NAMES[labels[position(near)]]


def test_half_of_the_queries_are_failures_where_there_are_so_many(line):
    labels = np.repeat([0, 1, 2, 3], 6)
    labels[[2, 9, 16, 20]] = [3, 2, 0, 1]  # each alone among others: it and no other image has a wrong neighbour
    successes = 0
    for seed in range(5):
        found, _ = drawn(line, labels, seed=seed)
        successes += sum(not is_failure(row) for row in found["rows"][:3])
        assert len(found["rows"]) == 6
        assert len({position(row["query"]) for row in found["rows"]}) == 6
        assert all(is_failure(row) for row in found["rows"][3:])
    assert successes > 5


def test_fewer_failures_make_room_for_others(line):
    labels = np.repeat([0, 1], 12)
    found, angles = drawn(line, labels)
    ends = [i for i in (11, 12) if labels[np.argsort(np.abs(angles - angles[i]))[1]] != labels[i]]
    assert len(ends) < 3
    assert [is_failure(row) for row in found["rows"]] == [False] * (6 - len(ends)) + [True] * len(ends)
    assert [position(row["query"]) in ends for row in found["rows"]] == [is_failure(row) for row in found["rows"]]


def test_where_everything_is_wrong_all_queries_are_failures(line):
    found, _ = drawn(line, np.tile([0, 1, 2, 3], 6))
    assert len(found["rows"]) == 6 and all(is_failure(row) for row in found["rows"])
    assert len({position(row["query"]) for row in found["rows"]}) == 6


def test_the_drawing_depends_on_the_seed_and_the_data_sets_name_alone(line):
    labels = np.tile([0, 1, 1, 0], 6)
    first, again = drawn(line, labels)[0], drawn(line, labels)[0]
    assert first == again
    assert json.loads(json.dumps(first)) == first
    for other in (drawn(line, labels, seed=1)[0], drawn(line, labels, dataset="e")[0]):
        assert other["rows"] != first["rows"]


def test_a_handful_of_images_is_enough(line):
    found, _ = drawn(line, np.array([0, 0, 1, 1]))
    assert len(found["rows"]) == 4 and all(len(row["neighbours"]) == 3 for row in found["rows"])


def test_all_folds_have_their_say(tmp_path):
    """By each fold alone another image is nearest; by both together the third."""
    degrees = [np.array([0, 10, 80, 30]), np.array([0, 80, 10, 30])]
    for k, angles in enumerate(np.deg2rad(degrees)):
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        write_embeddings(tmp_path / f"{k}.npy", vectors, pictured([0, 1, 2, 3]))
    found = gallery("d", "m", [tmp_path / "0.npy", tmp_path / "1.npy"], pictured([0, 1, 2, 3]), CLASS_NAMES, 0)
    (row,) = [row for row in found["rows"] if position(row["query"]) == 0]
    assert position(row["neighbours"][0]) == 3


def stage(tmp_path, labels, failed):
    """The gallery of made-up results, in which seed 0 of some methods has a failed fold."""
    results = example_results.write(tmp_path / "results", datasets=1)
    study = json.loads((results / "study.json").read_text())
    study["protocol"]["seed"] = 0
    (results / "study.json").write_text(json.dumps(study))
    methods = example_results.NAMES[:5]
    files = []
    for number, method in enumerate(methods):
        for fold in range(2):
            angles = np.linspace(0.1 * number, 1, len(labels))
            files.append(tmp_path / f"{method}_{fold}.npy")
            rows = 0 if method in failed and fold == 1 else len(labels)
            vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:rows]
            write_embeddings(files[-1], vectors, pictured(labels))
    (tmp_path / "folds.csv").write_text("label,class\n" + "".join(f"{k},{v}\n" for k, v in CLASS_NAMES.items()))
    images = pictured(labels)
    (tmp_path / "test.pixels").write_bytes(images.pixels.tobytes())
    np.savez(tmp_path / "test.npz", heights=images.heights, widths=images.widths, labels=labels, paths=images.paths)
    (tmp_path / "test.sha256").write_text("f\n")
    write_gallery(
        results / "metrics.csv", "birds1", files, methods, tmp_path / "folds.csv", tmp_path / "test.sha256",
        tmp_path / "gallery.json",
    )  # fmt: skip
    return json.loads((tmp_path / "gallery.json").read_text())


@pytest.mark.parametrize(
    "failed, shown", [([], "contrastive"), (["contrastive"], "triplet"), (["contrastive", "triplet"], "margin")]
)
def test_the_gallery_shows_the_best_method_whose_first_seed_did_not_fail(tmp_path, failed, shown):
    found = stage(tmp_path, np.repeat([0, 1, 2, 3], 6), failed)
    assert found["method"] == shown and found["dataset"] == "birds1"
    assert len(found["rows"]) == 6


@pytest.mark.parametrize(
    "height, width, expected", [(5, 4, (5, 4)), (192, 96, (96, 48)), (50, 200, (24, 96)), (1, 500, (1, 96))]
)
def test_thumbnails_are_small_and_keep_their_shape(height, width, expected):
    pixels = np.full((height, width, 3), (10, 120, 230), dtype=np.uint8)
    found = decoded({"png": thumbnail(pixels)})
    assert found.shape == (*expected, 3) and max(found.shape) <= THUMBNAIL
    assert (found == (10, 120, 230)).all()
