"""Between the exits in memory and the store: proxies, bindings, and what was found out about them.

As with keys, memory decides and the store remembers; what operators and other processes change
arrives through the audit. What is found out is written in the background, the latest of it only:
nobody's money depends on it.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from msgspec.structs import replace

from keymux.core.egress import BindingRecord, ExitState, Observation, ProxyRecord
from keymux.core.health import Condition, Status
from keymux.core.records import AuditRow
from keymux.pools.egress import Exit
from keymux.pools.exit_health import Check, ExitChange
from keymux.pools.persistence import Clocks
from keymux.pools.pool import Pool

_MANY = 1000
_ASK_AGAIN_S = 1.0


class EgressStore(Protocol):
    """What is needed of the store.

    Attributes:
        troubles: what is raised when the store cannot be reached or used now.
    """

    troubles: ClassVar[tuple[type[Exception], ...]]

    async def proxies(self, ids: Collection[str] | None) -> Sequence[ProxyRecord]:
        """Some proxies, None for all."""

    async def bindings(
        self, provider: str, keys: Collection[str] | None
    ) -> Sequence[BindingRecord]:
        """The bindings of some keys, None for all."""

    async def observe(self, proxy_id: str, seen: Observation) -> None:
        """Remember what was found out."""


class EgressKeeper:
    """Keeps exits and store in step.

    Args:
        pools: by the provider's name.
        store: where proxies and bindings are.
        clocks: of this process.
        actor: the name of this process in the audit.
        spawn: starts a task that the application owns.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        store: EgressStore,
        clocks: Clocks,
        actor: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._pools = pools
        self._store = store
        self._clocks = clocks
        self._actor = actor
        self._spawn = spawn
        self._due: dict[str, Observation] = {}
        self._is_writing = False

    # -- from the store ------------------------------------------------------------------------
    async def load_pool(self, name: str) -> None:
        """All proxies, as exits of one provider."""
        for record in await self._store.proxies(None):
            self._put(self._pools[name], record, is_decided=True)

    async def refresh(self, pool: Pool, keys: Collection[str] | None) -> None:
        """The bindings of some keys as they are now, None for all; before such keys join a pool."""
        if keys is not None and len(keys) > _MANY:
            keys = None
        known = pool.ways.bindings if keys is None else keys
        found: dict[str, list[BindingRecord]] = {key: [] for key in known}
        if keys is not None and not keys:
            return
        for record in await self._store.bindings(pool.name, keys):
            found.setdefault(record.key_id, []).append(record)
        for key, records in found.items():
            pool.bind(key, records)

    async def resync(self) -> None:
        """Take over how all proxies are, such as the latencies that another process measured."""
        await self._read_proxies(None, decided=())

    async def follow(self, rows: Sequence[AuditRow]) -> None:
        """Take over what an operator, or another process, has changed."""
        proxies: set[str] = set()
        decided: set[str] = set()
        keys: dict[str, set[str]] = {}
        for row in rows:
            kind, _, action = row.action.partition(".")
            if kind == "proxy" and row.actor != self._actor:
                proxies.add(row.subject)
                decided.update({row.subject} if action != "transition" else ())
            elif kind == "binding" and row.provider in self._pools:
                keys.setdefault(row.provider, set()).add(row.subject)
        if proxies:
            await self._read_proxies(None if len(proxies) > _MANY else proxies, decided)
        for provider, ids in keys.items():
            await self.refresh(self._pools[provider], ids)

    async def _read_proxies(self, ids: Collection[str] | None, decided: Collection[str]) -> None:
        found = {record.id: record for record in await self._store.proxies(ids)}
        for pool in self._pools.values():
            for record in found.values():
                self._put(pool, record, is_decided=record.id in decided)
            for proxy_id in [*(pool.ways.by_proxy if ids is None else ids)]:
                if proxy_id not in found:
                    pool.ways.drop_proxy(proxy_id)
            pool.announce()

    def _put(self, pool: Pool, record: ProxyRecord, *, is_decided: bool) -> None:
        """A proxy as it is stored; what was found out counts if it is newer than what is known."""
        way = pool.ways.put_proxy(record)
        if record.last_latency_ms is not None:
            way.latency_s = record.last_latency_ms / 1000
        state = record.exits.get(pool.name, ExitState())
        known = way.gate.condition
        if is_decided and state.status is not known.status:
            state = replace(state, generation=max(state.generation, known.generation + 1))
        if state.generation > known.generation:
            way.gate.change(self._condition(state))
            pool.ways.opened(way)

    def _condition(self, state: ExitState) -> Condition:
        until = None
        if state.status is not Status.HEALTHY and state.until is not None:
            until = self._clocks.deadline(state.until, 0)
        return Condition(
            status=state.status,
            until=until,
            reason=state.reason,
            step=state.step,
            generation=state.generation,
            since=self._clocks.monotonic(),
        )

    # -- to the store --------------------------------------------------------------------------
    def changed(self, change: ExitChange) -> None:
        """An exit was closed or opened."""
        is_well = change.exit.gate.condition.is_healthy
        seen = Observation(
            at=self._clocks.wall_ms(),
            exits={change.pool.name: self._state(change.exit)},
            is_check=change.is_checked,
            latency_ms=_milliseconds(change.exit) if is_well else None,
            error="" if is_well else change.reason,
        )
        self._remember(change.exit, seen)

    def checked(self, pool: Pool, way: Exit, found: Check) -> None:
        """A check is over that has changed nothing."""
        seen = Observation(
            at=self._clocks.wall_ms(),
            exits={pool.name: self._state(way)},
            latency_ms=None if found.problem else _milliseconds(way),
            error=found.problem,
        )
        self._remember(way, seen)

    def _state(self, way: Exit) -> ExitState:
        condition = way.gate.condition
        return ExitState(
            status=condition.status,
            until=None if condition.until is None else self._clocks.to_wall(condition.until),
            reason="" if condition.is_healthy else condition.reason,
            step=condition.step,
            generation=condition.generation,
        )

    def _remember(self, way: Exit, seen: Observation) -> None:
        earlier = self._due.get(way.id)
        self._due[way.id] = seen if earlier is None else _together(earlier, seen)
        if not self._is_writing:
            self._is_writing = True
            self._spawn(self._write())

    async def _write(self) -> None:
        try:
            while self._due:
                proxy_id = next(iter(self._due))
                seen = self._due.pop(proxy_id)
                try:
                    await self._store.observe(proxy_id, seen)
                    if any(state.status is not Status.HEALTHY for state in seen.exits.values()):
                        await self._read_proxies({proxy_id}, ())  # somebody may know better
                except self._store.troubles:
                    later = self._due.get(proxy_id)
                    self._due[proxy_id] = seen if later is None else _together(seen, later)
                    await asyncio.sleep(_ASK_AGAIN_S)
        finally:
            self._is_writing = False


def _together(earlier: Observation, later: Observation) -> Observation:
    return replace(
        later,
        exits={**earlier.exits, **later.exits},
        is_check=earlier.is_check or later.is_check,
    )


def _milliseconds(way: Exit) -> int | None:
    return None if way.latency_s is None else max(1, round(way.latency_s * 1000))
