"""A server that sends exactly the bytes it is given, for what no real server would send."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATIENCE_S = 0.2

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
    """Run a server that plays one part for each connection; gives its port.

    Whatever it has accepted is over before it ends, handshakes that failed too: the handshake is
    made by the connection's own task, which is waited for.
    """
    playing: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            playing[task] = writer
        plain = writer.transport  # TLS that has broken off does not close it (Python 3.11)
        try:
            if tls is not None:
                await writer.start_tls(tls)
            await play(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            try:
                with suppress(OSError):
                    await writer.wait_closed()
            finally:
                plain.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await asyncio.sleep(0.02)  # a server that closes forgets whom it is just accepting
        server.close()
        await asyncio.sleep(0.01)  # who was accepted just now has its task then
        await _over(playing)


async def _over(playing: Mapping[asyncio.Task[None], asyncio.StreamWriter]) -> None:
    """Wait for those who play; clients that stay are cut off."""
    if not playing:
        return
    _, left = await asyncio.wait(playing, timeout=PATIENCE_S)
    for task in left:
        playing[task].transport.abort()
    await asyncio.gather(*playing)
