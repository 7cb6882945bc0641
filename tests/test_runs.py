"""One fold of one run and its record; JSON files and what is said of their origin."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dml import plugins, record, runs
from dml.images import PackedImages
from dml.model import load_checkpoints
from dml.protocol import Weights
from dml.record import provenance, training_code, write_json
from dml.runs import Data, run_fold
from dml.seeds import derive_seed
from dml.splits import read_folds
from dml.training import Outcome, train
from dml.trial import Trial

TRIAL = Trial(method="contrastive", images_per_class=4, parameters={"pos_margin": 0.0, "neg_margin": 0.8})
PRETRAINED = Trial(method="pretrained", images_per_class=1)


@pytest.fixture
def data(stripes_data):
    return Data("stripes", stripes_data.trainval, stripes_data.folds, None)


def test_weights_that_somebody_put_there_are_checked_before_any_training(data, protocol, tmp_path):
    file = tmp_path / "w.pth"
    torch.save(plugins.load("trunks", "convnet").build(None).state_dict(), file)
    loaded = Data(data.dataset, data.stem, data.folds_file, file)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    named = Weights(file="w.pth", sha256=right[:10])
    _, record = run_fold(PRETRAINED, protocol.model_copy(update={"weights": named}), loaded, 0, ("search", 0), "cpu", 1)
    assert record["made_by"]["weights"] == right
    for wrong in (Weights(file="w.pth", sha256="0" * 8), Weights(file="w.pth", sha1="0" * 40)):
        with pytest.raises(
            ValueError, match=f"{file}: sha.* is .*, expected 0000.*delete it, to have it fetched again"
        ):
            run_fold(TRIAL, protocol.model_copy(update={"weights": wrong}), loaded, 0, ("search", 0), "cpu", 1)


@pytest.fixture
def seeds(monkeypatch):
    """The seeds that trainings are started with; they end at once."""
    seen = []

    def start(trial, protocol, trainval, fold, seed, weights, device, checkpoint, teacher, keep):
        seen.append(seed)
        return Outcome(torch.nn.Linear(1, 1), 0.5, 1, 2, [], None, 0.0, [])

    monkeypatch.setattr(runs, "train", start)
    monkeypatch.setattr(torch.nn.Linear, "embedding_size", 1, raising=False)
    return seen


# --------------------------------------------------------------------------------------------------------------- a run


def test_a_run_is_the_training_of_its_fold_and_seed(data, protocol):
    model, made = run_fold(TRIAL, protocol, data, 1, ("final", 2), "cpu", threads=1)
    seed = derive_seed(protocol.seed, "final", 2, 1)
    expected = train(TRIAL, protocol, PackedImages.open(data.stem), read_folds(data.folds_file)[1], seed)
    assert made["curve"] == expected.curve and len(made["curve"]) == 3
    assert (made["score"], made["best_step"], made["steps"]) == (expected.score, expected.best_step, expected.steps)
    assert torch.equal(model.head.weight, expected.model.head.weight)
    assert made["random_seed"] == seed


def test_a_state_without_the_models_of_all_validations_is_not_gone_on_from(data, protocol, tmp_path, capsys):
    run, file, state = (TRIAL, protocol, data, 1, ("final", 2), "cpu", 1), tmp_path / "kept", tmp_path / "state"
    run_fold(*run, state)
    _, made = run_fold(*run, state, checkpoints=file)
    assert "state: of another setting" in capsys.readouterr().err
    assert list(load_checkpoints(file, made)) == [point["step"] for point in made["curve"][1:]]
    again = run_fold(*run, state, checkpoints=tmp_path / "again")[1]
    assert again["checkpoints"] == made["checkpoints"]


def test_the_record_says_how_the_model_came_about(data, protocol, stripes_data):
    _, made = run_fold(TRIAL, protocol, data, 1, ("search", 4), "cpu", threads=1)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    expected = {
        "dataset": "stripes",
        "method": "contrastive",
        "fold": 1,
        "parameters": {"pos_margin": 0.0, "neg_margin": 0.8},
        "trial_fingerprint": TRIAL.fingerprint(),
        "failure": None,
        "embedding_size": 8,
        "protocol": protocol.training_values(),
        "made_by": {
            "code": training_code(),
            "data": stripes_data.trainval.with_suffix(".sha256").read_text().strip(),
            "weights": None,
            "protocol": protocol.fingerprint(),
            "trunk": plugins.fingerprint("trunks", "convnet"),
            "method": TRIAL.code(),
        },
        "resumed": [],
    }
    assert made["provenance"].keys() == provenance("cpu", 1).keys()
    assert {key: made[key] for key in expected} == expected
    assert made["seconds"] > 0


def test_the_record_names_the_weights_as_they_are(data, protocol, tmp_path):
    """Whatever the protocol says of them: some weights are published without a checksum."""
    file = tmp_path / "w.pth"
    torch.save(plugins.load("trunks", "convnet").build(None).state_dict(), file)
    loaded = Data(data.dataset, data.stem, data.folds_file, file)
    _, record = run_fold(PRETRAINED, protocol, loaded, 0, ("search", 0), "cpu", 1)
    assert record["made_by"]["weights"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_untrained_trunk_has_the_width_of_the_trunk(data, protocol):
    _, made = run_fold(PRETRAINED, protocol, data, 0, ("search", 0), "cpu", 1)
    assert (made["embedding_size"], made["steps"], len(made["curve"])) == (128, 0, 1)
    assert made["score"] == made["curve"][0]["map_at_r"]


def test_the_seed_depends_on_stage_number_fold_and_study_but_not_on_the_method(data, protocol, seeds):
    other_seed = protocol.model_copy(update={"seed": 1})
    start = (TRIAL, protocol, data, 0, ("search", 0), "cpu", 1)
    changes = [
        {},
        {0: PRETRAINED},
        {3: 1},
        {4: ("search", 1)},
        {4: ("final", 0)},
        {1: other_seed},
    ]
    for change in changes:
        run_fold(*(change.get(i, value) for i, value in enumerate(start)))
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == len(changes) - 1


def test_a_failed_training_has_no_score(data, protocol, monkeypatch):
    def fails(*arguments):
        curve = [{"step": 0, "loss": None, "map_at_r": 0.1}]
        return Outcome(train(*arguments).model, 0.9, 2, 6, curve, "diverged", 1.0, [])

    monkeypatch.setattr(runs, "train", fails)
    _, made = run_fold(PRETRAINED, protocol, data, 0, ("search", 0), "cpu", 1)
    assert (made["score"], made["failure"], made["steps"]) == (None, "diverged", 6)
    assert made["curve"] == [{"step": 0, "loss": None, "map_at_r": 0.1}]


@pytest.mark.parametrize("trial, size", [(TRIAL, 8), (PRETRAINED, 128)], ids=["trained", "untrained"])
def test_after_a_failed_search_nothing_is_trained_but_everything_is_written(data, protocol, seeds, trial, size):
    model, made = run_fold(trial, protocol, data, 2, ("final", 0), "cpu", 1, failure="every trial failed")
    assert seeds == []
    assert made["failure"] == "every trial failed" and made["score"] is None
    assert (made["steps"], made["best_step"], made["curve"], made["fold"]) == (0, 0, [], 2)
    assert made["embedding_size"] == model.embedding_size == size
    assert made["protocol"] == protocol.training_values() and made["made_by"]["data"]


def test_a_run_uses_so_many_threads(data, protocol):
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            _, made = run_fold(TRIAL, protocol, data, 0, ("search", 0), "cpu", threads, failure="none is needed")
            assert made["provenance"]["threads"] == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_there_is_no_way_from_the_data_of_a_run_to_the_test_half(data, held_out):
    assert set(vars(data)) == {"dataset", "stem", "folds_file", "weights"}
    classes = set(data.trainval.labels.tolist())
    assert classes == {c for fold in data.folds for part in fold for c in part} == set(range(9))
    assert not classes & set(held_out.labels.tolist())


# ----------------------------------------------------------------------------------------------------------- provenance


def test_provenance_names_code_versions_and_device():
    found = provenance("cpu", 3)
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["versions"]["numpy"] == np.__version__
    assert found["device"] and found["host"] and found["threads"] == 3
    assert len(training_code()) == 16


def test_the_hash_of_the_training_code_changes_with_what_it_does(monkeypatch, tmp_path):
    copies = []
    for path in record.TRAINING_CODE:
        copies.append(tmp_path / path.name)
        copies[-1].write_text(path.read_text())
    monkeypatch.setattr(record, "TRAINING_CODE", copies)
    first = training_code()
    copies[-1].write_text("# a comment\n" + copies[-1].read_text())
    assert training_code() == first
    for path in copies:
        text = path.read_text()
        path.write_text(text + "\nCHANGED = 1\n")
        assert training_code() != first, path.name
        path.write_text(text)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    answer = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A folder in which the code is made to believe it lies, and in which no commit is known beforehand."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    record.commit.cache_clear()
    yield tmp_path
    record.commit.cache_clear()


def test_the_commit_is_unknown_outside_git(checkout):
    assert record.commit() == "unknown"


def test_the_commit_is_unknown_without_git(checkout, monkeypatch):
    git(checkout, "init")
    monkeypatch.setenv("PATH", "")
    assert record.commit() == "unknown"


def test_the_commit_and_whether_files_differ_from_it(checkout):
    git(checkout, "init")
    (checkout / "record.py").write_text("a = 1\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD")
    assert record.commit() == head[:12]
    (checkout / "record.py").write_text("a = 2\n")
    assert record.commit() == head[:12]  # it is asked once a process
    record.commit.cache_clear()
    assert record.commit() == head[:12] + "+changes"


def test_what_users_write_is_no_change_of_the_code(checkout):
    """A cluster's account in the profile, a study of one's own."""
    git(checkout, "init")
    for path in ("record.py", "workflow/profiles/slurm/config.yaml", "workflow/rules/a.smk"):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text("a\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "workflow/profiles/slurm/config.yaml").write_text("b\n")
    (checkout / "workflow/studies").mkdir()
    (checkout / "workflow/studies/mine.yaml").write_text("b\n")
    assert record.commit() == head[:12]
    record.commit.cache_clear()
    (checkout / "workflow/rules/a.smk").write_text("b\n")
    assert record.commit() == head[:12] + "+changes"


# ----------------------------------------------------------------------------------------------------------------- JSON


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"b": [1, None], "a": "ü"})
    assert json.loads(path.read_text()) == {"a": "ü", "b": [1, None]}
    assert path.read_text().endswith("}\n")

    seen = []
    replace = os.replace
    monkeypatch.setattr(
        type(path), "replace", lambda self, to: (seen.append(json.loads(self.read_text())), replace(self, to))
    )
    write_json(path, {"new": 1})
    assert seen == [{"new": 1}]  # complete before it got its name
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_equal_values_are_equal_bytes(tmp_path):
    write_json(tmp_path / "1.json", {"b": 1, "a": 0.1})
    write_json(tmp_path / "2.json", {"a": 0.1, "b": 1})
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()], ids=["nan", "inf", "an object"])
def test_what_is_no_json_is_refused_and_the_file_before_stays(tmp_path, value):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "x.json", {"a": [value]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


# ------------------------------------------------------------------------------------------------------------- memory


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from dml.neighbours import neighbours
from dml.protocol import Protocol
from dml.runs import Data, run_fold
from dml.trial import Trial

torch.ones(2).sum()
neighbours(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1]))  # loads libraries, which takes room as well
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2**20,) * 2)
protocol, trial = Protocol.load(Path(sys.argv[1])), Trial.load(Path(sys.argv[2]))
run_fold(trial, protocol, Data("stripes", Path(sys.argv[3]), Path(sys.argv[4]), None), 0, ("search", 0), "cpu", 1)
"""


def test_where_memory_ends_the_error_says_for_what_and_what_to_lower(tmp_path, protocol, stripes_data):
    protocol.model_copy(update={"batch_size": 60_000}).save(tmp_path / "protocol.yaml")
    TRIAL.save(tmp_path / "trial.yaml")
    files = [tmp_path / "protocol.yaml", tmp_path / "trial.yaml", stripes_data.trainval, stripes_data.folds]
    answer = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, *files],
        cwd=Path(runs.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert answer.stderr.splitlines()[-1] == (
        "ValueError: out of memory on cpu with batches of 60000 images (in validation 64) of 16 x 16 pixels in convnet"
        ": lower batch_size or crop_size in the study, or give the job more memory (mem_mb)"
    )


def test_a_gpu_s_memory_is_named_alike_and_other_errors_stay_what_they_are(data, protocol, monkeypatch):
    def train_as(error):
        monkeypatch.setattr(runs, "train", lambda *_: (_ for _ in ()).throw(error))
        run_fold(TRIAL, protocol, data, 0, ("search", 0), "cpu", 1)

    with pytest.raises(
        ValueError, match="out of memory on cpu with batches of 12 images .* of 16 x 16 pixels in convnet"
    ):
        train_as(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train_as(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
