"""What exchanges add to the counters of the keys that were used."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from pymongo import UpdateOne

from keymux.core.records import ExchangeRow
from keymux.stores.mongo.database import Database, Session, collection_name
from keymux.stores.mongo.fields import any_named, date, named
from keymux.stores.port import StoreUnusable


class Count(Struct):
    """What some exchanges add to the counters of a key."""

    requests: int = 0
    tokens: int = 0
    last_used_at: int = 0


Counts = dict[str, dict[str, Count]]
"""By provider and key."""


def counted(rows: Iterable[ExchangeRow]) -> Counts:
    """A request for each attempt, tokens to the key that served."""
    counts: Counts = {}
    for row in rows:
        for attempt in row.attempts:
            count = counts.setdefault(attempt.provider, {}).setdefault(attempt.key, Count())
            count.requests += 1
            count.last_used_at = max(count.last_used_at, row.at + attempt.started_ms)
        if row.key:
            count = counts.setdefault(row.provider, {}).setdefault(row.key, Count())
            count.tokens += row.usage.total
    return counts


async def add(database: Database, counts: Counts, session: Session, mark: str = "") -> None:
    """Add counts to the keys that are there.

    Args:
        database: where they are.
        counts: to be added.
        session: the transaction.
        mark: written into each key; one that has it already is left alone.
    """
    for provider, keys in sorted(counts.items()):
        try:
            name = collection_name(provider, "keys")
        except StoreUnusable:
            continue  # from a config of long ago
        updates = [UpdateOne(_found(key, mark), [_added(keys[key], mark)]) for key in sorted(keys)]
        await database.collection(name).bulk_write(updates, ordered=False, session=session)


async def unmark(database: Database, counts: Counts, mark: str) -> None:
    """Take a mark away from keys."""
    for provider, keys in counts.items():
        try:
            name = collection_name(provider, "keys")
        except StoreUnusable:
            continue
        marked = {**any_named(keys), "counting": mark}
        await database.collection(name).update_many(marked, {"$pull": {"counting": mark}})


def _found(key: str, mark: str) -> dict[str, Any]:
    return {**named(key), "counting": {"$ne": mark}} if mark else named(key)


def _added(count: Count, mark: str) -> dict[str, Any]:
    changed: dict[str, Any] = {
        "requestsCount": _sum("$requestsCount", count.requests),
        "tokensUsed": _sum("$tokensUsed", count.tokens),
    }
    if count.last_used_at:
        # in the order of types a date comes after a number and a text
        changed["lastUsedAt"] = {"$max": ["$lastUsedAt", date(count.last_used_at)]}
    if mark:
        changed["counting"] = {"$concatArrays": [{"$ifNull": ["$counting", []]}, [mark]]}
    return {"$set": changed}


def _sum(field: str, more: int) -> dict[str, Any]:
    """A field and more; one that is no number was written by somebody else and is left alone."""
    known = {"$ifNull": [field, 0]}
    return {"$cond": [{"$isNumber": known}, {"$add": [known, more]}, field]}
