"""A small upstream that lists models, and answers each key as it is told."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, BrokenBarrierError, Event, Thread

from msgspec import Struct


class Reply(Struct, frozen=True):
    """What a key is answered.

    Attributes:
        status: of HTTP.
        body: of the answer.
        headers: to add.
        waits: never answers before the upstream is closed.
    """

    status: int = 200
    body: bytes = b'{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}'
    headers: Mapping[str, str] = {}
    waits: bool = False


def error(status: int, kind: str, message: str = "no", **headers: str) -> Reply:
    """An error as the original APIs write it."""
    body = {"error": {"message": message, "type": kind, "code": None}}
    return Reply(status, json.dumps(body).encode(), headers)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64


class Upstream:
    """Listens on a port of its own.

    Attributes:
        url: where it is.
        requests: what came in: path and headers.
        asked: set once there was one.
        closing: set when the upstream is about to end.
        at_once: when set, answers are held until so many requests are there.
    """

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self.replies = replies
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.asked = Event()
        self.closing = Event()
        self.at_once: Barrier | None = None
        self.gathered = 0
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def reply_to(self, path: str, headers: dict[str, str]) -> Reply:
        """Note a request and find its answer."""
        self.requests.append((path, headers))
        self.asked.set()
        if self.at_once is not None:
            try:
                self.at_once.wait(timeout=0.5)
                self.gathered += 1
            except BrokenBarrierError:
                self.at_once.reset()
        secret = headers.get("x-api-key") or headers.get("authorization", "")[len("Bearer ") :]
        reply = self.replies.get(secret, error(401, "invalid_api_key"))
        if reply.waits:
            self.closing.wait(30)
        return reply


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = upstream.reply_to(self.path, headers)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def upstream(replies: Mapping[str, Reply]) -> Iterator[Upstream]:
    """An upstream that runs while it is needed."""
    running = Upstream(replies)
    thread = Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        running.closing.set()
        running.server.shutdown()
        running.server.server_close()
        thread.join()
