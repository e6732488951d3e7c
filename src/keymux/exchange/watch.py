"""Looks after the running exchanges: ends what takes too long or lost its client.

One loop looks at all of them four times a second, so that an exchange needs no timer and no task of
its own: it only says what it expects next, and by when. An exchange that lives longer than one look
gets a listener for the client's leaving; a stream that is silent towards its client gets a comment.
"""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self

from keymux.core.faults import ClientGone, DeadlineReached, Fault

LOOK_EVERY_S = 0.25

Clock = Callable[[], float]
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Pulse(Protocol):
    """A stream that can be kept alive with comments."""

    def comment_is_due(self, now: float) -> bool:
        """Whether it has been silent for too long."""

    async def comment(self) -> None:
        """Send a comment, and before it the head of the answer if that is still held back."""


class Leaver(Protocol):
    """Somebody whose leaving can be waited for."""

    async def gone(self) -> None:
        """Return when it has left."""


class Watched:
    """One exchange under watch; a context manager around all of its work.

    What is late is cancelled, and leaves this context as the fault that was expected to be raised.
    Whoever ends something on the way out asks `named` what a cancellation stands for.

    Attributes:
        pulse: kept alive with comments, None when there is no need.
        started: when it began.
        deadline: when the exchange as a whole is over.
        until: when the present phase is over, and
        fault: what it is ended with then.
        tripped: what it is being ended with; None while it runs.
    """

    __slots__ = (
        "_client",
        "_listener",
        "_listens",
        "_seconds",
        "_task",
        "_total",
        "_watch",
        "clock",
        "deadline",
        "fault",
        "pulse",
        "started",
        "tripped",
        "until",
    )

    def __init__(self, watch: "Watch", client: Leaver, seconds: float) -> None:
        self._watch = watch
        self._client = client
        self._task: asyncio.Task[Any] | None = None
        self._listener: asyncio.Task[None] | None = None
        self.pulse: Pulse | None = None
        self._listens = False
        self._seconds = self._total = seconds
        self.clock = watch.clock
        self.started = now = watch.clock()
        self.until = self.deadline = now + seconds
        self.fault: type[Fault] = DeadlineReached
        self.tripped: type[Fault] | None = None

    @property
    def total_s(self) -> float:
        """Seconds the exchange had in all."""
        return self._total

    def left_s(self) -> float:
        """Seconds left for the exchange."""
        return self.deadline - self.clock()

    def expect(self, fault: type[Fault], seconds: float) -> None:
        """Something has to happen within so many seconds, or the exchange ends with `fault`.

        Called again whenever it has happened. The deadline of the exchange goes on counting.
        """
        until = self.clock() + seconds
        if until < self.deadline:
            self.until, self.fault, self._seconds = until, fault, seconds
        else:
            self.until, self.fault, self._seconds = self.deadline, DeadlineReached, self._total

    def listen(self, pulse: Pulse | None) -> None:
        """From now on notice when the client leaves, and keep a stream's client company."""
        self._listens = True
        self.pulse = pulse

    def forget_client(self) -> None:
        """The client gets the end of its answer now; it may leave and needs no comments."""
        self._listens = False
        self.pulse = None
        if self._listener is not None:
            self._listener.cancel()

    def named(self, error: BaseException | None) -> BaseException | None:
        """The fault that a cancellation by the watch stands for; any other error as it is."""
        if self.tripped is None or not isinstance(error, asyncio.CancelledError):
            return error
        return self.tripped(seconds=f"{self._seconds:g}")

    def resume(self) -> None:
        """The cancellation was taken note of; the exchange goes on."""
        self.tripped = None
        self.until, self.fault, self._seconds = self.deadline, DeadlineReached, self._total
        if self._task is not None:
            self._task.uncancel()

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._watch.running.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.running.discard(self)
        self.forget_client()
        if self.tripped is not None:
            fault = self.named(error)
            self.resume()
            if fault is not None and fault is not error:
                raise fault from None

    # -- called by the watch -----------------------------------------------------------------
    def look(self, now: float) -> None:
        """Act on what the time has brought."""
        if self.tripped is not None:
            return
        if now >= self.until:
            self.trip(self.fault)
        elif self._listens and self._listener is None and now - self.started > LOOK_EVERY_S / 2:
            self._listener = self._watch.spawn(self._listen())
        if self.pulse is not None and self.pulse.comment_is_due(now):
            self._watch.spawn(self._beat())

    def trip(self, fault: type[Fault]) -> None:
        """End the exchange with a fault, wherever it stands."""
        if self.tripped is None and self._task is not None:
            self.tripped = fault
            self._task.cancel()

    async def _beat(self) -> None:
        pulse = self.pulse
        if pulse is not None:  # else the end has come in the meantime
            await pulse.comment()

    async def _listen(self) -> None:
        await self._client.gone()
        self.trip(ClientGone)


class Watch:
    """All running exchanges.

    Args:
        clock: seconds, never going back.
        spawn: starts a task that the application owns.
    """

    def __init__(self, clock: Clock, spawn: Spawn) -> None:
        self.clock = clock
        self.spawn = spawn
        self.running: set[Watched] = set()

    def over(self, client: Leaver, seconds: float) -> Watched:
        """Watch an exchange for as long as the context lasts."""
        return Watched(self, client, seconds)

    async def run(self) -> None:
        """Look after everything until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = self.clock()
            for watched in tuple(self.running):
                watched.look(now)

    def end_all(self, fault: type[Fault]) -> None:
        """End every running exchange with a fault."""
        for watched in tuple(self.running):
            watched.trip(fault)
