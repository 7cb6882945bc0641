import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from server import HTML, in_turn, serve, serve_ranges

from dml import downloading
from dml.downloading import mirrors_from, obtain

CONTENT = bytes(range(256)) * 1000
SIZE = len(CONTENT)
SHA256, SHA1, MD5 = (hashlib.new(kind, CONTENT).hexdigest() for kind in ("sha256", "sha1", "md5"))
KNOWN = {"sha256": SHA256, "size": SIZE}
OTHER = CONTENT[::-1]


def cut(after=1000):
    return serve(CONTENT[:after], announced=SIZE)


def test_a_file_is_downloaded_checked_and_left_alone(server, tmp_path):
    server.answers["/a.zip"] = serve(CONTENT)
    where = tmp_path / "new" / "folder"
    for _ in range(2):
        assert obtain("a.zip", [server.address + "/a.zip"], where, **KNOWN) == where / "a.zip"
    assert (where / "a.zip").read_bytes() == CONTENT
    assert [file.name for file in where.iterdir()] == ["a.zip"]
    assert len(server.requests) == 1
    assert "urllib" not in server.requests[0][1]["User-Agent"]


def test_the_name_need_not_be_that_of_the_url_nor_the_size_known(server, tmp_path):
    server.answers["/download?id=1"] = serve(CONTENT)
    obtain("a.zip", [server.address + "/download?id=1"], tmp_path, sha256=SHA256)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer, reason, requests",
    [
        (lambda handler: handler.send_error(404), "HTTP 404", 1),
        (lambda handler: handler.send_error(503), "HTTP 503", 3),
        (serve(HTML), "HTML page", 1),
        (serve(CONTENT, Content_Type="text/html; charset=utf-8"), "HTML page", 1),
        (serve(OTHER), f"sha256 is {hashlib.sha256(OTHER).hexdigest()}", 1),
        (serve(CONTENT[:-1]), f"({SIZE - 1} bytes)", 1),
        (serve(CONTENT + b"!"), f"more than the expected {SIZE} bytes", 1),
        (cut(), f"cut after 1000 of {SIZE} bytes", 3),
        (lambda handler: handler.connection.close(), "", 3),
    ],
    ids=["missing", "busy", "html", "html by its type", "wrong", "short", "long", "cut", "closed"],
)
def test_a_bad_source_is_named_and_the_next_one_taken(server, tmp_path, answer, reason, requests):
    server.answers |= {"/bad": answer, "/good": serve(CONTENT)}
    bad, good = server.address + "/bad", server.address + "/good"
    obtain("a.zip", [bad, good], tmp_path / "both", **KNOWN)
    assert (tmp_path / "both" / "a.zip").read_bytes() == CONTENT
    assert len(server.requests) == requests + 1

    with pytest.raises(ValueError) as caught:
        obtain("a.zip", [bad], tmp_path / "only", **KNOWN)
    message = str(caught.value)
    assert bad in message and reason in message
    assert "\n" not in message
    left = [file.name for file in (tmp_path / "only").iterdir()]
    assert left == (["a.zip.part"] if "cut" in reason else [])


def test_a_cut_connection_is_tried_again(server, tmp_path):
    server.answers["/a.zip"] = in_turn(cut(), cut(0), serve(CONTENT))
    obtain("a.zip", [server.address + "/a.zip"], tmp_path, **KNOWN)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.1)
    server.answers["/a.zip"] = lambda handler: time.sleep(0.5)
    with pytest.raises(ValueError, match="timed out"):
        obtain("a.zip", [server.address + "/a.zip"], tmp_path, **KNOWN)


def test_no_server(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"a\.zip: no connection"):
        obtain("a.zip", [server.address + "/a.zip"], tmp_path, **KNOWN)


def test_mirrors_come_first(server, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "a.zip").write_bytes(CONTENT)
    server.answers |= {"/mirror/b.zip": serve(CONTENT), "/b.zip": serve(CONTENT)}
    mirrors = [str(folder), server.address + "/mirror/"]
    obtain("a.zip", [server.address + "/a.zip"], tmp_path / "data", mirrors, **KNOWN)
    assert (tmp_path / "data" / "a.zip").read_bytes() == (folder / "a.zip").read_bytes() == CONTENT
    assert server.requests == []
    obtain("b.zip", [server.address + "/b.zip"], tmp_path / "data", mirrors, **KNOWN)
    assert [path for path, _ in server.requests] == ["/mirror/b.zip"]


def test_a_wrong_file_in_a_mirror_is_passed_over_and_reported(server, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "a.zip").write_bytes(b"something else")
    server.answers["/a.zip"] = serve(CONTENT)
    obtain("a.zip", [server.address + "/a.zip"], tmp_path / "data", [str(folder)], **KNOWN)
    assert (tmp_path / "data" / "a.zip").read_bytes() == CONTENT

    with pytest.raises(ValueError) as caught:
        obtain("a.zip", [server.address + "/no"], tmp_path / "more", [str(folder), "/nowhere"], **KNOWN)
    message = str(caught.value)
    found = hashlib.sha256(b"something else").hexdigest()
    for part in (str(folder / "a.zip"), found, SHA256, "/nowhere/a.zip: no such file", "/no: HTTP 404"):
        assert part in message
    for remedy in (str(tmp_path / "more"), "config.yaml", "DML_MIRROR"):
        assert remedy in message


def test_a_damaged_file_is_replaced_only_by_a_right_one(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"{tmp_path / 'a.zip'}: sha256 is"):
        obtain("a.zip", [server.address + "/a.zip"], tmp_path, **KNOWN)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[:-1]
    server.answers["/a.zip"] = serve(CONTENT)
    obtain("a.zip", [server.address + "/a.zip"], tmp_path, **KNOWN)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_what_is_not_the_sources_fault_is_not_blamed_on_it(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(CONTENT)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        obtain("a.zip", [], tmp_path / "data", [str(tmp_path)], **KNOWN)


def test_without_any_source_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=rf"^a\.zip could not be obtained \(no source is known\).*{tmp_path}"):
        obtain("a.zip", [], tmp_path, **KNOWN)


# --- several checksums, or none


@pytest.mark.parametrize(
    "known",
    [
        {"sha1": SHA1},
        {"md5": MD5},
        {"sha256": SHA256[:8]},
        {"sha256": SHA256.upper(), "sha1": SHA1, "md5": MD5, "size": SIZE},
        {"size": SIZE},
        {},
    ],
    ids=lambda known: " ".join(known) or "nothing",
)
def test_whatever_is_known_of_a_file_is_enough(server, tmp_path, known):
    server.answers["/a.pth"] = serve(CONTENT)
    assert obtain("a.pth", [server.address + "/a.pth"], tmp_path, **known).read_bytes() == CONTENT
    obtain("a.pth", [], tmp_path, **known)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"sha1": SHA1[::-1]}, f"sha1 is {SHA1}"),
        ({"md5": MD5[::-1]}, f"md5 is {MD5}"),
        ({"sha256": SHA256[1:9]}, f"sha256 is {SHA256}"),
        ({"md5": MD5[:8]}, f"md5 is {MD5}"),
        ({"size": SIZE + 1}, f"{SIZE} bytes, expected {SIZE + 1}"),
        ({"size": SIZE - 1}, f"more than the expected {SIZE - 1} bytes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_every_single_one_must_be_right(server, tmp_path, wrong, reason):
    server.answers["/a.pth"] = serve(CONTENT)
    for known in (wrong, {"sha256": SHA256, "sha1": SHA1, "md5": MD5} | wrong):
        with pytest.raises(ValueError, match=reason):
            obtain("a.pth", [server.address + "/a.pth"], tmp_path, **known)
        assert list(tmp_path.iterdir()) == []


def test_a_page_is_no_file_even_where_nothing_is_known(server, tmp_path):
    server.answers["/a.pth"] = serve(HTML)
    with pytest.raises(ValueError, match="HTML page"):
        obtain("a.pth", [server.address + "/a.pth"], tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- broken downloads go on


@pytest.fixture
def begun(tmp_path):
    """An unfinished file, as a download leaves it."""
    part = tmp_path / "a.zip.part"
    part.write_bytes(CONTENT[:1000])
    return part


def get(server, tmp_path, *paths, **known):
    obtain("a.zip", [server.address + path for path in paths], tmp_path, **(known or KNOWN))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("known", [KNOWN, {"sha256": SHA256[:8]}, {"md5": MD5}], ids=" ".join)
def test_a_broken_download_goes_on_where_it_ended(server, tmp_path, begun, known):
    server.answers["/a"] = serve_ranges(CONTENT)
    get(server, tmp_path, "/a", **known)
    assert server.ranges() == [1000]


def test_what_one_source_began_another_ends(server, tmp_path):
    server.answers |= {"/a": in_turn(cut(1000), cut(0), cut(0)), "/b": serve_ranges(CONTENT)}
    get(server, tmp_path, "/a", "/b")
    assert server.ranges() == [None, 1000, 1000, 1000]


def test_every_attempt_that_gets_on_allows_more(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "PROGRESS", 30_000)
    server.answers["/a"] = serve_ranges(CONTENT, cut_after=30_000)
    get(server, tmp_path, "/a")
    assert server.ranges() == [None, *range(30_000, SIZE, 30_000)]


def test_attempts_that_bring_little_come_to_an_end_and_their_bytes_stay(server, tmp_path):
    server.answers["/a"] = serve_ranges(CONTENT, cut_after=100)
    with pytest.raises(ValueError, match=r"cut after 300 of 256000 bytes, 3 times; .*a\.zip\.part holds the first 300"):
        obtain("a.zip", [server.address + "/a"], tmp_path, **KNOWN)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:300]
    server.answers["/a"] = serve_ranges(CONTENT)
    get(server, tmp_path, "/a")
    assert server.ranges() == [None, 100, 200, 300]


@pytest.mark.parametrize(
    "answer",
    [
        serve(CONTENT, code=206, Content_Range=f"bytes 999-{SIZE - 1}/{SIZE}"),
        serve(CONTENT, code=206, Content_Range=f"bytes 10000-{SIZE - 1}/{SIZE}"),
        serve(CONTENT, code=206, Content_Range=f"bytes */{SIZE}"),
        serve(CONTENT, code=206),
    ],
    ids=["before", "another number", "none", "no header"],
)
def test_a_part_that_was_not_asked_for_is_not_taken(server, tmp_path, begun, answer):
    server.answers["/a"] = in_turn(answer, serve(CONTENT))
    get(server, tmp_path, "/a")
    assert server.ranges() == [1000, None]
    server.answers["/b"] = answer
    with pytest.raises(ValueError, match="a part of the file that was not asked for"):
        obtain("b.zip", [server.address + "/b"], tmp_path, **KNOWN)


def test_a_server_that_knows_no_ranges_gives_all_again(server, tmp_path, begun):
    server.answers["/a"] = serve(CONTENT)
    get(server, tmp_path, "/a")
    assert server.ranges() == [1000]


@pytest.mark.parametrize("known", [KNOWN, {"sha256": SHA256}], ids=" ".join)
def test_a_file_that_was_complete_but_for_its_name_is_used(server, tmp_path, begun, known):
    begun.write_bytes(CONTENT)
    server.answers["/a"] = serve_ranges(CONTENT)
    get(server, tmp_path, "/a", **known)
    assert server.ranges() == ([] if "size" in known else [SIZE])


@pytest.mark.parametrize("known", [KNOWN, {"sha256": SHA256}], ids=" ".join)
@pytest.mark.parametrize("wrong", [OTHER[:1000], OTHER, CONTENT + b"!"], ids=["begun", "complete", "long"])
def test_what_went_on_wrongly_is_fetched_once_from_the_beginning(server, tmp_path, begun, wrong, known):
    begun.write_bytes(wrong)
    server.answers["/a"] = serve_ranges(CONTENT)
    get(server, tmp_path, "/a", **known)
    assert server.ranges() == ([None] if "size" in known and len(wrong) >= SIZE else [len(wrong), None])


def test_and_only_once(server, tmp_path, begun):
    server.answers |= {"/a": serve_ranges(OTHER), "/b": serve_ranges(CONTENT)}
    get(server, tmp_path, "/a", "/b")
    assert server.ranges() == [1000, None, None]
    rest = serve_ranges(OTHER)
    for answer in (rest, in_turn(rest, serve_ranges(OTHER, cut_after=500), rest)):
        (tmp_path / "a.zip").unlink(missing_ok=True)
        begun.write_bytes(CONTENT[:1000])
        server.answers["/a"] = answer
        with pytest.raises(ValueError, match=r"/a: sha256 is \w+ \(256000 bytes\), expected"):
            obtain("a.zip", [server.address + "/a"], tmp_path, **KNOWN)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.send_error(404),
        lambda handler: handler.send_error(503),
        serve(HTML),
        serve(HTML, code=206, Content_Range=f"bytes 1000-{SIZE - 1}/{SIZE}", Content_Type="text/html"),
    ],
    ids=["missing", "busy", "html", "a part of html"],
)
def test_a_source_that_gives_nothing_takes_nothing_away(server, tmp_path, begun, answer):
    server.answers |= {"/a": answer, "/b": serve_ranges(CONTENT)}
    with pytest.raises(ValueError, match="holds the first 1000 bytes"):
        obtain("a.zip", [server.address + "/a"], tmp_path, **KNOWN)
    assert begun.read_bytes() == CONTENT[:1000]
    get(server, tmp_path, "/a", "/b")
    assert server.ranges()[-1] == 1000


@pytest.mark.parametrize("known", [{"size": SIZE}, {}], ids=["size", "nothing"])
def test_without_a_checksum_nothing_goes_on(server, tmp_path, begun, known):
    begun.write_bytes(OTHER[:1000])
    server.answers["/a"] = in_turn(cut(2000), serve_ranges(CONTENT))
    obtain("a.zip", [server.address + "/a"], tmp_path, **known)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges() == [None, None]
    server.answers["/b"] = cut()
    with pytest.raises(ValueError, match="cut after 1000"):
        obtain("b.zip", [server.address + "/b"], tmp_path, **known)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


SCRIPT = """
import sys
from dml.downloading import obtain
obtain("a.zip", [sys.argv[1]], sys.argv[2], sha256=sys.argv[3])
"""


def start(server, tmp_path):
    command = [sys.executable, "-c", SCRIPT, server.address + "/a", str(tmp_path), SHA256]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)


def until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("in vain")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_is_killed_goes_on_later(server, tmp_path, by):
    killed = threading.Event()

    def hang(handler):
        cut(SIZE // 2)(handler)
        handler.wfile.flush()
        killed.wait(20)

    server.answers["/a"] = in_turn(hang, serve_ranges(CONTENT))
    part = tmp_path / "a.zip.part"
    with start(server, tmp_path) as process:
        until(lambda: part.exists() and part.stat().st_size > 1000)
        process.send_signal(by)
        process.communicate(timeout=20)
    killed.set()
    kept = part.stat().st_size
    assert part.read_bytes() == CONTENT[:kept]
    get(server, tmp_path, "/a")
    assert server.ranges() == [None, kept]


# --- several at once


def test_two_that_want_the_same_file_fetch_it_once(server, tmp_path):
    go_on = threading.Event()

    def slow(handler):
        go_on.wait(20)
        serve(CONTENT)(handler)

    server.answers["/a"] = slow
    with start(server, tmp_path) as first:
        until(lambda: server.requests)
        with start(server, tmp_path) as second:
            line = second.stderr.readline()
            assert "waiting" in line and str(tmp_path / "a.zip") in line
            go_on.set()
            assert second.wait(20) == first.wait(20) == 0
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]
    assert len(server.requests) == 1


def test_many_that_fail_and_try_by_turns_do_not_meet(tmp_path):
    inside = []

    def work(number):
        with downloading.one_at_a_time(tmp_path / "a"):
            inside.append(number)
            time.sleep(0.001)
            alone = inside == [number]
            inside.remove(number)
        return alone

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_it_goes_on_without(server, tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(downloading.fcntl, "flock", flock)
    server.answers["/a"] = serve(CONTENT)
    get(server, tmp_path, "/a")


def test_a_file_that_is_there_needs_no_right_to_write(tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT)
    os.chmod(tmp_path, 0o500)
    try:
        obtain("a.zip", [], tmp_path, **KNOWN)
    finally:
        os.chmod(tmp_path, 0o700)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


# --- a file in an archive


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name.replace("__", "/").replace("_", "."), content)
    return data.getvalue()


def test_a_source_that_is_a_zip_holds_the_file(server, tmp_path):
    body = zipped(x__a_pth=CONTENT, b_pth=OTHER)
    assert len(body) > 1000
    server.answers["/w/a.pth.zip"] = in_turn(serve(body[:500], len(body)), serve_ranges(body))
    obtain("a.pth", [server.address + "/w/a.pth.zip"], tmp_path, sha1=SHA1, size=SIZE)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]
    assert server.ranges() == [None, 500]


@pytest.mark.parametrize(
    "body, reason",
    [
        (zipped(b_pth=CONTENT), "a zip archive with 0 files a.pth"),
        (zipped(a_pth=CONTENT, x__a_pth=CONTENT), "a zip archive with 2 files a.pth"),
        (zipped(a_pth=OTHER), f"sha1 is {hashlib.sha1(OTHER).hexdigest()}"),
        (zipped(a_pth=CONTENT)[:-30], "not an intact zip archive"),
        (b"PK" + bytes(1000), "not an intact zip archive"),
        (HTML, "HTML page"),
    ],
    ids=["without", "twice", "wrong", "short", "no zip", "html"],
)
def test_a_zip_without_the_file_is_passed_over(server, tmp_path, body, reason):
    server.answers |= {"/a.pth.zip": serve(body), "/a.pth": serve(CONTENT)}
    urls = [server.address + "/a.pth.zip?raw=1", server.address + "/a.pth"]
    server.answers["/a.pth.zip?raw=1"] = server.answers["/a.pth.zip"]
    with pytest.raises(ValueError, match=reason):
        obtain("a.pth", urls[:1], tmp_path, sha1=SHA1)
    assert list(tmp_path.iterdir()) == []
    obtain("a.pth", urls, tmp_path, sha1=SHA1)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_a_mirror_has_the_file_itself_and_not_its_archive(server, tmp_path):
    server.answers["/mirror/a.pth"] = serve(CONTENT)
    obtain("a.pth", [], tmp_path, [server.address + "/mirror"], sha1=SHA1)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


# --- where to look first


@pytest.mark.parametrize(
    "setting, variable, mirrors",
    [
        (None, None, []),
        ("", " , ", []),
        ("/a", None, ["/a"]),
        (["/a", "http://b/c"], "/d, https://e,/f", ["/a", "http://b/c", "/d", "https://e", "/f"]),
        ("~/a", None, ["/home/someone/a"]),
    ],
)
def test_mirrors_from_config_then_environment(setting, variable, mirrors, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert mirrors_from(setting, {} if variable is None else {"DML_MIRROR": variable}) == mirrors


@pytest.mark.parametrize("setting", [3, {"a": "b"}, ["/a", 3]])
def test_other_mirrors_are_refused(setting):
    with pytest.raises(ValueError, match=r"config\.yaml: mirror is"):
        mirrors_from(setting, {})
