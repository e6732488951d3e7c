"""The watch ends what is late or has lost its client, and everybody hears the same fault."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from keymux.background import Background
from keymux.core.faults import (
    ClientGone,
    DeadlineReached,
    Draining,
    FirstEventLate,
    StreamStalled,
)
from keymux.exchange.watch import LOOK_EVERY_S, Watch, Watched


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Client:
    """A client that leaves when it is told to."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def gone(self) -> None:
        """Return when it has left."""
        await self.left.wait()


class Pulse:
    """Counts the comments it is asked for."""

    def __init__(self) -> None:
        self.comments = 0
        self.is_due = True

    def comment_is_due(self, now: float) -> bool:
        """As it was told."""
        return self.is_due

    async def comment(self) -> None:
        """Count."""
        self.comments += 1


class Rig:
    """A watch, its clock and one client."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.background = Background(lambda name, trace: None)
        self.watch = Watch(self.clock, self.background.spawn)
        self.client = Client()

    def look(self, passed: float) -> None:
        """Let time pass and look at everything."""
        self.clock.now += passed
        for watched in tuple(self.watch.running):
            watched.look(self.clock.now)


async def _settled() -> None:
    """Give every task its turn."""
    for _ in range(5):
        await asyncio.sleep(0)


async def _ended(rig: Rig, work: Coroutine[Any, Any, None], *passed: float) -> BaseException | None:
    """How some work ends when time passes in these steps."""
    task = asyncio.get_running_loop().create_task(work)
    await _settled()
    for seconds in passed:
        rig.look(seconds)
        await _settled()
    return task.exception() if task.done() else None


def test_a_deadline_ends_the_exchange() -> None:
    """What takes longer than it may ends with DeadlineReached, which says how long that was."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60):
                await asyncio.Event().wait()

        return await _ended(rig, exchange(), 59.0, 2.0)

    error = asyncio.run(scenario())

    assert isinstance(error, DeadlineReached)
    assert "60 s" in error.message


def test_before_the_deadline_nothing_happens() -> None:
    """A look that comes early changes nothing."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60):
                await asyncio.Event().wait()

        return await _ended(rig, exchange(), 59.0)

    assert asyncio.run(scenario()) is None


def test_a_phase_ends_with_its_own_fault() -> None:
    """The nearest limit counts, and its fault names its own time."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60) as watched:
                watched.expect(StreamStalled, 5)
                await asyncio.Event().wait()

        return await _ended(rig, exchange(), 6.0)

    error = asyncio.run(scenario())

    assert isinstance(error, StreamStalled)
    assert "5 s" in error.message


def test_a_phase_cannot_outlive_the_exchange() -> None:
    """A generous phase does not move the deadline."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60) as watched:
                watched.expect(StreamStalled, 500)
                await asyncio.Event().wait()

        return await _ended(rig, exchange(), 61.0)

    assert isinstance(asyncio.run(scenario()), DeadlineReached)


def test_an_exchange_can_go_on_after_a_late_attempt() -> None:
    """What was late is named, and after `resume` the exchange has its own deadline again."""
    named: list[BaseException | None] = []

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60) as watched:
                watched.expect(FirstEventLate, 5)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError as error:
                    named.append(watched.named(error))
                    watched.resume()
                await asyncio.Event().wait()

        return await _ended(rig, exchange(), 6.0, 50.0, 10.0)

    error = asyncio.run(scenario())

    assert isinstance(named[0], FirstEventLate)
    assert isinstance(error, DeadlineReached)


def test_a_client_that_leaves_ends_its_exchange() -> None:
    """The listener starts with the second look and costs short exchanges nothing."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60) as watched:
                watched.listen(None)
                await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(exchange())
        await _settled()
        rig.look(LOOK_EVERY_S)
        await _settled()
        rig.client.left.set()
        await _settled()
        return task.exception()

    assert isinstance(asyncio.run(scenario()), ClientGone)


def test_before_it_listens_the_client_may_be_read_from() -> None:
    """While the body arrives, somebody else waits for the client's messages."""

    async def scenario() -> int:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60):
                await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(exchange())
        await _settled()
        rig.look(LOOK_EVERY_S)
        listeners = len(rig.background)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return listeners

    assert asyncio.run(scenario()) == 0


def test_a_forgotten_client_ends_nothing() -> None:
    """Once the client has everything it may leave."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60) as watched:
                watched.listen(None)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                watched.forget_client()
                await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(exchange())
        await asyncio.sleep(0)
        rig.look(LOOK_EVERY_S)
        await _settled()
        rig.client.left.set()
        await _settled()
        done = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return AssertionError("ended") if done else None

    assert asyncio.run(scenario()) is None


@pytest.mark.parametrize(
    ("is_due", "expected"),
    [
        pytest.param(True, 2, id="a comment for each look that finds one due"),
        pytest.param(False, 0, id="none while something else is sent"),
    ],
)
def test_silence_is_filled(*, is_due: bool, expected: int) -> None:
    """A stream's client gets comments when they are due."""

    async def scenario() -> int:
        rig, pulse = Rig(), Pulse()
        pulse.is_due = is_due

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60) as watched:
                watched.listen(pulse)
                await asyncio.Event().wait()

        await _ended(rig, exchange(), 1.0, 1.0)
        await rig.background.stop()
        return pulse.comments

    assert asyncio.run(scenario()) == expected


def test_everything_can_be_ended_at_once() -> None:
    """A process that stops ends its exchanges with one fault."""

    async def scenario() -> list[type]:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60):
                await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(exchange()) for _ in range(3)]
        await _settled()
        rig.watch.end_all(Draining)
        await asyncio.gather(*tasks, return_exceptions=True)
        return [type(task.exception()) for task in tasks]

    assert asyncio.run(scenario()) == [Draining] * 3


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    """Only what the watch itself cancelled is named."""

    async def scenario() -> bool:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 60):
                await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(exchange())
        await _settled()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert asyncio.run(scenario())


def test_nothing_stays_behind() -> None:
    """An exchange that is over is not looked at any more, nor is its listener kept."""

    async def scenario() -> tuple[int, int]:
        rig = Rig()

        async def exchange(watched: Watched) -> None:
            with watched:
                watched.listen(None)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        task = asyncio.get_running_loop().create_task(exchange(rig.watch.over(rig.client, 60)))
        await asyncio.sleep(0)
        rig.look(LOOK_EVERY_S)
        await task
        await _settled()
        return len(rig.watch.running), len(rig.background)

    assert asyncio.run(scenario()) == (0, 0)


def test_the_loop_looks_by_itself() -> None:
    """`run` looks at everything until it is cancelled."""

    async def scenario() -> BaseException | None:
        rig = Rig()

        async def exchange() -> None:
            with rig.watch.over(rig.client, 0.01):
                rig.clock.now += 1
                await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        running = loop.create_task(rig.watch.run())
        task = loop.create_task(exchange())
        await asyncio.gather(task, return_exceptions=True)
        running.cancel()
        return task.exception()

    assert isinstance(asyncio.run(scenario()), DeadlineReached)


def test_a_task_that_never_began_leaves_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """At stop, work that was spawned a moment ago is closed and not forgotten."""

    async def scenario() -> None:
        background = Background(lambda name, trace: None)
        background.spawn(_settled())
        await background.stop()

        assert not len(background)

    asyncio.run(scenario())
    gc.collect()

    assert not list(recwarn)
