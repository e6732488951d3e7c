"""A proxy that does exactly what a test says, and otherwise what a proxy does."""

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from msgspec import Struct

from keymux.core.egress import ProxyAddress, ProxyType
from keymux.core.vocabulary import Word
from tests.egress.programs import HERE, lasting_port
from tests.upstream.raw_server import reset

_PATIENCE_S = 10.0
_BUFFER = 65_536
_SLICES = 20
"""A slow relay sends so many times a second."""
_FIRST, _TO, _NO_METHOD = b"\x05\x00", b"\x05\x02", b"\x05\xff"
_LET_IN, _TURNED_AWAY = b"\x01\x00", b"\x01\x01"
_BOUND = b"\x00\x01\x00\x00\x00\x00\x00\x00"
_KINDS = {1: "ipv4", 3: "name", 4: "ipv6"}


class Point(Word):
    """Where the proxy says something.

    Attributes:
        ACCEPT: at once, before TLS and before anything was read.
        METHOD: how to log in (SOCKS5).
        LOGIN: whether the credentials are right (SOCKS5).
        REPLY: whether the way is open.
    """

    ACCEPT = "accept"
    METHOD = "method"
    LOGIN = "login"
    REPLY = "reply"


class Ending(Word):
    """What comes instead of going on."""

    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"
    ENDLESS = "endless"


class Part(Struct, frozen=True):
    """How the proxy differs from a good one.

    Attributes:
        says: bytes in place of the right ones.
        ends: goes on no further than to that point.
        filler: what is said without an end.
        rate: bytes a second towards the client.
        cut_after: bytes towards the client after which it is reset.
    """

    says: Mapping[Point, bytes] = {}
    ends: tuple[Point, Ending] | None = None
    filler: bytes = b"x"
    rate: int | None = None
    cut_after: int | None = None


GOOD = Part()


def replying(data: bytes, ending: Ending | None = None, at: Point = Point.REPLY) -> Part:
    """Says these bytes at a point; goes on if no ending is given."""
    return Part(says={at: data}, ends=(at, ending) if ending else None)


class Wish(Struct, frozen=True):
    """What a client asked for.

    Attributes:
        host: as it was given.
        port: as it was given.
        kind: ``name``, ``ipv4`` or ``ipv6``; ``authority`` for CONNECT.
        username: empty for none.
        password: empty for none.
    """

    host: str
    port: int
    kind: str
    username: str = ""
    password: str = ""


class _OverError(Exception):
    """The part has come to its end."""


class _Visit:
    """One connection of a client."""

    def __init__(
        self, proxy: "ScriptedProxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.part = proxy.part
        self.reader, self.writer = reader, writer
        self.heard = proxy.heard

    async def read(self, size: int) -> bytes:
        """So many bytes."""
        data = await self.reader.readexactly(size)
        self.heard += data
        return data

    async def read_head(self) -> bytes:
        """Up to an empty line."""
        data = await self.reader.readuntil(b"\r\n\r\n")
        self.heard += data
        return data

    async def say(self, point: Point, right: bytes) -> None:
        """The right thing, or what the part says; ends where the part does."""
        self.writer.write(self.part.says.get(point, right))
        await self.writer.drain()
        if self.part.ends is None or self.part.ends[0] is not point:
            return
        match self.part.ends[1]:
            case Ending.RESET:
                reset(self.writer)
            case Ending.STALL:
                while data := await self.reader.read(_BUFFER):
                    self.heard += data
            case Ending.ENDLESS:
                while not self.reader.at_eof():
                    self.writer.write(self.part.filler * 64)
                    await self.writer.drain()
                    await asyncio.sleep(0.001)
            case Ending.CLOSE:
                pass
        raise _OverError


class ScriptedProxy:
    """A proxy in a thread of its own; it listens while its context is open.

    Args:
        speaks: what it speaks.
        part: how it differs from a good one; may be changed at any time, for later connections.
        names: host as a client gives it → address and port it stands for.
        bind_to: address from which it connects to upstreams.
        tls: towards clients, for ``https``.
        login: user and password whom it lets in; None for everybody.

    Attributes:
        wishes: what was asked for, in order.
        heard: everything clients sent to it, below TLS towards the proxy.
        connections: how many it has accepted.
    """

    def __init__(
        self,
        speaks: ProxyType,
        *,
        part: Part = GOOD,
        names: Mapping[str, tuple[str, int]] | None = None,
        bind_to: str = "127.0.0.9",
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.speaks, self.part, self.source = speaks, part, bind_to
        self.names = dict(names or {})
        self.login = login
        self.port = lasting_port()
        self.wishes: list[Wish] = []
        self.heard = bytearray()
        self.connections = 0
        self._tls = tls
        self._visits: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    def address(self, host: str = HERE) -> ProxyAddress:
        """Where it is, with the right credentials."""
        username, password = self.login or ("", "")
        return ProxyAddress(self.speaks, host, self.port, username, password)

    # -- life ----------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        self._thread.start()
        self._loop = self._ready.result(_PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE_S)

    def kill(self) -> None:
        """Nobody listens any more, and all connections are cut."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE_S)

    def restart(self) -> None:
        """Listen again on the same port."""
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(_PATIENCE_S)

    async def _live(self) -> None:
        self._stop = asyncio.Event()
        try:
            await self._begin()
        except OSError as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._end()

    async def _begin(self) -> None:
        self._server = await asyncio.start_server(self._accept, HERE, self.port, backlog=1000)

    async def _end(self) -> None:
        await asyncio.sleep(0.02)  # a server that closes forgets whom it is just accepting
        self._server.close()
        await asyncio.sleep(0.01)  # who was accepted just now has its task then
        for task, writer in tuple(self._visits.items()):
            with suppress(OSError):
                reset(writer)
            task.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits[task] = writer
        self.connections += 1
        plain = writer.transport  # TLS that has broken off does not close it (Python 3.11)
        visit = _Visit(self, reader, writer)
        try:
            await self._serve(visit)
        except (_OverError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            try:
                with suppress(OSError):
                    await writer.wait_closed()
            finally:
                plain.abort()
                del self._visits[task]

    # -- the conversation ----------------------------------------------------------------------
    async def _serve(self, visit: _Visit) -> None:
        if visit.part.ends and visit.part.ends[0] is Point.ACCEPT:
            await visit.say(Point.ACCEPT, b"")
        if self._tls is not None:
            await visit.writer.start_tls(self._tls)
        is_socks = self.speaks is ProxyType.SOCKS5
        wish = await (self._ask_socks(visit) if is_socks else self._ask_http(visit))
        host, port = self.names.get(wish.host, (wish.host, wish.port))
        try:
            reader, writer = await asyncio.open_connection(
                host, port, local_addr=(self.source, 0), family=socket.AF_INET
            )
        except (OSError, UnicodeError):
            refused = b"\x05\x05" + _BOUND
            await visit.say(Point.REPLY, refused if is_socks else _http(502))
            return
        try:
            await visit.say(Point.REPLY, b"\x05\x00" + _BOUND if is_socks else _http(200))
            await self._relay(visit, reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _ask_http(self, visit: _Visit) -> Wish:
        lines = (await visit.read_head()).decode("latin-1").split("\r\n")
        method, authority, _ = lines[0].split(" ")
        fields = dict(line.lower().partition(": ")[::2] for line in lines[1:])
        host, _, port = authority.rpartition(":")
        username = password = ""
        for line in lines:
            if line.lower().startswith("proxy-authorization: basic "):
                login = base64.b64decode(line.split(" ")[2]).decode()
                username, _, password = login.partition(":")
        self.wishes.append(Wish(host, int(port or 0), "authority", username, password))
        if method != "CONNECT" or "authorization" in fields:
            await visit.say(Point.REPLY, _http(405))
            raise _OverError
        if self.login not in {None, (username, password)}:
            await visit.say(Point.REPLY, _http(407, 'Proxy-Authenticate: Basic realm="here"'))
            raise _OverError
        return self.wishes[-1]

    async def _ask_socks(self, visit: _Visit) -> Wish:
        methods = await visit.read((await visit.read(2))[1])
        method = _FIRST if self.login is None else _TO
        if method[1] not in methods:
            method = _NO_METHOD
        await visit.say(Point.METHOD, method)
        username = password = ""
        if visit.part.says.get(Point.METHOD, method) == _TO:
            username = (await visit.read((await visit.read(2))[1])).decode()
            password = (await visit.read((await visit.read(1))[0])).decode()
            right = self.login in {None, (username, password)}
            await visit.say(Point.LOGIN, _LET_IN if right else _TURNED_AWAY)
        kind = (await visit.read(4))[3]
        host = await _socks_host(visit, kind)
        port = int.from_bytes(await visit.read(2), "big")
        self.wishes.append(Wish(host, port, _KINDS[kind], username, password))
        return self.wishes[-1]

    # -- the relay -----------------------------------------------------------------------------
    async def _relay(
        self, visit: _Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry_up(visit, writer))
            group.create_task(self._carry_down(visit, reader, writer))

    async def _carry_up(self, visit: _Visit, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await visit.reader.read(_BUFFER):
                self.heard += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _carry_down(
        self, visit: _Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        part, carried = visit.part, 0
        size = max(1, part.rate // _SLICES) if part.rate else _BUFFER
        with suppress(OSError):
            while data := await reader.read(size):
                if part.cut_after is not None and carried + len(data) >= part.cut_after:
                    visit.writer.write(data[: part.cut_after - carried])
                    await asyncio.sleep(0.05)  # a reset throws away what was not sent
                    reset(visit.writer)
                    break
                carried += len(data)
                visit.writer.write(data)
                await visit.writer.drain()
                if part.rate:
                    await asyncio.sleep(1 / _SLICES)
        visit.writer.close()
        writer.close()


async def _socks_host(visit: _Visit, kind: int) -> str:
    if kind == 3:
        return (await visit.read((await visit.read(1))[0])).decode()
    family = socket.AF_INET if kind == 1 else socket.AF_INET6
    return socket.inet_ntop(family, await visit.read(4 if kind == 1 else 16))


def _http(status: int, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "", ""]).encode()
