"""Writes an answer to an ASGI client, and notices when it leaves."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from keymux import __version__

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = Sequence[tuple[bytes, bytes]]

_SERVER = (b"server", b"keymux/" + __version__.encode())


class AsgiClient:
    """The client of one request.

    Attributes:
        started: status and headers are sent.
    """

    __slots__ = ("_receive", "_send", "started")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.started = False

    def start(self, status: int, headers: RawHeaders) -> Awaitable[None]:
        """Send status and headers."""
        self.started = True
        return self._send(
            {"type": "http.response.start", "status": status, "headers": [_SERVER, *headers]}
        )

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a part of the body; waits while the client is slow."""
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    def finish(self, data: bytes = b"") -> Awaitable[None]:
        """Send the last part of the body."""
        return self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def gone(self) -> None:
        """Return when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
