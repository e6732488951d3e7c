"""Pools with a clock that the test holds, and an event loop on which waiting takes no time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from keymux.core.faults import UpstreamFault
from keymux.core.health import Backoff
from keymux.core.retrying import Step
from keymux.core.vocabulary import Target
from keymux.pools.budget import RetryBudget, Turn
from keymux.pools.effects import Change, Effects, Regimen
from keymux.pools.egress import Exit
from keymux.pools.exit_health import ExitChange, ExitHealth
from keymux.pools.leasing import Leasing
from keymux.pools.permits import Permits
from keymux.pools.pool import Lease, Pool

T = TypeVar("T")

PROVIDER = "acme"
MODEL = "sonnet"
OTHER_MODEL = "haiku"


class Steady(Random):
    """Luck that never spreads anything."""

    def random(self) -> float:
        """The lowest number."""
        return 0.0


class Clock:
    """A clock that moves when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class _Jump(selectors.DefaultSelector):
    """Never waits for a timer: moves the clock to it instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self._clock.pass_s(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__(_Jump(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock()


def run(work: Coroutine[Any, Any, T], clock: Clock) -> T:
    """Run something on a loop whose time is the clock's, without waiting for real."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(work)


def spawn(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Start a task that the test ends."""
    return asyncio.get_running_loop().create_task(work)


def step(model: str = MODEL, **wishes: Any) -> Step:
    """A place to lease from."""
    return Step(Target(PROVIDER, model), **wishes)


class World:
    """One provider: pool, effects, leasing, and everything that was told of it."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        clock: Clock | None = None,
        queue_length: int = 100,
        tell: Callable[[Change], None] | None = None,
        permits: Permits | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.changes: list[Change] = []
        self.waits: list[float] = []
        self.pool = Pool(PROVIDER, RetryBudget(percent=20, floor=30), permits)
        self.regimen = Regimen(
            throttled=Backoff((30.0, 60.0, 120.0)),
            failing=Backoff((30.0, 60.0, 120.0)),
            provider=Backoff((10.0, 20.0, 40.0)),
        )
        self.exit_changes: list[ExitChange] = []
        self.looks: list[Exit] = []
        self.failures: list[Exit] = []
        self.exits = ExitHealth(
            Backoff((5.0, 10.0, 20.0)),
            self.clock,
            Steady(),
            self.exit_changes.append,
            look=lambda _, way: self.looks.append(way),
            failure=lambda _, way: self.failures.append(way),
        )
        self.effects = Effects(
            self.regimen, self.clock, Steady(), tell or self.changes.append, self.exits
        )
        self.leasing = Leasing(
            {PROVIDER: self.pool},
            self.effects,
            clock=self.clock,
            luck=Steady(),
            queue_s=2.0,
            queue_length=queue_length,
            waited=self.waits.append,
        )
        for key in keys:
            self.pool.add(key, f"secret-{key}")

    def take(self, model: str = MODEL, **wishes: Any) -> Lease | None:
        """A lease now, or None."""
        return self.pool.take(step(model, **wishes), self.clock())

    def must_take(self, model: str = MODEL, **wishes: Any) -> Lease:
        """A lease now."""
        lease = self.take(model, **wishes)
        assert lease is not None, "no key was ready"
        return lease

    def succeed(self, lease: Lease) -> None:
        """The attempt is answered and ends well."""
        self.leasing.opened(lease)
        self.leasing.give_back(lease, None)

    def fail(self, lease: Lease, fault: UpstreamFault) -> None:
        """The attempt ends with a fault."""
        self.leasing.give_back(lease, fault)

    def serve(self, key: str = "", model: str = MODEL) -> str:
        """One exchange that goes well; gives the key that served it."""
        lease = self.must_take(model, only_key=key or None)
        self.succeed(lease)
        return lease.key.id

    def hit(self, fault: UpstreamFault, key: str = "", model: str = MODEL) -> str:
        """One exchange that fails; gives the key that was used."""
        lease = self.must_take(model, only_key=key or None)
        self.fail(lease, fault)
        return lease.key.id

    def ready(self, model: str = MODEL) -> set[str]:
        """The keys that a single request could get now, one at a time."""
        return {
            key
            for key in self.pool.keys
            if self.pool.could_take(step(model, only_key=key), self.clock())
        }

    async def wait(
        self, steps: Sequence[Step] | None = None, turn: Turn = Turn.FIRST, left_s: float = 600.0
    ) -> Lease:
        """A lease, now or a little later."""
        return await self.leasing.lease_later(steps or [step()], turn, MODEL, left_s)


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)
