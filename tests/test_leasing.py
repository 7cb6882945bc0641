"""Which GPU a process gets: never more processes on one than are allowed, and none that others left behind is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from dml.leasing import folder_of_leases, lease, lease_of_this_process, names_of_gpus
from dml.runs import resolve_device

ROOT = Path(__file__).parents[1]
TWO = ["0", "1"]

# Takes a GPU, writes down that it has it, works, and writes down that it is about to end: lines of one write each.
WORK = """
import os, sys, time
from pathlib import Path
from dml.leasing import lease
folder, diary, gpus, each, seconds, start = sys.argv[1:]
while not os.path.exists(start):
    time.sleep(0.001)
found = lease(gpus.split(","), int(each), Path(folder), pause=0.02)
file = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(file, f"+{found.gpu}\\n".encode())
time.sleep(float(seconds))
os.write(file, f"-{found.gpu}\\n".encode())
"""


def worker(folder, diary, gpus=TWO, each=1, seconds=0.1, start="/"):
    command = [sys.executable, "-c", WORK, folder, diary, ",".join(gpus), str(each), str(seconds), start]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def until(there):
    """Wait for something that other processes bring about."""
    for _ in range(1000):
        if there():
            return
        time.sleep(0.02)
    raise AssertionError("nothing happened")


@pytest.mark.parametrize("each", [1, 2])
def test_never_are_more_on_a_gpu_than_allowed(tmp_path, each):
    diary, start = tmp_path / "diary", tmp_path / "start"
    workers = [worker(tmp_path / "leases", diary, each=each, start=start) for _ in range(12)]
    time.sleep(0.5)
    start.touch()  # all at once
    said = [process.communicate()[1] for process in workers]
    assert [process.returncode for process in workers] == [0] * 12, said
    now, most, had = Counter(), Counter(), Counter()
    for change, gpu in diary.read_text().split():
        now[gpu] += 1 if change == "+" else -1
        had[gpu] += change == "+"
        most[gpu] = max(most[gpu], now[gpu])
    assert sum(had.values()) == 12 and set(had) == {"0", "1"}
    assert max(most.values()) <= each


def test_the_least_used_gpu_comes_first(tmp_path):
    leases = [lease(["0", "1", "2"], 2, tmp_path) for _ in range(6)]
    assert [found.gpu for found in leases] == [0, 1, 2, 0, 1, 2]
    for found in (leases[1], leases[4], leases[5]):
        found.lock.close()
    again = [lease(["0", "1", "2"], 2, tmp_path) for _ in range(3)]
    assert [found.gpu for found in again] == [1, 1, 2]


def test_one_that_is_killed_makes_room(tmp_path, capsys):
    diary = tmp_path / "diary"
    holder = worker(tmp_path / "leases", diary, ["0"], seconds=600)
    until(lambda: diary.exists() and diary.read_text())
    waiting = worker(tmp_path / "leases", diary, ["0"], seconds=0)
    assert waiting.stderr.readline() == (
        "waiting for a GPU: every one is taken (1 of them, 1 training each); with --resources gpu=1 Snakemake starts "
        "no more jobs than that\n"
    )
    time.sleep(0.2)
    assert waiting.poll() is None and diary.read_text() == "+0\n"
    os.kill(holder.pid, signal.SIGKILL)
    assert "GPU 0 is free after" in waiting.communicate(timeout=30)[1]
    assert diary.read_text() == "+0\n+0\n-0\n"
    holder.communicate()
    assert lease(["0"], 1, tmp_path / "leases").gpu == 0 and capsys.readouterr().err == ""


def test_slots_of_one_who_allows_more_count(tmp_path):
    first, second = lease(["0"], 2, tmp_path), lease(["0"], 2, tmp_path)
    first.lock.close()  # the slot that is the only one of who allows one
    waiting = worker(tmp_path, tmp_path / "diary", ["0"], each=1, seconds=0)
    assert waiting.stderr.readline().startswith("waiting")
    second.lock.close()
    waiting.communicate(timeout=30)
    assert waiting.returncode == 0


def test_the_same_gpu_has_the_same_lock_whatever_else_is_visible(tmp_path):
    with contextlib.closing(lease(["3"], 1, tmp_path).lock):
        for gpus, expected in ((["2", "3"], 0), (["3", "2"], 1), (["3", "13"], 1), (["MIG-GPU-3/1/0"], 0)):
            found = lease(gpus, 1, tmp_path)
            found.lock.close()
            assert found.gpu == expected


@pytest.mark.parametrize(
    "visible, count, names",
    [
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
        ("2,3", 2, ["2", "3"]),
        ("3, 2", 2, ["3", "2"]),
        ("1,-1,0", 1, ["1"]),  # what follows an entry that is none does not count
        ("GPU-1f2e,GPU-77aa", 2, ["GPU-1f2e", "GPU-77aa"]),
        ("2", 2, ["0", "1"]),  # not what PyTorch goes by
    ],
)
def test_names_of_the_visible_gpus(visible, count, names):
    assert names_of_gpus(count, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == names


def test_every_user_and_every_slurm_job_has_its_own_folder(monkeypatch):
    mine, of_the_job = folder_of_leases({}), folder_of_leases({"SLURM_JOB_ID": "17"})
    assert mine == Path(tempfile.gettempdir(), f"dml_gpus_{os.getuid()}")
    assert of_the_job == Path(f"{mine}_17")
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert folder_of_leases({}) != mine


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(ValueError, match="belongs to another user: set TMPDIR"):
        lease(TWO, 1, tmp_path)


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Call it with a number: so many GPUs seem to be there. It is told which is made the current one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "DML_TRAININGS_PER_GPU"):
        monkeypatch.delenv(name, raising=False)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)

    def there(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return current

    lease_of_this_process.cache_clear()
    yield there
    lease_of_this_process.cache_clear()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_process_keeps_its_gpu(gpus, tmp_path, device):
    current = gpus(2)
    with contextlib.closing(lease(TWO, 1, tmp_path / f"dml_gpus_{os.getuid()}").lock):  # somebody else has GPU 0
        assert [resolve_device(device) for _ in range(3)] == ["cuda:1"] * 3
    assert resolve_device(device) == "cuda:1" and set(current) == {"cuda:1"}


def test_a_gpu_given_by_its_number_is_taken_as_it_is(gpus, tmp_path):
    current = gpus(4)
    assert resolve_device("cuda:3") == "cuda:3" and current == ["cuda:3"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="cuda:4: PyTorch finds only the GPUs cuda:0 to cuda:3 here"):
        resolve_device("cuda:4")
    gpus(1)
    with pytest.raises(ValueError, match="cuda:1: PyTorch finds only the GPU cuda:0 here"):
        resolve_device("cuda:1")


def test_without_a_gpu_it_is_the_processor(gpus, tmp_path):
    current = gpus(0)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    assert not current and not list(tmp_path.iterdir())
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device {device}: PyTorch finds no GPU here"):
            resolve_device(device)


def test_trainings_share_a_gpu_where_they_may(gpus, tmp_path, monkeypatch):
    gpus(1)
    monkeypatch.setenv("DML_TRAININGS_PER_GPU", "2")
    other = lease(["0"], 1, tmp_path / f"dml_gpus_{os.getuid()}")
    assert resolve_device("auto") == "cuda:0" and other.gpu == 0
