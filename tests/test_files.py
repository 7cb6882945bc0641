"""A file that is there is whole: whatever happened while it was written, and however little room there is."""

import errno
import hashlib
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dml.files import read_bytes, remove, set_aside, whole, write_bytes
from dml.record import read_json, write_json

ROOT = Path(__file__).parents[1]


def test_a_file_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"before")
    with whole(file) as temporary:
        temporary.write_bytes(b"after")
        assert file.read_bytes() == b"before" and temporary.parent == tmp_path
    assert file.read_bytes() == b"after" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_what_failed(tmp_path, error):
    with pytest.raises(error), whole(tmp_path / "f") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append(str(to)) or replace(self, to))
    write_bytes(tmp_path / "f", b"x")
    assert len(done) == 2 and Path(done[0]).name.startswith(".f.") and done[1] == str(tmp_path / "f")


def test_bytes_come_back_as_they_were_written(tmp_path):
    digest = write_bytes(tmp_path / "f", b"abc")
    assert digest == hashlib.sha256(b"abc").hexdigest()
    assert read_bytes(tmp_path / "f", digest) == b"abc"


@pytest.mark.parametrize("now", [b"", b"ab", b"abd", b"abcd"])
def test_other_bytes_are_set_aside(tmp_path, now):
    digest = write_bytes(tmp_path / "f", b"abc")
    (tmp_path / "f").write_bytes(now)
    with pytest.raises(ValueError, match=rf"{tmp_path}/f: damaged: {len(now)} bytes.*set aside as f.damaged.*run"):
        read_bytes(tmp_path / "f", digest)
    assert [file.name for file in tmp_path.iterdir()] == ["f.damaged"]
    assert (tmp_path / "f.damaged").read_bytes() == now


def test_a_second_damaged_file_takes_the_place_of_the_first(tmp_path):
    for content in (b"one", b"two"):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(ValueError):
            set_aside(tmp_path / "f", "damaged")
    assert (tmp_path / "f.damaged").read_bytes() == b"two"


@pytest.mark.parametrize("now", ['{"a": ', "", "\udcff"])
def test_damaged_json_is_set_aside(tmp_path, now):
    write_json(tmp_path / "f.json", {"a": 1})
    assert read_json(tmp_path / "f.json") == {"a": 1}
    (tmp_path / "f.json").write_bytes(now.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="f.json: damaged .*set aside as f.json.damaged"):
        read_json(tmp_path / "f.json")


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, file = platform.node(), tmp_path / "f"
    left = [tmp_path / f".f.{here}.{ended.pid}", tmp_path / ".f.elsewhere.1"]
    kept = [
        tmp_path / f".f.{here}.1",
        tmp_path / ".f.elsewhere.2",
        tmp_path / ".f.x",
        tmp_path / f".ff.{here}.{ended.pid}",
    ]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    os.utime(left[1], (0, 0))
    write_bytes(file, b"x")
    assert sorted(tmp_path.iterdir()) == sorted([file, *kept])
    left[0].write_bytes(b"half")
    remove(file)
    remove(file)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


# --------------------------------------------------------------------------------------------------------- a full disk


def test_an_error_for_want_of_room_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, whole(tmp_path / "f"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "f") and list(tmp_path.iterdir()) == []
    with pytest.raises(OSError) as caught, whole(tmp_path / "f"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename is None


STAGE = """
import sys
from pathlib import Path
from dml.files import write_bytes
from dml.stages import run

def main(output: Path) -> None:
    "Write something large."
    write_bytes(output, b"x" * 100_000)

run(main, output=Path)
"""


def test_a_stage_without_room_says_so_in_one_line(tmp_path):
    """Here it is a limit on the size of files; tests/test_survival.py fills a disk."""
    (tmp_path / "stage.py").write_text(STAGE)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    answer = subprocess.run(
        [sys.executable, "-m", "stage", "--output", tmp_path / "out" / "f"], cwd=tmp_path, preexec_fn=small_files,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr == (
        f"error: {tmp_path}/out/f: could not be written (File too large); make room and run the same command again: "
        "nothing that is finished is lost\n"
    )
    assert list((tmp_path / "out").iterdir()) == []
