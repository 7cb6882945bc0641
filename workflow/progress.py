"""How long a run of the workflow will still take, said after each of its steps.

Snakemake itself says how many steps are done. That tells little where a training takes minutes or hours and a proposal
a second, so the trainings are counted, and the estimate goes by what the jobs of each rule took so far.
"""

import logging
import re
import sys
import time
from collections import Counter

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from dml.progress import in_a_line, in_words

TARGETS = ("all", "search")


def watch() -> None:
    """Follow the run that this process starts."""
    logger.addHandler(RemainingTime())
    logger.addFilter(is_worth_a_line)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not so the targets, which name every file of a study, thousands, twice."""
    return getattr(record, "event", None) != LogEvent.JOB_INFO or record.rule_name not in TARGETS


class RemainingTime(logging.Handler):
    """Prints what `line` gives whenever Snakemake says how many steps are done."""

    def __init__(self) -> None:
        super().__init__()
        self.planned, self.finished, self.seconds = Counter(), Counter(), Counter()  # by rule
        self.running: dict[int, tuple[str, float]] = {}  # job: rule and start
        self.begin = time.monotonic()
        self.first_training: float | None = None
        self.folds_of_a_job = 1  # each is a training; as many in all jobs of a run

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.planned = Counter(record.stats)
            del self.planned["total"]
        elif event == LogEvent.JOB_INFO:
            self.running[record.jobid] = record.rule_name, time.monotonic()
            if _is_training(record.rule_name):
                if self.first_training is None:
                    self.first_training = time.monotonic()
                self.folds_of_a_job = len(set(re.findall(r"\bfold\d+", " ".join(record.output))))
        elif event == LogEvent.JOB_FINISHED and record.job_id in self.running:
            rule, start = self.running.pop(record.job_id)
            self.finished[rule] += 1
            self.seconds[rule] += time.monotonic() - start
        elif event == LogEvent.JOB_ERROR:
            self.running.pop(record.jobid, None)
        elif event == LogEvent.PROGRESS and 0 < record.done < record.total:
            line = self.line(time.monotonic())
            if line is not None:
                print(line, file=sys.stderr)

    def line(self, now: float) -> str | None:
        """The trainings of this run and the time left; None while nothing is known of it."""
        left = self.estimate(now)
        if left is None:
            return None
        planned, done = _trainings(self.planned), _trainings(self.finished)
        if not planned:
            return f"about {in_words(left)} left"
        rate = done * self.folds_of_a_job / max(now - self.first_training, 1e-3)
        known = left if done < planned or left > 0 else None
        return in_a_line(done * self.folds_of_a_job, planned * self.folds_of_a_job, rate, known)

    def estimate(self, now: float) -> float | None:
        """Seconds left; None while trainings are to come and none was finished yet.

        Jobs of a rule not seen yet count as nothing, but all trainings count alike. Jobs that run side by side so far
        are taken to go on so.
        """
        trained = _trainings(self.finished)
        if not trained and _trainings(self.planned):
            return None
        elapsed = [(rule, now - start) for rule, start in self.running.values()]
        worked = sum(self.seconds.values()) + sum(seconds for _, seconds in elapsed)
        training = _trainings(self.seconds) / max(1, trained)
        work_left = 0.0
        for rule, count in self.planned.items():
            a_job = training if _is_training(rule) else self.seconds[rule] / max(1, self.finished[rule])
            running = [seconds for other, seconds in elapsed if other == rule]
            work_left += a_job * (count - self.finished[rule] - len(running))
            work_left += sum(max(0.0, a_job - seconds) for seconds in running)
        side_by_side = max(1, worked / (now - self.begin))
        return work_left / side_by_side


def _is_training(rule: str) -> bool:
    return rule.startswith("train")


def _trainings(by_rule: Counter) -> float:
    """What is counted by rule, of the rules that train."""
    return sum(count for rule, count in by_rule.items() if _is_training(rule))
