"""Between the pools in memory and the store: load, write back, promote, follow the operator.

Memory decides and the store remembers. A transition goes to the book at once and to the store with
its next batch; a promotion is asked of the store itself, which lets only one happen for a dead key.
What an operator changes in the store arrives here through the audit, which is read twice a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from keymux.core.records import AuditRow, KeyRecord, ProviderState, Transition
from keymux.ids import record_id
from keymux.pools.effects import Change
from keymux.pools.members import UpstreamKey
from keymux.pools.news import DEAD, News, Said
from keymux.pools.persistence import (
    Clocks,
    key_state,
    make_well,
    merge_key,
    merge_provider,
    provider_state,
    put_key,
    put_provider,
)
from keymux.pools.pool import Pool

_MANY = 1000
RESCUE_S = 5.0
_LOOK_EVERY_S, _ASK_AGAIN_S = 0.25, 1.0


class KeyStore(Protocol):
    """What is needed of the store.

    Attributes:
        troubles: what is raised when the store cannot be reached or used now.
    """

    troubles: ClassVar[tuple[type[Exception], ...]]

    async def load_keys(self, provider: str) -> Sequence[KeyRecord]:
        """All upstream keys of a provider."""

    async def find_keys(self, provider: str, key_ids: Collection[str]) -> Sequence[KeyRecord]:
        """Some of them."""

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of the provider."""

    async def promote(self, provider: str, dead_key: str, at: int) -> str | None:
        """Let a backup key take over, once; gives its id."""


class Keeper:
    """Keeps pools and store in step.

    Args:
        pools: by the provider's name.
        store: where keys are.
        refresh: reads the bindings of keys that are about to join a pool, None for all.
        note: takes transitions for the store.
        clocks: of this process.
        actor: the name of this process in the audit.
        spawn: starts a task that the application owns.

    Attributes:
        rescue_s: a dead key that another process found and has not replaced by then is replaced by
            this one.
    """

    def __init__(  # noqa: PLR0913 -- the composition root names each
        self,
        pools: Mapping[str, Pool],
        store: KeyStore,
        refresh: Callable[[Pool, Collection[str] | None], Awaitable[None]],
        note: Callable[[Transition], None],
        *,
        clocks: Clocks,
        actor: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._pools = pools
        self._store = store
        self._refresh = refresh
        self._note = note
        self._clocks = clocks
        self._actor = actor
        self._spawn = spawn
        self.rescue_s = RESCUE_S
        self._rescuing: set[str] = set()
        self._asking_again: set[str] = set()
        self._promoting = asyncio.Lock()

    async def load_pool(self, name: str) -> None:
        """Fill a pool from the store; dead keys that no one replaced yet are replaced now."""
        pool = self._pools[name]
        records = await self._store.load_keys(name)
        await self._refresh(pool, None)
        for record in records:
            put_key(pool, record, self._clocks)
        put_provider(pool, await self._store.provider_state(name), self._clocks)
        await self._replace_the_dead(pool)

    # -- what happens here ---------------------------------------------------------------------
    def changed(self, change: Change) -> None:
        """A condition has changed: remember it, and replace the key if it is dead."""
        for key in change.keys:
            self._note(self._key_transition(change, key))
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
        if _is_to_replace(key):
            pool.expecting += 1
            self._spawn(self._replace_expected(pool, key))

    async def _replace_expected(self, pool: Pool, key: UpstreamKey) -> None:
        try:
            await self._replace(pool, key)
        except self._store.troubles:
            pass  # it is asked again when the store has the transition and tells of it
        finally:
            pool.expecting -= 1
            pool.announce()

    async def _replace(self, pool: Pool, key: UpstreamKey) -> bool:
        """Let a backup key take over for a dead key; False when there is none.

        One after the other: many at once would only be in each other's way in the store.
        """
        async with self._promoting:
            return await self._replace_alone(pool, key)

    async def _replace_alone(self, pool: Pool, key: UpstreamKey) -> bool:
        if not _is_to_replace(key):
            return True
        fresh = await self._store.promote(pool.name, key.id, self._clocks.wall_ms())
        if fresh is None:
            return False
        key.replaced = key.is_out = True
        found = await self._store.find_keys(pool.name, [fresh, key.id])
        await self._refresh(pool, [fresh])
        for record in found:
            if record.id == key.id:  # an operator may have trusted it again meanwhile
                key.replaced = key.is_out = bool(record.replaced_by)
            else:
                merge_key(pool, record, self._clocks)
        pool.recount()
        return True

    async def _replace_the_dead(self, pool: Pool) -> None:
        """Replace those that no one replaced yet, for as long as there are spares."""
        for key in [key for key in pool.keys.values() if _is_to_replace(key)]:
            if await self._replace(pool, key):
                continue
            if await self._store.find_keys(pool.name, [key.id]):
                return

    # -- what happens elsewhere ----------------------------------------------------------------
    async def follow(self, rows: Sequence[AuditRow]) -> None:
        """Take over what an operator, or another process, has changed.

        Rows only say where to look: what counts is how the store is now, so it is asked once for
        each key, however many rows there are.
        """
        news: dict[str, News] = {}
        for row in rows:
            if row.provider in self._pools:
                found = news.setdefault(row.provider, News())
                found.read(row, is_own=row.actor == self._actor)
        for provider, found in news.items():
            await self._take_over(self._pools[provider], found)

    async def _take_over(self, pool: Pool, news: News) -> None:
        records = await self._records(pool, news.keys)
        moved = [key for key in news.keys if key not in pool.keys or key not in records]
        await self._refresh(pool, moved)
        for key_id, said in news.keys.items():
            record = records.get(key_id)
            if record is None:
                pool.remove(key_id)
                continue
            if said is Said.LIFTED and key_id in pool.keys:
                self._lift(pool, pool.keys[key_id])
            take = merge_key if said is Said.FOUND else put_key
            take(pool, record, self._clocks)
        if news.provider is not None:
            put = merge_provider if news.provider is Said.FOUND else put_provider
            put(pool, await self._store.provider_state(pool.name), self._clocks)
        if news.has_own_dead or news.has_spares:
            self._spawn(self._see_to_the_dead(pool))
        if news.has_dead:
            self._spawn(self._rescue(pool))

    async def _rescue(self, pool: Pool) -> None:
        """Give whoever found keys dead the time to replace them, as long as that goes on.

        All would be in each other's way if each tried at once. What is left is replaced here.
        """
        if pool.name in self._rescuing:
            return
        self._rescuing.add(pool.name)
        pool.expecting += 1
        try:
            await self._until_nobody_replaces(pool)
        finally:
            self._rescuing.discard(pool.name)
            pool.expecting -= 1
            pool.announce()
        await self._see_to_the_dead(pool)

    async def _until_nobody_replaces(self, pool: Pool) -> None:
        before, left_s = 0, self.rescue_s
        while (dead := _count_dead(pool)) and left_s > 0:
            left_s = self.rescue_s if dead < before else left_s - _LOOK_EVERY_S
            before = dead
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _see_to_the_dead(self, pool: Pool) -> None:
        """Replace the dead for as long as there are spares, as soon as the store can be reached."""
        while True:
            try:
                return await self._replace_the_dead(pool)
            except self._store.troubles:
                if pool.name in self._asking_again:
                    return None  # that one looks at all that are dead by then
                self._asking_again.add(pool.name)
                await asyncio.sleep(_ASK_AGAIN_S)
                self._asking_again.discard(pool.name)

    async def _records(self, pool: Pool, ids: Collection[str]) -> Mapping[str, KeyRecord]:
        """How keys are now; very many of them are read as all are."""
        if not ids:
            return {}
        if len(ids) > _MANY:
            found = await self._store.load_keys(pool.name)
        else:
            found = await self._store.find_keys(pool.name, ids)
        return {record.id: record for record in found}

    def _lift(self, pool: Pool, key: UpstreamKey) -> None:
        """An operator trusts a key again, so what keeps its whole group from a model ends too."""
        for model, gate in key.group.models.items():
            before = gate.condition.status
            make_well(gate, self._clocks)
            carriers = key.group.carriers.pop(model, {})
            others = tuple(one for one in carriers if one is not key and one.id in pool.keys)
            change = Change(
                pool,
                others,
                model,
                whole_group=True,
                before=before,
                condition=gate.condition,
                reason="lifted with another key of the group",
            )
            for other in others:
                self._note(self._key_transition(change, other))
            pool.wake(key.group, model)


def _is_to_replace(key: UpstreamKey) -> bool:
    return key.gate.condition.status in DEAD and not key.replaced


def _count_dead(pool: Pool) -> int:
    return sum(map(_is_to_replace, pool.keys.values()))
