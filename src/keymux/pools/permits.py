"""Of all processes on a store, one at a time tries whether a trouble is over.

A gate whose cooldown has ended opens for its single probe only while this process holds the claim
for what is behind the gate. The claim is asked for in the background, when a request has found the
gate due, so requests never wait for the store; those without another key wait in the queue.

The claim is not given back. It ends by itself, some time after the probe: until then the other
processes have read how it went, and have nothing to try.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Protocol

from msgspec import Struct

from keymux.core.health import Status
from keymux.pools.gate import Gate

CLAIM_S = 15.0
PERMIT_S = 12.0
RENEW_EVERY_S = 4.0
ASK_AGAIN_S = 1.0
ANSWER_WITHIN_S = 1.0
ALONE_WITHIN_S = 1.8


class Claims(Protocol):
    """What is needed of the store."""

    async def claim(self, scope: str, owner: str, seconds: float) -> bool | None:
        """Hold a scope alone from now on; False while another owner does, None if it is away."""


class Scope(Struct, frozen=True):
    """What stands behind a gate.

    Attributes:
        name: the same in all processes.
        model: the only one that it is about, empty for all.
        wake: called when the gate may have opened, or is worth another look.
    """

    name: str
    model: str
    wake: Callable[[], None]


class Permits:
    """Asks for the permission to probe.

    Args:
        claims: of the store.
        owner: unique among all processes, those to come included.
        clock: seconds, never going back.
        luck: random numbers.
        spawn: starts a task that the application owns.
    """

    def __init__(
        self,
        claims: Claims,
        owner: str,
        clock: Callable[[], float],
        luck: Random,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._claims = claims
        self._owner = owner
        self._clock = clock
        self._luck = luck
        self._spawn = spawn
        self._asked: dict[Gate, Scope] = {}

    def ask(self, gate: Gate, scope: Scope) -> None:
        """Ask for a gate that is due, unless that is under way."""
        if gate not in self._asked:
            self._asked[gate] = scope
            self._spawn(self._obtain(gate, scope))

    def asked(self, model: str) -> Status | None:
        """The status of a gate that keeps a model and may soon be permitted to open."""
        for gate, scope in self._asked.items():
            if scope.model in {"", model}:
                return gate.condition.status
        return None

    async def _obtain(self, gate: Gate, scope: Scope) -> None:
        try:
            until = await self._permitted_until(scope)
            if until is None:
                await asyncio.sleep(ASK_AGAIN_S * self._luck.uniform(0.75, 1.25))
            elif gate.wants_permit(self._clock()):
                gate.permit(until)
        finally:
            del self._asked[gate]
            scope.wake()
        if until is not None:
            await self._keep_claim(gate, scope, until)

    async def _permitted_until(self, scope: Scope) -> float | None:
        """When the permission ends; None when another process has it.

        Without a store each process goes on by itself, not all at the same moment: its clients
        shall not lose answers because a database is away.
        """
        asked_at = self._clock()
        granted = await self._claim(scope)
        if granted is None:
            spent = self._clock() - asked_at
            await asyncio.sleep(self._luck.random() * max(0.0, ALONE_WITHIN_S - spent))
            return self._clock() + PERMIT_S
        return asked_at + PERMIT_S if granted else None

    async def _keep_claim(self, gate: Gate, scope: Scope, until: float) -> None:
        """Hold on to the claim for as long as the probe runs."""
        while gate.is_probing or self._clock() < until:
            await asyncio.sleep(RENEW_EVERY_S)
            if gate.is_probing:
                await self._claim(scope)

    async def _claim(self, scope: Scope) -> bool | None:
        """Whether the store grants it; None when it does not say."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._claims.claim(scope.name, self._owner, CLAIM_S)
        except TimeoutError:
            return None
