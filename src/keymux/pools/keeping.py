"""Between the pools in memory and the store: load, write back, promote, follow the operator.

Memory decides and the store remembers. A transition goes to the book at once and to the store with
its next batch; a promotion is asked of the store itself, which lets only one happen for a dead key.
What an operator changes in the store arrives here through the audit, which is read twice a second.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from keymux.core.health import Status
from keymux.core.records import AuditRow, KeyRecord, ProviderState, Transition
from keymux.ids import record_id
from keymux.pools.effects import Change
from keymux.pools.persistence import (
    Clocks,
    key_state,
    provider_state,
    put_key,
    put_provider,
)
from keymux.pools.pool import Pool, UpstreamKey

_DEAD = frozenset({Status.EXHAUSTED, Status.QUARANTINED})
_FEW = 100


class KeyStore(Protocol):
    """What is needed of the store."""

    async def load_keys(self, provider: str) -> Sequence[KeyRecord]:
        """All upstream keys of a provider."""

    async def find_key(self, provider: str, key_id: str) -> KeyRecord | None:
        """One of them."""

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of the provider."""

    async def promote(self, provider: str, dead_key: str, at: int) -> str | None:
        """Let a backup key take over, once; gives its id."""


class Keeper:
    """Keeps pools and store in step.

    Args:
        pools: by the provider's name.
        store: where keys are.
        note: takes transitions for the store.
        clocks: of this process.
        actor: the name of this process in the audit.
        spawn: starts a task that the application owns.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        store: KeyStore,
        note: Callable[[Transition], None],
        clocks: Clocks,
        actor: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._pools = pools
        self._store = store
        self._note = note
        self._clocks = clocks
        self._actor = actor
        self._spawn = spawn

    async def load(self) -> None:
        """Fill the pools from the store; dead keys that no one replaced yet are replaced now."""
        for name in self._pools:
            await self.load_pool(name)

    async def load_pool(self, name: str) -> None:
        """Fill one pool."""
        pool = self._pools[name]
        for record in await self._store.load_keys(name):
            put_key(pool, record, self._clocks)
        put_provider(pool, await self._store.provider_state(name), self._clocks)
        await self._replace_the_dead(pool)

    # -- what happens here ---------------------------------------------------------------------
    def changed(self, change: Change) -> None:
        """A condition has changed: remember it, and replace the key if it is dead."""
        for key in change.keys:
            self._note(self._key_transition(change, key))
            if change.condition.status in _DEAD and not change.model:
                self._begin_replacing(change.pool, key)
        if not change.keys:
            self._note(self._provider_transition(change))

    def _key_transition(self, change: Change, key: UpstreamKey) -> Transition:
        return Transition(
            id=record_id("trn"),
            at=self._clocks.wall_ms(),
            actor=self._actor,
            provider=change.pool.name,
            key=key.id,
            model=change.model,
            before=change.before,
            after=change.condition.status,
            reason=change.reason,
            key_state=key_state(key, self._clocks),
        )

    def _provider_transition(self, change: Change) -> Transition:
        return Transition(
            id=record_id("trn"),
            at=self._clocks.wall_ms(),
            actor=self._actor,
            provider=change.pool.name,
            key="",
            model="",
            before=change.before,
            after=change.condition.status,
            reason=change.reason,
            provider_state=provider_state(change.pool, self._clocks),
        )

    # -- promotion -----------------------------------------------------------------------------
    def _begin_replacing(self, pool: Pool, key: UpstreamKey) -> None:
        if not key.replaced:
            pool.expecting += 1
            self._spawn(self._replace(pool, key))

    async def _replace(self, pool: Pool, key: UpstreamKey) -> None:
        try:
            fresh = await self._store.promote(pool.name, key.id, self._clocks.wall_ms())
            if fresh is None:
                return
            key.replaced = key.is_out = True
            record = await self._store.find_key(pool.name, fresh)
            if record is not None:
                put_key(pool, record, self._clocks)
        finally:
            pool.expecting -= 1
            pool.announce()

    async def _replace_the_dead(self, pool: Pool) -> None:
        for key in list(pool.keys.values()):
            if key.gate.condition.status in _DEAD and not key.replaced:
                pool.expecting += 1
                await self._replace(pool, key)

    # -- what happens elsewhere ----------------------------------------------------------------
    async def follow(self, rows: Sequence[AuditRow]) -> None:
        """Take over what an operator, or another process, has changed."""
        added: dict[str, list[str]] = {}
        for row in rows:
            pool = self._pools.get(row.provider)
            if pool is None or row.actor == self._actor:
                continue
            if row.action == "key.add":
                added.setdefault(row.provider, []).append(row.subject)
            else:
                await self._follow_one(pool, row)
        for provider, ids in added.items():
            await self._take_in(self._pools[provider], ids)

    async def _follow_one(self, pool: Pool, row: AuditRow) -> None:
        match row.action:
            case "key.remove":
                pool.remove(row.subject)
            case "backup.add" | "backup.restore":
                await self._replace_the_dead(pool)
            case "backup.promote":
                await self._reload(pool, row.before)
                await self._reload(pool, row.subject)
            case _ if row.action.startswith("provider."):
                put_provider(pool, await self._store.provider_state(pool.name), self._clocks)
            case _ if row.action.startswith("key."):
                await self._reload(pool, row.subject)
            case _:
                pass

    async def _take_in(self, pool: Pool, ids: Sequence[str]) -> None:
        """Add new keys; many of them are read in one go."""
        if len(ids) <= _FEW:
            for key_id in ids:
                await self._reload(pool, key_id)
            return
        for record in await self._store.load_keys(pool.name):
            if record.id not in pool.keys:
                put_key(pool, record, self._clocks)

    async def _reload(self, pool: Pool, key_id: str) -> None:
        record = await self._store.find_key(pool.name, key_id)
        if record is None:
            pool.remove(key_id)
        else:
            put_key(pool, record, self._clocks)
