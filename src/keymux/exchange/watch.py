"""Looks after the running exchanges: ends what takes too long or lost its client.

One loop looks at all of them four times a second, so that an exchange needs no timer and no task of
its own. An exchange that lives longer than one look gets a listener for the client's leaving; a
stream that is silent towards its client gets a comment.
"""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol

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


class Gone(Protocol):
    """Something whose leaving can be waited for."""

    async def gone(self) -> None:
        """Return when it has left."""


class Watched:
    """One exchange under watch; a context manager around all of its work.

    Attributes:
        started: when it began.
        deadline: when the exchange as a whole is over.
        until: when the present phase is over, and
        fault: what is raised then.
        tripped: what the exchange is being ended with; None while it runs.
    """

    __slots__ = (
        "_client", "_facts", "_listener", "_listens", "_pulse", "_task", "clock", "deadline", "fault", "started",
        "tripped", "until", "watch",
    )

    def __init__(self, watch: "Watch", client: Gone, seconds: float) -> None:
        self.watch = watch
        self.clock = watch.clock
        self._client = client
        self.started = watch.clock()
        self.deadline = self.started + seconds
        self.until = self.deadline
        self.fault: type[Fault] = DeadlineReached
        self._facts: dict[str, object] = {"seconds": round(seconds)}
        self.tripped: type[Fault] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._pulse: Pulse | None = None
        self._listens = False

    def left_s(self) -> float:
        """Seconds left for the exchange."""
        return self.deadline - self.clock()

    def within(self, seconds: float, fault: type[Fault], /, **facts: object) -> "Within":
        """A context in which something has to happen in time, or `fault` is raised."""
        return Within(self, seconds, fault, facts)

    def listen(self) -> None:
        """From now on notice when the client leaves; until then somebody else reads from it."""
        self._listens = True

    def forget_client(self) -> None:
        """The client has all of its answer; it may leave and needs no comments."""
        self._listens = False
        self._pulse = None
        if self._listener is not None:
            self._listener.cancel()

    def keep_alive(self, pulse: Pulse) -> None:
        """From now on send comments in silence."""
        self._pulse = pulse

    def __enter__(self) -> "Watched":
        self._task = asyncio.current_task()
        self.watch.running.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.watch.running.discard(self)
        if self._listener is not None:
            self._listener.cancel()
        if kind is asyncio.CancelledError and self.tripped is not None:
            raise self.caught(self.tripped, self._facts) from None

    # -- called by the watch -----------------------------------------------------------------
    def look(self, now: float) -> None:
        """Act on what the time has brought."""
        if self.tripped is not None:
            return
        if now >= self.until:
            self.trip(self.fault)
        elif self._listens and self._listener is None and now - self.started > LOOK_EVERY_S / 2:
            self._listener = self.watch.spawn(self._listen())
        if self._pulse is not None and self._pulse.comment_is_due(now):
            self.watch.spawn(self._pulse.comment())

    def trip(self, fault: type[Fault], **facts: object) -> None:
        """End the exchange with a fault, wherever it stands."""
        if self.tripped is None and self._task is not None:
            self.tripped = fault
            self._facts = {**self._facts, **facts}
            self._task.cancel()

    async def _listen(self) -> None:
        await self._client.gone()
        self.trip(ClientGone)

    def caught(self, fault: type[Fault], facts: dict[str, object]) -> Fault:
        """The fault to raise in place of the cancellation that the watch sent."""
        if self._task is not None:
            self._task.uncancel()
        self.tripped = None
        return fault(**facts)


class Within:
    """A limit on one phase of a watched exchange; the exchange's own deadline goes on counting."""

    __slots__ = ("_before", "_facts", "_fault", "_seconds", "_watched")

    def __init__(
        self, watched: Watched, seconds: float, fault: type[Fault], facts: dict[str, object]
    ) -> None:
        self._watched = watched
        self._seconds = seconds
        self._fault = fault
        self._facts = facts

    def __enter__(self) -> "Within":
        watched = self._watched
        self._before = watched.until, watched.fault
        self.renew()
        return self

    def renew(self) -> None:
        """Start the time again: something has happened."""
        watched = self._watched
        until = watched.clock() + self._seconds
        if until < watched.deadline:
            watched.until, watched.fault = until, self._fault
        else:
            watched.until, watched.fault = watched.deadline, DeadlineReached

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        watched = self._watched
        watched.until, watched.fault = self._before
        if kind is asyncio.CancelledError and watched.tripped is self._fault:
            raise watched.caught(self._fault, self._facts) from None


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

    def over(self, client: Gone, seconds: float) -> Watched:
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
