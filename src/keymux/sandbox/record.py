"""What the sandbox saw and sent: one record for every request."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator

from msgspec import Struct

from keymux.sandbox.answer import Send
from keymux.sandbox.asked import Asked, Headers
from keymux.sandbox.behaviour import Behaviour


class Seen(Struct, frozen=True):
    """One request as far as it has come.

    Attributes:
        number: counts all requests, from 1.
        connection: counts all connections, from 1.
        turn: counts the requests of the connection, from 1; more than 1 means it was reused.
        source: IP address of the peer; through a proxy it is the proxy's.
        at: when its head was read, monotonic seconds.
        wall: the same moment in seconds since 1970.
        dialect: of the path.
        endpoint: of the path.
        key: the upstream key it showed.
        method: of the request.
        target: path and query, as they came.
        headers: names as they were written, in order.
        body: what was read of it.
        is_whole: whether all of the body was read.
        behaviour: name of the behaviour that met it.
        status: that was sent, None before that.
        sent: bytes of the response body, without framing; those of a raw answer are all here.
        is_finished: whether everything was sent that was to be sent.
        finished_at: monotonic seconds, None before that.
        peer_left_at: when the peer ended the connection, monotonic seconds; None if we did, or
            nobody yet.
    """

    number: int
    connection: int
    turn: int
    source: str
    at: float
    wall: float
    dialect: str
    endpoint: str
    key: str
    method: str
    target: str
    headers: Headers
    body: bytes
    is_whole: bool
    behaviour: str
    status: int | None
    sent: bytes
    is_finished: bool
    finished_at: float | None
    peer_left_at: float | None


class Entry:
    """A record that is still being written."""

    def __init__(self, number: int, asked: Asked, behaviour: Behaviour, origin: "Origin") -> None:
        self.number = number
        self.behaviour = behaviour
        self.body = bytearray()
        self.is_whole = False
        self.status: int | None = None
        self.finished_at: float | None = None
        self.peer_left_at: float | None = None
        self._sent = bytearray()
        self._asked = asked
        self._origin = origin
        self._at, self._wall = time.monotonic(), time.time()

    def note(self, step: Send) -> None:
        """Bytes were handed to the network."""
        self._sent += step.body
        if step.status:
            self.status = step.status

    def seen(self) -> Seen:
        """The record as it is now."""
        asked, origin = self._asked, self._origin
        return Seen(
            number=self.number,
            connection=origin.connection,
            turn=origin.turn,
            source=origin.source,
            at=self._at,
            wall=self._wall,
            dialect=asked.place.dialect,
            endpoint=asked.place.endpoint,
            key=asked.key,
            method=asked.method,
            target=asked.target,
            headers=asked.headers,
            body=bytes(self.body),
            is_whole=self.is_whole,
            behaviour=self.behaviour.name(),
            status=self.status,
            sent=bytes(self._sent),
            is_finished=self.finished_at is not None,
            finished_at=self.finished_at,
            peer_left_at=self.peer_left_at,
        )


class Origin(Struct, frozen=True):
    """Where a request came from.

    Attributes:
        connection: number of the connection.
        turn: number of the request on it.
        source: IP address of the peer; through a proxy it is the proxy's.
    """

    connection: int
    turn: int
    source: str


class Records:
    """The last records, and news of every change.

    Args:
        remember: how many are kept.

    Attributes:
        changes: how often something changed.
    """

    def __init__(self, remember: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=remember)
        self._count = 0
        self.changes = 0
        self._changed = asyncio.Event()

    def open(self, asked: Asked, behaviour: Behaviour, origin: Origin) -> Entry:
        """Begin a record."""
        self._count += 1
        entry = Entry(self._count, asked, behaviour, origin)
        self._entries.append(entry)
        self.announce()
        return entry

    def since(self, number: int) -> Iterator[Seen]:
        """The records after a number, oldest first."""
        return (entry.seen() for entry in tuple(self._entries) if entry.number > number)

    def clear(self) -> None:
        """Forget all records; numbers go on."""
        self._entries.clear()
        self.announce()

    def announce(self) -> None:
        """Something changed."""
        self.changes += 1
        self._changed.set()

    async def until(self, condition: Callable[[], bool], within_s: float) -> None:
        """Return as soon as a condition holds; it is looked at after every change.

        Raises:
            TimeoutError: when it does not come to hold in that time.
        """
        async with asyncio.timeout(within_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
