"""`make bench`: what it writes, that nothing is lost when a topic fails, and its instruments. No time is asserted."""

import ast
import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest

from benchmarks import comparing, limits, page, running
from benchmarks.__main__ import main
from benchmarks.comparing import Row
from benchmarks.topics import evaluation, scaling

ROOT = Path(__file__).parents[1]
TOPICS = {
    "quick": """
        import os
        import sys
        from matplotlib.figure import Figure
        from benchmarks import comparing
        TITLE = "Quick & small"
        ABOUT = "Nothing, `fast`."
        def measure(repetitions):
            os.environ["SEEN"] = "yes"
            row = comparing.Row("a <case>", "cpu", 0.5, 1.0, "a peer", goal=1.5, note=f"{repetitions} repetitions")
            return comparing.table([row, comparing.Row("alone", "cpu", 0.002, None, "a peer")])
        draw = comparing.draw
    """,
    "broken": """
        TITLE, ABOUT = "Broken", ""
        def measure(repetitions):
            raise ValueError("no <numbers> today")
        def draw(table): ...
    """,
    "dying": """
        import os
        TITLE, ABOUT = "Dying", ""
        def measure(repetitions):
            assert "SEEN" not in os.environ
            os._exit(9)
        def draw(table): ...
    """,
}


@pytest.fixture(scope="module", autouse=True)
def only_new_garbage_is_looked_for():
    """As in a topic's process."""
    gc.freeze()
    yield
    gc.unfreeze()


class Seen(HTMLParser):
    """The tags that are open at the end, every text, and the attributes of every tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("path", "use"):
            return
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The benchmarks with topics that take no time."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("topics", "__pycache__"))
    (folder / "benchmarks/topics").mkdir()
    (folder / "benchmarks/topics/__init__.py").touch()
    for name, text in TOPICS.items():
        (folder / f"benchmarks/topics/{name}.py").write_text(dedent(text))
    return folder


def bench(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=project, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(project):
    """All topics, two repetitions."""
    return bench(project, "--repetitions", "2", "--output", "out"), project / "out"


# -------------------------------------------------------------------------------------------------------- the command


def test_a_topic_that_fails_loses_no_other(ran):
    answer, out = ran
    assert answer.returncode == 1
    assert {file.name for file in out.iterdir()} == {
        "index.html", "quick.csv", "quick.json", "quick.svg", "broken.failed", "dying.failed"
    }  # fmt: skip
    assert "ValueError: no <numbers> today" in (out / "broken.failed").read_text()
    assert "BrokenProcessPool" in (out / "dying.failed").read_text()
    assert "AssertionError" not in (out / "dying.failed").read_text()  # a process of its own
    assert re.search(r"quick \(3 of 3\)", answer.stderr) and "broken: failed" in answer.stderr


def test_the_table_is_there_and_what_made_it(ran):
    _, out = ran
    table = pd.read_csv(out / "quick.csv")
    assert list(table["ratio"].fillna(0)) == [2.0, 0.0]
    made = json.loads((out / "quick.json").read_text())
    assert made["command"] == "python -m benchmarks --repetitions 2 --output out" and made["repetitions"] == 2
    assert {"Processor", "Cores", "Memory", "GPU", "Versions", "Commit"} == set(made["machine"])


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(ran):
    text = (ran[1] / "index.html").read_text()
    seen = Seen(text)
    assert seen.open == []
    for expected in ("Quick & small", "a <case>", "500 ms", "2.00×", "1.5×", "2 repetitions", "a peer", "fast"):
        assert expected in seen.texts, expected
    assert "ValueError: no <numbers> today" in seen.texts and "a <case>" not in text
    assert not [tag for tag, attributes in seen.tags if tag in ("script", "link") or "src" in attributes]
    drawings = [attributes for tag, attributes in seen.tags if tag == "svg"]
    assert [drawing["role"] for drawing in drawings] == ["img"] and drawings[0]["aria-label"]
    identifiers = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    links = [attributes["href"][1:] for tag, attributes in seen.tags if attributes.get("href", "").startswith("#")]
    assert set(links) <= set(identifiers)


def test_what_was_measured_before_stays_and_says_so(project, ran):
    out = project / "later"
    shutil.copytree(ran[1], out)
    made = json.loads((out / "quick.json").read_text())
    earlier = made | {"run": "2020-02-03T04:05:06+00:00", "machine": made["machine"] | {"Commit": "cafe"}}
    (out / "quick.json").write_text(json.dumps(earlier))
    shutil.copy(out / "quick.csv", out / "other.csv")
    (out / "other.json").write_text(json.dumps(made | {"title": "Other"}))
    page.write(out, ["other", "quick", "unknown"])
    text = (out / "index.html").read_text()
    assert text.count("From an earlier run") == 1 and "Commit: cafe" in text and "2020-02-03" in text
    assert "python -m benchmarks unknown" in text


def test_goals_missed_are_named(tmp_path):
    rows = [
        Row("fast", "cpu", 1.0, 3.0, "x", goal=2),
        Row("slow", "cpu", 2.0, 3.0, "x", goal=2),
        Row("free", "cpu", 1.0, 1.0, "x"),
    ]
    text = seen_of(tmp_path, rows)
    assert {"1 of 2", "1.50× to 3.00×", "slow (1.50×, goal 2×)"} <= set(text)


def test_words_that_are_long_stand_once_below_the_table(tmp_path):
    long = "a peer that takes more words than a cell of a table has room for"
    rows = [Row(case, "cpu", 1.0, 3.0, long, note="short") for case in ("one", "two")]
    texts = seen_of(tmp_path, rows)
    assert texts.count(long) == 1 and texts.count("short") == 2 and "The peer" not in texts


def seen_of(folder, rows):
    """The texts of a page with one table."""
    machine = dict.fromkeys(("Processor", "Cores", "Memory", "GPU"), "some")
    made = {"run": "2020-02-03T04:05:06+00:00", "command": "c", "machine": machine, "repetitions": 1, "seconds": 1.0}
    comparing.table(rows).to_csv(folder / "topic.csv", index=False)
    (folder / "topic.json").write_text(json.dumps(made | {"title": "Topic", "about": ""}))
    page.write(folder, ["topic"])
    return Seen((folder / "index.html").read_text()).texts


def test_drawing_again_measures_nothing_and_a_success_ends_a_failure(project, ran):
    out = project / "again"
    shutil.copytree(ran[1], out)
    before = json.loads((out / "quick.json").read_text())
    (out / "quick.svg").unlink()
    (out / "quick.failed").write_text("an old failure")
    assert bench(project, "quick", "--redraw", "--output", "again").returncode == 0
    assert (out / "quick.svg").exists() and not (out / "quick.failed").exists()
    assert json.loads((out / "quick.json").read_text()) == before


@pytest.mark.parametrize("arguments, said", [(["slow"], "no such topic"), (["--repetitions", "0"], "at least 1")])
def test_what_makes_no_sense_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_topics_are_whole():
    assert {"evaluation", "machine", "scaling"} <= set(running.names())
    for name in running.names():
        names = set()
        for node in ast.parse((ROOT / f"benchmarks/topics/{name}.py").read_text()).body:
            names |= {getattr(node, "name", None)} | {getattr(target, "id", None) for target in _targets(node)}
        assert {"TITLE", "ABOUT", "measure", "draw"} <= names, name


def _targets(node):
    return getattr(node, "targets", None) or [getattr(node, "target", None)]


# ----------------------------------------------------------------------------------------------------- the instruments


def test_ratio_and_share_of_the_limit():
    table = comparing.table([Row("a", "cpu", 0.5, 2.0, "x", limit=0.25), Row("b", "cpu", None, 1.0, "x")])
    assert table["ratio"].tolist()[0] == 4 and table["of_limit"].tolist()[0] == 0.5
    assert math.isnan(table["ratio"][1]) and math.isnan(table["of_limit"][1])
    assert list(table["case"]) == ["a", "b"] and list(table["repetitions"]) == [1, 1]


def clocked(monkeypatch, taken):
    """Sides whose calls take the seconds of their lists, by a clock of their own; and the order of the calls."""
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def side(name):
        def call():
            calls.append(name)
            clock[0] += taken[name][calls.count(name) - 1]
            return name.upper()

        return call

    return {name: side(name) for name in taken}, calls


def test_seconds_are_medians_of_calls_in_turn(monkeypatch):
    sides, calls = clocked(monkeypatch, {"a": [50, 1, 9, 2], "b": [70, 4, 3, 90]})
    assert comparing.seconds(sides, 3) == {"a": 2, "b": 4}
    assert calls == ["a", "b"] * 4
    sides, calls = clocked(monkeypatch, {"a": [5]})
    assert comparing.seconds(sides, 1, warm_up=False) == {"a": 5} and calls == ["a"]


def test_long_sides_are_called_once(monkeypatch):
    sides, calls = clocked(monkeypatch, {"short": [4, 1, 2, 3], "long": [60]})
    found = comparing.measured(sides, 3, long=5)
    assert calls == ["short", "long", "short", "short", "short"]
    assert (found["short"].seconds, found["short"].repetitions, found["short"].result) == (2, 3, "SHORT")
    assert (found["long"].seconds, found["long"].repetitions, found["long"].result) == (60, 1, "LONG")


@pytest.mark.skipif(not comparing.CLEAR_REFS.exists(), reason="Linux tells the peak of a process's memory")
def test_memory_beyond_what_was_there():
    there = np.ones(20 * 2**17)  # 20 MB

    def fill(megabytes):
        return np.ones(megabytes * 2**17).sum()

    assert comparing.extra_megabytes(lambda: fill(50)) == pytest.approx(50, abs=5)
    assert comparing.extra_megabytes(lambda: [fill(30), fill(30)]) == pytest.approx(30, abs=5)  # the peak, not the sum
    assert comparing.extra_megabytes(lambda: there.sum()) < 5


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law(power):
    sizes = [1, 2, 5, 100, 3000]
    assert comparing.exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power, abs=1e-12)
    assert comparing.exponent([1, 2, 4], [math.nan, 3, 3 * 2**power]) == pytest.approx(power, abs=1e-12)
    assert math.isnan(comparing.exponent([1, 2], [0, 3]))


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (0.00096, "0.00096"), (0.9604, "0.960"), (1, "1.00"), (31.24, "31.2"), (12345, "12,345")]
)
def test_three_digits(value, text):
    assert comparing.three_digits(value).startswith(text)


def test_the_limits_of_a_machine_are_positive_and_finite(monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    monkeypatch.setattr(limits, "SIDE", 64)
    monkeypatch.setattr(limits, "COPIED", 2**16)
    for product in limits.PRODUCTS.values():
        assert 0 <= product.__wrapped__(threads=1) < math.inf
    assert 0 < limits.bandwidth.__wrapped__(threads=1) < math.inf


# -------------------------------------------------------------------------------------------- two topics, in miniature


def test_evaluation_compares_equal_values(monkeypatch):
    sizes = (
        evaluation.Size("alone", 200, None, 20, 2.0, {"default": 30, "tuned": None}),
        evaluation.Size("with a gallery", 90, 120, 40, 2.0, {"tuned": 1.5}),
    )
    monkeypatch.setattr(evaluation, "SIZES", sizes)
    monkeypatch.setattr(limits, "peak", lambda: 1e9)
    table = evaluation.measure(1)
    assert [case for case in table["case"] if not case.startswith("NMI")] == [
        "alone, default", "alone, tuned", "with a gallery, tuned"
    ]  # fmt: skip
    assert table["ours"].gt(0).all() and table["peer"].gt(0).all()
    assert table["limit"].tolist()[:3] == pytest.approx([200 * 200 * 512 / 1e9] * 2 + [2 * 90 * 120 * 512 / 1e9])
    assert evaluation.draw(table).axes


def test_evaluation_of_other_values_is_refused():
    sides = {
        "ours": comparing.Measured(1.0, None, 1, {"map_at_r": 0.5, "more": 1.0}),
        "same": comparing.Measured(1.0, None, 1, {"map_at_r": 0.5 + 1e-7}),
        "other": comparing.Measured(1.0, None, 1, {"map_at_r": 0.51}),
        "nan": comparing.Measured(1.0, None, 1, {"map_at_r": math.nan}),
    }
    assert "1.0e-07" in evaluation.note(sides, "same")
    for peer in ("other", "nan"):
        with pytest.raises(ValueError, match="not the same values"):
            evaluation.note(sides, peer)


def test_what_does_not_fit_into_memory_is_not_run(monkeypatch):
    monkeypatch.setattr(evaluation, "pml_megabytes", lambda *_: 1e9)
    monkeypatch.setattr(limits, "peak", lambda: 1e9)
    size = evaluation.Size("small", 60, None, 6, 2.0, {"tuned": 1.5})
    (row,) = evaluation.rank(size, evaluation.retrieval(size), 1)
    assert row.peer is None and "not run" in row.note


def test_scaling_has_a_slope_for_each_curve(monkeypatch):
    monkeypatch.setattr(scaling, "IMAGES", (100, 200))
    monkeypatch.setattr(scaling, "DIMENSIONS", (4, 8))
    monkeypatch.setattr(scaling, "CLASSES", (4, 8))
    monkeypatch.setattr(scaling, "AT", 100)
    monkeypatch.setattr(scaling, "BATCHES", (16, 32))
    monkeypatch.setattr(scaling, "STEPS", 2)
    monkeypatch.setattr(scaling, "trainings_side_by_side", lambda _: side_by_side)
    side_by_side = [{"curve": scaling.PER_PROCESS, "size": n, "seconds": 1.0, "steps_per_second": n} for n in (1, 2, 4)]
    table = scaling.measure(1)
    assert len(table) == 11 and table["exponent"].notna().all()
    assert table.set_index("curve").loc[scaling.PER_PROCESS, "exponent"].tolist() == pytest.approx([1.0] * 3)
    assert len(scaling.draw(table).axes) == len(scaling.PANELS)
