"""Databases that other programs have filled work as they are."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from pymongo.database import Database

from keymux.core.health import Event, Status
from keymux.core.records import KeyState
from keymux.core.secrets import hash_of
from keymux.stores.mongo import MongoStore
from keymux.stores.port import Batch
from tests.contract.records import (
    ACME,
    NOON,
    OPERATOR,
    actions_in,
    attempt,
    cooling,
    exchange,
    transition,
)

pytestmark = pytest.mark.anyio

Stored = dict[str, Any]
NOON_DATE = datetime.fromtimestamp(NOON / 1000, UTC)
OLD = ObjectId("65f1a2b3c4d5e6f708192a3b")


def legacy(**fields: object) -> Stored:
    """An upstream key as the programs before keymux wrote it."""
    return {
        "_id": OLD,
        "apiKey": "sk-old",
        "status": "rate_limited",
        "tokensUsed": Int64(12),
        "requestsCount": 3.0,
        "lastError": None,
        "cooldownUntil": NOON_DATE,
        "createdAt": NOON_DATE,
        "lastUsedAt": None,
        "owner": {"team": "red"},
        **fields,
    }


async def _load_one(store: MongoStore, database: Database[Stored], document: Stored) -> Any:
    database["acme_keys"].insert_one(document)
    await store.prepare([ACME])
    records = await store.keys.load(ACME)
    return records[0] if records else None


async def test_a_legacy_key_is_served(store: MongoStore, database: Database[Stored]) -> None:
    """An ObjectId, no key hash, dates, and numbers as a shell writes them."""
    record = await _load_one(store, database, legacy())

    assert (record.id, record.secret) == (str(OLD), "sk-old")
    assert record.state == KeyState(Status.RATE_LIMITED, NOON)
    assert (record.tokens_used, record.requests_count) == (12, 3)
    assert (record.created_at, record.last_used_at, record.last_error) == (NOON, None, "")
    assert database["acme_keys"].find_one() == {**legacy(), "keyHash": hash_of("sk-old")}


async def test_a_key_alone_is_enough(store: MongoStore, database: Database[Stored]) -> None:
    """Everything else has a default."""
    record = await _load_one(store, database, {"_id": "k1", "apiKey": "sk-old"})

    assert (record.id, record.state, record.created_at) == ("k1", KeyState(), 0)
    assert (record.tokens_used, record.requests_count, record.label) == (0, 0, "")


@pytest.mark.parametrize("status", ["healthy", "rate_limited", "exhausted", "error"])
async def test_the_statuses_of_today(
    store: MongoStore, database: Database[Stored], status: str
) -> None:
    """All four are understood."""
    record = await _load_one(store, database, legacy(status=status, cooldownUntil=None))

    assert record.state == KeyState(Status(status))


MOMENTS = [
    pytest.param(NOON_DATE, NOON, id="a date"),
    pytest.param(NOON, NOON, id="milliseconds"),
    pytest.param(float(NOON), NOON, id="milliseconds as a double"),
    pytest.param(NOON // 1000, NOON, id="seconds"),
    pytest.param(Decimal128(str(NOON)), NOON, id="a decimal"),
    pytest.param("2025-11-13T02:13:20Z", NOON, id="a text"),
    pytest.param("2025-11-13T03:13:20.000+01:00", NOON, id="a text of another time zone"),
    pytest.param("2025-11-13T02:13:20", NOON, id="a text of no time zone"),
    pytest.param("", None, id="an empty text"),
    pytest.param(None, None, id="null"),
    pytest.param(0, None, id="zero"),
    pytest.param(datetime(1, 1, 1, tzinfo=UTC), None, id="the year 1, which means never"),
]


@pytest.mark.parametrize(("value", "expected"), MOMENTS)
async def test_moments(
    store: MongoStore, database: Database[Stored], value: object, expected: int | None
) -> None:
    """However they are written."""
    record = await _load_one(store, database, legacy(lastUsedAt=value, cooldownUntil=value))

    assert (record.last_used_at, record.state.cooldown_until) == (expected, expected)


WRONG = [
    pytest.param("apiKey", 5, id="a key that is a number"),
    pytest.param("apiKey", "", id="an empty key"),
    pytest.param("apiKey", None, id="no key"),
    pytest.param("status", 5, id="a status that is a number"),
    pytest.param("tokensUsed", "many", id="a counter that is a text"),
    pytest.param("requestsCount", True, id="a counter that is yes"),
    pytest.param("requestsCount", float("nan"), id="a counter that is no number"),
    pytest.param("createdAt", "yesterday", id="a date that is none"),
    pytest.param("cooldownUntil", ["x"], id="a list for a date"),
    pytest.param("lastError", {"code": 5}, id="an object for a text"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
async def test_a_document_of_wrong_types_is_left_out(
    store: MongoStore,
    database: Database[Stored],
    told: list[str],
    field: str,
    value: object,
) -> None:
    """It is named, once, with its field and without a value; the others are served."""
    odd = {**legacy(_id="odd", apiKey="sk-odd"), field: value}
    database["acme_keys"].insert_one(odd)
    record = await _load_one(store, database, legacy())
    await store.keys.load(ACME)

    assert record.id == str(OLD)
    assert [line.partition(": its field ")[2] for line in told] == [
        f"{field} is missing or of the wrong type"
    ]
    assert told[0].startswith("acme_keys: the document 'odd' is left out")
    assert "sk-odd" not in str(told)
    assert {**odd, "keyHash": 0} == {
        **(database["acme_keys"].find_one({"_id": "odd"}) or {}),
        field: value,
        "keyHash": 0,
    }


async def test_a_secret_that_is_there_twice_is_one_key(
    store: MongoStore, database: Database[Stored], told: list[str]
) -> None:
    """The older document is served, the other one named; the start goes on."""
    database["acme_keys"].insert_one(legacy(_id="younger", createdAt="2026-01-01"))
    record = await _load_one(store, database, legacy())

    assert record.id == str(OLD)
    assert len(await store.keys.load(ACME)) == 1
    assert any("'younger'" in line for line in told)
    assert "sk-old" not in str(told)


async def test_what_others_wrote_is_kept(store: MongoStore, database: Database[Stored]) -> None:
    """Transitions, counters and operators change their own fields and no other."""
    await _load_one(store, database, legacy(cooldownUntil=None, status="healthy"))
    told = transition("t1", cooling(60), key=str(OLD))
    used = exchange(key=str(OLD), attempts=(attempt(str(OLD)),))
    await store.ledger.write(Batch((used,), (told,)))
    await store.ledger.tidy()
    await store.keys.change(ACME, str(OLD), Event.DISABLE, actor=OPERATOR, reason="why")
    found = database["acme_keys"].find_one() or {}

    assert found["_id"] == OLD
    assert found["owner"] == {"team": "red"}
    assert (found["tokensUsed"], found["requestsCount"]) == (162, 4)
    assert (found["status"], found["statusReason"]) == ("disabled", "why")
    assert (found["createdAt"], found["lastUsedAt"]) == (NOON_DATE, NOON_DATE)


async def test_counters_that_are_no_numbers(ready: MongoStore, database: Database[Stored]) -> None:
    """A null counts as nothing; a text is somebody else's and stays, and the book goes on."""
    database["acme_keys"].insert_one(
        {"_id": "k1", "apiKey": "x", "tokensUsed": None, "requestsCount": "many"}
    )
    await ready.ledger.write(Batch((exchange(),)))
    await ready.ledger.tidy()
    found = database["acme_keys"].find_one() or {}

    assert (found["tokensUsed"], found["requestsCount"]) == (150, "many")
    assert await ready.ledger.find(exchange().id) == exchange()


async def test_a_legacy_spare_takes_over(store: MongoStore, database: Database[Stored]) -> None:
    """Its ObjectId becomes that of the key; one that others have used is no spare."""
    spare_id = ObjectId()
    database["acme_backup_keys"].insert_many(
        [
            {"_id": ObjectId(), "apiKey": "sk-used", "isUsed": True, "usedFor": ObjectId()},
            {"_id": spare_id, "apiKey": "sk-spare", "createdAt": NOON_DATE, "note": "x"},
        ]
    )
    await _load_one(store, database, legacy(status="exhausted"))
    promoted = await store.backups.promote(ACME, str(OLD), at=NOON, actor="host:1")
    spare = database["acme_backup_keys"].find_one({"_id": spare_id}) or {}
    fresh = database["acme_keys"].find_one({"_id": spare_id}) or {}

    assert promoted == str(spare_id)
    assert (fresh["apiKey"], fresh["status"]) == ("sk-spare", "healthy")
    assert (spare["isUsed"], spare["activated"], spare["usedFor"]) == (True, True, OLD)
    assert spare["note"] == "x"
    assert (await actions_in(store))[-1] == ("backup.promote", str(spare_id))


async def test_a_spare_that_is_called_like_another_key(
    store: MongoStore, database: Database[Stored]
) -> None:
    """Ids of keys and backup keys may clash; the new key then gets a name of its own."""
    database["acme_backup_keys"].insert_one({"_id": "1", "apiKey": "sk-spare"})
    await _load_one(store, database, legacy(_id="1"))
    promoted = await store.backups.promote(ACME, "1", at=NOON, actor="host:1")
    await store.backups.restore(ACME, "1", OPERATOR)

    assert promoted not in {None, "1"}
    assert [record.secret for record in await store.keys.load(ACME)] == ["sk-old"]


async def test_a_removed_legacy_key_is_gone(store: MongoStore, database: Database[Stored]) -> None:
    """It is found by the text of its ObjectId."""
    await _load_one(store, database, legacy())
    await store.keys.remove(ACME, str(OLD), OPERATOR)

    assert database["acme_keys"].count_documents({}) == 0
    assert await store.keys.find(ACME, str(OLD)) is None
