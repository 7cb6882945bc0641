# Snakemake says how many steps are done. This adds how long the rest will take, rule by rule: a training takes minutes
# or hours, a proposal a second, so the steps by themselves tell little.

import logging
import sys
import time
from collections import Counter

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent


class RemainingTime(logging.Handler):
    def __init__(self):
        super().__init__()
        self.planned, self.finished, self.seconds = Counter(), Counter(), Counter()  # by rule
        self.running = {}  # job: rule and start
        self.begin = time.monotonic()

    def emit(self, record):
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.planned = Counter(record.stats)
            del self.planned["total"]
        elif event == LogEvent.JOB_INFO:
            self.running[record.jobid] = record.rule_name, time.monotonic()
        elif event == LogEvent.JOB_FINISHED and record.job_id in self.running:
            name, start = self.running.pop(record.job_id)
            self.finished[name] += 1
            self.seconds[name] += time.monotonic() - start
        elif event == LogEvent.JOB_ERROR:
            self.running.pop(record.jobid, None)
        elif event == LogEvent.PROGRESS and 0 < record.done < record.total:
            left = self.estimate(time.monotonic())
            if left is not None:
                print(f"about {in_words(left)} left", file=sys.stderr)

    def estimate(self, now):
        """Seconds, by what each rule took so far; None while there are trainings to come and none was finished yet."""
        worked = Counter(self.seconds)
        for rule, start in self.running.values():
            worked[rule] += now - start
        trained = sum(count for rule, count in self.finished.items() if rule.startswith("train"))
        if not trained and any(rule.startswith("train") for rule in self.planned):
            return None
        training = sum(seconds for rule, seconds in worked.items() if rule.startswith("train")) / max(1, trained)
        work_left = 0
        for rule, count in self.planned.items():
            a_job = training if rule.startswith("train") else worked[rule] / max(1, self.finished[rule])
            work_left += a_job * (count - self.finished[rule])
        side_by_side = max(1, sum(worked.values()) / (now - self.begin))
        return work_left / side_by_side


def in_words(seconds):
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def is_worth_a_line(record):
    """The targets name every file of a study, thousands, twice: that is not said."""
    return getattr(record, "event", None) != LogEvent.JOB_INFO or record.rule_name not in ("all", "search")


logger.addHandler(RemainingTime())
logger.addFilter(is_worth_a_line)
