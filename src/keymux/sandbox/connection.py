"""One connection of a peer: requests come out of h11, answers go down as bytes of our making.

h11 reads requests only. Answers are written past it, because most of them are meant to break its
rules; so there is a fresh parser for every request, fed with what the last one left over.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import assert_never

import h11
import msgspec
from msgspec import Struct

from keymux.sandbox.answer import Answer, Close, Framing, Hang, Pace, Pause, Send, Step, deliver
from keymux.sandbox.asked import Asked, read_asked
from keymux.sandbox.record import Entry, Origin, Records
from keymux.sandbox.stage import Stage

CONTROL_PREFIX = "/_sandbox/"
_LARGEST_HEAD = 1 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BROKEN_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_SIOCOUTQNSD = 0x894B
_A_MOMENT = 0.001
_NO_LINGER = struct.pack("ii", 1, 0)


class House(Struct, frozen=True):
    """What all connections share.

    Attributes:
        stage: plays.
        records: are written.
        control: answers requests to the sandbox itself.
        here: the connections that are open, by number.
        controls: numbers of the connections that talk to the sandbox itself.
    """

    stage: Stage
    records: Records
    control: Callable[[Asked], Awaitable[Answer]]
    here: dict[int, "Connection"]
    controls: set[int]


class Connection(asyncio.Protocol):
    """Reads requests and plays answers until one side has enough."""

    def __init__(self, house: House, number: int) -> None:
        self._house = house
        self._number = number
        self._turn = 0
        self._parser = _fresh_parser()
        self._arrived = asyncio.Event()
        self._flushed = asyncio.Event()
        self._entry: Entry | None = None
        self._is_ending = False

    # what asyncio tells
    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override]  # -- a server's always are
    ) -> None:
        """A peer has connected."""
        self._transport = transport
        self._flushed.set()
        # A write is over when the kernel has all of it (a limit of 0 never lifts under TLS).
        transport.set_write_buffer_limits(high=1, low=0)
        self._house.here[self._number] = self
        self._house.records.announce()
        # The task ends with the connection: see `connection_lost`.
        self._task = asyncio.get_running_loop().create_task(self._converse())

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        self._parser.receive_data(data)
        self._arrived.set()

    def eof_received(self) -> None:
        """The peer has no more to say, which ends the connection: nobody reads the answer."""
        self._note_leaving()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- either way it is gone
        """The connection is gone."""
        self._note_leaving()
        self._task.cancel()
        self._house.here.pop(self._number, None)
        self._house.records.announce()

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._flushed.clear()

    def resume_writing(self) -> None:
        """The kernel has everything."""
        self._flushed.set()

    def abort(self) -> asyncio.Task[None]:
        """End the connection at once; the task ends soon after."""
        self._is_ending = True
        self._transport.abort()
        return self._task

    def _note_leaving(self) -> None:
        if self._entry and not self._is_ending and self._entry.peer_left_at is None:
            self._entry.peer_left_at = time.monotonic()
            self._house.records.announce()

    # the conversation
    async def _converse(self) -> None:
        try:
            while await self._exchange():
                rest = self._parser.trailing_data[0]
                self._parser = _fresh_parser()
                if rest:
                    self._parser.receive_data(rest)
        except h11.RemoteProtocolError:
            self._transport.write(_BROKEN_REQUEST)
        finally:
            self._is_ending = True
            self._transport.close()

    async def _exchange(self) -> bool:
        """Carry one request to its answer; False when the connection shall end."""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return False
        asked = _asked(head)
        if asked.target.startswith(CONTROL_PREFIX):
            await self._answer_control(asked)
        else:
            await self._perform(asked)
        return not (asked.closing or self._is_ending)

    async def _perform(self, asked: Asked) -> None:
        house = self._house
        self._turn += 1
        origin = Origin(self._number, self._turn, _source(self._transport))
        entry = house.records.open(asked, house.stage.behaviour_for(asked), origin)
        self._entry = entry
        if entry.behaviour.reads_body:
            await self._read_body(entry.body)
            entry.is_whole = True
        asked = msgspec.structs.replace(asked, body=bytes(entry.body))
        await self._take(house.stage.play(asked, entry.behaviour), entry)
        entry.finished_at = time.monotonic()
        house.records.announce()

    async def _answer_control(self, asked: Asked) -> None:
        self._house.controls.add(self._number)
        body = bytearray()
        await self._read_body(body)
        answer = await self._house.control(msgspec.structs.replace(asked, body=bytes(body)))
        for step in deliver(answer, Pace(), Framing.LENGTH, closing=asked.closing):
            if isinstance(step, Send):
                await self._write(step)

    async def _read_body(self, body: bytearray) -> None:
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data

    async def _next_event(self) -> object:
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            if self._parser.they_are_waiting_for_100_continue:
                self._parser.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._transport.write(_CONTINUE)
            self._arrived.clear()
            await self._arrived.wait()
        return event

    # steps
    async def _take(self, steps: Iterator[Step], entry: Entry) -> None:
        for step in steps:
            match step:
                case Send():
                    entry.note(step)
                    await self._write(step)
                    self._house.records.announce()
                case Pause():
                    await asyncio.sleep(step.seconds)
                case Hang():
                    await asyncio.Event().wait()
                case Close():
                    await self._close(step)
                    return
                case _:
                    assert_never(step)

    async def _write(self, step: Send) -> None:
        self._transport.write(step.before + step.body + step.after)
        await self._flushed.wait()

    async def _close(self, close: Close) -> None:
        self._is_ending = True
        if not close.reset:
            self._transport.close()
            return
        wire: socket.socket = self._transport.get_extra_info("socket")
        # A reset throws away what the kernel has not sent yet.
        while _unsent(wire):  # noqa: ASYNC110 -- the kernel tells nobody when it has sent
            await asyncio.sleep(_A_MOMENT)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()


def _fresh_parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)


def _asked(head: h11.Request) -> Asked:
    return read_asked(
        head.method.decode("ascii"),
        head.target.decode("latin-1"),
        head.headers.raw_items(),
        head.http_version.decode("ascii"),
    )


def _source(transport: asyncio.Transport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def _unsent(wire: socket.socket) -> int:
    """Bytes that the kernel still keeps because the peer takes no more."""
    found = fcntl.ioctl(wire.fileno(), _SIOCOUTQNSD, b"\0" * 4)
    return int.from_bytes(found, sys.byteorder)
