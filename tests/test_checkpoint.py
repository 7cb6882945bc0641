"""A training that is interrupted at any step, and goes on, gives what one gives that never was: bit for bit."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from dml import training
from dml.checkpoint import Checkpoint
from dml.protocol import Protocol
from dml.splits import read_folds
from dml.training import train
from dml.trial import Trial

ROOT = Path(__file__).parents[1]
TRIALS = [
    Trial(method="contrastive", images_per_class=4, parameters={"pos_margin": 0.0, "neg_margin": 0.8}),
    Trial(  # has weights of its own
        method="normalized_softmax", images_per_class=4, parameters={"temperature": 0.1, "loss_lr": 1e-2},
    ),
]  # fmt: skip
LAST = 12
"""Steps of a whole training here; a validation is every 3."""


@pytest.fixture
def protocol(protocol) -> Protocol:
    return protocol.model_copy(update={"epoch_steps": 3, "max_epochs": LAST // 3, "freeze_batchnorm": "nothing"})


@pytest.fixture
def fold(stripes_data):
    return read_folds(stripes_data.folds)[0]


class Killed(Exception):
    """As a process that is killed: nothing is saved on the way."""


def killed_before(step, monkeypatch):
    """Let the next training end without warning before its step of that number, as `kill -9` ends a process."""
    steps, draw = iter(range(step + 1)), training.train_batch

    def drawn(*arguments):
        if next(steps, step) == step:
            raise Killed
        return draw(*arguments)

    monkeypatch.setattr(training, "train_batch", drawn)


def asked_before(step, monkeypatch, number=signal.SIGTERM):
    """Let the next training get a signal to stop during its step of that number."""
    steps, draw = iter(range(step + 1)), training.train_batch

    def drawn(*arguments):
        if next(steps, -1) == step:
            signal.raise_signal(number)
        return draw(*arguments)

    monkeypatch.setattr(training, "train_batch", drawn)


def facts(outcome):
    return outcome.score, outcome.best_step, outcome.steps, outcome.curve, outcome.failure


def same(one, other):
    states = one.model.state_dict(), other.model.state_dict()
    return facts(one) == facts(other) and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.method)
@pytest.mark.parametrize("steps", [(0,), (1,), (3,), (4, 2), (7, 0, 1, 5), (11,)], ids=str)
def test_a_killed_training_goes_on_from_its_last_validation(
    tmp_path, monkeypatch, trainval, fold, protocol, trial, steps
):
    whole = train(trial, protocol, trainval, fold, seed=3)
    assert whole.steps == LAST and whole.resumed == []
    checkpoint, validated, joints = Checkpoint(tmp_path / "state", {"a": 1}), 0, set()
    for step in steps:  # so many steps after the last start
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_before(step, patch)
            train(trial, protocol, trainval, fold, seed=3, checkpoint=checkpoint)
        validated += step // 3 * 3
        joints.add(validated)
    outcome = train(trial, protocol, trainval, fold, seed=3, checkpoint=checkpoint)
    assert same(outcome, whole)
    assert [entry["step"] for entry in outcome.resumed] == sorted(joints - {0})
    assert all(entry["host"] and entry["device_type"] == "cpu" for entry in outcome.resumed)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.method)
@pytest.mark.parametrize(
    "step, number",
    [(0, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGHUP), (4, signal.SIGTERM), (11, signal.SIGTERM)],
)
def test_a_training_that_is_asked_to_stop_loses_nothing(
    tmp_path, monkeypatch, trainval, fold, protocol, trial, number, step, capfd
):
    whole = train(trial, protocol, trainval, fold, seed=3)
    checkpoint, before = Checkpoint(tmp_path / "state", {}), signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        asked_before(step, patch, number)
        train(trial, protocol, trainval, fold, seed=3, checkpoint=checkpoint)
    assert end.value.code == 128 + number and signal.Signals(number).name in capfd.readouterr().err
    assert signal.getsignal(number) == before
    outcome = train(trial, protocol, trainval, fold, seed=3, checkpoint=Checkpoint(tmp_path / "state", {}))
    assert same(outcome, whole)
    assert [entry["step"] for entry in outcome.resumed] == [step + 1]
    assert f"goes on from step {step + 1}" in capfd.readouterr().err


def test_draws_of_layers_go_on_too(tmp_path, monkeypatch, trainval, fold, protocol):
    """GoogLeNet's and transformers' dropout draw from PyTorch's own generator."""
    build = training.build_method

    class WithDropout(torch.nn.Module):
        def __init__(self, method):
            super().__init__()
            self.method, self.dropout = method, torch.nn.Dropout(0.5)
            self.loss_weight_decay = None

        def objective(self, outputs, labels):
            return self.method(self.dropout(outputs.embeddings), labels)

    monkeypatch.setattr(training, "build_method", lambda *arguments: WithDropout(build(*arguments)))
    whole = train(TRIALS[0], protocol, trainval, fold, seed=3)
    checkpoint = Checkpoint(tmp_path / "state", {})
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        asked_before(4, patch)
        train(TRIALS[0], protocol, trainval, fold, seed=3, checkpoint=checkpoint)
    torch.manual_seed(99)
    checkpoint = Checkpoint(tmp_path / "state", {})
    assert same(train(TRIALS[0], protocol, trainval, fold, seed=3, checkpoint=checkpoint), whole)


def test_a_finished_training_is_not_trained_again(tmp_path, monkeypatch, trainval, fold, protocol):
    """One job trains several folds: a kill during the second must not cost the first."""
    checkpoint = Checkpoint(tmp_path / "state", {})
    first = train(TRIALS[0], protocol, trainval, fold, seed=3, checkpoint=checkpoint)
    monkeypatch.setattr(training, "train_batch", None)
    again = train(TRIALS[0], protocol, trainval, fold, seed=3, checkpoint=checkpoint)
    assert same(again, first) and again.resumed == []
    assert again.seconds >= first.seconds


def test_a_failure_and_an_early_end_are_remembered(tmp_path, monkeypatch, trainval, fold, protocol):
    checkpoint = Checkpoint(tmp_path / "state", {})
    with monkeypatch.context() as patch:
        patch.setattr(training, "neighbours", lambda *_: None)
        values = iter([0.9, 0.5, 0.4, 0.3, 0.2])
        patch.setattr(training, "map_at_r", lambda _: {"map_at_r": next(values)})
        stopped = train(
            TRIALS[0], protocol.model_copy(update={"patience": 1}), trainval, fold, 3, checkpoint=checkpoint
        )
    assert stopped.steps == 6
    monkeypatch.setattr(training, "train_batch", None)
    assert same(train(TRIALS[0], protocol, trainval, fold, 3, checkpoint=checkpoint), stopped)


def test_what_was_before_the_start_is_kept_where_a_signal_is_ignored(tmp_path):
    """As under nohup, which ignores SIGHUP for all it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Checkpoint(tmp_path / "state"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    with Checkpoint():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_training_in_a_thread_has_no_handlers_but_its_state(tmp_path):
    """Where Python lets no thread set handlers."""
    failures = []

    def work():
        try:
            with Checkpoint(tmp_path / "state", {}) as checkpoint:
                checkpoint.save({"x": 1})
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == [] and Checkpoint(tmp_path / "state", {}).load() == {"x": 1}


# ------------------------------------------------------------------------------------------------------- the state file


STATE = {"tensor": torch.arange(5.0), "course": {"curve": [{"step": 0, "loss": None}], "big": 2**127 + 1}}


@pytest.fixture
def saved(tmp_path):
    Checkpoint(tmp_path / "state", {"seed": 1}).save(STATE)
    return tmp_path / "state"


def test_what_was_saved_is_loaded(saved):
    found = Checkpoint(saved, {"seed": 1}).load()
    assert found["course"] == STATE["course"] and torch.equal(found["tensor"], STATE["tensor"])
    assert Checkpoint(saved.with_name("another"), {"seed": 1}).load() is None


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_cut_state_is_no_state(saved, share, capsys):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    assert Checkpoint(saved, {"seed": 1}).load() is None
    assert "damaged; the training starts anew" in capsys.readouterr().err


def test_a_state_with_another_byte_is_no_state(saved, capsys):
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 255
    saved.write_bytes(data)
    assert Checkpoint(saved, {"seed": 1}).load() is None
    assert "damaged" in capsys.readouterr().err


def test_a_state_of_something_else_is_no_state(saved, capsys):
    assert Checkpoint(saved, {"seed": 2}).load() is None
    assert "of another setting, code or data" in capsys.readouterr().err


def test_no_code_runs_when_a_state_is_read(saved, tmp_path):
    """Not even from a file with a right checksum."""
    import hashlib
    import io

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    buffer = io.BytesIO()
    torch.save({"identity": {"seed": 1}, "state": Evil()}, buffer)
    saved.write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + b"\n" + buffer.getvalue())
    with pytest.raises(Exception, match="[Ww]eights.only"):
        Checkpoint(saved, {"seed": 1}).load()
    assert not (tmp_path / "ran").exists()


def test_nothing_is_left_when_the_results_are_written(saved):
    stale = saved.with_name(".state.host.123")  # what a killed process was writing
    stale.write_bytes(b"half")
    Checkpoint(saved).remove()
    assert list(saved.parent.iterdir()) == []
    Checkpoint(saved).remove()


# ------------------------------------------------------------------------------------------------------------ the stage


@pytest.fixture
def stage(tmp_path, stripes_data, protocol):
    """The command that trains all folds of a trial, and its files."""
    study = {
        "title": "s", "datasets": ["glyphs"], "methods": ["contrastive"],
        "protocol": protocol.model_copy(update={"epoch_steps": 20, "max_epochs": 8}).model_dump(),
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    TRIALS[0].save(tmp_path / "trial.yaml")

    def start(folder, before=()):
        outputs = [tmp_path / folder / f"fold{k}.json" for k in range(3)]
        command = [
            *before, sys.executable, "-m", "dml.stages.train_trial", "--study", tmp_path / "study.yaml",
            "--dataset", "stripes", "--number", "0", "--trial", tmp_path / "trial.yaml",
            "--trainval", f"{stripes_data.trainval}.sha256",
            "--folds", stripes_data.folds, "--weights", "--device", "cpu", "--threads", "1", "--fold", "0", "1", "2",
            "--output", *outputs,
        ]  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, text=True, **pipes), tmp_path / folder

    return start


def wait_for(file, process):
    while not file.exists():
        assert process.poll() is None, process.stderr.read()


NOT_RESULTS = ("seconds", "resumed", "provenance")


def results(folder):
    records = [json.loads((folder / f"fold{k}.json").read_text()) for k in range(3)]
    return [{key: value for key, value in record.items() if key not in NOT_RESULTS} for record in records]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_stage_goes_on_in_the_fold_where_it_was_stopped(stage, number):
    process, folder = stage("whole")
    assert process.wait() == 0, process.stderr.read()
    assert sorted(file.name for file in folder.iterdir()) == [f"fold{k}.json" for k in range(3)]

    process, stopped = stage("stopped")
    wait_for(stopped / "fold1.state", process)
    process.send_signal(number)
    assert process.wait() == (143 if number == signal.SIGTERM else -number)
    assert (stopped / "fold0.state").exists() and not (stopped / "fold2.json").exists()
    (stopped / "fold0.json").unlink()  # as Snakemake removes what a failed job has written

    process, _ = stage("stopped")
    log = process.communicate()[1]
    assert process.returncode == 0, log
    assert results(stopped) == results(folder)
    assert sorted(file.name for file in stopped.iterdir()) == [f"fold{k}.json" for k in range(3)]
    resumed = [json.loads((stopped / f"fold{k}.json").read_text())["resumed"] for k in range(3)]
    assert resumed[0] == [] and len(resumed[1]) == 1 and resumed[2] == [] and "goes on from step" in log


def test_the_stage_stops_when_what_started_it_is_killed(stage, tmp_path):
    """Snakemake killed with -9 leaves no training behind that nobody waits for."""
    starter = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    process, folder = stage("orphan", before=[sys.executable, "-c", starter])
    pid = int(process.stdout.readline())
    wait_for(folder / "fold0.state", process)
    process.kill()
    process.wait()
    assert "stopped by SIGTERM" in process.stderr.read()  # which ends with the last process that holds it
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
    assert (folder / "fold0.state").exists() and not (folder / "fold2.json").exists()
