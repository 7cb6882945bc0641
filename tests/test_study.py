"""Study files: what is wrong in them is said in one line, before anything runs."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from dml import plugins
from dml.protocol import Protocol, Weights
from dml.published import given_hyperparameters
from dml.settings import Settings
from dml.study import Dataset, Method, Study, load_study, own_name, study_path
from dml.trial import Trial

STUDIES = Path(__file__).parents[1] / "workflow" / "studies"


def a_study(tmp_path, text="", **changes):
    """A study file that is right but for the changes."""
    values = {
        "title": "t",
        "datasets": ["glyphs"],
        "methods": ["pretrained", "contrastive"],
        "protocol": {"trunk": "convnet", "resize": 36, "crop_size": 32},
    }
    for key, value in changes.items():
        where, _, inner = key.partition("__")
        if inner:
            values[where] = values[where] | {inner: value}
        else:
            values[where] = value
    path = tmp_path / "my_study.yaml"
    path.write_text(text or yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_is_valid(path):
    study = Study.load(path)
    assert study.methods and study.protocol.trunk in plugins.names("trunks")


def test_the_defaults_are_the_papers():
    protocol = Protocol(trunk="convnet")
    expected = {
        "embedding_size": 128, "resize": 256, "crop_size": 227, "crop_scale": [0.16, 1.0], "flip": 0.5,
        "learning_rate": 1e-6, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 32, "epoch_steps": 100,
        "max_epochs": 1000, "evaluate_every": 2, "patience": 9, "folds": 4, "trials": 50, "sobol_trials": 5,
        "trials_per_round": 1, "seeds": 10, "freeze_batchnorm": "statistics",
    }  # fmt: skip
    assert protocol.model_dump(include=set(expected)) == expected
    assert all(field.description for field in Protocol.model_fields.values())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"methods": ["contrastiv"]}, "methods.0: unknown name 'contrastiv' in methods; choose from: a_bier"),
        ({"datasets": ["glyps"]}, "datasets.0: unknown name 'glyps' in datasets; choose from: .*glyphs"),
        ({"protocol__trunk": "resnet51"}, "protocol.trunk: unknown name 'resnet51' in trunks; choose from: bn_"),
        ({"protocol__trails": 3}, "unknown key 'protocol.trails'; known keys here: trunk, weights.*trials"),
        ({"method": []}, "unknown key 'method'; known keys here: title, description, datasets, methods, protocol"),
        ({"protocol__trials": "3"}, "protocol.trials: input should be a valid integer, not '3'"),
        ({"protocol__trials": 0}, "protocol.trials: input should be greater than or equal to 1, not 0"),
        ({"protocol__flip": True}, "protocol.flip: input should be a valid number, not True"),
        ({"protocol__crop_size": 300}, "protocol: crop_size 300 is larger than resize 36: make resize larger"),
        ({"protocol__crop_scale": [0.5, 0.1]}, "protocol.crop_scale: expected two numbers with 0 < low <= high"),
        ({"protocol__crop_scale": [0.5, 2.0]}, "share of the image's area: at most 1"),
        ({"protocol__max_epochs": 1}, "max_epochs 1 is below evaluate_every 2"),
        ({"protocol__batch_size": 6}, "method 'contrastive' wants 4 images per class: protocol.batch_size 6 must be"),
        ({"protocol__batch_size": 4}, "at least 2 classes"),
        ({"protocol__weights": {"file": "x.pt", "sha256": "zz"}}, "protocol.weights.sha256: string should match"),
        ({"protocol__weights": "pretrained"}, "protocol: weights: dml/trunks/convnet.py names none: give file"),
        ({"protocol__weights": "imagenet"}, "weights: expected pretrained, or file, sha256 and urls, not 'imagenet'"),
        ({"protocol__weights": {"file": "a/b.pt"}}, "protocol.weights.file: string should match pattern"),
        ({"protocol__pooling": "avg"}, "protocol.pooling: input should be 'average', 'max', 'average_max', 'gem'"),
        ({"protocol__pooling": "token"}, "protocol: pooling: convnet has no class token: choose average, max"),
        ({"protocol__freeze_batchnorm": True}, "protocol.freeze_batchnorm: input should be 'nothing', 'statistics'"),
        ({"methods": [{"name": "triplet", "fixed": {"loss_weight_decay": 0.0}}]},
         "'loss_weight_decay' is no hyperparameter of triplet"),
        ({"methods": [{"name": "margin", "fixed": {"loss_weight_decay": "0"}}]}, "weight_decay: expected a finite"),
        ({"datasets": [{"name": "glyphs", "folder": "."}]}, r"copies: \{glyphs: \.\}"),
        ({"hyperparameters": "published"}, "published needs to know by whom: give the key `published`"),
        ({"methods": ["contrastive", "contrastive"]}, "the method 'contrastive' stands there twice"),
        ({"methods": []}, "methods: list should have at least 1 item"),
        ({"methods": [{"name": "triplet", "ranges": {"margni": {"low": 0, "high": 1}}}]},
         "'margni' is no hyperparameter of triplet; it has: margin"),
        ({"methods": [{"name": "triplet", "ranges": {"margin": {"low": 1, "high": 0}}}]},
         "methods.0.ranges.margin: low 1 must be below high 0"),
        ({"methods": [{"name": "triplet", "ranges": {"margin": {"low": 0, "high": 1, "lgo": True}}}]},
         "unknown key 'methods.0.ranges.margin.lgo'; known keys here: low, high, log"),
        ({"methods": [{"name": "triplet", "fixed": {"margin": 0.1}, "ranges": {"margin": {"low": 0, "high": 1}}}]},
         "'margin' is both in ranges and in fixed"),
        ({"methods": [{"name": "triplet", "pml_miner": {"BatchHardMiner": {}}}]}, "pml_miner needs a pml_loss"),
        ({"methods": [{"name": "triplet", "pml_loss": {"CircleLoss": {}}}]}, "'triplet' is a file of dml/methods/"),
        ({"methods": [{"name": "circle", "pml_loss": {"CircleLoss": {"m": {"low": 1, "high": 0}}}}]},
         "circle: m: low 1 must be below high 0"),
        ({"methods": [{"name": "circle", "pml_loss": {"CircleLoss": {}}, "fixed": {"gamma": 1}}]},
         "'gamma' is no hyperparameter of circle; it has: loss_lr"),
        ({"methods": [{"name": "triplet", "fixed": {"margin": "1e-5"}}]}, "fixed.margin: expected a finite .*1.0e-5"),
        ({"methods": [{"name": "triplet", "fixed": {"margin": float("inf")}}]}, "fixed.margin: expected a finite"),
        ({"methods": [{"name": "triplet", "fixed": {"margin": None}}]}, "fixed.margin: expected a finite .*not None"),
        ({"methods": [{"name": "triplet", "fixed": {"margin": [0.1, 0.2]}}]}, "fixed.margin: expected a finite number"),
        ({"methods": [{"name": "triplet", "ranges": {"margin": {"choices": ["1e-5", 0.1]}}}]},
         "ranges.margin: choices: expected finite numbers, not '1e-5' .*1.0e-5"),
        ({"methods": [{"name": "triplet", "ranges": {"margin": {"choices": ["small"]}}}]},
         "ranges.margin: expected a finite number, not 'small'"),
        ({"methods": [{"name": "triplet", "ranges": {"loss_lr": {"low": 0.1, "high": 1}}}]},
         "'loss_lr' is no hyperparameter of triplet"),
        ({"methods": [{"name": "ntxent", "ranges": {"temperature": {"low": -1, "high": 1}}}]},
         "ranges.temperature: expected a number above 0, not -1"),
        ({"methods": [{"name": "cosface", "fixed": {"loss_lr": 0}}]}, "fixed.loss_lr: expected a number above 0"),
        ({"methods": [{"name": "fastap", "fixed": {"num_bins": 2.5}}]}, "fixed.num_bins: expected a whole number"),
        ({"methods": [{"name": "fastap", "ranges": {"num_bins": {"low": 2, "high": 8}}}]},
         "ranges.num_bins: only whole numbers make sense: add integer: true"),
        ({"methods": [{"name": "circle", "pml_loss": {"CircleLoss": {"gamma": "1e2"}}}]},
         "gamma: expected a number, not '1e2'"),
        ({"methods": ["Contrastive"]}, "methods.0: unknown name 'Contrastive' in methods; choose from: a_bier"),
        ({"methods": [{"name": "My circle", "pml_loss": {"CircleLoss": {}}}]}, "'My circle': expected a name of lower"),
        ({"protocol__learning_rate": float("inf")}, "protocol.learning_rate: input should be a finite number"),
        ({"datasets": "glyphs"}, "datasets: input should be a valid list"),
        ({"datasets": [{"name": "mine", "folder": "/nowhere/photos"}]}, "/nowhere/photos does not exist"),
        ({"datasets": ["folder"]}, "needs the key `folder`"),
        ({"datasets": [{"name": "My Photos", "folder": "."}]},
         "datasets.0: 'My Photos': expected a name of lower-case letters"),
        ({"datasets": []}, "no data set: name one under `datasets`, or give your own"),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(tmp_path, changes, message):
    path = a_study(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        load_study(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_number_that_yaml_reads_as_text_is_explained(tmp_path):
    path = a_study(tmp_path)
    path.write_text(path.read_text().replace("resize: 36", "resize: 36\n  learning_rate: 1e-5"))
    with pytest.raises(ValueError, match=r"learning_rate: .*not '1e-5' \(a number without quotes.*write 1.0e-5\)"):
        load_study(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected keys with values"),
        ("title: a\ntitle: b", "the key 'title' stands there twice"),
        ("{}", "'title' is missing"),
    ],
)
def test_files_that_are_no_study(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_study(a_study(tmp_path, text=text))


def test_unknown_pml_classes_are_refused_before_any_job(tmp_path):
    study = load_study(a_study(tmp_path, methods=[{"name": "circle", "pml_loss": {"CircelLoss": {}}}]))
    with pytest.raises(ValueError, match="method 'circle': .*CircelLoss"):
        study.check_pml("study.yaml")


def test_a_pml_loss_with_weights_needs_a_learning_rate_for_them(tmp_path):
    anchor = {"name": "anchor", "pml_loss": {"ProxyAnchorLoss": {}}}
    with pytest.raises(ValueError, match="method 'anchor': the loss has weights of its own: give .*loss_lr"):
        load_study(a_study(tmp_path, methods=[anchor])).check_pml("study.yaml")
    triplet = {"name": "t", "pml_loss": {"TripletMarginLoss": {}}, "fixed": {"loss_lr": 0.1}}
    with pytest.raises(ValueError, match="study.yaml: method 't': the loss has no weights of its own: leave out loss_"):
        load_study(a_study(tmp_path, methods=[triplet])).check_pml("study.yaml")
    ranged = anchor | {"ranges": {"loss_lr": {"low": 1e-4, "high": 1, "log": True}}}
    load_study(a_study(tmp_path, methods=[ranged])).check_pml("study.yaml")


def test_slips_in_a_methods_file_are_named(tmp_path, monkeypatch):
    source = "RANGES = {RANGES}\nclass Slip:\n    def __init__(self, num_classes, embedding_size, margin): pass\n"
    file = tmp_path / "slip.py"
    monkeypatch.setattr(plugins, "source_path", lambda kind, name: file)
    for ranges, message in (
        ("{}", "slip.py: no range for 'margin': add it to RANGES or to `fixed`"),
        (
            "{'margin': {'low': 0, 'high': 1}, 'mrgin': {'low': 0, 'high': 1}}",
            "RANGES has 'mrgin', which __init__ does",
        ),
        ("{'margin': {'low': 1, 'high': 0}}", "slip.py: margin: low 1 must be below high 0"),
        ("{'margin': {'low': 0, 'high': 1}}\nclass", "line 1: not valid Python|line 2: not valid Python"),
    ):
        file.write_text(source.replace("{RANGES}", ranges))
        with pytest.raises(ValueError, match=message):
            Method.check({"name": "slip"}, "study")
    file.write_text(
        source.replace("{RANGES}", "{'margin': {'low': 0, 'high': 1}}").replace("RANGES =", "RANGES: dict =")
    )
    assert set(Method.check({"name": "slip"}, "study").search_ranges()) == {"margin"}


def test_a_study_changes_ranges_and_fixes_values(tmp_path):
    changed = {"name": "cosface", "ranges": {"scale": {"low": 1, "high": 300}}, "fixed": {"margin": 0.35}}
    method = load_study(a_study(tmp_path, methods=[changed])).method("cosface")
    ranges = method.search_ranges()
    assert ranges["scale"].high == 300 and set(ranges) == {"scale", "loss_lr"}
    trial = method.trial({"scale": 10.0, "loss_lr": 0.1})
    assert trial.fixed == {"margin": 0.35} and trial.images_per_class == 1


def test_own_images_become_data_sets_named_after_them(tmp_path):
    (tmp_path / "My Photos").mkdir()
    (tmp_path / "x.zip").touch()
    study = load_study(a_study(tmp_path, datasets=[]), [str(tmp_path / "My Photos"), str(tmp_path / "x.zip")])
    assert [d.name for d in study.datasets] == ["my_photos", "x"]
    assert {d.plugin for d in study.datasets} == {"folder"}
    assert own_name("/a/Straße 7/") == "stra_e_7"


def test_studies_by_name_and_by_path(tmp_path):
    assert study_path("demo", STUDIES) == STUDIES / "demo.yaml"
    assert study_path(str(a_study(tmp_path)), STUDIES).stem == "my_study"
    with pytest.raises(ValueError, match="study 'dmeo': no file .*choose from: bag_of_tricks_cub, "):
        study_path("dmeo", STUDIES)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"study": "demo", "stuyd": "demo"}, "unknown key 'stuyd'; known keys here: study, images"),
        ({"study": "demo", "folds_per_job": 0}, "folds_per_job"),
        ({"study": "demo", "device": "gpu"}, "device: string should match pattern"),
        ({"study": "demo", "copies": {"cub": "."}}, "copies: 'cub' is no data set of dml/datasets/; choose from: c"),
        ({"study": "demo", "copies": {"sop": "/nowhere"}}, "copies: sop: /nowhere does not exist"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Settings.check(values, "config.yaml").check_copies()


def test_pretrained_weights_are_those_of_the_trunks_file():
    protocol = Protocol.check({"trunk": "bn_inception", "weights": "pretrained"}, "study.yaml")
    assert protocol.weights.model_dump() == {"sha1": None} | plugins.literal("trunks", "bn_inception", "WEIGHTS")
    elsewhere = protocol.weights.model_copy(update={"urls": ["/somewhere/else"]})
    assert protocol.model_copy(update={"weights": elsewhere}).fingerprint() == protocol.fingerprint()
    other = protocol.weights.model_copy(update={"file": "other.pth", "sha256": None})
    assert protocol.model_copy(update={"weights": other}).fingerprint() != protocol.fingerprint()


def test_weights_without_a_checksum_are_known_by_where_they_come_from():
    one, other = (Weights(file="m.pth", urls=[f"/v{i}/m.pth"]) for i in (1, 2))
    assert one.identity() != other.identity()
    checked = [weights.model_copy(update={"sha256": "0123abcd" + "0" * i}) for i, weights in enumerate((one, other))]
    assert checked[0].identity() == checked[1].identity() == "0123abcd"


def test_the_code_of_a_data_set_is_not_what_it_says_of_itself(monkeypatch, tmp_path):
    folder = tmp_path / "datasets"
    shutil.copytree(plugins.source_path("datasets", "sop").parent, folder)
    monkeypatch.setattr(plugins, "_PACKAGE", tmp_path)
    sets = [Dataset.check({"name": name}, "study") for name in ("sop", "sop_official")]
    before, text = [dataset.code() for dataset in sets], (folder / "sop.py").read_text()
    (folder / "sop.py").write_text(text.replace("http://ftp.cs", "http://ftp2.cs").replace("eBay: re", "eBay, re"))
    assert [dataset.code() for dataset in sets] == before
    (folder / "sop.py").write_text(text.replace("7f73d41a", "8f73d41a"))
    assert all(dataset.code() != old for dataset, old in zip(sets, before, strict=True))


def test_patches_fill_the_crop():
    Protocol.check({"trunk": "dino_small_16", "crop_size": 224}, "study.yaml")
    with pytest.raises(ValueError, match="crop_size 227: dino_small_16 cuts images into patches: a multiple of 16"):
        Protocol.check({"trunk": "dino_small_16"}, "study.yaml")


def test_equal_trials_are_equal_bytes(tmp_path):
    one = Trial(method="triplet", images_per_class=4, parameters={"b": 1, "a": 0.1})
    other = Trial(method="triplet", images_per_class=4, parameters={"a": 0.1, "b": 1})
    one.save(tmp_path / "1.yaml")
    other.save(tmp_path / "2.yaml")
    assert (tmp_path / "1.yaml").read_bytes() == (tmp_path / "2.yaml").read_bytes()
    assert Trial.load(tmp_path / "1.yaml") == one
    assert one.fingerprint() == other.fingerprint()


def test_a_trial_names_no_split_seed_path_or_device():
    assert set(Trial.model_fields) == {
        "method",
        "file",
        "images_per_class",
        "parameters",
        "fixed",
        "pml_loss",
        "pml_miner",
    }
    with pytest.raises(ValueError, match="unknown key 'split'"):
        Trial.check({"method": "triplet", "images_per_class": 4, "split": "test"}, "trial.yaml")


# --------------------------------------------------------------------------------------------- renamed methods, factors


def field(**changes):
    return Study.check(
        {
            "title": "t",
            "datasets": ["glyphs"],
            "methods": [
                "pretrained",
                "contrastive",
                {"name": "sharp", "file": "normalized_softmax", "title": "Sharp", "fixed": {"temperature": 0.02}},
            ],
            "protocol": {"trunk": "convnet", "batch_size": 32},
        }
        | changes,
        "study.yaml",
    )


def one_level(methods=None, **level):
    factor = {"title": "F", "study": "as it is", "levels": {"high": level}}
    return {"factors": {"f": factor | ({"methods": methods} if methods else {})}}


def test_a_method_may_stand_in_a_study_under_another_name():
    method = field().method("sharp")
    assert (method.heading, method.plugin) == ("Sharp", "normalized_softmax")
    assert set(method.search_ranges()) == {"loss_lr"}
    trial = method.trial({"loss_lr": 0.1})
    assert (trial.method, trial.plugin) == ("sharp", "normalized_softmax")
    plain = field(methods=["normalized_softmax"]).method("normalized_softmax")
    assert trial.code() == plain.trial({}).code() and trial.fingerprint() != plain.trial({"loss_lr": 0.1}).fingerprint()


def test_a_level_runs_every_trained_method_with_what_it_changes():
    study = field(**one_level(title="High", protocol={"embedding_size": 7}, images_per_class=8))
    assert list(study.runs) == ["pretrained", "contrastive", "sharp", "contrastive-high", "sharp-high"]
    run = study.runs["sharp-high"]
    assert (run.base, run.factor, run.level) == ("sharp", "f", "high")
    assert (run.method.heading, run.method.plugin) == ("Sharp, High", "normalized_softmax")
    assert run.method.images_of_a_class() == 8
    assert run.method.fixed == {"temperature": 0.02}
    assert study.protocol_of("sharp-high") == study.protocol.model_copy(update={"embedding_size": 7})
    assert study.protocol_of("sharp") == study.protocol


def test_a_level_may_be_for_some_of_its_factor_s_methods():
    levels = {"high": {"images_per_class": 8}, "hot": {"images_per_class": 2, "methods": ["sharp"]}}
    study = field(factors={"f": {"title": "F", "levels": levels}})
    assert set(study.runs) - {"pretrained", "contrastive", "sharp"} == {"contrastive-high", "sharp-high", "sharp-hot"}


def test_a_level_holds_hyperparameters_of_those_methods_that_have_them():
    study = field(**one_level(fixed={"temperature": 0.5}))
    assert study.method("sharp-high").fixed == {"temperature": 0.5}
    assert "contrastive-high" not in study.runs, "it would be the same training under another name"
    assert set(study.method("sharp-high").search_ranges()) == {"loss_lr"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"methods": [{"name": "contrastive", "file": "triplet"}]}, "'contrastive' is a file of dml/methods/"),
        ({"methods": [{"name": "x", "file": "tripled"}]}, "unknown name 'tripled' in methods"),
        ({"methods": [{"name": "x", "file": "triplet", "pml_loss": {"TripletMarginLoss": {}}}]}, "two losses"),
        ({"methods": [{"name": "x-y", "file": "triplet"}]}, "'x-y': expected a name of lower-case"),
        (one_level(protocol={"seeds": 3}), "factors.f.levels.high.protocol: 'seeds' is the same on all"),
        (one_level(protocol={"trunk": "resnet50"}), "levels.high.protocol: another trunk needs its `weights`"),
        (one_level(protocol={"crop": 3}), "factors.f.levels.high.protocol: unknown key 'crop'"),
        (one_level(fixed={"margin": 3}), "factors.f.levels.high: no method has the hyperparameter 'margin'"),
        (one_level(methods=["triplet"]), "factors.f: 'triplet' is no method of the study"),
        (one_level(images_per_class=5), "method 'contrastive-high' wants 5 images per class"),
        ({"factors": {name: one_level()["factors"]["f"] for name in "ab"}}, "the level 'high' stands there twice"),
        ({"methods": ["rkd"]}, "learns from a finished 'triplet_distance_weighted': add `- triplet_dist"),
        ({"methods": ["deep_spectral"]}, "protocol.batch_size 32 must be above protocol.embedding_size 128"),
        ({"methods": ["fastap_hierarchical"], "datasets": ["cub200"]}, "of two super-classes, and 'cub200'"),
        (one_level(at=3), "factors.f: give `at` to all of its levels and, if it has `study`, to itself, or to none"),
        ({"pairs": {"contrastive": "triplet"}}, "pairs: 'triplet' is neither a method of the study"),
        ({"pairs": {"contrastive": "contrastive"}}, "pairs: 'contrastive' adds something to 'contrastive'"),
        ({"pairs": {"contrastive": "sharp", "sharp": "contrastive"}}, "'contrastive' adds something to 'sharp', which"),
        (one_level(), "factors.f.levels.high: changes nothing of the study"),
        (one_level(protocol={"batch_size": 32}), "factors.f.levels.high: changes nothing of the study"),
        (one_level(fixed={"temperature": "hot"}), "levels.high, method 'sharp': fixed.temperature: expected"),
        ({"factors": {"f": {"title": "F", "at": 3, "levels": {"x": {"images_per_class": 8}}}}}, "`at` needs `study`"),
        ({"factors": {"f": {"title": "F", "levels": {"x": {"methods": ["triplet"]}}}}}, "'triplet' is no method"),
        ({"protocol": {"trunk": "convnet", "max_epochs": 4, "warmup_epochs": 4}}, "protocol: warmup_epochs 4: "),
        ({"protocol": {"trunk": "convnet", "max_epochs": 4, "decay_epochs": [4]}}, "protocol: decay_epochs [4]: "),
        ({"toys": ["accuracy"]}, "toys: 'accuracy' is no figure of made-up data"),
        ({"retrieval": {"Re rank": {"title": "x", "rerank": {}}}}, "'Re rank': expected a name"),
        ({"retrieval": {"r": {"title": "x", "rerank": {"k3": 1}}}}, "unknown key 'retrieval.r.rerank.k3'"),
    ],
)  # fmt: skip
def test_mistakes_in_what_is_varied_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        field(**changes)
    assert "\n" not in str(caught.value)


def test_a_teacher_is_taken_from_its_own_level_if_it_is_there():
    methods = ["triplet_distance_weighted", "rkd"]
    assert field(methods=methods).teacher_of("rkd") == "triplet_distance_weighted"
    assert field(methods=methods).teacher_of("triplet_distance_weighted") is None
    level = {"protocol": {"embedding_size": 7}}
    assert field(methods=methods, **one_level(**level)).teacher_of("rkd-high") == "triplet_distance_weighted-high"
    alone = field(methods=methods, **one_level(methods=["rkd"], **level))
    assert alone.teacher_of("rkd-high") == "triplet_distance_weighted"


def test_a_teacher_is_the_method_of_that_name_or_the_only_one_of_its_kind():
    others = [
        {"name": name, "file": "triplet_distance_weighted", "fixed": {"margin": margin}}
        for name, margin in (("narrow", 0.1), ("wide", 0.9))
    ]
    assert field(methods=[*others, "triplet_distance_weighted", "rkd"]).teacher_of("rkd") == "triplet_distance_weighted"
    assert field(methods=[others[0], "rkd"]).teacher_of("rkd") == "narrow"
    with pytest.raises(ValueError, match="'rkd' learns from a finished .*, and narrow and wide are such: call"):
        field(methods=[*others, "rkd"])


def test_what_is_kept_for_other_ways_of_retrieval():
    ways = {"a": {"binary": True}, "b": {"beta": 0.1}, "c": {"pooling": "average_max"}, "d": {"pooling": "max"}}
    ways = {name: {"title": name} | way for name, way in ways.items()}
    assert field().views() == []
    assert field(retrieval={"a": ways["a"]}).views() == []
    assert field(retrieval=ways).views() == ["average", "max", "raw"]


def test_tables_and_figures_of_what_a_study_lacks_are_not_made():
    plain, varied = field(), field(**one_level(images_per_class=8))
    assert "factors" not in plain.shown("tables") and "factors" in varied.shown("tables")
    assert {"accuracy", "costs"} <= set(plain.shown("tables"))
    unsearched = field(hyperparameters="defaults")
    assert set(plain.shown("figures")) - set(unsearched.shown("figures")) == {"search_progress", "trials"}
    assert set(plain.shown("tables")) - set(unsearched.shown("tables")) == {"search_budget"}
    assert set(field(toys=["diagonal_lines"]).shown("figures")) == {*plain.shown("figures"), "diagonal_lines"}


def test_defaults_of_the_files_take_the_place_of_a_search(tmp_path):
    study = field(hyperparameters="defaults", **one_level(fixed={"temperature": 0.5}))
    given = given_hyperparameters(study, tmp_path / "study.yaml", tmp_path)
    assert given["glyphs", "contrastive"] == {"pos_margin": 0.0, "neg_margin": 1.0}
    assert given["glyphs", "sharp"] == given["glyphs", "sharp-high"] == {"loss_lr": 1e-3}
    assert given["glyphs", "pretrained"] == {}
    assert study.trials("contrastive") == study.trials("sharp-high") == 0
