"""Whatever happens to a study, in the end its numbers are those of one to which nothing happened: byte for byte."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import Project

STUDY = "tests/studies/survival.yaml"
RUN = "results/survival/glyphs/normalized_softmax"
METRICS = "results/survival/metrics.csv"
"""As far as the study is run here: tables and pages of these numbers take time and add nothing."""
KILLS = 20


def run(project, *options, **expected):
    return project.snakemake("--cores", "2", *options, METRICS, study=STUDY, **expected)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project in which the study ran from beginning to end."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    run(project)
    return project


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of it."""
    return undisturbed.copy(tmp_path)


def numbers(project):
    """What must not depend on what happened: metrics, chosen hyperparameters, models and embeddings."""
    kinds = (".safetensors", ".npy", ".npz", ".yaml")
    kept = {name: data for name, data in project.files("results").items() if name.suffix in kinds}
    return kept | {"metrics": (project.folder / METRICS).read_bytes()}


def started(project, log):
    """A run of the workflow, in a group of processes of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DML_"))}
    command = [Path(sys.executable).parent / "snakemake", "--cores", "2", METRICS, "--config", f"study={STUDY}"]
    return subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def killed_at(process, seconds, whole_group):
    """Kill a run after so many seconds, alone (as for want of memory) or with all it started; False if it has ended."""
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        process.wait()
        return True


def test_a_study_killed_at_twenty_random_moments(tmp_path, undisturbed):
    project, draw, kills = Project(tmp_path / "project"), random.Random(0), 0
    log = tmp_path / "log"
    while kills < KILLS:
        with log.open("w") as file:
            process = started(project, file)
            if draw.random() < 0.8:  # else it may be killed before its first job
                while "Select jobs to execute" not in log.read_text() and process.poll() is None:
                    time.sleep(0.05)
            if killed_at(process, draw.uniform(0, 6), whole_group=draw.random() < 0.5):
                kills += 1
                # what `snakemake --unlock` does, which the next test runs
                shutil.rmtree(project.folder / ".snakemake" / "locks", ignore_errors=True)
            else:
                assert process.returncode == 0, log.read_text()
                shutil.rmtree(project.folder / "results")  # a fast machine: once more
    run(project)
    assert numbers(project) == numbers(undisturbed)
    records = [json.loads(data) for name, data in project.files("results").items() if is_record(name)]
    assert len(records) == 3 * (2 + 1) and any(record["resumed"] for record in records)
    left = [path.name for path in (project.folder / "results").rglob("*")]
    assert [name for name in left if name.startswith(".") or name.endswith(".state")] == []
    assert "Nothing to be done" in run(project)


def is_record(name):
    return name.name == "record.json" or ("search" in name.parts and name.name.startswith("fold"))


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, undisturbed):
    project = Project(tmp_path / "project")
    shutil.copytree(undisturbed.folder / "data", project.folder / "data")
    with (tmp_path / "log").open("w+") as log:
        first = started(project, log)
        try:
            while not list((project.folder / RUN).rglob("*.state")):
                assert first.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            refused = run(project, fails=True)
            assert "cannot be locked" in refused and "--unlock" in refused
            assert first.poll() is None
        finally:
            killed_at(first, 0.1, whole_group=True)
    # The lock of a run that was killed is in the way until it is taken off.
    assert "--unlock" in run(project, fails=True)
    project.snakemake("--unlock", study=STUDY)
    run(project)
    assert numbers(project) == numbers(undisturbed)


@pytest.mark.parametrize(
    "damaged, made_of_it",
    [("fold1/embeddings.npy", "metrics.json"), ("fold2/model.safetensors", "fold2/embeddings.npy")],
)
def test_a_truncated_file_is_noticed_and_made_again(finished, undisturbed, damaged, made_of_it):
    seed = finished.folder / RUN / "seeds/0"
    whole = (seed / damaged).read_bytes()
    os.truncate(seed / damaged, len(whole) // 2)
    (seed / made_of_it).unlink()
    failed = run(finished, fails=True)
    assert f"{damaged}: damaged" in failed and "run the same command again" in failed
    run(finished, f"{RUN}/seeds/0/{damaged}", f"{RUN}/seeds/0/{made_of_it}")  # every file is a target of a whole study
    assert (seed / damaged).read_bytes() == whole
    assert numbers(finished) == numbers(undisturbed)


def can_mount(folder):
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    return mounted.returncode == 0


def test_a_full_disk_leaves_nothing_that_counts_as_done(tmp_path, undisturbed):
    if not can_mount(tmp_path / "try"):
        pytest.skip("a disk to fill is mounted here, which this user may not")
    project = Project(tmp_path / "project")
    shutil.copytree(undisturbed.folder / "data", project.folder / "data")
    results = project.folder / "results"
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", results], check=True)
    try:
        failed = run(project, fails=True)
        assert "No space left on device" in failed and "make room and run the same command again" in failed
        assert "Traceback" not in failed
        half = [path for path in results.rglob("*") if path.name.startswith(".") and path.is_file()]
        assert half == []
        subprocess.run(["mount", "-o", "remount,size=100m", results], check=True)
        run(project)
        assert numbers(project) == numbers(undisturbed)
    finally:
        subprocess.run(["umount", results], check=True)
