# Snakemake says how many steps are done; this adds how long the rest will take if it goes on like that.

import logging
import sys
import time

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent


class RemainingTime(logging.Handler):
    started = time.monotonic()

    def emit(self, record):
        if getattr(record, "event", None) == LogEvent.PROGRESS and 0 < record.done < record.total:
            left = (time.monotonic() - self.started) / record.done * (record.total - record.done)
            print(f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left", file=sys.stderr)


logger.addHandler(RemainingTime())
