"""How long a run of the workflow will still take, said after each of its steps.

Snakemake itself says how many steps are done. That tells little where a training takes minutes or hours and a proposal
a second, so the estimate goes by what the jobs of each rule took so far.
"""

import logging
import sys
import time
from collections import Counter

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

TARGETS = ("all", "search")


def watch() -> None:
    """Follow the run that this process starts."""
    logger.addHandler(RemainingTime())
    logger.addFilter(is_worth_a_line)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not so the targets, which name every file of a study, thousands, twice."""
    return getattr(record, "event", None) != LogEvent.JOB_INFO or record.rule_name not in TARGETS


class RemainingTime(logging.Handler):
    """Prints what `estimate` gives whenever Snakemake says how many steps are done."""

    def __init__(self) -> None:
        super().__init__()
        self.planned, self.finished, self.seconds = Counter(), Counter(), Counter()  # by rule
        self.running: dict[int, tuple[str, float]] = {}  # job: rule and start
        self.begin = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.planned = Counter(record.stats)
            del self.planned["total"]
        elif event == LogEvent.JOB_INFO:
            self.running[record.jobid] = record.rule_name, time.monotonic()
        elif event == LogEvent.JOB_FINISHED and record.job_id in self.running:
            rule, start = self.running.pop(record.job_id)
            self.finished[rule] += 1
            self.seconds[rule] += time.monotonic() - start
        elif event == LogEvent.JOB_ERROR:
            self.running.pop(record.jobid, None)
        elif event == LogEvent.PROGRESS and 0 < record.done < record.total:
            left = self.estimate(time.monotonic())
            if left is not None:
                print(f"about {in_words(left)} left", file=sys.stderr)

    def estimate(self, now: float) -> float | None:
        """Seconds left; None while trainings are to come and none was finished yet.

        Jobs of a rule not seen yet count as nothing, but all trainings count alike. Jobs that run side by side so far
        are taken to go on so.
        """
        worked = Counter(self.seconds)
        for rule, start in self.running.values():
            worked[rule] += now - start
        trained = sum(count for rule, count in self.finished.items() if _is_training(rule))
        if not trained and any(map(_is_training, self.planned)):
            return None
        training = sum(seconds for rule, seconds in worked.items() if _is_training(rule)) / max(1, trained)
        work_left = 0.0
        for rule, count in self.planned.items():
            a_job = training if _is_training(rule) else worked[rule] / max(1, self.finished[rule])
            work_left += a_job * (count - self.finished[rule])
        side_by_side = max(1, sum(worked.values()) / (now - self.begin))
        return work_left / side_by_side


def in_words(seconds: float) -> str:
    """A duration with the digits that matter."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _is_training(rule: str) -> bool:
    return rule.startswith("train")
