"""Checks of the exits through proxies, on a schedule and on demand.

One process at a time checks on a schedule, for all: the others learn from the store what it finds.
Without a store each goes on by itself. Whoever has lost something on the way through a proxy has a
look at once.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Protocol

from keymux.pools.egress import Exit
from keymux.pools.exit_health import Check
from keymux.pools.pool import Pool
from keymux.upstream.tunnel import Plan, TunnelFailed, check

AT_ONCE = 32
SCOPE = "egress/checks"
CLAIM_S, CLAIM_EVERY_S = 15.0, 4.0
_LOOK_EVERY_S = 0.25


class Claims(Protocol):
    """What is needed of the store."""

    async def claim(self, scope: str, owner: str, seconds: float) -> bool | None:
        """Hold a scope alone from now on; False while another owner does, None if it is away."""


class Checker:
    """Checks exits.

    Args:
        pools: by the provider's name.
        plan: how to check.
        found: told what a check has shown.
        claims: of the store.
        owner: unique among all processes.
        clock: seconds, never going back.
        luck: spreads the checks.
        spawn: starts a task that the application owns.
    """

    def __init__(  # noqa: PLR0913 -- the composition root names each
        self,
        pools: Mapping[str, Pool],
        plan: Plan,
        found: Callable[[Pool, Exit, Check], None],
        *,
        claims: Claims,
        owner: str,
        clock: Callable[[], float],
        luck: Random,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._pools = pools
        self.plan = plan
        self._found = found
        self._claims = claims
        self._owner = owner
        self._clock = clock
        self._luck = luck
        self._spawn = spawn
        self._next: dict[Exit, float] = {}
        self._running: set[Exit] = set()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._is_chosen = False
        self._claim_at = self._started = clock()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._elect()
            if self._is_chosen:
                self._start_due()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _elect(self) -> None:
        """Whether this is the process that checks on a schedule."""
        now = self._clock()
        if now < self._claim_at or not any(pool.ways.by_proxy for pool in self._pools.values()):
            return
        self._claim_at = now + CLAIM_EVERY_S
        self._is_chosen = await self._claims.claim(SCOPE, self._owner, CLAIM_S) is not False

    def look(self, pool: Pool, way: Exit) -> None:
        """Check an exit now, unless that is under way."""
        if way.address is not None and pool.name in self.plan.targets and way not in self._running:
            self._running.add(way)
            self._spawn(self._check(pool, way))

    def _start_due(self) -> None:
        now = self._clock()
        for pool in self._pools.values():
            for way in tuple(pool.ways.by_proxy.values()):
                if way not in self._running and self._due_at(way, now) <= now:
                    self._next[way] = now + self.plan.every_s * self._luck.uniform(0.75, 1.25)
                    if self._is_wanted(way):
                        self.look(pool, way)
        if len(self._next) > 2 * sum(len(pool.ways.by_proxy) for pool in self._pools.values()):
            self._next.clear()

    def _due_at(self, way: Exit, now: float) -> float:
        """When an exit is to be checked; what is new at the start is spread, later it is not."""
        condition = way.gate.condition
        if not way.is_active or way.is_blocked or way.is_misconfigured:
            self._next.pop(way, None)  # at once when an operator has acted
            return float("inf")
        if condition.until is not None:
            return condition.until
        if way not in self._next:
            spread = self.plan.every_s if now - self._started < CLAIM_EVERY_S else 0.0
            self._next[way] = now + spread * self._luck.random()
        return self._next[way]

    def _is_wanted(self, way: Exit) -> bool:
        """Whether keys are bound to it, or to none of its proxy's exits: it is a spare then."""
        if way.keys:
            return True
        exits = (pool.ways.by_proxy.get(way.id) for pool in self._pools.values())
        return not any(other is not None and other.keys for other in exits)

    async def _check(self, pool: Pool, way: Exit) -> None:
        try:
            async with self._places:
                self._found(pool, way, await self._outcome(pool, way))
        finally:
            self._running.discard(way)

    async def _outcome(self, pool: Pool, way: Exit) -> Check:
        address, target = way.address, self.plan.targets.get(pool.name)
        generation = way.gate.condition.generation
        if address is None or target is None:
            return Check(-1)  # gone meanwhile: it tells nothing
        try:
            latency_s = await check(address, target, self.plan.within_s)
        except TunnelFailed as failed:
            return Check(generation, failed.reason, failed.is_refusal)
        return Check(generation, latency_s=latency_s)
