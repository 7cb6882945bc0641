"""Measure how fast the project is: `python -m benchmarks`, or only some topics: `python -m benchmarks evaluation`."""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import page, running


def main(arguments: list[str]) -> int:
    """Run the topics one after the other; 1 if any failed."""
    asked = _parsed(arguments)
    chosen = asked.topics or running.names()
    asked.output.mkdir(parents=True, exist_ok=True)
    command = running.command_of(arguments)
    repetitions = running.REDRAW if asked.redraw else asked.repetitions
    failed, begin = [], time.monotonic()
    for done, name in enumerate(chosen):
        print(f"{name} ({done + 1} of {len(chosen)}{_left(chosen[done:], asked)}) ...", file=sys.stderr, flush=True)
        if not running.run_apart(name, repetitions, asked.output, command):
            failed.append(name)
            print(f"{name}: failed, see {asked.output / name}.failed", file=sys.stderr)
        page.write(asked.output, running.names())  # after every topic, so that what is there can be looked at
    print(f"{_duration(time.monotonic() - begin)}; report: {asked.output / 'index.html'}", file=sys.stderr)
    return 1 if failed else 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(running.names())}; default: all")
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement; the median counts; default: 5")
    parser.add_argument("--output", type=Path, default=Path("reports/benchmarks"), help="default: %(default)s")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, draw again what was measured before")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.topics if name not in running.names()]
    if unknown:
        parser.error(f"{unknown[0]}: no such topic; there are {', '.join(running.names())}")
    if asked.repetitions < 1:
        parser.error(f"--repetitions: {asked.repetitions}; expected at least 1")
    return asked


def _left(names: list[str], asked: argparse.Namespace) -> str:
    """How long these topics took the last time, if that is known of all of them."""
    files = [asked.output / f"{name}.json" for name in names]
    if asked.redraw or not all(file.exists() for file in files):
        return ""
    return f"; about {_duration(sum(json.loads(file.read_text())['seconds'] for file in files))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
