"""How far a run or a study is, and the time it still takes: what that is made of, and how it reads."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from dml.progress import in_a_line, in_words, report
from dml.record import write_json
from dml.stages import plan
from workflow import progress
from workflow.progress import RemainingTime, is_worth_a_line

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------------------------------------ a run of the workflow


def record(event, **values):
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, "", (), None)
    vars(made).update(event=event, **values)
    return made


@pytest.fixture
def clock(monkeypatch):
    """The time, which a test sets."""
    times = {"now": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: times["now"])
    return times


@pytest.fixture
def run(clock):
    """2 trials, 4 final runs and 6 measurements, of which the first trial is running; a job trains 3 folds."""
    handler = RemainingTime()
    stats = {"propose": 2, "train_trial": 2, "train_final": 4, "measure": 6, "total": 14}
    handler.emit(record(LogEvent.RUN_INFO, stats=stats))
    job(handler, clock, 1, "propose", 0, 1)
    start(handler, 2, "train_trial")
    return handler


def start(handler, number, rule, folds=3):
    output = [f"a/b/fold{k}/{file}" for k in range(folds) for file in ("model.safetensors", "record.json")]
    handler.emit(record(LogEvent.JOB_INFO, jobid=number, rule_name=rule, output=output))


def job(handler, clock, number, rule, begin, end):
    clock["now"] = begin
    start(handler, number, rule)
    clock["now"] = end
    handler.emit(record(LogEvent.JOB_FINISHED, job_id=number))


def test_nothing_is_said_before_a_training_is_finished(run, clock, capsys):
    clock["now"] = 50.0
    run.emit(record(LogEvent.PROGRESS, done=1, total=14))
    assert capsys.readouterr().err == ""


def test_all_trainings_count_alike_and_the_rest_by_its_own_rule(run, clock, capsys):
    clock["now"] = 101.0
    run.emit(record(LogEvent.JOB_FINISHED, job_id=2))
    # one proposal of 1 s and five trainings of 100 s, one after the other
    assert run.estimate(101.0) == pytest.approx(1 + 5 * 100)
    run.emit(record(LogEvent.PROGRESS, done=2, total=14))
    assert capsys.readouterr().err == "trainings: 3 of 18, 1.8 a minute, about 8 min left\n"


def test_jobs_side_by_side_share_the_time(run, clock):
    start(run, 3, "train_trial")
    clock["now"] = 101.0
    for number in (2, 3):
        run.emit(record(LogEvent.JOB_FINISHED, job_id=number))
    assert run.estimate(101.0) == pytest.approx((1 + 4 * 100) / (201 / 101))


def test_a_failed_job_is_no_longer_running(run, clock):
    clock["now"] = 101.0
    run.emit(record(LogEvent.JOB_FINISHED, job_id=2))
    start(run, 3, "train_final")
    run.emit(record(LogEvent.JOB_ERROR, jobid=3))
    before = run.estimate(101.0)
    assert run.estimate(201.0) == pytest.approx(before)


def test_a_job_may_train_one_fold(run, clock, capsys):
    start(run, 3, "train_trial", folds=1)
    clock["now"] = 101.0
    run.emit(record(LogEvent.JOB_FINISHED, job_id=2))
    run.emit(record(LogEvent.PROGRESS, done=2, total=14))
    assert capsys.readouterr().err.startswith("trainings: 1 of 6, ")


def test_after_the_last_training_only_the_time_is_left(clock, capsys):
    handler = RemainingTime()
    handler.emit(record(LogEvent.RUN_INFO, stats={"train_final": 1, "embed": 2, "measure": 2, "total": 5}))
    job(handler, clock, 1, "train_final", 0, 100)
    job(handler, clock, 2, "embed", 100, 120)
    handler.emit(record(LogEvent.PROGRESS, done=2, total=5))
    assert capsys.readouterr().err == "trainings: 3 of 3, about 20 s left\n"


def test_a_run_that_trains_nothing_counts_none(clock, capsys):
    handler = RemainingTime()
    handler.emit(record(LogEvent.RUN_INFO, stats={"measure": 3, "total": 3}))
    job(handler, clock, 1, "measure", 0, 10)
    handler.emit(record(LogEvent.PROGRESS, done=1, total=3))
    assert capsys.readouterr().err == "about 20 s left\n"


@pytest.mark.parametrize(
    "seconds, words", [(3.4, "3 s"), (89, "89 s"), (150, "2 min"), (5400, "1 h 30 min"), (200_000, "55 h 33 min")]
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_only_targets_are_not_worth_a_line():
    assert is_worth_a_line(record(LogEvent.JOB_INFO, rule_name="train_trial"))
    assert is_worth_a_line(record(None))
    assert not is_worth_a_line(record(LogEvent.JOB_INFO, rule_name="all"))


@pytest.mark.parametrize(
    "done, rate, left, line",
    [
        (12, 3.4 / 60, 847, "trainings: 12 of 60, 3.4 a minute, about 14 min left"),
        (12, 40 / 60, 72, "trainings: 12 of 60, 40 a minute, about 72 s left"),
        (12, 11.6 / 3600, 14_897, "trainings: 12 of 60, 12 an hour, about 4 h 8 min left"),
        (12, 0.5 / 86400, 8_294_400, "trainings: 12 of 60, 0.5 a day, about 2304 h 0 min left"),
        (12, None, None, "trainings: 12 of 60"),
        (60, 3.4 / 60, 30, "trainings: 60 of 60, about 30 s left"),
    ],
)
def test_the_unit_of_the_rate_is_a_telling_one(done, rate, left, line):
    assert in_a_line(done, 60, rate, left) == line


# --------------------------------------------------------------------------------------------------- a study's results

NOW = 1_000_000_000.0


@pytest.fixture
def study(tmp_path):
    """28 trainings to come: 2 data sets, a method that searches 3 trials and one that does not, 2 folds, 2 seeds."""
    plan.main(["birds", "cars"], ["searched", "given"], [3, 0], 2, 2, tmp_path / "plan.json")
    return tmp_path


def write(path, ago, failure=None, seconds=100.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        write_json(path, {"curve": [], "failure": failure, "seconds": seconds, "protocol": {"failure": None}})
    else:
        path.write_bytes(b"state")
    os.utime(path, (NOW - ago, NOW - ago))


def finish(study, ago=60.0):
    """Every training of the study; gives their records."""
    records = []
    for dataset in ("birds", "cars"):
        records += [study / dataset / f"searched/search/{t}/fold{k}.json" for t in range(3) for k in range(2)]
        for method in ("searched", "given"):
            records += [study / dataset / f"{method}/seeds/{s}/fold{k}/record.json" for s in range(2) for k in range(2)]
    for path in records:
        write(path, ago)
    return records


def test_before_the_first_training(study):
    assert report(study, NOW).splitlines() == [
        "data set  method    search   final    failed",
        "birds     searched  0 of 6   0 of 4",
        "birds     given     -        0 of 4",
        "cars      searched  0 of 6   0 of 4",
        "cars      given     -        0 of 4",
        "in all              0 of 12  0 of 16",
        "",
        "trainings: 0 of 28",
    ]


def test_what_is_done_what_failed_and_what_is_in_progress(study):
    birds = study / "birds/searched"
    for k, ago in enumerate((500, 400)):
        write(birds / f"search/0/fold{k}.json", ago)
    write(birds / "search/1/fold0.json", 300, failure='diverged: "failure": null')
    write(birds / "search/1/fold0.state", 310)  # its job has not ended: it trains the next fold
    write(birds / "search/1/fold1.state", 200)
    write(study / "cars/given/seeds/1/fold0/record.json", 120)
    write(study / "cars/given/seeds/1/fold1/model.state", 7200)
    write(birds / "search/3/fold0.json", 10)  # of a study that was larger once
    write(birds / "search/2/history.json", 10)
    assert report(study, NOW).splitlines() == [
        "data set  method    search   final    failed",
        "birds     searched  3 of 6   0 of 4   1",
        "birds     given     -        0 of 4",
        "cars      searched  0 of 6   0 of 4",
        "cars      given     -        1 of 4",
        "in all              3 of 12  1 of 16  1",
        "",
        "trainings: 4 of 28, 24 an hour, about 60 min left",  # in the 600 s since the first one began
        "the last one ended 2 min ago",
        "in progress, and when each last saved its state:",
        "  cars/given/seeds/1/fold1  2 h 0 min ago",
        "  birds/searched/search/1/fold1  3 min ago",
    ]


def last_line(study):
    return next(line for line in report(study, NOW).splitlines() if line.startswith("trainings"))


def test_the_rate_is_that_of_late(study):
    records = finish(study)
    for path in records[12:]:
        path.unlink()
    for path in records[:10]:
        write(path, 2 * 86400)
    assert last_line(study) == "trainings: 12 of 28, 45 an hour, about 21 min left"  # 2 in 160 s, side by side
    for path in records[10:12]:
        write(path, 3 * 3600, seconds=3600.0)  # within a day, none within an hour
    assert last_line(study) == "trainings: 12 of 28, 12 a day, about 32 h 0 min left"
    for path in records[10:12]:
        write(path, 2 * 86400)
    assert last_line(study) == "trainings: 12 of 28"


def test_trainings_of_hours_side_by_side_do_not_distort_the_rate(study):
    """Four at a time, each of 4 hours: one every hour."""
    for number, path in enumerate(finish(study)):
        write(path, (number - 1) * 3600 + 1800, seconds=4 * 3600.0) if number else path.unlink()
    assert last_line(study) == "trainings: 27 of 28, 21 a day, about 68 min left"  # 4 in 4.5 hours


def test_a_study_is_complete_when_all_is_measured(study):
    finish(study)
    text = report(study, NOW)
    assert "trainings:" not in text and text.endswith("all 28 trainings are done; 0 of 8 final runs are measured")
    for dataset in ("birds", "cars"):
        for method in ("searched", "given"):
            for seed in range(2):
                write_json(study / dataset / method / f"seeds/{seed}/metrics.json", {})
    assert report(study, NOW).endswith("all 28 trainings are done; 8 of 8 final runs are measured")
    (study / "metrics.csv").touch()
    assert report(study, NOW).endswith("complete: all 28 trainings are done and measured")


def test_of_many_in_progress_the_longest_silent_are_named(tmp_path):
    plan.main(["birds"], ["searched"], [30], 1, 1, tmp_path / "plan.json")
    for trial in range(30):
        write(tmp_path / f"birds/searched/search/{trial}/fold0.state", 10 * trial)
    lines = report(tmp_path, NOW).splitlines()[-21:]
    assert lines[0].startswith("  birds/searched/search/29/fold0  ") and lines[-1] == "  and 10 more, which did later"


def ask(folder):
    command = [sys.executable, "-X", "importtime", "-m", "dml.progress", folder]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_loads_nothing_heavy(study):
    finish(study)
    answer = ask(study)
    assert answer.returncode == 0 and "all 28 trainings are done" in answer.stdout
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in answer.stderr.splitlines()}
    assert not loaded & {"torch", "snakemake", "numpy", "pandas", "pydantic", "yaml"}


def test_a_folder_without_a_plan_is_an_error_that_says_what_to_do(tmp_path):
    answer = ask(tmp_path / "birds")
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    assert answer.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/birds/plan.json is not there: expected is the folder of a study's results, results/NAME. A "
        "run writes that file first of all; alone it is made by: snakemake --cores 1 results/NAME/plan.json --config "
        "study=NAME"
    )
    for name in ("birds", "cars"):
        (tmp_path / name).mkdir()
        plan.main([name], ["searched"], [3], 2, 2, tmp_path / name / "plan.json")
    with pytest.raises(ValueError, match=f"is no study's folder; name one of: {tmp_path}/birds, {tmp_path}"):
        report(tmp_path, NOW)


def test_the_plan_is_plain(study):
    assert json.loads((study / "plan.json").read_text()) == {
        "datasets": ["birds", "cars"],
        "methods": [{"name": "searched", "trials": 3}, {"name": "given", "trials": 0}],
        "folds": 2,
        "seeds": 2,
    }


def test_the_library_does_without_snakemake():
    for path in (ROOT / "dml").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) snakemake", path.read_text(), re.MULTILINE), path
