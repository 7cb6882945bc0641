"""How far a study is, from its folder of results alone: `python -m dml.progress results/NAME`.

It may be asked at any time and from any machine that sees the folder. The plan of the study stands in its plan.json.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = ("search", "final")
WINDOWS = (3600.0, 24 * 3600.0)
"""Seconds: the rate is that of the last hour, or of the last day where no training finished within an hour."""
SHOWN = 20
"""At most so many trainings in progress are listed."""


@dataclass(frozen=True)
class Training:
    """One fold of a trial or of a final run, as its files tell."""

    dataset: str
    method: str
    part: str  # of PARTS
    name: str  # its path in the folder of results
    record: str
    finished: float | None  # when the record was written
    saved: float | None  # when the state of a training that has not ended was written

    @property
    def in_progress(self) -> bool:
        return self.finished is None and self.saved is not None

    def failed(self) -> bool:
        """Whether its record names a failure."""
        with open(self.record, "rb") as file:
            data = file.read()
        # As records are written, only the outermost key can stand so: no need to parse thousands of them.
        return b'\n "failure": null' not in data and json.loads(data)["failure"] is not None

    def begun(self) -> float:
        """When it began; one that was interrupted, as if it had not been."""
        with open(self.record, "rb") as file:
            return self.finished - json.load(file)["seconds"]


def read_plan(results: Path) -> dict[str, Any]:
    """The data sets, methods and numbers of a study. ValueError where the folder is none of a study."""
    path = results / "plan.json"
    if path.is_file():
        return json.loads(path.read_text())
    studies = [str(plan.parent) for plan in sorted(results.glob("*/plan.json"))]
    if studies:
        raise ValueError(f"{results} is no study's folder; name one of: {', '.join(studies)}")
    raise ValueError(
        f"{path} is not there: expected is the folder of a study's results, results/NAME. A run writes that file first "
        "of all; alone it is made by: snakemake --cores 1 results/NAME/plan.json --config study=NAME"
    )


def trainings(results: Path, plan: Mapping[str, Any]) -> Iterator[Training]:
    """Every planned training, there or not."""
    folds = range(plan["folds"])
    for dataset in plan["datasets"]:
        for method in plan["methods"]:
            identity, run = (dataset, method["name"]), f"{dataset}/{method['name']}"
            for trial in range(method["trials"]):
                folder = f"{run}/search/{trial}"
                times = _times(f"{results}/{folder}")
                for k in folds:
                    name, found = f"{folder}/fold{k}", (times.get(f"fold{k}.json"), times.get(f"fold{k}.state"))
                    yield Training(*identity, "search", name, f"{results}/{name}.json", *found)
            for seed in range(plan["seeds"]):
                for k in folds:
                    name = f"{run}/seeds/{seed}/fold{k}"
                    times = _times(f"{results}/{name}")
                    found = times.get("record.json"), times.get("model.state")
                    yield Training(*identity, "final", name, f"{results}/{name}/record.json", *found)


def _times(folder: str) -> dict[str, float]:
    """When each record and state of a folder was written."""
    times = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a folder or file may be about to come or go
        for entry in entries:
            if entry.name.endswith((".json", ".state")):
                times[entry.name] = entry.stat().st_mtime
    return times


def rate(finished: Sequence[Training], now: float) -> float | None:
    """Trainings a second, of late; None where none finished for a day.

    Counted from the begin of the first one of the window, so that neither trainings side by side nor a pause before it
    distort it.
    """
    for window in WINDOWS:
        recent = [training for training in finished if training.finished > now - window]
        if recent:
            begin = min(recent, key=lambda training: training.finished).begun()
            count = sum(training.finished > begin for training in finished)
            return count / max(now - begin, 1.0)
    return None


def report(results: Path, now: float) -> str:
    """The answer, as text."""
    plan = read_plan(results)
    known = list(trainings(results, plan))
    finished = [training for training in known if training.finished is not None]
    text = [_table(plan, known, finished), ""]
    if len(finished) < len(known):
        speed = rate(finished, now)
        left = (len(known) - len(finished)) / speed if speed else None
        text.append(in_a_line(len(finished), len(known), speed, left))
        if finished:
            text.append(f"the last one ended {_ago(max(training.finished for training in finished), now)}")
        text += _in_progress([training for training in known if training.in_progress], now)
    else:
        text.append(_after_the_trainings(results, plan, len(known)))
    return "\n".join(text)


def _table(plan: Mapping[str, Any], known: Sequence[Training], finished: Sequence[Training]) -> str:
    """A line for each data set and method: done and planned of each part, and the failed ones."""

    def by_row(of: Sequence[Training]) -> Counter:
        return Counter((training.dataset, training.method, training.part) for training in of)

    planned, done = by_row(known), by_row(finished)
    failed = by_row([training for training in finished if training.failed()])
    pairs = [(dataset, method["name"]) for dataset in plan["datasets"] for method in plan["methods"]]
    rows = [("data set", "method", *PARTS, "failed")]
    for names, of in [*((pair, [pair]) for pair in pairs), (("in all", ""), pairs)]:
        parts = [[sum(counts[*pair, part] for pair in of) for counts in (done, planned)] for part in PARTS]
        failures = sum(failed[*pair, part] for pair in of for part in PARTS)
        rows.append((*names, *(f"{a} of {b}" if b else "-" for a, b in parts), str(failures or "")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _in_progress(running: Sequence[Training], now: float) -> list[str]:
    """The trainings that saved their state and have not ended; first those that did not for longest."""
    if not running:
        return []
    lines = ["in progress, and when each last saved its state:"]
    for training in sorted(running, key=lambda training: training.saved)[:SHOWN]:
        lines.append(f"  {training.name}  {_ago(training.saved, now)}")
    if len(running) > SHOWN:
        lines.append(f"  and {len(running) - SHOWN} more, which did later")
    return lines


def _after_the_trainings(results: Path, plan: Mapping[str, Any], count: int) -> str:
    """Whether what follows the last training is there too."""
    seeds = [
        results / dataset / method["name"] / "seeds" / str(seed)
        for dataset in plan["datasets"]
        for method in plan["methods"]
        for seed in range(plan["seeds"])
    ]
    measured = sum((folder / "metrics.json").exists() for folder in seeds)
    if measured == len(seeds) and (results / "metrics.csv").exists():
        return f"complete: all {count} trainings are done and measured"
    return f"all {count} trainings are done; {measured} of {len(seeds)} final runs are measured"


def in_a_line(done: int, planned: int, rate: float | None, left: float | None) -> str:
    """How many trainings are done, how many a second (of which it makes more telling units), and the seconds left."""
    parts = [f"trainings: {done} of {planned}"]
    if rate and done < planned:
        units = {"a minute": 60, "an hour": 3600, "a day": 24 * 3600}
        unit = next((unit for unit, seconds in units.items() if rate * seconds >= 1), "a day")
        number = rate * units[unit]
        parts.append(f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}")
    if left is not None:
        parts.append(f"about {in_words(left)} left")
    return ", ".join(parts)


def in_words(seconds: float) -> str:
    """A duration with the digits that matter."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _ago(then: float, now: float) -> str:
    return f"{in_words(max(0.0, now - then))} ago"  # the clocks of two machines may differ


def main() -> None:
    """Print how far a study is."""
    parser = argparse.ArgumentParser(prog="python -m dml.progress", description=main.__doc__)
    parser.add_argument("results", type=Path, help="the study's folder: results/NAME")
    try:
        print(report(parser.parse_args().results, time.time()))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
