"""A client made of a plain socket, which sees every byte and how the connection ends."""

import json
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from msgspec import Struct

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
KEY = "sk-sandbox-a"


def body_for(path: str, text: str = "Hello marker:m1", **fields: Any) -> bytes:
    """A small request for an endpoint."""
    limit = {"max_tokens": 200} if MESSAGES in path else {}
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "claude-x", "messages": messages, **limit, **fields}).encode()


class Heard(Struct, frozen=True):
    """A response as it came over the wire.

    Attributes:
        status: of the status line.
        headers: names in lower case; the last of equal ones.
        wire: everything behind the head, framing included.
        ending: ``fin``, ``reset``, or ``open`` when the connection stayed.
    """

    status: int
    headers: Mapping[str, str]
    wire: bytes
    ending: str

    @property
    def body(self) -> bytes:
        """What is behind the head, with chunked framing taken off as far as it goes."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.wire
        body, rest = b"", self.wire
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if not length:
                break
            body += rest[:length]
            rest = rest[length + 2 :]
        return body

    @property
    def is_whole(self) -> bool:
        """Whether the framing says that nothing is missing."""
        if self.headers.get("transfer-encoding") == "chunked":
            return self.wire.endswith(b"0\r\n\r\n")
        return len(self.wire) == int(self.headers.get("content-length", -1))

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Peer:
    """One connection to a sandbox."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, window: int = 0) -> None:
        parts = urlsplit(url)
        self.path = parts.path
        self.wire = socket.socket()
        self.wire.settimeout(5)
        if window:
            self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        try:
            self.wire.connect((parts.hostname, parts.port))
        except OSError:
            self.wire.close()
            raise
        if tls:
            self.wire = tls.wrap_socket(self.wire, server_hostname=parts.hostname)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.close()

    def ask(self, path: str, body: bytes, key: str = KEY, *headers: str) -> None:
        """Send a request."""
        lines = [
            f"POST {self.path}{path} HTTP/1.1",
            "Host: sandbox",
            f"Authorization: Bearer {key}",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        self.wire.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def hear(self, within_s: float = 5.0, most: int = 1 << 62) -> Heard:
        """Read until the response is whole, the connection ends, or nothing more comes."""
        self.wire.settimeout(within_s)
        got, ending = b"", "open"
        while len(got) < most:
            try:
                part = self.wire.recv(65_536)
            except TimeoutError:
                break
            except ConnectionResetError:
                ending = "reset"
                break
            if not part:
                ending = "fin"
                break
            got += part
            heard = _heard(got, ending)
            if heard.is_whole:
                return heard
        return _heard(got, ending)

    def ending(self) -> str:
        """How the connection ends, with whatever comes before that thrown away."""
        return self.hear().ending


def _heard(got: bytes, ending: str) -> Heard:
    head, end, wire = got.partition(b"\r\n\r\n")
    if not end:
        return Heard(0, {}, got, ending)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    status = int(first.split(" ")[1]) if first.startswith("HTTP/1.1 ") else 0
    return Heard(status, {name.lower(): value for name, value in headers.items()}, wire, ending)


def ask(url: str, path: str, body: bytes, key: str = KEY, *headers: str) -> Heard:
    """One request on a connection of its own."""
    with Peer(url) as peer:
        peer.ask(path, body, key, *headers)
        return peer.hear()
