"""Server-sent events, fed in any chunking (WHATWG HTML, section 9.2, read 2026-11)."""

import re
from collections.abc import Iterator

from msgspec import Struct

_BLANK_LINE = re.compile(rb"\n\n|\n\r\n?|\r\r\n?")
_NEWLINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class OversizedEvent(Exception):  # noqa: N818 -- it names what came, as the faults do
    """An event is longer than the limit and still not over."""


class Event(Struct, frozen=True):
    """One event as a client's parser would see it.

    Attributes:
        name: of the ``event`` field, empty when there was none.
        data: of all ``data`` fields, joined by newlines; empty for a comment.
    """

    name: bytes
    data: bytes


class Framer:
    """Cuts a stream of chunks so that only whole events pass.

    An event is held back until the blank line that ends it has arrived. What is passed on can
    therefore be followed by an event of our own, and a stream that is cut leaves no half event
    with the client. The bytes are never changed.
    """

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int) -> None:
        self._rest = bytearray()
        self._limit = limit

    @property
    def held(self) -> int:
        """Bytes of the unfinished event."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> bytes:
        """All events that are complete by now, in the order they came; often none.

        Raises:
            OversizedEvent: the unfinished event is over the limit.
        """
        rest = self._rest
        if not rest and chunk.endswith(b"\n\n"):
            return chunk
        searched = max(0, len(rest) - 1)
        rest += chunk
        end = _last_boundary(rest, searched)
        whole = bytes(rest[:end])
        del rest[:end]
        if len(rest) > self._limit:
            raise OversizedEvent
        return whole


def _last_boundary(buffer: bytearray, start: int) -> int:
    """Where the last blank line ends, 0 if there is none. A blank line holds one of three pairs."""
    last = max(
        buffer.rfind(b"\n\n", start), buffer.rfind(b"\n\r", start), buffer.rfind(b"\r\r", start)
    )
    if last < 0:
        return 0
    end = last + 2
    return end + 1 if buffer[end - 1 : end + 1] == b"\r\n" else end


def split(block: bytes) -> Iterator[bytes]:
    """The events of a block of whole events, each with the blank line that ends it."""
    start = 0
    for blank in _BLANK_LINE.finditer(block):
        yield block[start : blank.end()]
        start = blank.end()
    if start < len(block):
        yield block[start:]


def end_of_event(block: bytes, position: int) -> int:
    """Where the event ends that a position of a block of whole events falls into."""
    end = 0
    for event in split(block):
        end += len(event)
        if end >= position:
            break
    return end


def written(name: bytes, data: bytes) -> bytes:
    """An event of a name, which may be empty, and of data without carriage returns."""
    lines = [b"event: " + name] if name else []
    lines += [b"data: " + line for line in data.split(b"\n")]
    return b"\n".join(lines) + b"\n\n"


def parse(event: bytes) -> Event:
    """The fields of one event that the formats use."""
    name = b""
    data: list[bytes] = []
    for line in _NEWLINE.split(event.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return Event(name, b"\n".join(data))
