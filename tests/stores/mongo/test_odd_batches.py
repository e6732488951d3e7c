"""What stands in the way of counting: odd batches, odd keys, a spare that was removed too early."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from keymux.stores.mongo import MongoStore
from keymux.stores.port import Batch
from tests.contract.records import ACME, NOON, OPERATOR, exchange, key, spare

pytestmark = pytest.mark.anyio

Stored = dict[str, Any]
EPOCH = datetime(1970, 1, 2, tzinfo=UTC)


async def _prepared(uri: str) -> MongoStore:
    store = MongoStore(uri, print)
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    return store


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"_id": "a", "counts": "many"}, id="counts are no list"),
        pytest.param({"_id": "a", "counts": [1, {"key": 5}]}, id="counts of somebody else"),
        pytest.param({"_id": "a"}, id="nothing in it"),
        pytest.param({"_id": "a", "begunAt": "long ago"}, id="begun at some text"),
        pytest.param({"_id": "a", "begunAt": EPOCH}, id="begun and without rows"),
        pytest.param({"_id": 5, "begunAt": EPOCH, "rows": []}, id="a number for a name"),
    ],
)
async def test_an_odd_batch_is_passed_over(
    uri: str, database: Database[Stored], odd: Stored
) -> None:
    """All others are counted, and it is left as it is."""
    store = await _prepared(uri)
    database["key_counts"].insert_one(dict(odd))
    await store.ledger.write(Batch((exchange(1),), ()))
    await store.ledger.tidy()
    counted = database["acme_keys"].find_one({"_id": "k1"}) or {}
    left = list(database["key_counts"].find())
    await store.close()

    assert counted["requestsCount"] == 1
    assert [one["_id"] for one in left] == [odd["_id"]]


async def test_a_key_that_remembers_something_else(uri: str, database: Database[Stored]) -> None:
    """A field of others by the name of ours keeps no other key from being counted."""
    store = await _prepared(uri)
    database["acme_keys"].update_one({"_id": "k2"}, {"$set": {"counting": "sheep"}})
    database["key_counts"].insert_one(
        {
            "_id": "bat_0",
            "counts": [
                {"provider": ACME, "key": name, "requests": 2, "tokens": 3, "lastUsedAt": NOON}
                for name in ("k1", "k2")
            ],
        }
    )
    await store.ledger.tidy()
    counted = {one["_id"]: one["requestsCount"] for one in database["acme_keys"].find()}
    await store.close()

    assert counted == {"k1": 2, "k2": 2}
    assert not list(database["key_counts"].find())


async def test_a_spare_that_was_removed_before_its_death_was_marked(
    uri: str, database: Database[Stored]
) -> None:
    """The key that has joined is found again; no second spare is used, and nothing hangs."""
    store = await _prepared(uri)
    await store.backups.add(ACME, [spare("b1"), spare("b2", NOON + 1)], OPERATOR)
    first = await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    database["acme_keys"].update_one(
        {"_id": "k1"}, {"$set": {"replacedBy": ""}, "$unset": {"replacements": True}}
    )
    await store.backups.remove(ACME, "b1", OPERATOR)
    again = await store.backups.promote(ACME, "k1", at=NOON, actor="host:2")
    unused, _ = await store.backups.count(ACME)
    await store.close()

    assert first == again == "b1"
    assert unused == 1
