"""Egress proxies and bindings that other programs have written work as they are."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Int64, ObjectId
from pymongo.database import Database

from keymux.core.egress import (
    LAST_PRIORITY,
    BindingRecord,
    ExitState,
    Observation,
    ProxyAddress,
    ProxyRecord,
    ProxyStatus,
    ProxyType,
    Repaired,
)
from keymux.core.health import Status
from keymux.stores.mongo import MongoStore
from keymux.stores.port import StoreUnusable
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

pytestmark = pytest.mark.anyio

Stored = dict[str, Any]
NOON_DATE = datetime.fromtimestamp(NOON / 1000, UTC)
OLD, WAY, BOUND = (ObjectId(f"65f1a2b3c4d5e6f70819200{n}") for n in range(3))
SEEN = Observation(NOON, {ACME: ExitState(Status.ERROR, NOON, "refused", 1, 1)}, error="refused")


def legacy(**fields: object) -> Stored:
    """A proxy as the programs before keymux wrote it."""
    return {
        "_id": WAY,
        "name": "way out",
        "type": "http",
        "host": "192.0.2.1",
        "port": Int64(3128),
        "username": "ann",
        "password": "secret",
        "status": "unhealthy",
        "isActive": True,
        "failCount": 2.0,
        "createdAt": NOON_DATE,
        "city": "Bern",
        **fields,
    }


def bound(**fields: object) -> Stored:
    """A binding as the programs before keymux wrote it."""
    return {
        "_id": BOUND,
        "proxyId": WAY,
        "acmeKeyId": OLD,
        "priority": 2.0,
        "isActive": True,
        "createdAt": NOON_DATE,
        "by": "hand",
        **fields,
    }


def without(document: Stored, *names: str) -> Stored:
    """A document that lacks some fields."""
    return {name: value for name, value in document.items() if name not in names}


async def _proxies(
    store: MongoStore, database: Database[Stored], *documents: Stored
) -> list[ProxyRecord]:
    database["proxies"].insert_many(documents)
    await store.prepare([ACME])
    return await store.proxies.load()


async def _bindings(
    store: MongoStore, database: Database[Stored], *documents: Stored
) -> list[BindingRecord]:
    database["acme_bindings"].insert_many(documents)
    await store.prepare([ACME])
    return await store.bindings.load(ACME)


# -- proxies ---------------------------------------------------------------------------------------
async def test_a_legacy_proxy_is_used(
    store: MongoStore, database: Database[Stored], told: list[str]
) -> None:
    """What another program thought of its health is not known to keymux; nothing is changed."""
    (record,) = await _proxies(store, database, legacy())

    assert record == ProxyRecord(
        id=str(WAY),
        name="way out",
        address=ProxyAddress(ProxyType.HTTP, "192.0.2.1", 3128, "ann", "secret"),
        fail_count=2,
        created_at=NOON,
    )
    assert record.status is ProxyStatus.UNKNOWN
    assert database["proxies"].find_one() == {**legacy(), "createdAt": NOON_DATE}
    assert told == []


async def test_an_address_alone_is_enough(store: MongoStore, database: Database[Stored]) -> None:
    """Everything else has a default; the name is the id."""
    (record,) = await _proxies(store, database, {"_id": "p1", "host": "h", "port": "8080"})

    assert record == ProxyRecord("p1", "p1", ProxyAddress(ProxyType.HTTP, "h", 8080))


READ = {
    "socks": ({"type": "socks"}, ProxyType.SOCKS5, "192.0.2.1"),
    "socks5h": ({"type": "SOCKS5H"}, ProxyType.SOCKS5, "192.0.2.1"),
    "https": ({"type": "https"}, ProxyType.HTTPS, "192.0.2.1"),
    "an IPv6 address in brackets": ({"host": "[2001:db8::1]"}, ProxyType.HTTP, "2001:db8::1"),
    "no password": ({"password": None, "username": None}, ProxyType.HTTP, "192.0.2.1"),
    "odd dates and figures": (
        {"createdAt": "soon", "lastCheckedAt": [], "lastLatencyMs": "9", "failCount": {}},
        ProxyType.HTTP,
        "192.0.2.1",
    ),
    "odd words": ({"name": 7, "lastError": 404}, ProxyType.HTTP, "192.0.2.1"),
    "odd exits": ({"exits": "none"}, ProxyType.HTTP, "192.0.2.1"),
}


@pytest.mark.parametrize(("fields", "kind", "host"), READ.values(), ids=READ)
async def test_proxies_are_read_with_patience(
    store: MongoStore, database: Database[Stored], fields: Stored, kind: ProxyType, host: str
) -> None:
    """What only informs people may be wrong."""
    (record,) = await _proxies(store, database, legacy(**fields))

    assert (record.address.type, record.address.host) == (kind, host)


WRONG = {
    "socks4": ({"type": "socks4"}, "type"),
    "a type that is none": ({"type": "carrier pigeon"}, "type"),
    "a type of another type": ({"type": 5}, "type"),
    "no host": ({"host": ""}, "host"),
    "a host of another type": ({"host": ["h"]}, "host"),
    "no port": ({"port": None}, "port"),
    "a port that is none": ({"port": 65_536}, "port"),
    "a port in words": ({"port": "many"}, "port"),
    "a password of another type": ({"password": 5}, "password"),
    "a user of another type": ({"username": 5}, "username"),
    "a switch of another type": ({"isActive": "yes"}, "isActive"),
    "an id of another type": ({"_id": 7}, "_id"),
}


@pytest.mark.parametrize(("fields", "name"), WRONG.values(), ids=WRONG)
async def test_a_proxy_that_cannot_be_understood(
    store: MongoStore,
    database: Database[Stored],
    told: list[str],
    fields: Stored,
    name: str,
) -> None:
    """It is passed over and told of once, without its values; the others are used."""
    document = legacy(**fields)
    (record,) = await _proxies(store, database, document, legacy(_id="p2"))
    await store.proxies.load()

    assert record.id == "p2"
    (line,) = told
    assert line == (
        f"proxies: the document {document['_id']!r} is left out: "
        f"its field {name} is missing or of the wrong type"
    )


async def test_names_that_are_there_twice(store: MongoStore, database: Database[Stored]) -> None:
    """Each proxy has a name of its own, the same wherever it is read."""
    records = await _proxies(store, database, legacy(_id="p2"), legacy(_id="p1"))
    (second,) = await store.proxies.find_some(["p2"])

    assert [record.name for record in records] == ["way out", "way out (p2)"]
    assert second.name == "way out (p2)"


async def test_what_a_legacy_proxy_has_is_taken(
    store: MongoStore, database: Database[Stored]
) -> None:
    """Its name and its address, also if it cannot be used."""
    address = ProxyAddress(ProxyType.HTTP, "192.0.2.1", 3128, "ann")
    await _proxies(store, database, legacy(name="x"), legacy(_id=7, name="y", host=""))
    same = [proxy("a", name="a", address=address), proxy("b", name="x"), proxy("c", name="y")]

    assert await store.proxies.add(same, OPERATOR) == []
    assert await store.proxies.add([proxy("d")], OPERATOR) == ["d"]


async def test_observing_a_legacy_proxy(store: MongoStore, database: Database[Stored]) -> None:
    """Its status is for other programs too; the fields that keymux does not know are kept."""
    await _proxies(store, database, legacy(exits="none", revision="first"))
    await store.proxies.observe(str(WAY), SEEN, "host:1")
    (record,) = await store.proxies.load()
    after = database["proxies"].find_one() or {}

    assert record.exits == SEEN.exits
    assert (after["status"], after["failCount"], after["city"]) == ("unhealthy", 3, "Bern")
    assert after["lastCheckedAt"] == NOON_DATE
    assert await actions_in(store) == [("proxy.transition", str(WAY))]


async def test_a_proxy_that_cannot_be_used_can_be_switched_and_removed(
    store: MongoStore, database: Database[Stored]
) -> None:
    """An operator must be able to get rid of it; what is seen of it is of no use."""
    await _proxies(store, database, legacy(type="socks4"))
    await store.proxies.observe(str(WAY), SEEN, "host:1")
    await store.proxies.set_active(str(WAY), active=False, actor=OPERATOR)
    document = database["proxies"].find_one() or {}
    await store.proxies.remove(str(WAY), OPERATOR)

    assert document["isActive"] is False
    assert "exits" not in document
    assert database["proxies"].count_documents({}) == 0


EXITS: Stored = {
    "good": {"status": "error", "until": NOON_DATE, "reason": "r", "step": 1.0, "generation": 2},
    "bare": {},
    "odd": {"status": "sleepy"},
    "wrong": {"status": 7},
    "none": None,
}


async def test_exits_that_somebody_changed(store: MongoStore, database: Database[Stored]) -> None:
    """What is no exit is passed over, and stays there when another one is written."""
    (record,) = await _proxies(store, database, legacy(exits=EXITS))
    await store.proxies.observe(str(WAY), SEEN, "host:1")
    after = (database["proxies"].find_one() or {})["exits"]

    assert record.exits == {
        "good": ExitState(Status.ERROR, NOON, "r", 1, 2),
        "bare": ExitState(),
        "odd": ExitState(Status.QUARANTINED),
    }
    assert {name: after[name] for name in EXITS} == EXITS


# -- bindings --------------------------------------------------------------------------------------
async def test_a_legacy_binding_is_used(
    store: MongoStore, database: Database[Stored], told: list[str]
) -> None:
    """Ids of MongoDB's own are found by their text, and texts that look like them as well."""
    text = bound(_id="x", acmeKeyId=str(OLD), proxyId="p")
    records = await _bindings(store, database, bound(), text)

    assert records == [
        BindingRecord(str(BOUND), str(WAY), str(OLD), 2, is_active=True, created_at=NOON),
        BindingRecord("x", "p", str(OLD), 2, is_active=True, created_at=NOON),
    ]
    assert await store.bindings.of_keys(ACME, [str(OLD)]) == records
    assert told == []


async def test_a_pair_alone_is_enough(
    store: MongoStore, database: Database[Stored], told: list[str]
) -> None:
    """It is active and comes first."""
    lean = without(bound(), "priority", "isActive", "createdAt")

    assert await _bindings(store, database, lean) == [BindingRecord(str(BOUND), str(WAY), str(OLD))]
    assert told == []


STRANGE = {
    "no proxy": ({"proxyId": None}, "proxyId", {"proxy_id": ""}),
    "a proxy of another type": ({"proxyId": 7}, "proxyId", {"proxy_id": ""}),
    "an odd priority": ({"priority": "high"}, "priority", {"priority": LAST_PRIORITY}),
    "an odd switch": ({"isActive": "yes"}, "isActive", {"is_active": False}),
    "an odd date": ({"createdAt": "soon"}, "createdAt", {"created_at": 0}),
    "an odd id": ({"_id": 7}, "_id", {"id": "7"}),
}


@pytest.mark.parametrize(("fields", "name", "read"), STRANGE.values(), ids=STRANGE)
async def test_a_key_is_bound_by_whatever_binds_it(
    store: MongoStore,
    database: Database[Stored],
    told: list[str],
    fields: Stored,
    name: str,
    read: Stored,
) -> None:
    """Left out, the binding would let the key go directly; it is told of once."""
    document = bound(**fields)
    (record,) = await _bindings(store, database, document)

    assert await store.bindings.of_keys(ACME, [str(OLD)]) == [record]
    assert {field: getattr(record, field) for field in read} == read
    assert record.key_id == str(OLD)
    (line,) = told
    assert line == (
        f"acme_bindings: the document {document['_id']!r} is not as it should be: "
        f"its field {name} cannot be understood"
    )


@pytest.mark.parametrize("key_id", [None, 7, ["k1"], ""])
async def test_a_binding_of_nobody(
    store: MongoStore, database: Database[Stored], told: list[str], key_id: object
) -> None:
    """Nobody knows which key it binds: it is told of, and kept."""
    records = await _bindings(store, database, bound(acmeKeyId=key_id), bound(_id="x"))
    repaired = await store.bindings.repair(ACME, OPERATOR)

    assert [record.id for record in records] == ["x"]
    assert repaired == Repaired(checked=1, deleted=1)
    assert database["acme_bindings"].count_documents({}) == 1
    (line,) = told
    assert line == (
        f"acme_bindings: the document {BOUND!r} is left out: "
        "its field acmeKeyId is missing or of the wrong type"
    )


async def test_priorities_beyond_the_ends(store: MongoStore, database: Database[Stored]) -> None:
    """They are moved there."""
    many = [bound(_id=f"x{n}", priority=n, proxyId=f"p{n}") for n in (-1, 0, 1, 1000, 10**6)]
    records = await _bindings(store, database, *many)

    assert sorted(record.priority for record in records) == [1, 1, 1, 1000, 1000]


async def test_changing_a_legacy_binding(store: MongoStore, database: Database[Stored]) -> None:
    """Only what was asked for; unknown fields and ids are kept as they are."""
    await _bindings(store, database, bound())
    await store.bindings.set_priority(ACME, str(BOUND), 9, OPERATOR)
    await store.bindings.set_active(ACME, str(BOUND), active=False, actor=OPERATOR)
    after = database["acme_bindings"].find_one()

    assert after == bound(priority=9, isActive=False)
    assert await actions_in(store) == [
        ("binding.priority", str(OLD)),
        ("binding.disable", str(OLD)),
    ]


async def test_new_bindings_spell_ids_as_others_do(
    store: MongoStore, database: Database[Stored]
) -> None:
    """So that other programs find the proxy and the key; a pair is known in either spelling."""
    database["acme_keys"].insert_one({"_id": OLD, "apiKey": "sk-old"})
    await _proxies(store, database, legacy())
    await store.bindings.add(ACME, [binding(str(WAY), str(OLD))], OPERATOR)
    document = database["acme_bindings"].find_one() or {}

    assert (document["proxyId"], document["acmeKeyId"]) == (WAY, OLD)
    assert await store.bindings.add(ACME, [binding(str(WAY), str(OLD), "x")], OPERATOR) == []


async def test_a_legacy_key_is_promoted_for(store: MongoStore, database: Database[Stored]) -> None:
    """The copies have all fields of the bindings, also those that nobody can understand."""
    database["acme_keys"].insert_one({"_id": OLD, "apiKey": "sk-old", "status": "exhausted"})
    database["acme_backup_keys"].insert_one({"_id": BOUND, "apiKey": "sk-spare"})
    strange = bound(_id="x", proxyId=7, priority="high")
    await _bindings(store, database, bound(), strange)
    promoted = await store.backups.promote(ACME, str(OLD), at=NOON, actor="host:1")
    copies = list(database["acme_bindings"].find({"acmeKeyId": BOUND}))

    assert promoted == str(BOUND)
    assert {(one["proxyId"], one["priority"], one["by"]) for one in copies} == {
        (WAY, 2.0, "hand"),
        (7, "high", "hand"),
    }
    assert list(database["acme_bindings"].find({"acmeKeyId": OLD})) == [bound(), strange]


async def test_a_collection_of_something_else_is_refused(
    store: MongoStore, database: Database[Stored]
) -> None:
    """If its documents name no keys, nobody could tell which keys are bound."""
    database["acme_bindings"].insert_one({"_id": 1, "cover": "leather"})

    with pytest.raises(StoreUnusable, match="the collection acme_bindings is something else's"):
        await store.prepare([ACME])


# -- repair ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("hashed", [True, False])
async def test_a_legacy_successor(
    store: MongoStore, database: Database[Stored], *, hashed: bool
) -> None:
    """The dead key was deleted; the backup key's secret tells which key took over."""
    gone = ObjectId()
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k9", secret="sk-spare")], OPERATOR)
    database["acme_backup_keys"].insert_one(
        {"_id": BOUND, "apiKey": "sk-spare", "isUsed": True, "usedFor": gone, "usedAt": NOON_DATE}
    )
    if hashed:
        await store.prepare([ACME])
    database["acme_bindings"].insert_one(bound(acmeKeyId=gone))
    database["proxies"].insert_one(legacy())
    found = await store.bindings.repair(ACME, OPERATOR)

    assert found == Repaired(checked=1, repaired=1)
    assert await pairs_in(store) == [("k9", str(WAY))]
    assert (database["acme_bindings"].find_one() or {})["by"] == "hand"


async def test_a_key_that_cannot_be_read_is_not_gone(
    store: MongoStore, database: Database[Stored]
) -> None:
    """Its document is there, and somebody may mend it."""
    database["acme_keys"].insert_one({"_id": OLD, "apiKey": 7, "status": "healthy"})
    await _bindings(store, database, bound())

    assert await store.bindings.repair(ACME, OPERATOR) == Repaired(checked=1, without_proxy=1)


async def test_a_proxy_that_cannot_be_read_is_not_gone(
    store: MongoStore, database: Database[Stored]
) -> None:
    """Only a proxy whose document does not exist is."""
    database["acme_keys"].insert_one({"_id": OLD, "apiKey": "sk-old"})
    database["proxies"].insert_one(legacy(type="socks4"))
    await _bindings(store, database, bound(), bound(_id="x", proxyId="p2"))

    assert await store.bindings.repair(ACME, OPERATOR) == Repaired(checked=2, without_proxy=1)


async def test_wrong_successors_are_passed_over(
    store: MongoStore, database: Database[Stored]
) -> None:
    """Backup keys that cannot be understood tell nothing."""
    await store.prepare([ACME])
    await store.backups.add(ACME, [spare("b1")], OPERATOR)
    used = {"isUsed": True, "usedFor": "gone"}
    database["acme_backup_keys"].insert_many(
        [{"apiKey": 7, **used}, {"apiKey": "a", **used, "usedAt": "soon"}, {**used, "usedFor": 7}]
    )
    database["acme_bindings"].insert_one(bound(acmeKeyId="gone"))

    assert await store.bindings.repair(ACME, OPERATOR) == Repaired(checked=1, deleted=1)
