import errno
import hashlib
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dml import downloading
from dml.downloading import mirrors_from, obtain

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HTML = b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>"


class Server(ThreadingHTTPServer):
    """Serves `answers`: path -> function of the request handler; keeps the requests' paths and headers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.requests = {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up early is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers))
        self.server.answers.get(self.path, lambda handler: handler.send_error(404))(self)

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloading, "WAITS", (0, 0))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def serve(body, announced=None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def cut(after=1000):
    return serve(CONTENT[:after], announced=len(CONTENT))


def in_turn(*answers):
    waiting = list(answers)
    return lambda handler: waiting.pop(0)(handler)


def test_a_file_is_downloaded_checked_and_left_alone(server, tmp_path):
    server.answers["/a.zip"] = serve(CONTENT)
    where = tmp_path / "new" / "folder"
    for _ in range(2):
        assert obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), where) == where / "a.zip"
    assert (where / "a.zip").read_bytes() == CONTENT
    assert [file.name for file in where.iterdir()] == ["a.zip"]
    assert len(server.requests) == 1
    assert "urllib" not in server.requests[0][1]["User-Agent"]


def test_the_name_need_not_be_that_of_the_url_nor_the_size_known(server, tmp_path):
    server.answers["/download?id=1"] = serve(CONTENT)
    obtain("a.zip", [server.address + "/download?id=1"], SHA256, None, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer, reason, requests",
    [
        (lambda handler: handler.send_error(404), "HTTP 404", 1),
        (lambda handler: handler.send_error(503), "HTTP 503", 3),
        (serve(HTML), "HTML page", 1),
        (serve(CONTENT[::-1]), f"sha256 is {hashlib.sha256(CONTENT[::-1]).hexdigest()}", 1),
        (serve(CONTENT[:-1]), f"({len(CONTENT) - 1} bytes)", 1),
        (serve(CONTENT + b"!"), f"more than the expected {len(CONTENT)} bytes", 1),
        (cut(), f"cut after 1000 of {len(CONTENT)} bytes", 3),
        (lambda handler: handler.connection.close(), "", 3),
    ],
    ids=["missing", "busy", "html", "wrong", "short", "long", "cut", "closed"],
)
def test_a_bad_source_is_named_and_the_next_one_taken(server, tmp_path, answer, reason, requests):
    server.answers |= {"/bad": answer, "/good": serve(CONTENT)}
    bad, good = server.address + "/bad", server.address + "/good"
    obtain("a.zip", [bad, good], SHA256, len(CONTENT), tmp_path / "both")
    assert (tmp_path / "both" / "a.zip").read_bytes() == CONTENT
    assert len(server.requests) == requests + 1

    with pytest.raises(ValueError) as caught:
        obtain("a.zip", [bad], SHA256, len(CONTENT), tmp_path / "only")
    message = str(caught.value)
    assert bad in message and reason in message
    assert "\n" not in message
    assert list((tmp_path / "only").iterdir()) == []


def test_a_cut_connection_is_tried_again(server, tmp_path):
    server.answers["/a.zip"] = in_turn(cut(), cut(0), serve(CONTENT))
    obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.1)
    server.answers["/a.zip"] = lambda handler: time.sleep(0.5)
    with pytest.raises(ValueError, match="timed out"):
        obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path)


def test_no_server(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"a\.zip: no connection"):
        obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path)


def test_mirrors_come_first(server, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "a.zip").write_bytes(CONTENT)
    server.answers |= {"/mirror/b.zip": serve(CONTENT), "/b.zip": serve(CONTENT)}
    mirrors = [str(folder), server.address + "/mirror/"]
    obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path / "data", mirrors)
    assert (tmp_path / "data" / "a.zip").read_bytes() == (folder / "a.zip").read_bytes() == CONTENT
    assert server.requests == []
    obtain("b.zip", [server.address + "/b.zip"], SHA256, len(CONTENT), tmp_path / "data", mirrors)
    assert [path for path, _ in server.requests] == ["/mirror/b.zip"]


def test_a_wrong_file_in_a_mirror_is_passed_over_and_reported(server, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "a.zip").write_bytes(b"something else")
    server.answers["/a.zip"] = serve(CONTENT)
    obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path / "data", [str(folder)])
    assert (tmp_path / "data" / "a.zip").read_bytes() == CONTENT

    with pytest.raises(ValueError) as caught:
        obtain("a.zip", [server.address + "/no"], SHA256, len(CONTENT), tmp_path / "more", [str(folder), "/nowhere"])
    message = str(caught.value)
    found = hashlib.sha256(b"something else").hexdigest()
    for part in (str(folder / "a.zip"), found, SHA256, "/nowhere/a.zip: no such file", "/no: HTTP 404"):
        assert part in message
    for remedy in (str(tmp_path / "more"), "config.yaml", "DML_MIRROR"):
        assert remedy in message


def test_a_damaged_file_is_replaced_only_by_a_right_one(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"{tmp_path / 'a.zip'}: sha256 is"):
        obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[:-1]
    server.answers["/a.zip"] = serve(CONTENT)
    obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_what_is_not_the_sources_fault_is_not_blamed_on_it(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(CONTENT)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        obtain("a.zip", [], SHA256, len(CONTENT), tmp_path / "data", [str(tmp_path)])


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    server.answers["/a.zip"] = serve(CONTENT)
    monkeypatch.setattr(downloading, "_mistake", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        obtain("a.zip", [server.address + "/a.zip"], SHA256, len(CONTENT), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_any_source_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=rf"^a\.zip could not be obtained \(no source is known\).*{tmp_path}"):
        obtain("a.zip", [], SHA256, len(CONTENT), tmp_path)


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
