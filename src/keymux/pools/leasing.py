"""Lend an upstream key and an egress for one attempt, and wait a little if none is ready."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random

from keymux.core.faults import AllThrottled, EgressDown, NoneReady, UpstreamFault
from keymux.core.health import Status
from keymux.core.retrying import Step
from keymux.pools.budget import Turn
from keymux.pools.effects import Effects
from keymux.pools.pool import Lease, Outlook, Pool

_WITHOUT_AN_END_S = 60.0
_SHORTEST_S = 1.0


class Leasing:
    """The door to all pools.

    Args:
        pools: by the provider's name.
        effects: told how leases ended.
        clock: seconds, never going back.
        luck: random numbers.
        queue_s: longest wait for a key.
        queue_length: exchanges waiting for one provider at most.
        waited: told how long an exchange waited, in seconds.

    Attributes:
        lent: leases that were not given back yet.
    """

    def __init__(  # noqa: PLR0913 -- the composition root names each
        self,
        pools: Mapping[str, Pool],
        effects: Effects,
        *,
        clock: Callable[[], float],
        luck: Random,
        queue_s: float,
        queue_length: int,
        waited: Callable[[float], None],
    ) -> None:
        self._pools = pools
        self._effects = effects
        self._clock = clock
        self._luck = luck
        self._queue_s = queue_s
        self._queue_length = queue_length
        self._waited = waited
        self._waiting: dict[str, int] = {}
        self.lent = 0

    def lease(self, steps: Sequence[Step], turn: Turn) -> Lease | None:
        """A lease on the first step that can be made at once and has a ready key.

        Args:
            steps: where to look, best first.
            turn: what the attempt means for the provider's retry budget.
        """
        for step in steps:
            if step.pause_s:
                continue
            lease = self._take(step, turn)
            if lease is not None:
                return lease
        return None

    async def lease_later(
        self, steps: Sequence[Step], turn: Turn, model: str, left_s: float
    ) -> Lease:
        """A lease on the first step for which a key can be had within the time one may wait.

        Args:
            steps: where to look, best first.
            turn: what the attempt means for the provider's retry budget.
            model: public id, for the message.
            left_s: seconds the exchange has left.

        Raises:
            NoneReady: there was none.
        """
        start = self._clock()
        give_up = start + min(self._queue_s, left_s)
        while True:
            lease = await self._after_a_pause(steps, turn) or self.lease(steps, turn)
            now = self._clock()
            if lease is not None:
                self._waited(now - start)
                return lease
            outlook = self._outlook(steps, turn, now)
            if now >= give_up or not outlook.is_hopeful(give_up) or self._is_full(steps):
                raise self._none_ready(model, outlook, now)
            await self._wait(steps, outlook.look_again(now, give_up) - now)

    def opened(self, lease: Lease) -> None:
        """The upstream has begun to answer."""
        self._effects.opened(lease)

    def give_back(self, lease: Lease, error: BaseException | None) -> None:
        """End a lease; the error, if any, tells how the attempt ended.

        A client that leaves, or a task that is cancelled, says nothing about the key.
        """
        self.lent -= 1
        if isinstance(error, UpstreamFault):
            self._effects.failed(lease, error)
        lease.pool.give_back(lease)

    async def _after_a_pause(self, steps: Sequence[Step], turn: Turn) -> Lease | None:
        """A lease on the first step that has a ready key, before its pause and after it."""
        for step in steps:
            pool, now = self._pools[step.target.provider], self._clock()
            if turn is Turn.RETRY and not pool.budget.allows(now):
                continue
            if not pool.could_take(step, now):
                continue
            await asyncio.sleep(step.pause_s)
            lease = self._take(step, turn)  # others paused, too: what is left of the budget now?
            if lease is not None:
                return lease
        return None

    def _take(self, step: Step, turn: Turn) -> Lease | None:
        """A lease for a step, if the budget allows it and a key is ready."""
        pool, now = self._pools[step.target.provider], self._clock()
        if turn is Turn.RETRY and not pool.budget.allows(now):
            return None
        lease = pool.take(step, now)
        if lease is not None:
            pool.budget.note(now, turn)
            self.lent += 1
        return lease

    def _outlook(self, steps: Sequence[Step], turn: Turn, now: float) -> Outlook:
        """What may be hoped for, all steps together."""
        until, status, is_open, is_way_out = None, None, False, False
        for step in steps:
            pool = self._pools[step.target.provider]
            if turn is Turn.RETRY and not pool.budget.allows(now):
                continue
            found = pool.outlook(step, now)
            is_open = is_open or found.is_open
            is_way_out = is_way_out or found.is_way_out
            if until is None or (found.until is not None and found.until < until):
                until, status = found.until, found.status
        return Outlook(until, status, is_open, is_way_out and status is None)

    def _is_full(self, steps: Sequence[Step]) -> bool:
        return any(
            self._waiting.get(step.target.provider, 0) >= self._queue_length for step in steps
        )

    async def _wait(self, steps: Sequence[Step], seconds: float) -> None:
        """Until something may have changed in one of the pools, or the time is over."""
        changed = asyncio.Event()
        names = {step.target.provider for step in steps}
        stop = [self._pools[name].listen(changed.set) for name in names]
        for name in names:
            self._waiting[name] = self._waiting.get(name, 0) + 1
        try:
            async with asyncio.timeout(max(0.001, seconds)):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            for name in names:
                self._waiting[name] -= 1
            for end in stop:
                end()

    def _none_ready(self, model: str, outlook: Outlook, now: float) -> NoneReady:
        kind = EgressDown if outlook.is_way_out else NoneReady
        if outlook.status is Status.RATE_LIMITED:
            kind = AllThrottled
        if outlook.until is not None:
            wait = max(_SHORTEST_S, outlook.until - now)
        else:
            wait = _SHORTEST_S if outlook.is_open else _WITHOUT_AN_END_S
        return kind(model=model, retry_after=wait * (1 + self._luck.random() / 10))
