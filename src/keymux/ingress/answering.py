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

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send status and headers."""
        self.started = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [_SERVER, *headers]}
        )

    async def send(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def gone(self) -> None:
        """Return when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
