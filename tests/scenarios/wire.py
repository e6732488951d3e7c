"""Plain HTTP/1.1 for the scenarios: every byte as it came, nothing hidden."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import h11
from msgspec import Struct

from tests.scenarios.rig import CLIENT_KEY, MODEL

OPENAI_PATH = "/v1/chat/completions"
ANTHROPIC_PATH = "/v1/messages"


class Response(Struct, frozen=True):
    """What came back.

    Attributes:
        complete: the framing reached its end.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def chat(text: str = "Hello", *, stream: bool = False, **fields: Any) -> bytes:
    """The body of a request that both formats take."""
    body = {
        "model": MODEL,
        "max_tokens": 256,
        "messages": [{"role": "user", "content": text}],
        **({"stream": True} if stream else {}),
        **fields,
    }
    return json.dumps(body).encode()


def head(
    path: str, body: bytes, headers: Mapping[str, str] | None = None, method: str = "POST"
) -> bytes:
    """The bytes of a request's head."""
    lines = {
        "Host": "gateway",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {CLIENT_KEY}",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode()


class Connection:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def ask(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> None:
        """Send a request; one after the other is fine."""
        if self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()
        request = h11.Request(method=method, target=path, headers=[("Host", "gateway")])
        self._parser.send(request)
        self._parser.send(h11.EndOfMessage())
        await self.send(head(path, body, headers, method) + body)

    async def events(self) -> AsyncIterator[h11.Event]:
        """The answer as it comes, until its end or the end of the connection."""
        while True:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(65536)
                self._parser.receive_data(data)
                continue
            if isinstance(event, h11.ConnectionClosed):
                return
            yield event  # type: ignore[misc]  # -- the other signals mean misuse
            if isinstance(event, h11.EndOfMessage):
                return

    async def answer(self) -> Response:
        """The whole answer; one that is cut off is marked so."""
        status, headers, body, complete = 0, {}, b"", False
        try:
            async for event in self.events():
                if isinstance(event, h11.Response):
                    status = event.status_code
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    complete = True
        except (h11.RemoteProtocolError, ConnectionError):
            complete = False
        return Response(status, headers, body, complete)


async def ask(
    port: int,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
) -> Response:
    """One request on a connection of its own."""
    async with await Connection.open(port) as connection:
        await connection.ask(path, body, headers, method)
        return await connection.answer()


def post(
    port: int, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Response:
    """The same, from a test that is not asynchronous."""
    return asyncio.run(ask(port, path, body, headers))


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """A GET."""
    return asyncio.run(ask(port, path, b"", headers, "GET"))


def raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send raw bytes on a connection and give back everything until it is closed or silent."""
    return asyncio.run(_raw(port, data, seconds))


async def _raw(port: int, data: bytes, seconds: float) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(65536):
                received += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received
