"""Pools and store in step: load, write back, promote, follow."""

import asyncio
from collections import Counter
from collections.abc import Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from keymux.core.faults import (
    BadGateway,
    KeyRevoked,
    KeySpent,
    KeyThrottled,
    PolicyBlocked,
    UpstreamFault,
)
from keymux.core.health import Event, Status
from keymux.core.records import BackupKeyRecord, KeyRecord, ProviderState, Transition
from keymux.pools.effects import Change
from keymux.pools.keeping import Keeper
from keymux.pools.persistence import Clocks
from keymux.pools.pool import Pool
from keymux.stores.port import Batch
from keymux.stores.sqlite import SqliteStore
from tests.pools.rig import MODEL, PROVIDER, Clock, World

WALL = 1_790_000_000_000


class Door:
    """The store as the keeper sees it, with a count of what it is asked."""

    troubles: ClassVar[tuple[type[Exception], ...]] = (ConnectionError,)

    def __init__(self, store: SqliteStore, actor: str) -> None:
        self._store = store
        self._actor = actor
        self.asked: Counter[str] = Counter()
        self.is_down = False

    async def load_keys(self, provider: str) -> Sequence[KeyRecord]:
        """All upstream keys of a provider."""
        self.asked["load_keys"] += 1
        return await self._store.keys.load(provider)

    async def find_keys(self, provider: str, key_ids: Collection[str]) -> Sequence[KeyRecord]:
        """Some of them."""
        self.asked["find_keys"] += 1
        return await self._store.keys.find_some(provider, key_ids)

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of the provider."""
        self.asked["provider_state"] += 1
        return await self._store.provider_state(provider)

    async def promote(self, provider: str, dead_key: str, at: int) -> str | None:
        """Let a backup key take over, once."""
        self.asked["promote"] += 1
        if self.is_down:
            raise ConnectionError("the store is away")
        return await self._store.backups.promote(provider, dead_key, at=at, actor=self._actor)


class Gateway:
    """One process: a world, a keeper, and the transitions it has not written yet."""

    def __init__(self, store: SqliteStore, actor: str = "host:1") -> None:
        self.clock = Clock()
        self.clocks = Clocks(self.clock, lambda: WALL + round((self.clock() - 1000.0) * 1000))
        self.world = World(clock=self.clock, tell=self._changed)
        self.store = store
        self.door = Door(store, actor)
        self.noted: list[Transition] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.keeper = Keeper(
            {PROVIDER: self.world.pool},
            self.door,
            self._refresh,
            self.noted.append,
            clocks=self.clocks,
            actor=actor,
            spawn=self._spawn,
        )
        self.keeper.rescue_s = 0.0
        self.refreshed: list[Collection[str] | None] = []
        self._seen = 0

    async def _refresh(self, pool: Pool, keys: Collection[str] | None) -> None:
        self.refreshed.append(keys)

    def _changed(self, change: Change) -> None:
        self.keeper.changed(change)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def start(self) -> "Gateway":
        """Load the pools."""
        self._seen = await self.store.audit.last()
        await self.keeper.load_pool(PROVIDER)
        return self

    async def finish(self) -> None:
        """Let background work end."""
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def write(self) -> None:
        """Write what was noted, as the book would."""
        await self.finish()
        noted, self.noted[:] = tuple(self.noted), []
        await self.store.ledger.write(Batch(transitions=noted))

    async def follow(self) -> int:
        """Read what is new in the audit, and act on it; gives the number of rows."""
        count = 0
        while rows := await self.store.audit.since(self._seen, 1000):
            await self.keeper.follow(rows)
            self._seen = rows[-1].seq
            count += len(rows)
        await self.finish()
        return count

    @property
    def ready(self) -> set[str]:
        """Keys that could be used now."""
        return self.world.ready()


class Scene:
    """A store with keys, and gateways on it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "keymux.db"
        self.store = SqliteStore(self.path)

    async def prepared(self, *keys: str, spares: Sequence[str] = (), group: str = "") -> "Scene":
        """Fill the store."""
        await self.store.prepare([PROVIDER])
        await self.store.keys.add(
            PROVIDER, [KeyRecord(key, f"secret-{key}", group=group) for key in keys], "test"
        )
        await self.add_spares(*spares)
        return self

    async def add_spares(self, *spares: str) -> None:
        """Add backup keys, oldest first."""
        records = [
            BackupKeyRecord(key, f"secret-{key}", created_at=index)
            for index, key in enumerate(spares, 1)
        ]
        await self.store.backups.add(PROVIDER, records, "cli:op")

    async def say(self, key: str, event: Event) -> None:
        """An operator speaks."""
        await self.store.keys.change(PROVIDER, key, event, actor="cli:op", reason="because")


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario."""
    asyncio.run(scenario)


# -- load ----------------------------------------------------------------------------------------
def test_pools_are_filled_from_the_store(tmp_path: Path) -> None:
    """Every key is there with its state, and the provider with its own."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", "c", group="team")
        await scene.say("b", Event.DISABLE)
        gateway = await Gateway(scene.store).start()
        await scene.store.close()

        assert gateway.ready == {"a", "c"}
        assert gateway.world.pool.keys["a"].group.name == "team"

    play(scenario())


def test_state_survives_a_restart_through_the_store(tmp_path: Path) -> None:
    """What one process wrote the next one obeys."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", "c")
        first = await Gateway(scene.store).start()
        first.world.hit(KeyThrottled(told=60.0), key="a")
        first.world.hit(KeySpent(told=600.0), key="b")
        await first.write()
        second = await Gateway(scene.store, "host:2").start()
        ready_at_once = second.ready
        second.clock.pass_s(60.0)
        after_a_minute = second.ready
        await scene.store.close()

        assert (ready_at_once, after_a_minute) == ({"c"}, {"a", "c"})

    play(scenario())


def test_a_blocked_provider_survives_a_restart(tmp_path: Path) -> None:
    """U09: also when the provider had been down before, and healthy again."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        first = await Gateway(scene.store).start()
        for _ in range(3):
            first.world.hit(BadGateway(told=5.0))
            first.clock.pass_s(5.0)
            first.world.serve()
        first.world.hit(PolicyBlocked())
        await first.write()
        second = await Gateway(scene.store, "host:2").start()
        await scene.store.close()

        assert second.ready == set()

    play(scenario())


# -- transitions ---------------------------------------------------------------------------------
def test_a_transition_is_noted_with_all_that_the_store_needs(tmp_path: Path) -> None:
    """Who, when, what, why, and how the key is now."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(KeyThrottled(told=60.0, reason="429 slow"))
        (noted,) = gateway.noted
        await scene.store.close()

        assert (noted.actor, noted.at, noted.provider) == ("host:1", WALL, PROVIDER)
        assert (noted.key, noted.model) == ("a", MODEL)
        assert (noted.before, noted.after) == (Status.HEALTHY, Status.RATE_LIMITED)
        assert noted.reason == "429 slow"
        assert noted.key_state is not None
        assert noted.key_state.shades[MODEL].until == WALL + 60_000

    play(scenario())


def test_a_stored_cooldown_of_a_group_ends_with_it(tmp_path: Path) -> None:
    """The key that was refused is shown healthy again, although another key found out."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", group="team")
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(KeyThrottled(told=60.0), key="a")
        await gateway.write()
        during = await scene.store.keys.find(PROVIDER, "a")
        gateway.clock.pass_s(60.0)
        gateway.world.serve(key="b")
        await gateway.write()
        after = await scene.store.keys.find(PROVIDER, "a")
        await scene.store.close()

        assert during is not None
        assert after is not None
        assert list(during.state.shades) == [MODEL]
        assert after.state.shades == {}

    play(scenario())


# -- promotion -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault", [pytest.param(KeySpent(), id="spent"), pytest.param(KeyRevoked(), id="revoked")]
)
def test_a_dead_key_is_replaced_by_the_oldest_spare(tmp_path: Path, fault: UpstreamFault) -> None:
    """The spare joins the pool, the dead key gets no more traffic, not even a probe."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s1", "s2"])
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(fault)
        await gateway.finish()
        gateway.clock.pass_s(1e7)
        ready = gateway.ready
        spares = await scene.store.backups.load(PROVIDER)
        await scene.store.close()

        assert ready == {"s1"}
        assert [(spare.id, spare.is_used, spare.used_for) for spare in spares] == [
            ("s1", True, "a"),
            ("s2", False, ""),
        ]

    play(scenario())


def test_without_a_spare_a_spent_key_is_probed(tmp_path: Path) -> None:
    """It stays in the pool; an hour later one request finds out."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(KeySpent())
        await gateway.finish()
        expecting = gateway.world.pool.expecting
        gateway.clock.pass_s(3600.0)
        await scene.store.close()

        assert expecting == 0
        assert gateway.world.must_take().is_trial

    play(scenario())


def test_those_who_wait_get_the_fresh_key(tmp_path: Path) -> None:
    """The only key dies while a client waits: it is served by the successor."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s"])
        gateway = await Gateway(scene.store).start()
        gateway.world.leasing._clock = asyncio.get_running_loop().time
        gateway.world.hit(KeyRevoked())
        lease = await gateway.world.wait()
        await scene.store.close()

        assert lease.key.id == "s"

    play(scenario())


def test_many_processes_promote_one_spare_for_one_dead_key(tmp_path: Path) -> None:
    """Eight processes see the same key die at once."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s1", "s2", "s3"])
        gateways = [await Gateway(scene.store, f"host:{n}").start() for n in range(8)]
        for gateway in gateways:
            gateway.world.hit(KeyRevoked())
        for gateway in gateways:
            await gateway.write()
        spares = await scene.store.backups.load(PROVIDER)
        await scene.store.close()

        assert [spare.is_used for spare in spares] == [True, False, False]
        assert all(gateway.ready == {"s1"} for gateway in gateways)

    play(scenario())


def test_a_store_that_is_away_delays_a_promotion_only(tmp_path: Path) -> None:
    """D02: the key died while the store was down; it is replaced when the store knows of it."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s"])
        gateway = await Gateway(scene.store).start()
        gateway.door.is_down = True
        gateway.world.hit(KeyRevoked())
        await gateway.finish()
        promoted, expecting = gateway.ready, gateway.world.pool.expecting
        gateway.door.is_down = False
        await gateway.write()
        await gateway.follow()
        await scene.store.close()

        assert not gateway.tasks[0].exception()
        assert promoted == set()
        assert expecting == 0
        assert gateway.ready == {"s"}

    play(scenario())


def test_a_spare_that_comes_later_replaces_a_dead_key(tmp_path: Path) -> None:
    """An operator brings backup keys: as many dead keys as possible are replaced."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", "c")
        gateway = await Gateway(scene.store).start()
        for key in "abc":
            gateway.world.hit(KeyRevoked(), key=key)
        await gateway.write()
        await gateway.follow()
        before = gateway.ready
        await scene.add_spares("s1", "s2")
        await gateway.follow()
        await scene.store.close()

        assert (before, gateway.ready) == (set(), {"s1", "s2"})

    play(scenario())


def test_dead_keys_are_replaced_at_the_start(tmp_path: Path) -> None:
    """A key that died while no spare was there is replaced when there is one."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        first = await Gateway(scene.store).start()
        first.world.hit(KeySpent())
        await first.write()
        await scene.add_spares("s")
        second = await Gateway(scene.store, "host:2").start()
        await scene.store.close()

        assert second.ready == {"s"}

    play(scenario())


def test_a_thousand_dead_keys_without_spares_are_no_burden(tmp_path: Path) -> None:
    """The store is asked for a spare once, not a thousand times."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared(*(f"key{n}" for n in range(1000)))
        first = await Gateway(scene.store).start()
        for key in tuple(first.world.pool.keys):
            first.world.hit(KeyRevoked(), key=key)
        await first.write()
        second = await Gateway(scene.store, "host:2").start()
        await scene.store.close()

        assert second.door.asked["promote"] == 1

    play(scenario())


def test_a_dead_key_that_was_removed_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """The store knows nothing of it; the spare goes to the next dead key."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b")
        gateway = await Gateway(scene.store).start()
        for key in "ab":
            gateway.world.hit(KeyRevoked(), key=key)
        await gateway.write()
        await scene.store.keys.remove(PROVIDER, "a", "cli:op")
        await scene.add_spares("s")
        news = [row for row in await scene.store.audit.since(0, 99) if row.action == "backup.add"]
        await gateway.keeper.follow(news)
        await gateway.finish()
        await scene.store.close()

        assert gateway.ready == {"s"}

    play(scenario())


def test_a_key_that_was_restored_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """The promotion begins after the operator has acted: the key is alive."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s"])
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(KeyRevoked())
        gateway.world.pool.keys["a"].gate.change(
            type(gateway.world.pool.gate.condition)(generation=9)
        )
        await gateway.finish()
        await scene.store.close()

        assert gateway.ready == {"a"}

    play(scenario())


# -- follow --------------------------------------------------------------------------------------
def test_an_added_key_joins(tmp_path: Path) -> None:
    """An operator's key serves without a restart."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        await scene.store.keys.add(PROVIDER, [KeyRecord("b", "secret-b")], "cli:op")
        await gateway.follow()
        await scene.store.close()

        assert gateway.ready == {"a", "b"}

    play(scenario())


def test_thousands_of_added_keys_are_read_in_one_go(tmp_path: Path) -> None:
    """Five thousand keys cost a handful of queries."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        many = [KeyRecord(f"key{n}", f"secret{n}") for n in range(5000)]
        await scene.store.keys.add(PROVIDER, many, "cli:op")
        gateway.door.asked.clear()
        rows = await gateway.follow()
        await scene.store.close()

        assert rows == 5000
        assert len(gateway.world.pool.keys) == 5001
        assert gateway.door.asked == {"find_keys": 5}

    play(scenario())


def test_a_thousand_spares_are_offered_once(tmp_path: Path) -> None:
    """The dead are looked for once for all rows, and no spare is used in vain."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        gateway.door.asked.clear()
        await scene.add_spares(*(f"s{n}" for n in range(900)))
        await gateway.follow()
        await scene.store.close()

        assert gateway.door.asked["promote"] == 0

    play(scenario())


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([Event.DISABLE], set[str](), id="disabled: no traffic"),
        pytest.param([Event.DISABLE, Event.ENABLE], {"a"}, id="enabled again: traffic"),
        pytest.param([Event.RESET], {"a"}, id="reset: its cooldown is over"),
        pytest.param([Event.RESTORE], {"a"}, id="restored: its cooldown is over"),
    ],
)
def test_an_operators_word_is_obeyed(
    tmp_path: Path, events: list[Event], expected: set[str]
) -> None:
    """C07: a second at most after the operator has spoken; here the key is over its rate."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        if events in ([Event.RESET], [Event.RESTORE]):
            gateway.world.hit(KeyThrottled(told=600.0))
            await gateway.write()
        for event in events:
            await scene.say("a", event)
        await gateway.follow()
        await scene.store.close()

        assert gateway.ready == expected

    play(scenario())


def test_a_restored_key_is_trusted_again(tmp_path: Path) -> None:
    """Quarantined and replaced; the operator restores it: both keys serve."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s"])
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(KeyRevoked())
        await gateway.write()
        await scene.say("a", Event.RESTORE)
        await gateway.follow()
        await scene.store.close()

        assert gateway.ready == {"a", "s"}

    play(scenario())


def test_a_reset_lifts_the_cooldown_of_the_group(tmp_path: Path) -> None:
    """One key is trusted again, so its group is; what other keys have stored of it goes too."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", group="team")
        gateway = await Gateway(scene.store).start()
        leases = [gateway.world.must_take(only_key=key) for key in "ab"]
        for lease, told in zip(leases, (100.0, 200.0), strict=True):
            gateway.world.fail(lease, KeyThrottled(told=told))
        await gateway.write()
        await scene.say("a", Event.RESET)
        await gateway.follow()
        await gateway.write()
        stored = {key.id: key.state for key in await scene.store.keys.load(PROVIDER)}
        await scene.store.close()

        assert gateway.ready == {"a", "b"}
        assert stored["a"].shades == {}
        assert stored["b"].shades == {}

    play(scenario())


def test_a_removed_key_leaves(tmp_path: Path) -> None:
    """An operator deletes a key."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b")
        gateway = await Gateway(scene.store).start()
        await scene.store.keys.remove(PROVIDER, "a", "cli:op")
        await gateway.follow()
        await scene.store.close()

        assert list(gateway.world.pool.keys) == ["b"]

    play(scenario())


def test_a_spare_that_is_taken_back_leaves_the_pool(tmp_path: Path) -> None:
    """An operator restores a used backup key: it is a spare again, the dead key stays out."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", spares=["s"])
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(KeyRevoked(), key="a")
        await gateway.write()
        await gateway.follow()
        await scene.store.backups.restore(PROVIDER, "s", "cli:op")
        await gateway.follow()
        (spare,) = await scene.store.backups.load(PROVIDER)
        await scene.store.close()

        assert gateway.ready == {"b"}
        assert not spare.is_used

    play(scenario())


def test_a_providers_reset_is_obeyed(tmp_path: Path) -> None:
    """U09: the operator has settled the matter with the provider."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        gateway.world.hit(PolicyBlocked())
        await gateway.write()
        await gateway.follow()
        blocked = gateway.ready
        await scene.store.reset_provider(PROVIDER, "cli:op")
        await gateway.follow()
        await scene.store.close()

        assert (blocked, gateway.ready) == (set(), {"a"})

    play(scenario())


def test_what_one_process_learns_the_others_obey(tmp_path: Path) -> None:
    """A rate limit, a spent key, a block: each within one round of reading."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", "b", "c")
        first, second = [await Gateway(scene.store, f"host:{n}").start() for n in range(2)]
        first.world.hit(KeyThrottled(told=60.0), key="a")
        first.world.hit(KeySpent(), key="b")
        await first.write()
        await second.follow()
        after_keys = second.ready
        first.world.hit(PolicyBlocked(), key="c")
        await first.write()
        await second.follow()
        await scene.store.close()

        assert (after_keys, second.ready) == ({"c"}, set())

    play(scenario())


def test_a_promotion_of_another_process_is_taken_over(tmp_path: Path) -> None:
    """The fresh key joins every pool, the dead key leaves every pool."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a", spares=["s"])
        first, second = [await Gateway(scene.store, f"host:{n}").start() for n in range(2)]
        first.world.hit(KeyRevoked())
        await first.write()
        await second.follow()
        await scene.store.close()

        assert second.ready == {"s"}

    play(scenario())


def test_two_processes_that_see_different_models_do_not_overwrite_each_other(
    tmp_path: Path,
) -> None:
    """Each throttles another model of one key; both cooldowns hold everywhere, and are stored."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        first, second = [await Gateway(scene.store, f"host:{n}").start() for n in range(2)]
        first.world.hit(KeyThrottled(told=60.0), model="one")
        second.world.hit(KeyThrottled(told=60.0), model="two")
        for gateway in (first, second):
            await gateway.write()
        for gateway in (first, second):
            await gateway.follow()
        stored = await scene.store.keys.find(PROVIDER, "a")
        await scene.store.close()

        assert stored is not None
        assert sorted(stored.state.shades) == ["one", "two"]
        assert [
            gateway.world.ready(model) for gateway in (first, second) for model in ("one", "two")
        ] == [set()] * 4

    play(scenario())


def test_rows_about_strangers_are_passed_over(tmp_path: Path) -> None:
    """Another provider's keys, and client keys, are none of the pool's business."""

    async def scenario() -> None:
        scene = await Scene(tmp_path).prepared("a")
        gateway = await Gateway(scene.store).start()
        await scene.store.prepare([PROVIDER, "other"])
        await scene.store.keys.add("other", [KeyRecord("x", "secret-x")], "cli:op")
        gateway.door.asked.clear()
        await gateway.follow()
        await scene.store.close()

        assert gateway.door.asked == {}

    play(scenario())
