"""A server of files on this machine, that also misbehaves as servers do."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>"


class Server(ThreadingHTTPServer):
    """Serves `answers`: path -> function of the request handler; keeps the requests' paths and headers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.requests = {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def ranges(self):
        """What was asked for, request by request: None, or where the rest begins."""
        asked = [headers["Range"] for _, headers in self.requests]
        return [value and int(re.fullmatch(r"bytes=(\d+)-", value)[1]) for value in asked]

    def handle_error(self, request, client_address):
        """A client that hangs up early is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers))
        self.server.answers.get(self.path, lambda handler: handler.send_error(404))(self)

    def do_HEAD(self):
        self.server.requests.append((f"HEAD {self.path}", self.headers))
        self.send_error(403)

    def log_message(self, *arguments):
        """Quiet."""


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def serve(body, announced=None, code=200, **headers):
    """Answer with `body`, whatever is asked; `announced`: the length that the answer claims to have."""

    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def serve_ranges(content, cut_after=None):
    """Answer with the part of `content` that is asked for, and hang up after `cut_after` bytes of it."""

    def answer(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        begin = int(asked[1]) if asked else 0
        if asked and begin >= len(content):
            return handler.send_error(416)
        span = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if asked else {}
        body = content[begin:][:cut_after]
        return serve(body, len(content) - begin, 206 if asked else 200, **span)(handler)

    return answer


def in_turn(*answers):
    """One answer after the other."""
    waiting = list(answers)
    return lambda handler: waiting.pop(0)(handler)
