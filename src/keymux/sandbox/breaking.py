"""Behaviours that break the connection, the stream or the framing."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import msgspec

from keymux.sandbox.answer import Answer, Close, Framing, Hang, Pause, Send, Step, cut
from keymux.sandbox.behaviour import Behaviour, play
from keymux.sandbox.scene import Scene
from keymux.sandbox.wrong import Wrong, error_event

How = Literal["fin", "reset"]
_OVERLOADED = Wrong(529, "Overloaded", type="overloaded_error", code="overloaded")


def _half(answer: Answer, after: int | None) -> int:
    return len(answer.body) // 2 if after is None else after


def _with_pieces(answer: Answer, *pieces: bytes) -> Answer:
    return msgspec.structs.replace(answer, pieces=tuple(filter(None, pieces)))


class OverloadedIn200(Behaviour, frozen=True):
    """Answers 200 and then says in the body that it is overloaded.

    Attributes:
        place: in a stream, the error is the ``first`` event or comes after the ``preamble``.
    """

    place: Literal["first", "preamble"] = "first"

    def _answer(self, scene: Scene) -> Answer:
        good = scene.good()
        if not good.streamed:
            body = scene.dialect.error(_OVERLOADED, scene.format, scene.identity)
            return scene.json(200, msgspec.json.encode(body))
        kept = good.preamble if self.place == "preamble" else 0
        error = error_event(_OVERLOADED, scene.format, scene.identity)
        return _with_pieces(good, *good.pieces[:kept], error)


class ErrorMidStream(Behaviour, frozen=True):
    """Ends a stream with an error event after some of its events; plain answers are whole."""

    after: int = 3

    def _answer(self, scene: Scene) -> Answer:
        good = scene.good()
        if not good.streamed:
            return good
        kept = good.pieces[: good.preamble + self.after]
        return _with_pieces(good, *kept, error_event(_OVERLOADED, scene.format, scene.identity))


class Cut(Behaviour, frozen=True):
    """Ends the connection in the middle of the body.

    Attributes:
        after: bytes of the body that are sent, None for half of it.
        how: by FIN or by RST.
        framing: how the end of the body would have been told, None for the usual way. With
            ``close`` nothing but the body itself tells that it was cut.
    """

    after: int | None = None
    how: How = "fin"
    framing: Framing | None = None

    def _steps(self, scene: Scene) -> Iterator[Step]:
        answer = self._answer(scene)
        yield from cut(play(scene, answer, framing=self.framing), _half(answer, self.after))
        yield Close(reset=self.how == "reset")


class Stall(Behaviour, frozen=True):
    """Falls silent in the middle of the body and keeps the connection open."""

    after: int | None = None
    framing: Framing | None = None

    def _steps(self, scene: Scene) -> Iterator[Step]:
        answer = self._answer(scene)
        yield from cut(play(scene, answer, framing=self.framing), _half(answer, self.after))
        yield Hang()


class Truncated(Behaviour, frozen=True):
    """Leaves out the rest of the body.

    Attributes:
        how: ``clean`` ends the short body as if it were whole, ``short`` promises more by
            Content-Length than it sends.
        after: bytes of the body that are sent, None for half of it.
    """

    how: Literal["clean", "short"] = "clean"
    after: int | None = None

    def _steps(self, scene: Scene) -> Iterator[Step]:
        answer = self._answer(scene)
        after = _half(answer, self.after)
        if self.how == "clean":
            yield from play(scene, _with_pieces(answer, *_first_bytes(answer.pieces, after)))
            return
        yield from cut(play(scene, answer, framing=Framing.LENGTH), after)
        yield Close()


class EmptyStream(Behaviour, frozen=True):
    """Answers 200 and ends the body before it begins."""

    def _answer(self, scene: Scene) -> Answer:
        return _with_pieces(scene.good())


class NoReply(Behaviour, frozen=True):
    """Reads the whole request and ends the connection without a status."""

    how: How = "fin"

    def _steps(self, scene: Scene) -> Iterator[Step]:  # noqa: ARG002 -- it says nothing of the request
        yield Close(reset=self.how == "reset")


class TurnedAway(Behaviour, frozen=True):
    """Ends the connection when it has read the head of a request and before it reads the body."""

    reads_body: ClassVar[bool] = False

    how: How = "reset"

    def _steps(self, scene: Scene) -> Iterator[Step]:  # noqa: ARG002 -- it says nothing of the request
        yield Close(reset=self.how == "reset")


class Silent(Behaviour, frozen=True):
    """Reads the whole request and never answers."""

    def _steps(self, scene: Scene) -> Iterator[Step]:  # noqa: ARG002 -- it says nothing of the request
        yield Hang()


class HangsUp(Behaviour, frozen=True):
    """Answers well on a connection that it promises to keep, and closes it soon after."""

    after_s: float = 0.0

    def _steps(self, scene: Scene) -> Iterator[Step]:
        yield from play(scene, self._answer(scene))
        yield Pause(self.after_s)
        yield Close()


class ExtraBytes(Behaviour, frozen=True):
    """Sends a second answer, to nobody's question, behind the first.

    Attributes:
        late_s: seconds between the two; zero puts both into one write.
    """

    late_s: float = 0.0

    def _steps(self, scene: Scene) -> Iterator[Step]:
        stray = b'{"id":"stray","choices":[],"content":[],"note":"marker:stray"}'
        extra = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        extra += b"content-length: %d\r\n\r\n%b" % (len(stray), stray)
        *first, last = play(scene, self._answer(scene))
        yield from first
        if self.late_s or not isinstance(last, Send):
            yield last
            yield Pause(self.late_s)
            yield Send(after=extra)
        else:
            yield msgspec.structs.replace(last, after=last.after + extra)


class Raw(Behaviour, frozen=True):
    """Sends given bytes as the whole response, status line included.

    Attributes:
        response: what is sent; base64 over the control API.
        then: ``stay`` leaves the connection open.
    """

    response: bytes = b""
    then: Literal["fin", "reset", "stay"] = "fin"

    def _steps(self, scene: Scene) -> Iterator[Step]:  # noqa: ARG002 -- it says nothing of the request
        yield Send(body=self.response)
        yield Hang() if self.then == "stay" else Close(reset=self.then == "reset")


def _first_bytes(pieces: tuple[bytes, ...], size: int) -> Iterator[bytes]:
    for piece in pieces:
        if size <= 0:
            return
        yield piece[:size]
        size -= len(piece)
