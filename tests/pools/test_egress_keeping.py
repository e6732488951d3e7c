"""Exits and the store stay in step, whoever changes what."""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from keymux.core.egress import BindingRecord, Observation, ProxyRecord, ProxyStatus
from keymux.core.faults import EgressFailed, EgressRefused, PolicyBlocked
from keymux.core.records import KeyRecord
from keymux.pools.egress_keeping import EgressKeeper
from keymux.pools.exit_health import Check
from keymux.pools.persistence import Clocks
from keymux.stores.port import StoreUnavailable
from keymux.stores.sqlite import SqliteStore
from tests.pools.rig import PROVIDER, World
from tests.pools.test_egress import binding, proxy, reopen, uses

pytestmark = pytest.mark.anyio
OPERATOR = "operator"


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the gateway."""
    return "asyncio"


class Door:
    """The store as the keeper sees it, which may be shut: see `EgressStore`."""

    troubles: ClassVar[tuple[type[Exception], ...]] = (StoreUnavailable,)

    def __init__(self, store: SqliteStore, actor: str) -> None:
        self.store = store
        self.actor = actor
        self.is_shut = False
        self.was_shut = asyncio.Event()

    async def proxies(self, ids: Collection[str] | None) -> Sequence[ProxyRecord]:
        """See `EgressStore.proxies`."""
        proxies = self.store.proxies
        return await (proxies.load() if ids is None else proxies.find_some(ids))

    async def bindings(
        self, provider: str, keys: Collection[str] | None
    ) -> Sequence[BindingRecord]:
        """See `EgressStore.bindings`."""
        bindings = self.store.bindings
        return await (bindings.load(provider) if keys is None else bindings.of_keys(provider, keys))

    async def observe(self, proxy_id: str, seen: Observation) -> None:
        """See `EgressStore.observe`."""
        if self.is_shut:
            self.was_shut.set()
            raise StoreUnavailable("shut")
        await self.store.proxies.observe(proxy_id, seen, self.actor)


class Process:
    """A process that shares a store with others."""

    def __init__(self, store: SqliteStore, actor: str, keys: Sequence[str] = ("a", "b")) -> None:
        self.world = World([])
        self.keys = keys
        self.door = Door(store, actor)
        self.tasks: list[asyncio.Task[None]] = []
        clocks = Clocks(self.world.clock, lambda: round(self.world.clock() * 1000))
        pools = {PROVIDER: self.world.pool}
        self.keeper = EgressKeeper(pools, self.door, clocks, actor, self._spawn)
        self._seen = 0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def start(self) -> None:
        """Load everything, the keys last."""
        self._seen = await self.door.store.audit.last()
        await self.keeper.load_pool(PROVIDER)
        await self.keeper.refresh(self.world.pool, None)
        for key in self.keys:
            self.world.pool.add(key, f"secret-{key}")

    async def follow(self) -> None:
        """Hear of what others did."""
        rows = await self.door.store.audit.since(self._seen, 1000)
        await self.keeper.follow(rows)
        self._seen = rows[-1].seq if rows else self._seen

    async def written(self) -> None:
        """Everything this process has found out is in the store."""
        while self.world.exit_changes:
            self.keeper.changed(self.world.exit_changes.pop(0))
        await asyncio.gather(*self.tasks)
        self.tasks.clear()


@pytest.fixture
async def store(tmp_path: Path) -> Any:
    """With two keys and two proxies; one key is bound to the first."""
    found = SqliteStore(tmp_path / "keymux.db")
    await found.prepare([PROVIDER])
    keys = [KeyRecord(id=key, secret=f"secret-{key}", created_at=1) for key in ("a", "b")]
    await found.keys.add(PROVIDER, keys, OPERATOR)
    await found.proxies.add([proxy("p"), proxy("q", port=1081)], OPERATOR)
    await found.bindings.add(PROVIDER, [binding("a", "p")], OPERATOR)
    yield found
    await found.close()


async def pair(store: SqliteStore) -> tuple[Process, Process]:
    """Two processes on a store."""
    one, two = Process(store, "host:1"), Process(store, "host:2")
    await one.start()
    await two.start()
    return one, two


async def test_everything_is_there_after_the_start(store: SqliteStore) -> None:
    """The bound key goes by its proxy, the other one directly."""
    process = Process(store, "host:1")
    await process.start()

    assert sorted(uses(process.world, 2)) == ["a by p", "b by direct"]


async def test_what_one_process_finds_out_all_know(store: SqliteStore) -> None:
    """That a proxy is down, and that it is well again."""
    one, two = await pair(store)
    one.world.hit(EgressFailed(reason="refused"), key="a")
    await one.written()
    await two.follow()
    down = uses(two.world, 2)
    stored = (await store.proxies.load())[0]
    reopen(one.world, "p")
    await one.written()
    await two.follow()

    assert down == ["b by direct"] * 2
    assert (stored.status, stored.last_error) == (ProxyStatus.UNHEALTHY, "refused")
    assert sorted(uses(two.world, 2)) == ["a by p", "b by direct"]


async def test_it_survives_a_restart(store: SqliteStore) -> None:
    """Whoever starts later knows which proxy is down, and until when."""
    one, _ = await pair(store)
    one.world.hit(EgressFailed(), key="a")
    await one.written()
    late = Process(store, "host:3")
    await late.start()
    way = late.world.pool.ways.by_proxy["p"]

    assert uses(late.world, 2) == ["b by direct"] * 2
    assert way.gate.condition.until == one.world.pool.ways.by_proxy["p"].gate.condition.until


async def test_older_news_change_nothing(store: SqliteStore) -> None:
    """A process that has found the proxy down twice is not told by one that did once."""
    one, two = await pair(store)
    one.world.hit(EgressFailed(), key="a")
    two.world.hit(EgressFailed(), key="a")
    reopen(two.world, "p")
    await two.written()
    await one.written()
    await two.follow()
    await one.follow()

    assert sorted(uses(two.world, 2)) == sorted(uses(one.world, 2)) == ["a by p", "b by direct"]


@pytest.mark.parametrize("fault", [EgressRefused(), PolicyBlocked()], ids=lambda one: one.code)
async def test_an_operator_trusts_a_proxy_again(
    store: SqliteStore, fault: EgressRefused | PolicyBlocked
) -> None:
    """In all processes, also where the trouble was found and not written down yet."""
    one, two = await pair(store)
    one.world.hit(fault, key="a")
    await one.written()
    await two.follow()
    kept = uses(two.world, 1)
    await store.proxies.set_active("p", active=True, actor=OPERATOR)
    await one.follow()
    await two.follow()

    assert kept == ["b by direct"]
    assert sorted(uses(one.world, 2)) == sorted(uses(two.world, 2)) == ["a by p", "b by direct"]


async def test_bindings_are_followed(store: SqliteStore) -> None:
    """Added, changed and removed; keys that are not meant keep theirs."""
    process = Process(store, "host:1")
    await process.start()
    found: list[list[str]] = []
    await store.bindings.add(PROVIDER, [binding("b", "q")], OPERATOR)
    await process.follow()
    found.append(sorted(uses(process.world, 2)))
    await store.bindings.add(PROVIDER, [binding("a", "q", 2)], OPERATOR)
    await store.bindings.set_active(PROVIDER, "a-p", active=False, actor=OPERATOR)
    await process.follow()
    found.append(sorted(uses(process.world, 2)))
    await store.bindings.remove(PROVIDER, ["a-q"], OPERATOR)
    await process.follow()
    found.append(sorted(uses(process.world, 2)))
    await store.bindings.remove(PROVIDER, ["a-p"], OPERATOR)
    await process.follow()
    found.append(sorted(uses(process.world, 2)))

    assert found == [
        ["a by p", "b by q"],
        ["a by q", "b by q"],
        ["b by q", "b by q"],
        ["a by direct", "b by q"],
    ]


async def test_proxies_are_followed(store: SqliteStore) -> None:
    """Disabled, enabled, removed, and back under the same id."""
    process = Process(store, "host:1")
    await process.start()
    found: list[list[str]] = []
    for step in ("disable", "enable", "remove", "add"):
        if step == "remove":
            await store.proxies.remove("p", OPERATOR)
        elif step == "add":
            await store.proxies.add([proxy("p")], OPERATOR)
        else:
            await store.proxies.set_active("p", active=step == "enable", actor=OPERATOR)
        await process.follow()
        found.append(sorted(uses(process.world, 2)))

    kept, free = ["b by direct"] * 2, ["a by p", "b by direct"]
    assert found == [kept, free, kept, free]


async def test_what_was_found_out_waits_for_the_store(store: SqliteStore) -> None:
    """The latest of it is written when the store is back; nothing else waits meanwhile."""
    process = Process(store, "host:1")
    await process.start()
    process.door.is_shut = True
    process.world.hit(EgressFailed(reason="first"), key="a")
    process.keeper.changed(process.world.exit_changes.pop())
    await process.door.was_shut.wait()
    reopen(process.world, "p")
    process.keeper.changed(process.world.exit_changes.pop())
    process.door.is_shut = False
    await process.written()
    stored = (await store.proxies.load())[0]

    assert (stored.status, stored.last_error) == (ProxyStatus.HEALTHY, "")
    assert stored.last_latency_ms == 10


async def test_checks_that_change_nothing_are_remembered_too(store: SqliteStore) -> None:
    """When a proxy was checked, and how long that took, for processes that start later."""
    one, two = await pair(store)
    way = one.world.pool.ways.by_proxy["q"]
    found = Check(way.gate.condition.generation, latency_s=0.123)
    one.world.exits.checked(one.world.pool, way, found)
    one.keeper.checked(one.world.pool, way, found)
    await one.written()
    await two.keeper.resync()
    stored = {record.name: record for record in await store.proxies.load()}["q"]

    assert (stored.status, stored.last_latency_ms) == (ProxyStatus.HEALTHY, 123)
    assert two.world.pool.ways.by_proxy["q"].latency_s == 0.123


async def test_a_resync_finds_what_the_audit_did_not_tell(store: SqliteStore) -> None:
    """Proxies that came and went by another program's hand."""
    process = Process(store, "host:1")
    await process.start()
    await store.proxies.remove("p", OPERATOR)
    await process.keeper.resync()

    assert uses(process.world, 2) == ["b by direct"] * 2
