"""Behaviours that are legal but odd, slow, large, or talk too much."""

import zlib
from collections.abc import Iterator
from typing import Literal

import msgspec

from keymux.core.vocabulary import Usage
from keymux.sandbox.answer import Answer, Pace, Step, byte_by_byte, sliced
from keymux.sandbox.behaviour import Behaviour, play
from keymux.sandbox.content import Content
from keymux.sandbox.scene import Scene
from keymux.sandbox.wrong import Wrong

_GZIP = 31
_WRITE = 65_536
_OWNER = "owner@sandbox.example"


class Slow(Behaviour, frozen=True):
    """Takes its time before the first event and between events.

    Attributes:
        first_s: seconds before the first event, or before a plain answer.
        gap_s: seconds between events.
        head: whether status and headers come ``late``, with the first event, or ``early``.
    """

    first_s: float = 5.0
    gap_s: float = 0.5
    head: Literal["late", "early"] = "late"

    def _steps(self, scene: Scene) -> Iterator[Step]:
        pace = Pace(self.first_s, self.gap_s, self.head == "early")
        return play(scene, self._answer(scene), pace=pace)


class Drip(Behaviour, frozen=True):
    """Sends every byte, head and framing included, in a write of its own."""

    gap_s: float = 0.0

    def _steps(self, scene: Scene) -> Iterator[Step]:
        quick = Pace(gap_s=0.0)
        return byte_by_byte(play(scene, self._answer(scene), pace=quick), self.gap_s)


class Crlf(Behaviour, frozen=True):
    """Streams events with other line ends, comments, unused fields and odd spacing.

    Attributes:
        ends: of lines; ``mixed`` changes from event to event.
    """

    ends: Literal["crlf", "cr", "mixed"] = "crlf"

    def _answer(self, scene: Scene) -> Answer:
        good = scene.good()
        if not good.streamed:
            return msgspec.structs.replace(good, pieces=(b"\r\n  " + good.body + b" \r\n",))
        ends = {"crlf": (b"\r\n",), "cr": (b"\r",), "mixed": (b"\r\n", b"\n", b"\r")}[self.ends]
        pieces = tuple(
            _odd(piece, index).replace(b"\n", ends[index % len(ends)])
            for index, piece in enumerate(good.pieces)
        )
        return msgspec.structs.replace(good, pieces=pieces)


def _odd(event: bytes, index: int) -> bytes:
    """The same event to a parser that keeps to the rules; its lines end in LF."""
    event = event.replace(b"data: {", b"data:{  ", 1).replace(b"}\n\n", b"}   \n\n", 1)
    if index == 0:
        return b": the sandbox is thinking\n\nretry: 3000\n" + event
    return b"id: %d\n:\n%b" % (index, event) if index % 3 == 0 else event


class HugeEvent(Behaviour, frozen=True):
    """Puts a text of the given size into one event, or into the plain answer."""

    size: int = 2_000_000

    def _answer(self, scene: Scene) -> Answer:
        return scene.good(self._with_much_text)

    def _steps(self, scene: Scene) -> Iterator[Step]:
        return sliced(play(scene, self._answer(scene)), _WRITE)

    def _with_much_text(self, content: Content) -> Content:
        return msgspec.structs.replace(content, text=(*content.text, "x" * self.size))


class HeaderBomb(Behaviour, frozen=True):
    """Answers well below far too many headers."""

    count: int = 10_000
    size: int = 1_000

    def _answer(self, scene: Scene) -> Answer:
        bomb = tuple((f"x-bomb-{number}", "b" * self.size) for number in range(self.count))
        good = scene.good()
        return msgspec.structs.replace(good, headers=(*good.headers, *bomb))


class Gzip(Behaviour, frozen=True):
    """Compresses the body although nobody asked for it."""

    def _answer(self, scene: Scene) -> Answer:
        good = scene.good()
        packer = zlib.compressobj(wbits=_GZIP)
        pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in good.pieces]
        return msgspec.structs.replace(
            good,
            headers=(*good.headers, ("content-encoding", "gzip")),
            pieces=(*pieces, packer.flush()),
        )


class LeaksKey(Behaviour, frozen=True):
    """Puts the key, cookies and the names of account and organization into headers and body.

    Attributes:
        status: of the error; with 200 the answer is good and only the headers leak.
    """

    status: int = 400

    def _answer(self, scene: Scene) -> Answer:
        key = scene.asked.key
        headers = (
            ("authorization", f"Bearer {key}"),
            ("x-api-key", key),
            ("set-cookie", f"session={key}; Path=/; HttpOnly"),
            ("openai-organization", "org-sandbox-secret"),
            ("anthropic-organization-id", "org-sandbox-secret"),
            ("x-account", _OWNER),
        )
        if self.status == 200:  # noqa: PLR2004 -- the one status that is no error
            good = scene.good()
            return msgspec.structs.replace(good, headers=(*good.headers, *headers))
        message = f"Incorrect API key provided: {key}. It belongs to {_OWNER} (org-sandbox-secret)."
        return scene.wrong(Wrong(self.status, message), *headers)


class NoUsage(Behaviour, frozen=True):
    """Answers well but does not say what it used.

    Attributes:
        how: the usage is ``missing``, or there and ``zero``.
    """

    how: Literal["missing", "zero"] = "missing"

    def _answer(self, scene: Scene) -> Answer:
        return scene.good(self._without_usage)

    def _without_usage(self, content: Content) -> Content:
        return msgspec.structs.replace(content, usage=None if self.how == "missing" else Usage())
