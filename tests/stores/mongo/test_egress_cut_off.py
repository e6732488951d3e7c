"""What is about proxies and bindings may be cut off at any step: no key is ever there unbound."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pymongo import MongoClient

from keymux.core.egress import ExitState, Observation, Repaired
from keymux.core.health import Status
from keymux.stores.mongo import MongoStore
from keymux.stores.port import NoSuchRecord, StoreUnavailable
from tests.contract.records import (
    ACME,
    NOON,
    OPERATOR,
    actions_in,
    binding,
    key,
    pairs_in,
    proxy,
    spare,
)
from tests.stores.mongo.server import database_on, failing, running
from tests.stores.mongo.test_cut_off import WRITES, however
from tests.stores.mongo.watching import Command, Watcher

pytestmark = pytest.mark.anyio

SEEN = Observation(NOON, {ACME: ExitState(Status.ERROR, NOON, "refused", 1, 1)}, error="refused")

at_every_step = pytest.mark.parametrize("step", range(8))


@pytest.fixture(scope="module", params=[(), ("--standalone",)], ids=["replica set", "standalone"])
def breakable(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that may be told to fail."""
    with running(*request.param) as server:
        yield server.uri


@pytest.fixture
def place(breakable: str) -> Iterator[str]:
    """An empty database on it."""
    with database_on(breakable) as uri:
        yield uri


async def _filled(uri: str) -> MongoStore:
    store = MongoStore(uri, print)
    await store.prepare([ACME])
    await store.proxies.add([proxy("p1"), proxy("p2")], OPERATOR)
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await store.backups.add(ACME, [spare("b1")], OPERATOR)
    bound = [binding("p1", "k1"), binding("p2", "k1")]
    await store.bindings.add(ACME, bound, OPERATOR)
    return store


async def _cut_off(
    uri: str, step: int, how: dict[str, object], work: Callable[[MongoStore], Awaitable[object]]
) -> None:
    store = MongoStore(uri, print, patience_s=0.5)
    await store.provider_state(ACME)
    with failing(uri, {"skip": step}, WRITES, **how), suppress(StoreUnavailable):
        await work(store)
    await store.close()


async def _unbound(store: MongoStore) -> set[str]:
    """The keys that would go directly; only the second one may."""
    bound = {key_id for key_id, _ in await pairs_in(store)}
    return {record.id for record in await store.keys.load(ACME)} - bound - {"k2"}


@at_every_step
@however
async def test_a_promotion(place: str, step: int, how: dict[str, object]) -> None:
    """Whoever goes on finds a key with bindings or none, and no binding is made twice."""
    store = await _filled(place)
    await _cut_off(
        place, step, how, lambda it: it.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    )
    between = await _unbound(store)
    promoted = await store.backups.promote(ACME, "k1", at=NOON, actor="host:2")

    assert between == set()
    assert promoted == "b1"
    assert await pairs_in(store) == [("b1", "p1"), ("b1", "p2"), ("k1", "p1"), ("k1", "p2")]
    await store.close()


@at_every_step
@however
async def test_a_removal(place: str, step: int, how: dict[str, object]) -> None:
    """The key is gone before its bindings; what is left of them is found by a repair."""
    store = await _filled(place)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.bindings.add(ACME, [binding("p3", "k1")], OPERATOR)
    await _cut_off(place, step, how, lambda it: it.keys.remove(ACME, "k1", OPERATOR))
    between = await _unbound(store)
    with suppress(NoSuchRecord):
        await store.keys.remove(ACME, "k1", OPERATOR)
    await store.bindings.repair(ACME, OPERATOR)

    assert between == set()
    assert await pairs_in(store) == [("b1", "p1"), ("b1", "p2"), ("b1", "p3")]
    await store.close()


@at_every_step
@however
async def test_a_restored_spare(place: str, step: int, how: dict[str, object]) -> None:
    """Its key is gone before its bindings."""
    store = await _filled(place)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await _cut_off(place, step, how, lambda it: it.backups.restore(ACME, "b1", OPERATOR))
    between = await _unbound(store)
    await store.backups.restore(ACME, "b1", OPERATOR)
    await store.bindings.repair(ACME, OPERATOR)

    assert between == set()
    assert await pairs_in(store) == [("k1", "p1"), ("k1", "p2")]
    await store.close()


@at_every_step
@however
async def test_a_repair(place: str, step: int, how: dict[str, object]) -> None:
    """Begun anew it ends as if it had not been cut off."""
    store = await _filled(place)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.keys.remove(ACME, "k1", OPERATOR)
    await store.bindings.add(ACME, [binding("p3", "k1"), binding("p1", "gone")], OPERATOR)
    await _cut_off(place, step, how, lambda it: it.bindings.repair(ACME, OPERATOR))
    await store.bindings.repair(ACME, OPERATOR)

    assert await pairs_in(store) == [("b1", "p1"), ("b1", "p2"), ("b1", "p3")]
    await store.close()


@at_every_step
@however
async def test_an_observation(place: str, step: int, how: dict[str, object]) -> None:
    """Observed again by anybody it is there, and its change is audited once."""
    store = await _filled(place)
    await _cut_off(place, step, how, lambda it: it.proxies.observe("p1", SEEN, "host:1"))
    for _ in range(2):
        await store.proxies.observe("p1", SEEN, "host:2")
    (found,) = await store.proxies.find_some(["p1"])

    assert found.exits == SEEN.exits
    assert (await actions_in(store)).count(("proxy.transition", "p1")) == 1
    await store.close()


# -- what comes between ----------------------------------------------------------------------------
async def test_bindings_are_there_before_the_key(place: str, watching: Watcher) -> None:
    """At the moment when the key joins the pool."""
    store = await _filled(place)
    there = []

    def look(command: Command) -> None:
        if command.get("insert") == "acme_keys":
            with MongoClient[dict[str, Any]](place) as client:
                bindings = client.get_default_database()["acme_bindings"]
                there.append(bindings.count_documents({"acmeKeyId": "b1"}))

    watching.act = look
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    watching.act = None
    await store.close()

    assert there == [2]


async def test_somebody_deletes_them_before_the_key_joins(place: str, watching: Watcher) -> None:
    """A repair takes them for those of a key that is gone; they are made again."""
    store = await _filled(place)

    def meddle(command: Command) -> None:
        if command.get("insert") == "acme_keys":
            with MongoClient[dict[str, Any]](place) as client:
                client.get_default_database()["acme_bindings"].delete_many({"acmeKeyId": "b1"})

    watching.act = meddle
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    watching.act = None

    assert await _unbound(store) == set()
    assert ("b1", "p2") in await pairs_in(store)
    await store.close()


async def test_a_key_joins_while_bindings_are_repaired(place: str, watching: Watcher) -> None:
    """It was not there when the repair began, and its bindings are not touched."""
    store = await _filled(place)
    await store.bindings.add(ACME, [binding("p1", "k3")], OPERATOR)

    def join(command: Command) -> None:
        if command.get("find") == "acme_backup_keys":
            with MongoClient[dict[str, Any]](place) as client:
                pool = client.get_default_database()["acme_keys"]
                pool.insert_one({"_id": "k3", "apiKey": "secret-k3"})

    watching.act = join
    found = await store.bindings.repair(ACME, OPERATOR)
    watching.act = None

    assert found == Repaired(checked=3)
    assert ("k3", "p1") in await pairs_in(store)
    await store.close()
