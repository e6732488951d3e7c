"""An HTTP answer, and the steps by which it goes over the wire."""

from collections.abc import Iterator
from http import HTTPStatus

from msgspec import Struct

from keymux.core.vocabulary import Word
from keymux.sandbox.asked import Headers

LAST_CHUNK = b"0\r\n\r\n"


class Framing(Word):
    """How the end of a body is told."""

    CHUNKED = "chunked"
    LENGTH = "length"
    CLOSE = "close"


class Send(Struct, frozen=True):
    """Write bytes.

    Attributes:
        before: head or framing in front of the body's bytes.
        body: the part that belongs to the response body.
        after: framing behind it.
        status: the status that ``before`` carries, 0 when it carries none.
    """

    before: bytes = b""
    body: bytes = b""
    after: bytes = b""
    status: int = 0


class Pause(Struct, frozen=True):
    """Wait, and let others work."""

    seconds: float


class Hang(Struct, frozen=True):
    """Do nothing until the peer goes."""


class Close(Struct, frozen=True):
    """End the connection: by FIN after everything was written, or by RST."""

    reset: bool = False


Step = Send | Pause | Hang | Close


class Pace(Struct, frozen=True):
    """Timing of streams.

    Attributes:
        first_s: seconds before the first event.
        gap_s: seconds between events.
        early_head: whether status and headers go out before the first wait.
    """

    first_s: float = 0.0
    gap_s: float = 0.002
    early_head: bool = False


class Answer(Struct, frozen=True):
    """A whole answer.

    Attributes:
        status: of the response.
        headers: without those of framing.
        pieces: of the body; one for each event of a stream.
        preamble: how many pieces come before the first word of a stream; 0 for a plain answer.
    """

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    preamble: int = 0

    @property
    def streamed(self) -> bool:
        """Whether it is a stream of events."""
        return self.preamble > 0

    @property
    def body(self) -> bytes:
        """The pieces joined."""
        return b"".join(self.pieces)


def head_of(answer: Answer, *more: tuple[str, str]) -> bytes:
    """Status line and headers as bytes."""
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in (*answer.headers, *more)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def deliver(answer: Answer, pace: Pace, framing: Framing, *, closing: bool) -> Iterator[Step]:
    """The steps that send a whole answer.

    A plain body with its length goes out in one write. Everything else goes out piece by piece,
    the head together with the first one unless the pace wants it early.
    """
    ending = (("connection", "close"),) if closing or framing is Framing.CLOSE else ()
    head = head_of(answer, *_framing_header(answer, framing), *ending)
    if not answer.streamed and framing is Framing.LENGTH:
        yield from _plainly(answer, pace, head)
        return
    if pace.early_head or not answer.pieces:
        yield Send(before=head, status=answer.status)
        head = b""
    for index, piece in enumerate(answer.pieces):
        yield Pause(pace.gap_s if index else pace.first_s)
        before, after = _around(piece, framing)
        status = answer.status if head else 0
        yield Send(head + before, piece, after, status)
        head = b""
    if framing is Framing.CHUNKED:
        yield Send(after=LAST_CHUNK)
    elif framing is Framing.CLOSE:
        yield Close()


def cut(steps: Iterator[Step], after: int) -> Iterator[Step]:
    """The same steps until so many bytes of the body are sent; never the last chunk."""
    left = after
    for step in steps:
        if isinstance(step, Close):
            return
        if not isinstance(step, Send):
            yield step
            continue
        if not step.status and (left == 0 or not step.body):
            return
        if len(step.body) > left:
            yield Send(step.before, step.body[:left], b"", step.status)
            return
        yield step
        left -= len(step.body)


def sliced(steps: Iterator[Step], size: int) -> Iterator[Step]:
    """The same bytes in writes of at most so many bytes of the body."""
    for step in steps:
        if not isinstance(step, Send) or len(step.body) <= size:
            yield step
            continue
        yield Send(before=step.before, status=step.status)
        for start in range(0, len(step.body), size):
            yield Send(body=step.body[start : start + size])
        yield Send(after=step.after)


def byte_by_byte(steps: Iterator[Step], gap_s: float) -> Iterator[Step]:
    """The same bytes, one for each write."""
    for step in steps:
        if not isinstance(step, Send):
            yield step
            continue
        status = step.status
        for before, body in ((step.before, b""), (b"", step.body), (step.after, b"")):
            for at in range(len(before) + len(body)):
                yield Send(before=before[at : at + 1], body=body[at : at + 1], status=status)
                yield Pause(gap_s)
                status = 0


def _plainly(answer: Answer, pace: Pace, head: bytes) -> Iterator[Step]:
    if pace.early_head:
        yield Send(before=head, status=answer.status)
        head = b""
    if pace.first_s:
        yield Pause(pace.first_s)
    yield Send(before=head, body=answer.body, status=answer.status if head else 0)


def _framing_header(answer: Answer, framing: Framing) -> Headers:
    if framing is Framing.CHUNKED:
        return (("transfer-encoding", "chunked"),)
    if framing is Framing.LENGTH:
        return (("content-length", str(sum(map(len, answer.pieces)))),)
    return ()


def _around(piece: bytes, framing: Framing) -> tuple[bytes, bytes]:
    return (b"%x\r\n" % len(piece), b"\r\n") if framing is Framing.CHUNKED else (b"", b"")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
