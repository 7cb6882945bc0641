"""The remaining time of a run: what it is made of, and how it reads."""

import logging

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from dml import progress
from dml.progress import RemainingTime, in_words, is_worth_a_line


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
    """2 trials, 4 final runs and 6 measurements, of which the first trial is running."""
    handler = RemainingTime()
    stats = {"propose": 2, "train_trial": 2, "train_final": 4, "measure": 6, "total": 14}
    handler.emit(record(LogEvent.RUN_INFO, stats=stats))
    job(handler, clock, 1, "propose", 0, 1)
    handler.emit(record(LogEvent.JOB_INFO, jobid=2, rule_name="train_trial"))
    return handler


def job(handler, clock, number, rule, start, end):
    clock["now"] = start
    handler.emit(record(LogEvent.JOB_INFO, jobid=number, rule_name=rule))
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
    assert capsys.readouterr().err == "about 8 min left\n"


def test_jobs_side_by_side_share_the_time(run, clock):
    run.emit(record(LogEvent.JOB_INFO, jobid=3, rule_name="train_trial"))
    clock["now"] = 101.0
    for number in (2, 3):
        run.emit(record(LogEvent.JOB_FINISHED, job_id=number))
    assert run.estimate(101.0) == pytest.approx((1 + 4 * 100) / (201 / 101))


def test_a_failed_job_is_no_longer_running(run, clock):
    clock["now"] = 101.0
    run.emit(record(LogEvent.JOB_FINISHED, job_id=2))
    run.emit(record(LogEvent.JOB_INFO, jobid=3, rule_name="train_final"))
    run.emit(record(LogEvent.JOB_ERROR, jobid=3))
    before = run.estimate(101.0)
    assert run.estimate(201.0) == pytest.approx(before)


@pytest.mark.parametrize(
    "seconds, words", [(3.4, "3 s"), (89, "89 s"), (150, "2 min"), (5400, "1 h 30 min"), (200_000, "55 h 33 min")]
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_only_targets_are_not_worth_a_line():
    assert is_worth_a_line(record(LogEvent.JOB_INFO, rule_name="train_trial"))
    assert is_worth_a_line(record(None))
    assert not is_worth_a_line(record(LogEvent.JOB_INFO, rule_name="all"))
