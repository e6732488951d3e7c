"""A server that sends exactly the bytes it is given, for what no real server would send."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_LINGER_OFF = struct.pack("ii", 1, 0)


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST instead of FIN."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    writer.transport.abort()


def answering(answer: bytes, *, then_reset: bool = False) -> Play:
    """Read a request to its end, send these bytes, close."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        if then_reset:
            reset(writer)

    return play


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """A request with a Content-Length, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


@asynccontextmanager
async def served(play: Play, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a server that plays one part for each connection; gives its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
