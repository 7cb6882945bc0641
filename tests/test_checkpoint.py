"""A training that is interrupted at any step, and goes on, gives what one gives that never was: bit for bit."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from holding import has_ended, hold_at, let_go, wait_until_held

from dml import loading, plugins, training
from dml.checkpoint import Checkpoint
from dml.method import Method
from dml.model import Model
from dml.protocol import Protocol
from dml.search import Range
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


def _middle(searched):
    return (
        searched.choices[0]
        if searched.choices
        else (int if searched.integer else float)((searched.low + searched.high) / 2)
    )


LAST = 12
"""Steps of a whole training here; a validation is every 3."""


@pytest.fixture
def protocol(protocol) -> Protocol:
    return protocol.model_copy(update={"epoch_steps": 3, "max_epochs": LAST // 3, "freeze_batchnorm": "nothing"})


@pytest.fixture
def fold(stripes_data):
    return read_folds(stripes_data.folds)[0]


MEMORY = Trial(  # keeps its place in a memory as a plain number
    method="memory", images_per_class=4,
    pml_loss={"CrossBatchMemory": {"loss": {"ContrastiveLoss": {}}, "memory_size": 40}},
)  # fmt: skip
EVERY_METHOD = [
    *(
        Trial(
            method=name,
            images_per_class=4,
            parameters={
                key: _middle(Range(**searched)) for key, searched in plugins.literal("methods", name, "RANGES").items()
            },
        )
        for name in plugins.names("methods")
    ),
    MEMORY,
]


class Killed(Exception):
    """As a process that is killed: nothing is saved on the way."""


def killed_before(step, monkeypatch):
    """Let the next training end without warning before its step of that number, as `kill -9` ends a process."""
    steps, draw = iter(range(step + 1)), loading.Loader.__next__

    def drawn(*arguments):
        if next(steps, step) == step:
            raise Killed
        return draw(*arguments)

    monkeypatch.setattr(loading.Loader, "__next__", drawn)


def asked_before(step, monkeypatch, number=signal.SIGTERM):
    """Let the next training get a signal to stop during its step of that number."""
    steps, draw = iter(range(step + 1)), loading.Loader.__next__

    def drawn(*arguments):
        if next(steps, -1) == step:
            signal.raise_signal(number)
        return draw(*arguments)

    monkeypatch.setattr(loading.Loader, "__next__", drawn)


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


@pytest.mark.parametrize("trial", EVERY_METHOD, ids=lambda trial: trial.method)
def test_every_method_goes_on_where_it_was_stopped(tmp_path, monkeypatch, trainval, fold, protocol, trial):
    fold = fold._replace(super_classes=tuple("ababab"))
    torch.manual_seed(1)
    teacher = Model(protocol, has_head=True)

    def run(checkpoint=None):
        return train(trial, protocol, trainval, fold, seed=3, checkpoint=checkpoint, teacher=teacher)

    whole = run()
    if whole.steps == 0:
        return  # it trains nothing
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        asked_before(7, patch)
        run(Checkpoint(tmp_path / "state", {}))
    outcome = run(Checkpoint(tmp_path / "state", {}))
    assert [entry["step"] for entry in outcome.resumed] == [8] and same(outcome, whole)


def test_draws_of_layers_go_on_too(tmp_path, monkeypatch, trainval, fold, protocol):
    """GoogLeNet's and transformers' dropout draw from PyTorch's own generator."""
    build = training.build_method

    class WithDropout(Method):
        def __init__(self, method):
            super().__init__()
            self.method, self.dropout = method, torch.nn.Dropout(0.5)

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
    monkeypatch.setattr(loading.Loader, "__next__", None)
    again = train(TRIALS[0], protocol, trainval, fold, seed=3, checkpoint=checkpoint)
    assert same(again, first) and again.resumed == []
    assert again.seconds > first.seconds / 2  # of the one that trained


@pytest.mark.parametrize("values", [[0.9, 0.5, 0.4], [0.9, 0.5, float("nan")]], ids=["an early end", "a failure"])
def test_an_end_is_remembered(tmp_path, monkeypatch, trainval, fold, protocol, values):
    checkpoint, patient = Checkpoint(tmp_path / "state", {}), protocol.model_copy(update={"patience": 1})
    with monkeypatch.context() as patch:
        found = iter(values)
        patch.setattr(training, "map_at_r", lambda _: {"map_at_r": next(found)})
        ended = train(TRIALS[0], patient, trainval, fold, 3, checkpoint=checkpoint)
    assert ended.steps == 6 and (ended.failure is None) == (values[-1] == 0.4)
    monkeypatch.setattr(loading.Loader, "__next__", None)
    assert same(train(TRIALS[0], patient, trainval, fold, 3, checkpoint=checkpoint), ended)


def test_what_was_before_the_start_is_kept_where_a_signal_is_ignored(tmp_path):
    """As under nohup, which ignores SIGHUP for all it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Checkpoint(tmp_path / "state"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    handler = signal.getsignal(signal.SIGTERM)
    with Checkpoint():
        assert signal.getsignal(signal.SIGTERM) == handler


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
    assert "of another setting, code, data or PyTorch" in capsys.readouterr().err


def test_no_code_runs_when_a_state_is_read(saved, tmp_path):
    """Not even from a file with a right checksum."""

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    buffer = io.BytesIO()
    torch.save({"identity": {"seed": 1}, "state": Evil()}, buffer)
    saved.write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + b"\n" + buffer.getvalue())
    assert Checkpoint(saved, {"seed": 1}).load() is None
    assert not (tmp_path / "ran").exists()


def test_a_state_that_cannot_be_read_is_no_state(saved, capsys):
    """Such as one of another version of PyTorch; its checksum is right."""
    saved.write_bytes(hashlib.sha256(b"no pickle").hexdigest().encode() + b"\nno pickle")
    assert Checkpoint(saved, {"seed": 1}).load() is None
    assert "cannot be read" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ the stage


VALIDATIONS, STEPS = 5, 50


@pytest.fixture
def stage(tmp_path, stripes_data, protocol):
    """The command that trains all folds of a trial, and its files."""
    study = {
        "title": "s", "datasets": ["glyphs"], "methods": ["contrastive"],
        "protocol": protocol.model_dump() | {"epoch_steps": STEPS // VALIDATIONS, "max_epochs": VALIDATIONS},
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
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes), tmp_path / folder

    return start


NOT_RESULTS = ("seconds", "resumed", "provenance")


def results(folder):
    records = [json.loads((folder / f"fold{k}.json").read_text()) for k in range(3)]
    return [{key: value for key, value in record.items() if key not in NOT_RESULTS} for record in records]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_stage_goes_on_in_the_fold_where_it_was_stopped(stage, tmp_path, number, code):
    process, folder = stage("whole")
    assert process.wait() == 0, process.stderr.read()

    hold_at(tmp_path, VALIDATIONS + 2)
    process, stopped = stage("stopped")
    let_go(wait_until_held(tmp_path, process), number)
    log = process.communicate()[1]
    assert process.returncode == code, log
    assert (stopped / "fold0.state").exists() and not (stopped / "fold1.json").exists()
    (stopped / "fold0.json").unlink()  # as Snakemake removes what a failed job has written

    process, _ = stage("stopped")
    log = process.communicate()[1]
    assert process.returncode == 0, log
    assert results(stopped) == results(folder)
    assert f"was trained to its end, step {STEPS}" in log and log.count("goes on from step") == 1
    steps = [[r["step"] for r in json.loads((stopped / f"fold{k}.json").read_text())["resumed"]] for k in range(3)]
    # killed, it goes on from the validation before; asked to stop, from the step that it was at
    assert steps == [[], [STEPS // VALIDATIONS * (1 if number == signal.SIGKILL else 2)], []] or (
        number == signal.SIGTERM and steps[1][0] > STEPS // VALIDATIONS
    )


@pytest.mark.parametrize("states", [1, VALIDATIONS, VALIDATIONS + 1])
def test_the_stage_stops_when_what_started_it_is_killed(stage, tmp_path, states):
    """Snakemake killed with -9 leaves no training behind that nobody waits for, at whatever point it is."""
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    hold_at(tmp_path, states)
    process, folder = stage("orphan", before=[sys.executable, "-c", starter])
    pid = wait_until_held(tmp_path, process)
    process.kill()
    process.wait()
    let_go(pid)
    end = time.monotonic() + 60
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (folder / "fold0.state").exists() and not (folder / "fold2.json").exists()
    assert not list(folder.glob(".*"))
